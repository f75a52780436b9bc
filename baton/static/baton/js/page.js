// A run's page, kept up to date by messages. Nothing the reader holds moves: scroll, selection, focus, open sections.

import { all, find, look, on, put, root, rowOf, STATES, stateOf, tell, tickSince } from "./dom.js";
import { follow, POLL_SECONDS } from "./live.js";
import { morph, parsed } from "./morph.js";
import { renew } from "./visit.js";
import { number, ticking, word } from "./words.js";

const LOST_AFTER = 2_000;
const ANNOUNCE_EVERY = 10_000;
const MOST_IN_A_FRAME = 200;

// Messages ---

const versions = new Map(); // by name: what is shown
const waiting = new Map(); // by name: what is to be shown in the next frame
const recent = new Map(); // by name: what was told since the server was asked for the page
let failed = []; // names to be announced
let paid = "";
let head = null;
let frame = 0;

function hear(message) {
  if (message.type === "reload") renew(true);
  for (const step of message.steps ?? []) keep(step);
  for (const [id, name, version, state] of message.brief ?? []) {
    keep({ id, name, version, state: STATES[state], label: word(STATES[state]), is_brief: true });
  }
  head = message.run ?? head;
  frame ||= requestAnimationFrame(apply);
}

function keep(step) {
  if (step.version <= versions.get(step.name)) return;
  versions.set(step.name, step.version);
  waiting.set(step.name, step);
  recent.set(step.name, step);
  if (step.state === "discarded") failed.push(step.name);
}

function apply() {
  const steps = [...waiting.values()].slice(0, MOST_IN_A_FRAME);
  for (const step of steps) waiting.delete(step.name);
  frame = waiting.size ? requestAnimationFrame(apply) : 0;
  if (head) showHead(head);
  head = null;
  if (!steps.length) return;
  const [step, ...more] = failed;
  if (step) announce(word(more.length ? "failed-many" : "failed", { step, count: number(failed.length) }));
  failed = [];
  steps.forEach(showRow);
  tell("steps", steps);
  const panel = find("[data-panel]")?.dataset.step;
  renew(steps.some(({ name }) => name === panel));
}

// What the server had read may be older than what was told meanwhile.
on("asked", () => recent.clear());
on("refreshed", () => {
  live?.seen(root.dataset.asOf);
  begin();
  for (const step of recent.values()) waiting.set(step.name, step);
  frame ||= requestAnimationFrame(apply);
});

function begin() {
  for (const { dataset } of all("[data-version]")) {
    versions.set(dataset.step, Math.max(dataset.version, versions.get(dataset.step) ?? 0));
  }
  showTitle();
}

// The head and the table of steps, as far as messages tell; the rest comes with the page ---

function showHead(run) {
  for (const piece of parsed(run.html).body.children) morph(find(`#${piece.id}`), piece);
  if (root.dataset.state !== run.state) announce(word("ended", { state: run.label }));
  root.dataset.state = run.state;
  showTitle();
  const before = paid;
  paid = JSON.stringify([run.cost, run.unpriced, run.meter, run.attempts_note]);
  if (run.is_over || (before && paid !== before)) renew(run.is_over);
}

const title = document.title.split(" | ")[0];

function showTitle() {
  const badge = find("#b-badge");
  document.title = `${badge.dataset.mark} ${title}, ${badge.innerText}`;
}

function showRow(step) {
  const row = find(rowOf(step.name));
  if (!row) return;
  const part = (name) => row.querySelector(`[data-part=${name}]`);
  const badge = part("state").firstElementChild;
  const isOther = stateOf(badge) !== step.state;
  if (isOther) find(".b-sort-again").hidden = false;
  look(badge, step.state);
  put(badge.querySelector("span"), step.label);
  if (isOther || !step.is_brief) for (const name of ["now", "tried", "queued", "ran"]) put(part(name), step[name] ?? "");
  tickSince(part("ran"), step.started_at);
}

// The connection ---

let live = null;
let lostAt = 0;
let shownAt = Date.parse(root.dataset.asOf);
const mark = find("[data-live]");

function show(state) {
  if (state === "lost") {
    lostAt ||= Date.now();
    return;
  }
  lostAt = 0;
  if (root.dataset.connection === "lost") {
    announce(word("again"));
    renew();
  }
  root.dataset.connection = state === "gone" ? "finished" : state;
  mark.textContent = word(state, { seconds: POLL_SECONDS });
  if (state === "gone" || state === "denied") announce(word(state));
}

function showLost() {
  if (Date.now() - lostAt < LOST_AFTER) return;
  if (root.dataset.connection !== "lost") {
    root.dataset.connection = "lost";
    announce(word("paused"));
  }
  const time = new Date(shownAt).toLocaleTimeString([], { hour12: false });
  put(mark, word("lost", { time, age: ticking(live.now() - shownAt) }));
}

function tick() {
  if (lostAt) return showLost();
  if (document.hidden || !["open", "polling"].includes(root.dataset.connection)) return;
  shownAt = live.now();
  for (const time of all("[data-since]")) put(time, ticking(shownAt - Date.parse(time.dataset.since)));
  for (const time of all("[data-until]")) {
    const left = Date.parse(time.dataset.until) - shownAt;
    put(time, left > 0 ? time.dataset.words.replace("{time}", ticking(left)) : "");
  }
  tell("tick", shownAt);
}

let [announced, announcing] = [0, 0];

function announce(text) {
  clearTimeout(announcing);
  announcing = setTimeout(() => {
    announced = Date.now();
    find(".b-announcer").textContent = text;
  }, announced + ANNOUNCE_EVERY - Date.now());
}

root.addEventListener("click", async ({ target }) => {
  const button = target.closest("button[data-copy]");
  if (!button || button.textContent === word("copied")) return;
  const source = find(button.dataset.copy);
  try {
    await navigator.clipboard.writeText(source.textContent);
  } catch {
    // Without HTTPS there is no clipboard to write to, but a selection can be copied.
    getSelection().selectAllChildren(source);
    document.execCommand("copy");
  }
  const usual = button.textContent;
  button.textContent = word("copied");
  setTimeout(() => (button.textContent = usual), 2_000);
});

begin();
const { connection, changes } = root.dataset;
if (connection !== "finished" && changes) {
  live = follow({ ...root.dataset, tell: hear, show });
  find(".b-try").addEventListener("click", live.retry);
  mark.textContent = word("connecting");
  show("lost");
  setInterval(tick, 1_000);
}
