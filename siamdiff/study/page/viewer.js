// The image: fetched ahead, fitted or zoomed, and the marks on it.

const ZOOMS = [0, 1, 2, 4]; // 0: fitted
const AHEAD = 2; // images that are fetched before they are asked for
const STEP = 0.01, LEAP = 0.08; // of the side, that a key moves the cross
const byId = (id) => document.getElementById(id);

export class Viewer {
  /** @param {number} side of the images, pixels
   *  @param {function(number, number, boolean)} marked called with x, y in [0, 1] and whether by keyboard
   *  @param {function()} signedOut called when an image is refused for want of a session */
  constructor(side, marked, signedOut) {
    this.side = side;
    this.marked = marked;
    this.signedOut = signedOut;
    this.urls = new Map(); // image -> promise of an object URL
    this.zoom = 0;
    this.stage = byId("stage");
    this.canvas = byId("canvas");
    this.image = byId("image");
    new ResizeObserver(() => this.resize()).observe(this.stage);
    this.listen();
  }

  listen() {
    byId("zooms").addEventListener("click", (event) => {
      const button = event.target.closest("button");
      if (button) this.setZoom(Number(button.dataset.zoom));
    });
    byId("sharp").addEventListener("click", () => this.toggleSharp());
    let from = null, moved = false;
    this.canvas.addEventListener("pointerdown", (event) => {
      moved = false;
      from = event.pointerType === "mouse" ? [event.clientX, event.clientY, this.stage.scrollLeft, this.stage.scrollTop] : null;
    });
    window.addEventListener("pointermove", (event) => {
      if (from === null) return;
      const [dx, dy] = [event.clientX - from[0], event.clientY - from[1]];
      if (Math.hypot(dx, dy) > 5) moved = true;
      if (moved) this.stage.scrollTo(from[2] - dx, from[3] - dy);
    });
    window.addEventListener("pointerup", () => { from = null; });
    this.canvas.addEventListener("click", (event) => {
      if (moved || event.target.closest(".mark") || this.image.hidden) return;
      const box = this.image.getBoundingClientRect();
      this.marked(clamp((event.clientX - box.left) / box.width), clamp((event.clientY - box.top) / box.height), false);
    });
  }

  /** Shows an image; resolves once it is there, or nobody is signed in. `upcoming`: those to fetch ahead. */
  async show(name, label, upcoming) {
    this.image.hidden = true;
    this.name = name;
    this.stopCross();
    const wanted = [name, ...upcoming.slice(0, AHEAD)];
    for (const [old, url] of this.urls) {
      if (wanted.includes(old)) continue;
      this.urls.delete(old);
      url.then(URL.revokeObjectURL, () => {});
    }
    for (let attempt = 0; this.name === name; attempt += 1) {
      try {
        const url = await this.fetched(name);
        if (this.name !== name) return;
        this.image.src = url;
        await this.image.decode();
        if (this.name !== name) return;
        this.image.alt = label;
        this.image.hidden = false;
        byId("waiting").textContent = "";
        for (const next of wanted.slice(1)) this.fetched(next).catch(() => {});
        return;
      } catch (error) {
        this.urls.delete(name);
        if (this.name === name && error.cause === 401) return this.signedOut();
        if (this.name === name) byId("waiting").textContent = "The image cannot be loaded: trying again \u2026";
        await new Promise((done) => setTimeout(done, Math.min(300 * 2 ** attempt, 3000)));
      }
    }
  }

  fetched(name) {
    if (!this.urls.has(name)) {
      const url = fetch(`/images/${name}.png`).then(async (response) => {
        if (!response.ok) throw new Error("no image", { cause: response.status });
        return URL.createObjectURL(await response.blob());
      });
      url.catch(() => this.urls.delete(name));
      this.urls.set(name, url);
    }
    return this.urls.get(name);
  }

  setZoom(zoom) {
    const box = this.stage.getBoundingClientRect();
    const middle = this.image.getBoundingClientRect();
    const at = middle.width
      ? [(box.left + box.width / 2 - middle.left) / middle.width, (box.top + box.height / 2 - middle.top) / middle.height]
      : [0.5, 0.5];
    this.zoom = zoom;
    for (const button of byId("zooms").children) button.setAttribute("aria-pressed", String(Number(button.dataset.zoom) === zoom));
    this.resize();
    const side = this.canvas.offsetWidth;
    this.stage.scrollTo(at[0] * side - box.width / 2, at[1] * side - box.height / 2);
  }

  nextZoom() {
    this.setZoom(ZOOMS[(ZOOMS.indexOf(this.zoom) + 1) % ZOOMS.length]);
  }

  toggleSharp() {
    const isSharp = this.canvas.classList.toggle("sharp");
    byId("sharp").setAttribute("aria-pressed", String(isSharp));
  }

  resize() {
    const fitted = Math.max(1, Math.floor(Math.min(this.stage.clientWidth, this.stage.clientHeight)));
    const side = this.zoom ? this.zoom * this.side : fitted;
    this.canvas.style.width = this.canvas.style.height = `${side}px`;
  }

  /** Draws the marks; `chosen` is called with the number of one that is tapped. */
  draw(marks, chosen) {
    byId("marks").replaceChildren(...marks.map((mark, i) => {
      const dot = document.createElement("button");
      dot.type = "button";
      dot.className = "mark";
      dot.textContent = String(i + 1);
      dot.setAttribute("aria-label", `Mark ${i + 1}: say what looks wrong`);
      dot.style.left = `${100 * mark.x}%`;
      dot.style.top = `${100 * mark.y}%`;
      dot.addEventListener("click", (event) => chosen(i, event.detail === 0));
      return dot;
    }));
  }

  get hasCross() {
    return !byId("cross").hidden;
  }

  startCross() {
    this.at = [0.5, 0.5];
    byId("cross").hidden = false;
    byId("hint").textContent = "Arrows move the cross, Enter marks, Esc leaves";
    this.moveCross(0, 0);
  }

  stopCross() {
    byId("cross").hidden = true;
    byId("hint").textContent = "Tap what looks wrong";
  }

  /** Whether the key was for the cross. */
  crossKey(event) {
    const by = event.shiftKey ? LEAP : STEP;
    const moves = { ArrowLeft: [-by, 0], ArrowRight: [by, 0], ArrowUp: [0, -by], ArrowDown: [0, by] };
    if (event.key in moves) this.moveCross(...moves[event.key]);
    else if (event.key === "Enter") { this.stopCross(); this.marked(...this.at, true); }
    else if (event.key === "Escape") this.stopCross();
    else return false;
    return true;
  }

  moveCross(dx, dy) {
    this.at = [clamp(this.at[0] + dx), clamp(this.at[1] + dy)];
    byId("cross").style.left = `${100 * this.at[0]}%`;
    byId("cross").style.top = `${100 * this.at[1]}%`;
    byId("cross").scrollIntoView({ block: "nearest", inline: "nearest" });
  }
}

function clamp(share) {
  return Math.min(1, Math.max(0, share));
}
