// The page: who reads, which image is shown, what is answered. Keeping is saving.js's, looking viewer.js's, codes session.js's.

import { Saver } from "./saving.js";
import { signIn, signOut } from "./session.js";
import { Viewer } from "./viewer.js";

const QUESTIONS = ["verdict", "realism", "confidence"];
const MAX_MARKS = 20;
const byId = (id) => document.getElementById(id);
const empty = () => ({ verdict: null, realism: null, confidence: null, marks: [], words: "", seconds: 0 });
const isComplete = (answer) => answer !== undefined && QUESTIONS.every((question) => answer[question] !== null);

let study = null; // as the server tells it
let answers = {}; // image -> answer
let saver = null, viewer = null;
let position = 0; // of the image that is shown
let active = 0; // question that a number answers
let lookedSince = null; // when the clock of the shown image last began to run
let isBack = false; // signed in again in the middle

// ---- signing in

async function start() {
  let response;
  try {
    response = await fetch("/api/study");
  } catch {
    setTimeout(start, 1000);
    return;
  }
  if (response.status === 401) return screen("sign-in");
  if (!response.ok) return void setTimeout(start, 1000);
  open(await response.json());
}

byId("sign-in-form").addEventListener("submit", (event) => { event.preventDefault(); signIn(start); });
byId("sign-out").addEventListener("click", () => signOut(study.reader));

function open(told) {
  const again = isBack && study?.reader === told.reader;
  if (isBack && !again) return location.reload(); // another reader: nothing of the first stays here
  isBack = false;
  if (again) {
    saver.hurry();
    return showImage(position);
  }
  study = told;
  answers = Object.fromEntries(Object.entries(told.answers).map(([image, of]) => [image, of.answer]));
  const known = Object.fromEntries(Object.entries(told.answers).map(([image, of]) => [image, of.change]));
  saver = new Saver(told.study, told.reader, known, { state: showSaving, other: takeOther, signedOut });
  for (const [image, entry] of saver.waiting) answers[image] = entry.answer;
  viewer = new Viewer(told.side, addMark, signedOut);
  byId("reader").textContent = told.reader;
  byId("saving").hidden = false;
  byId("intro-count").textContent = String(told.images.length);
  showProgress();
  if (Object.keys(answers).length === 0) screen("intro");
  else rest(true);
}

function signedOut() {
  if (isBack) return; // it is told already
  stopClock();
  isBack = true;
  screen("sign-in");
  byId("sign-in-error").textContent = `${study.reader} was signed out, or somebody else signed in in this browser. The last answers of ${study.reader} are kept here and are sent once ${study.reader} signs in again.`;
}

// ---- screens

function screen(name) {
  document.body.dataset.screen = name;
  byId("reader").hidden = study === null || name === "sign-in";
  byId("sign-out-error").textContent = "";
  byId("actions").hidden = name !== "rating";
  byId("progress").hidden = !["rating", "resting"].includes(name);
  if (name === "sign-in") byId("code").focus();
  window.scrollTo(0, 0);
}

function showProgress() {
  const done = study.images.filter((image) => isComplete(answers[image])).length;
  byId("progress-bar").max = study.images.length;
  byId("progress-bar").value = done;
  byId("progress-text").textContent = `${done} of ${study.images.length}`;
  return done;
}

function showSaving(state, why = "") {
  byId("saving").dataset.state = state;
  byId("saving-text").textContent = { saved: "All saved", sending: "Saving \u2026", waiting: `Not saved yet: retrying (${why})` }[state];
}

/** The first image that is not answered; as many as there are once all are. */
const frontier = () => {
  const found = study.images.findIndex((image) => !isComplete(answers[image]));
  return found < 0 ? study.images.length : found;
};

function rest(isReturn = false) {
  stopClock();
  const [done, total, next] = [showProgress(), study.images.length, frontier()];
  const isDone = next === total;
  byId("resting-title").textContent = isDone ? "All images are answered. Thank you!" : isReturn ? "Welcome back" : "Paused";
  byId("resting-text").textContent = isDone
    ? "You may close this window. Until the study ends you can come back and change an answer."
    : `${done} of ${total} images are answered. You may close this window and go on later, here or on another device.`;
  byId("resume").innerHTML = `<span></span><kbd>Enter</kbd>`;
  byId("resume").firstChild.textContent = isDone ? "Look at the last image" : `Go on with image ${next + 1}`;
  byId("overview").replaceChildren(...study.images.map((image, i) => {
    const item = document.createElement("li"), button = document.createElement("button");
    button.type = "button";
    button.textContent = String(i + 1);
    button.disabled = i > next;
    button.dataset.done = String(isComplete(answers[image]));
    button.setAttribute("aria-label", `Image ${i + 1}, ${isComplete(answers[image]) ? "answered" : "not answered"}`);
    button.addEventListener("click", () => showImage(i));
    item.append(button);
    return item;
  }));
  screen("resting");
}

