// Answers on their way to the server: kept in the browser until the server has them on its disk.

const WAITS = [300, 600, 1200, 2500, 5000]; // milliseconds between attempts
const MAX_KNOWN = 150; // changes of one answer that are named to the server

function newChange() {
  return Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16).padStart(2, "0")).join("");
}

/** Sends each image's newest answer, again and again until it is kept; in order of their changes. */
export class Saver {
  /**
   * @param {string} study whose answers these are
   * @param {string} reader who gives them: tabs share one cookie, which may be another reader's by now
   * @param {Object<string, string>} known image -> the change that the server has
   * @param {{state: function(string, string=), other: function(string, object), signedOut: function()}} tell
   */
  constructor(study, reader, known, tell) {
    this.reader = reader;
    this.prefix = `siamdiff-study/${study}/${reader}/`; // of the entries in the browser's storage
    this.tell = tell;
    this.known = Object.fromEntries(Object.entries(known).map(([image, change]) => [image, [change]]));
    this.waiting = this.stored(); // image -> {change, knows, answer}, oldest first
    this.failures = 0;
    this.isSending = false;
    window.addEventListener("online", () => this.hurry());
    for (const [image, entry] of this.waiting) this.knows(image, entry.change, ...entry.knows);
    this.pump();
  }

  /** Keeps an answer here and begins to send it. */
  put(image, answer) {
    const entry = { change: newChange(), knows: this.known[image] ?? [], answer: structuredClone(answer) };
    this.waiting.delete(image);
    this.waiting.set(image, entry);
    this.store(image, entry);
    this.pump();
  }

  /** Goes on after signing in again. */
  hurry() {
    clearTimeout(this.timer);
    this.timer = undefined;
    this.pump();
  }

  async pump() {
    if (this.isSending || this.timer !== undefined) return;
    this.isSending = true;
    while (this.waiting.size) {
      const [image, entry] = this.waiting.entries().next().value;
      if (!this.failures) this.tell.state("sending");
      if (!(await this.send(image, entry))) break;
      this.failures = 0;
    }
    this.isSending = false;
    if (!this.waiting.size) this.tell.state("saved");
  }

  /** Sends one answer; whether the next may follow. */
  async send(image, entry) {
    let response;
    this.knows(image, entry.change);
    try {
      response = await fetch(`/api/answers/${image}`, {
        method: "PUT",
        headers: { "Content-Type": "application/json" },
        body: JSON.stringify({ ...entry, reader: this.reader }),
        signal: AbortSignal.timeout(8000),
      });
    } catch {
      return this.later("no answer from the server");
    }
    if (response.status === 204) {
      this.drop(image, entry);
      return true;
    }
    if (response.status === 409) { // another window said something else, which this one did not know of
      const there = await response.json().catch(() => null);
      if (there === null) return this.later("no answer from the server");
      this.knows(image, there.change);
      this.drop(image, this.waiting.get(image));
      this.tell.other(image, there.answer);
      return true;
    }
    if (response.status === 401) {
      this.tell.state("waiting", "sign in again");
      this.tell.signedOut();
      return false;
    }
    return this.later(`the server says ${response.status}`);
  }

  later(why) {
    this.tell.state("waiting", why);
    const wait = WAITS[Math.min(this.failures, WAITS.length - 1)];
    this.failures += 1;
    this.timer = setTimeout(() => this.hurry(), wait);
    return false;
  }

  knows(image, ...changes) {
    this.known[image] = [...new Set([...(this.known[image] ?? []), ...changes])].slice(-MAX_KNOWN);
  }

  drop(image, entry) {
    const now = this.waiting.get(image);
    if (now === undefined || now.change !== entry.change) return; // changed again in the meantime
    this.waiting.delete(image);
    try {
      const there = JSON.parse(localStorage.getItem(this.prefix + image) ?? "null");
      if (there === null || there.change === entry.change) localStorage.removeItem(this.prefix + image);
    } catch { /* a browser without storage kept nothing */ }
  }

  store(image, entry) {
    try {
      localStorage.setItem(this.prefix + image, JSON.stringify(entry));
    } catch { /* a browser without storage, or a full one: the answer is sent all the same */ }
  }

  stored() {
    const found = new Map();
    try {
      for (const name of Object.keys(localStorage)) {
        if (name.startsWith(this.prefix)) found.set(name.slice(this.prefix.length), JSON.parse(localStorage.getItem(name)));
      }
    } catch { /* likewise */ }
    return found;
  }
}
