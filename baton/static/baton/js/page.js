// A run's page, kept up to date. Nothing the reader holds moves: scroll, selection, focus and open sections stay.

import { Live, POLL_SECONDS } from "./live.js";
import { morph } from "./morph.js";
import { number, ticking, word } from "./words.js";

const root = document.querySelector(".baton.b-page[data-run]");
const STATES = ["pending", "available", "executing", "snoozed", "retryable", "completed", "discarded", "cancelled"];
const MARKS = { executing: "▶", completed: "✓", discarded: "✕", cancelled: "⊘" };
const LOST_AFTER = 2_000;
const ANNOUNCE_EVERY = 10_000;
const PANEL_EVERY = 1_000; // where the step of the panel changed
const REST_EVERY = 5_000; // where something else did
const RELOAD_EVERY = 30_000;
const SVG = "http://www.w3.org/2000/svg";

const find = (selector) => root.querySelector(selector);
const title = document.title;

let live = null;
let graph = null;
let lostAt = 0;
let shownAt = Date.parse(root.dataset.asOf);

// Messages -----------------------------------------------------------------------------------------------------------

const versions = new Map(); // by name: what is shown
const waiting = new Map(); // by name: what is to be shown in the next frame
let head = null;
let frame = 0;

for (const row of root.querySelectorAll("tr[data-step][data-version]")) {
  versions.set(row.dataset.step, Number(row.dataset.version));
}

function hear(message) {
  if (message.type === "reload") return reload();
  if (message.type !== "changes") return;
  if (message.as_of) shownAt = Date.parse(message.as_of);
  for (const step of message.steps ?? []) keep(step);
  for (const [id, name, version, state] of message.brief ?? []) {
    keep({ id, name, version, state: STATES[state], label: word(STATES[state]), is_brief: true });
  }
  if (message.run) head = message.run;
  if (waiting.size || head) frame ||= requestAnimationFrame(apply);
}

function keep(step) {
  if (step.version <= (versions.get(step.name) ?? -1)) return;
  versions.set(step.name, step.version);
  waiting.set(step.name, step);
}

function apply() {
  frame = 0;
  const steps = [...waiting.values()];
  waiting.clear();
  if (head) showHead(head);
  head = null;
  if (!steps.length) return;
  const failed = steps.filter((step) => step.state === "discarded");
  if (failed.length === 1) announce(word("failed", { step: failed[0].name }));
  else if (failed.length) announce(word("failed-many", { count: number(failed.length) }));
  for (const step of steps) {
    showRow(step);
    graph?.paint?.(step);
  }
  root.dispatchEvent(new CustomEvent("baton:steps", { detail: steps }));
  const panel = find("[data-panel][data-step]");
  const isOfPanel = panel && steps.some((step) => step.name === panel.dataset.step);
  refreshWithin(isOfPanel ? PANEL_EVERY : restPause);
}

function reload() {
  const key = `baton-reloaded-${root.dataset.run}`;
  const rest = Number(sessionStorage.getItem(key) ?? 0) + RELOAD_EVERY - Date.now();
  setTimeout(() => {
    sessionStorage.setItem(key, String(Date.now()));
    location.reload();
  }, Math.max(0, rest));
}

// The head -----------------------------------------------------------------------------------------------------------

function showHead(run) {
  const badge = find("[data-run-state]");
  put(badge?.querySelector("span"), run.label);
  look(badge, run.shape);
  const headline = find("[data-headline]");
  put(headline, run.headline);
  look(headline, run.shape);
  showBar(find("[data-progress]"), run.bar);
  const cost = find("[data-cost]");
  put(cost?.querySelector(".b-figure"), run.cost);
  piece(cost, ".b-unpriced", "span", "b-unpriced", run.unpriced);
  if (run.meter) {
    cost?.querySelector(".b-meter .b-fill")?.setAttribute("width", run.meter.percent);
    cost?.querySelector(".b-meter")?.setAttribute("class", `b-meter b-${run.meter.tone}`);
  }
  const attempts = find("[data-attempts]");
  put(attempts?.querySelector(".b-figure"), number(run.attempts));
  piece(attempts, ".b-below", "span", "b-below", run.attempts_note);
  for (const part of STATES) showChip(part, run.bar.parts.find((each) => each.state === part)?.count ?? 0);
  if (root.dataset.state !== run.state) {
    root.dataset.state = run.state;
    announce(word("ended", { state: run.label }));
  }
  if (run.is_over) {
    const since = find("dl [data-since]");
    since?.removeAttribute("data-since");
    put(since, run.took);
    for (const estimate of root.querySelectorAll("dl [data-estimate]")) estimate.remove();
    put(since?.closest(".b-fact")?.querySelector("dt"), word("took"));
    refreshWithin(PANEL_EVERY);
  }
  showTitle(run.shape, run.label);
  root.dispatchEvent(new CustomEvent("baton:run", { detail: run }));
}