byId("begin").addEventListener("click", () => showImage(0));
byId("resume").addEventListener("click", () => showImage(Math.min(frontier(), study.images.length - 1)));
byId("pause").addEventListener("click", () => rest());
byId("help-open").addEventListener("click", () => { stopClock(); byId("help").showModal(); });
byId("help").addEventListener("close", startClock);

// ---- the clock of an image: it runs while the image is seen

function startClock() {
  const isSeen = document.body.dataset.screen === "rating" && !document.hidden && !byId("help").open && !byId("image").hidden;
  if (isSeen && lookedSince === null) lookedSince = performance.now();
}

function stopClock() {
  if (lookedSince === null) return;
  const answer = current();
  answer.seconds = Math.round(100 * answer.seconds + (performance.now() - lookedSince) / 10) / 100;
  lookedSince = null;
}

document.addEventListener("visibilitychange", () => (document.hidden ? stopClock() : startClock()));
window.addEventListener("beforeunload", (event) => {
  if (saver?.waiting.size) event.preventDefault(); // the browser asks; the answers stay in it anyway
});

// ---- one image

const current = () => (answers[study.images[position]] ??= empty());

async function showImage(at) {
  stopClock();
  position = at;
  active = 0;
  screen("rating");
  closeReasons();
  notice("");
  const label = `Image ${at + 1} of ${study.images.length}`;
  byId("rating-title").textContent = label;
  byId("back").disabled = at === 0;
  byId("rating-title").focus({ preventScroll: true });
  const answer = current();
  active = Math.max(0, QUESTIONS.findIndex((question) => answer[question] === null));
  draw();
  await viewer.show(study.images[at], `${label}, to be judged`, study.images.slice(at + 1));
  startClock();
}

function draw() {
  const answer = current();
  QUESTIONS.forEach((question, i) => {
    const group = document.querySelector(`[data-question="${question}"]`);
    group.classList.toggle("active", i === active);
    for (const button of group.querySelectorAll("button")) {
      button.setAttribute("aria-pressed", String(button.dataset.value === String(answer[question])));
    }
  });
  byId("words").value = answer.words;
  byId("next").classList.toggle("open", isComplete(answer));
  viewer.draw(answer.marks, askReason);
  drawMarkList(answer.marks);
  showProgress();
}

/** Notes a change and sends it; what is shown follows, but for a text that is being typed. */
function change(update, redraw = true) {
  stopClock();
  update(current());
  saver.put(study.images[position], current());
  startClock();
  notice("");
  if (redraw) draw();
}

function answerQuestion(question, value) {
  const number = QUESTIONS.indexOf(question);
  active = Math.min(number + 1, QUESTIONS.length - 1);
  closeReasons();
  change((answer) => { answer[question] = value; });
}

function next() {
  const missing = QUESTIONS.findIndex((question) => current()[question] === null);
  if (missing >= 0) {
    active = missing;
    draw();
    notice(`Please answer question ${missing + 1} first.`);
    document.querySelector(".question.active").scrollIntoView({ block: "nearest" });
    return;
  }
  if (position + 1 < study.images.length) showImage(position + 1);
  else if (frontier() < study.images.length) showImage(frontier());
  else rest();
}

function back() {
  if (position > 0) showImage(position - 1);
}

function notice(text) {
  byId("notice").textContent = text;
  byId("notice").hidden = !text;
}

/** Another window of this reader had answered; its answer holds. */
function takeOther(image, answer) {
  answers[image] = answer;
  if (document.body.dataset.screen === "rating" && study.images[position] === image) {
    lookedSince = null;
    draw();
    startClock();
    notice("This image was answered in another window; that answer is shown here. Change it if you like.");
  } else showProgress();
}

for (const group of document.querySelectorAll(".question")) {
  const question = group.dataset.question, choices = group.querySelector(".choices");
  if (choices.dataset.low) {
    const labels = { 1: choices.dataset.low, 5: choices.dataset.high };
    choices.append(...[1, 2, 3, 4, 5].map((value) => {
      const button = document.createElement("button");
      button.type = "button";
      button.dataset.value = String(value);
      button.textContent = String(value);
      button.setAttribute("aria-label", labels[value] ? `${value}: ${labels[value]}` : String(value));
      return button;
    }));
    const ends = document.createElement("p");
    ends.className = "ends";
    ends.append(...[labels[1], labels[5]].map((text) => Object.assign(document.createElement("span"), { textContent: text })));
    choices.after(ends);
  }
  choices.addEventListener("click", (event) => {
    const button = event.target.closest("button");
    if (!button) return;
    if (event.detail > 0) button.blur(); // by mouse or finger: Enter then goes on
    answerQuestion(question, question === "verdict" ? button.dataset.value : Number(button.dataset.value));
  });
}
for (const [id, act] of [["next", next], ["back", back]]) {
  byId(id).addEventListener("click", (event) => {
    if (event.detail > 0) byId(id).blur();
    act();
  });
}
byId("words").addEventListener("input", () => change((answer) => { answer.words = byId("words").value; }, false));