function showBar(place, bar) {
  if (!place) return;
  put(place.querySelector(".b-figure"), bar.done);
  piece(place, ".b-below", "span", "b-below", bar.rest);
  const svg = place.querySelector(".b-bar");
  if (!svg || svg.getAttribute("aria-label") === bar.label) return;
  svg.setAttribute("aria-label", bar.label);
  svg.replaceChildren(
    ...bar.parts.map((part) => {
      const rect = document.createElementNS(SVG, "rect");
      rect.setAttribute("class", `b-${part.state}`);
      for (const name of ["x", "width"]) rect.setAttribute(name, part[name]);
      rect.setAttribute("height", "10");
      return rect;
    }),
  );
}

function showChip(state, count) {
  const chip = find(`.b-chips .b-chip.b-${state}`);
  if (chip?.lastChild?.nodeType === Node.TEXT_NODE) put(chip.lastChild, `${number(count)} ${word(state)}`);
}

function showTitle(shape, label) {
  document.title = `${MARKS[shape] ?? "○"} ${title.split(" | ")[0]}, ${label}`;
}

// The table of steps -------------------------------------------------------------------------------------------------

const rows = new Map();
for (const row of root.querySelectorAll("tr[data-step]")) rows.set(row.dataset.step, row);

function showRow(step) {
  const row = rows.get(step.name);
  if (!row?.isConnected) return;
  row.dataset.version = step.version;
  const part = (name) => row.querySelector(`[data-part="${name}"]`);
  const state = part("state")?.querySelector(".b-state");
  if (state && !state.classList.contains(`b-${step.state}`)) offerToSort();
  look(state, step.state);
  put(state?.querySelector("span"), step.label);
  if (step.is_brief) return;
  put(part("now"), step.now);
  put(part("attempt"), number(step.attempt));
  put(part("queued"), step.queued);
  const ran = part("ran");
  put(ran, step.ran);
  if (step.started_at) ran?.setAttribute("data-since", step.started_at);
  else ran?.removeAttribute("data-since");
}

// Beside the tabs, where it moves nothing.
function offerToSort() {
  const tools = find(".b-tabs");
  if (!tools || tools.querySelector("[data-sort-again]")) return;
  const link = document.createElement("a");
  link.href = location.href;
  link.dataset.sortAgain = "";
  link.className = "b-sort-again";
  link.textContent = word("sort");
  tools.append(link);
}

// What is read as HTML: the panel, and the tabs that are no graph and no table --------------------------------------

const WHOLE = ["money", "activity", "timeline"].includes(root.dataset.view);
const PARTS = [".b-columns > aside:not(.b-summary)", ...(WHOLE ? [".b-main"] : [])]; // a summary is the graph's to renew
let restPause = REST_EVERY;
let refreshedAt = Date.now();
let refreshing = 0;
let refreshAt = Infinity;

function refreshWithin(pause) {
  if (!PARTS.some(find)) return;
  const at = Math.max(Date.now(), refreshedAt + pause);
  if (at >= refreshAt) return;
  clearTimeout(refreshing);
  refreshAt = at;
  refreshing = setTimeout(refresh, at - Date.now());
}

async function refresh() {
  refreshAt = Infinity;
  if (document.visibilityState === "hidden" || isHeld()) return refreshWithin(restPause);
  const began = Date.now();
  refreshedAt = began;
  try {
    const answer = await fetch(location.href, { redirect: "manual", headers: { Accept: "text/html" } });
    if (!answer.ok) return;
    const fresh = new DOMParser().parseFromString(await answer.text(), "text/html");
    if (isHeld()) return refreshWithin(restPause);
    for (const selector of PARTS) {
      const [old, made] = [find(selector), fresh.querySelector(`.b-page ${selector}`)];
      if (old && made) morph(old, made);
    }
    refreshedAt = Date.now();
    // What costs the server much is asked for seldom.
    restPause = Math.max(REST_EVERY, 20 * (refreshedAt - began));
    showCopyButtons();
    root.dispatchEvent(new CustomEvent("baton:refreshed"));
  } catch {
    // The connection tells of it.
  }
}

// Whether the reader has something in hand there: a selection, a field, a pressed button.
function isHeld() {
  const selection = getSelection();
  const isSelecting = selection && !selection.isCollapsed && find(".b-columns")?.contains(selection.anchorNode);
  const isTyping = document.activeElement?.matches?.(".b-columns :is(input, textarea, select)");
  return isSelecting || isTyping || isPressed || root.hasAttribute("data-held");
}

let isPressed = false;
addEventListener("pointerdown", () => (isPressed = true), true);
for (const name of ["pointerup", "pointercancel"]) addEventListener(name, () => (isPressed = false), true);

// The connection -----------------------------------------------------------------------------------------------------

function show(state) {
  const was = root.dataset.connection;
  if (state === "lost") {
    lostAt ||= Date.now();
    setTimeout(showLost, LOST_AFTER);
    return;
  }
  lostAt = 0;
  root.dataset.connection = { gone: "finished", denied: "lost" }[state] ?? state;
  if (was === "lost" && ["open", "polling"].includes(state)) announce(word("again"));
  const words = { open: word("live"), polling: word("polling", { seconds: POLL_SECONDS }) };
  find("[data-live]")?.replaceChildren(words[state] ?? word(state));
  if (state === "gone" || state === "denied") announce(word(state));
}

function showLost() {
  if (!lostAt || Date.now() - lostAt < LOST_AFTER - 50) return;
  const place = find("[data-live]");
  if (!place) return;
  if (root.dataset.connection !== "lost") {
    root.dataset.connection = "lost";
    announce(word("paused"));
    const button = document.createElement("button");
    button.type = "button";
    button.className = "b-try";
    button.textContent = word("try");
    button.addEventListener("click", () => live.retry());
    place.replaceChildren(document.createElement("span"), " ", button);
  }
  const time = new Date(shownAt).toLocaleTimeString([], { hour12: false });
  put(place.firstElementChild, word("lost", { time, age: ticking(live.now() - shownAt) }));
}

// Times --------------------------------------------------------------------------------------------------------------

function tick() {
  if (lostAt) return showLost();
  if (document.visibilityState === "hidden" || !live || root.dataset.connection === "finished") return;
  if (root.dataset.connection === "open") shownAt = live.now();
  for (const element of root.querySelectorAll("[data-since]")) {
    put(element, ticking(live.now() - Date.parse(element.dataset.since)));
  }
  for (const element of root.querySelectorAll("[data-until]")) {
    const left = Date.parse(element.dataset.until) - live.now();
    put(element, left > 0 ? element.dataset.words.replace("{time}", ticking(left)) : "");
  }
}

// Announcements, one in ten seconds ------------------------------------------------------------------------------------

let announcedAt = -ANNOUNCE_EVERY;
let announcing = 0;
let announcement = "";

function announce(text) {
  announcement = text;
  announcing ||= setTimeout(
    () => {
      announcing = 0;
      announcedAt = performance.now();
      put(find(".b-announcer"), announcement);
    },
    Math.max(0, announcedAt + ANNOUNCE_EVERY - performance.now()),
  );
}

// Copying ------------------------------------------------------------------------------------------------------------

function showCopyButtons() {
  for (const button of root.querySelectorAll("button[data-copy]")) button.hidden = false;
}

root.addEventListener("click", async (event) => {
  const button = event.target.closest?.("button[data-copy]");
  const source = button && document.querySelector(button.dataset.copy);
  if (!source) return;
  await copy(source);
  const usual = button.textContent;
  if (usual === word("copied")) return;
  button.textContent = word("copied");
  setTimeout(() => (button.textContent = usual), 2_000);
});

async function copy(source) {
  try {
    await navigator.clipboard.writeText(source.textContent);
  } catch {
    // Without HTTPS there is no clipboard to write to, but a selection can be copied.
    getSelection().selectAllChildren(source);
    document.execCommand("copy");
  }
}

// Small things -------------------------------------------------------------------------------------------------------

function put(node, text) {
  if (node && node.textContent !== text) node.textContent = text;
}

// A part that is there only where it has something to say.
function piece(place, selector, tag, name, text) {
  const there = place?.querySelector(selector);
  if (there) put(there, text);
  else if (place && text) {
    const made = document.createElement(tag);
    made.className = name;
    made.textContent = text;
    place.append(" ", made);
  }
}

// Gives an element the shape and the colour of a state.
function look(element, state) {
  if (!element || element.classList.contains(`b-${state}`)) return;
  element.classList.remove(...STATES.map((each) => `b-${each}`));
  element.classList.add(`b-${state}`);
  element.querySelector("use")?.setAttribute("href", `#b-${state}`);
}

// Beginning ----------------------------------------------------------------------------------------------------------

showCopyButtons();
showTitle(
  { running: "executing", failed: "discarded" }[root.dataset.state] ?? root.dataset.state,
  find("[data-run-state] span")?.textContent ?? root.dataset.state,
);

// The very module that the page loads, under whatever name static files have here.
const drawn = document.querySelector('script[type="module"][src*="/graph."]');
if (drawn) graph = await import(drawn.src).catch(() => null);

if (root.dataset.connection !== "finished" && root.dataset.changes) {
  live = new Live({
    socket: root.dataset.socket,
    changes: root.dataset.changes,
    asOf: root.dataset.asOf,
    language: document.documentElement.lang,
    tell: hear,
    show,
  });
  find("[data-live]")?.replaceChildren(word("connecting"));
  lostAt = Date.now();
  setTimeout(showLost, LOST_AFTER);
  live.start();
  setInterval(tick, 1_000);
}