// ---- marks

function addMark(x, y, byKey) {
  if (current().marks.length >= MAX_MARKS) return notice(`At most ${MAX_MARKS} marks in an image.`);
  const round = (share) => Math.round(1e4 * share) / 1e4;
  change((answer) => answer.marks.push({ x: round(x), y: round(y), reason: null, words: "" }));
  askReason(current().marks.length - 1, byKey);
}

/** Offers the reasons for a mark; by keyboard the first of them is focused. */
function askReason(i, byKey = false) {
  const choose = (act) => () => { closeReasons(); act(); };
  const chip = (text, act) => {
    const button = Object.assign(document.createElement("button"), { type: "button", textContent: text });
    button.addEventListener("click", choose(act));
    return button;
  };
  const set = (reason) => () => change((answer) => { answer.marks[i].reason = reason; });
  const chips = Object.entries(study.reasons).map(([reason, text]) => {
    const button = chip(text, set(reason));
    button.setAttribute("aria-pressed", String(current().marks[i].reason === reason));
    return button;
  });
  const remove = chip("Remove mark", () => change((answer) => answer.marks.splice(i, 1)));
  remove.className = "quiet";
  byId("reasons-title").textContent = `What looks wrong at ${i + 1}?`;
  byId("chips").replaceChildren(...chips, remove);
  byId("reasons").hidden = false;
  if (byKey) chips[0].focus();
}

function closeReasons() {
  byId("reasons").hidden = true;
}

/** Whether the key was for the reasons. */
function reasonKey(event) {
  const buttons = [...byId("chips").children], at = buttons.indexOf(event.target);
  const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
  if (event.key === "Escape") { closeReasons(); byId("rating-title").focus({ preventScroll: true }); }
  else if (at >= 0 && step) buttons[(at + step + buttons.length) % buttons.length].focus();
  else return false;
  return true;
}

function drawMarkList(marks) {
  byId("mark-list").replaceChildren(...marks.map((mark, i) => {
    const row = document.createElement("li"), select = document.createElement("select");
    const words = document.createElement("input"), remove = document.createElement("button");
    select.setAttribute("aria-label", `What looks wrong at mark ${i + 1}`);
    select.append(new Option("What is it?", ""), ...Object.entries(study.reasons).map(([reason, text]) => new Option(text, reason)));
    select.value = mark.reason ?? "";
    select.addEventListener("change", () => change((answer) => { answer.marks[i].reason = select.value || null; }, false));
    Object.assign(words, { type: "text", maxLength: 500, value: mark.words, placeholder: "in words, if you like" });
    words.setAttribute("aria-label", `Mark ${i + 1} in words`);
    words.addEventListener("input", () => change((answer) => { answer.marks[i].words = words.value; }, false));
    Object.assign(remove, { type: "button", className: "quiet", textContent: "\u00d7" });
    remove.setAttribute("aria-label", `Remove mark ${i + 1}`);
    remove.addEventListener("click", () => change((answer) => answer.marks.splice(i, 1)));
    const number = Object.assign(document.createElement("span"), { className: "number", textContent: String(i + 1) });
    row.append(number, select, remove, words);
    return row;
  }));
}

function startCross() {
  viewer.startCross();
  byId("stage").focus({ preventScroll: true });
}
byId("mark-add").addEventListener("click", startCross);

// ---- keys

const KEYS = {
  r: () => answerQuestion("verdict", "real"),
  s: () => answerQuestion("verdict", "synthetic"),
  z: () => viewer.nextZoom(),
  x: () => viewer.toggleSharp(),
  m: startCross,
  p: () => rest(),
  "?": () => byId("help-open").click(),
  ArrowUp: () => { active = Math.max(0, active - 1); draw(); },
  ArrowDown: () => { active = Math.min(QUESTIONS.length - 1, active + 1); draw(); },
  ArrowLeft: back,
  ArrowRight: next,
  Enter: next,
};

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || byId("help").open) return;
  const target = event.target, where = document.body.dataset.screen;
  if (target.closest("input, select, textarea")) {
    if (where === "rating" && (event.key === "Escape" || (event.key === "Enter" && target.matches("input")))) target.blur();
    return;
  }
  if (event.key === "Enter" && target.closest("button")) return; // it is the button's
  if (event.key === "Enter" && where === "intro") return byId("begin").click();
  if (event.key === "Enter" && where === "resting") return byId("resume").click();
  if (where !== "rating") return;
  if (!byId("reasons").hidden && reasonKey(event)) return event.preventDefault();
  if (viewer.hasCross && viewer.crossKey(event)) return event.preventDefault();
  const key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
  if (/^[1-5]$/.test(key) && active > 0) answerQuestion(QUESTIONS[active], Number(key));
  else if (/^[1-5]$/.test(key)) notice("First R or S: real or synthetic?");
  else if (key in KEYS && !(event.repeat && (key === "Enter" || key.startsWith("Arrow")))) KEYS[key]();
  else return;
  event.preventDefault();
});

start();
