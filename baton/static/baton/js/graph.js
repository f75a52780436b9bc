// The graph under pointer and keys, repainted with what changes.

import * as camera from "./camera.js";
import { drawn, find, look, on, put, root, stateOf } from "./dom.js";
import * as picture from "./picture.js";
import { visit } from "./visit.js";
import { word } from "./words.js";

const WORST_FIRST = ["discarded", "retryable", "executing", "snoozed", "available", "pending", "cancelled", "completed"];
const [WIDTH, HEIGHT] = [200, 52]; // of a step, as graph.css has it

const [box, follow, tip, label] = ["graph", "follow", "tip", "cell-label"].map((name) => find(`[data-${name}]`));
const svg = find("#b-graph");
let current = null; // the one node that Tab reaches
let cell = null; // where the keys are in its cells
let hovered = null;
let concerned = null; // what a question is about
let wasDown = picture.isDown();

function begin() {
  for (const node of picture.nodes) node.setAttribute("tabindex", "-1");
  current = picture.byId(current?.id) ?? svg.querySelector(".b-selected") ?? picture.nodes[0];
  current?.setAttribute("tabindex", "0");
  ink();
}

const lively = () => ["executing", "discarded", "retryable"].map((each) => svg.querySelector(`.b-node.b-${each}`)).find(Boolean);
const first = () => camera.first(svg.querySelector(".b-selected") ?? lively() ?? picture.byId(svg.dataset.look));

on("refreshed", () => {
  const before = new Set(picture.nodes);
  camera.show();
  picture.read();
  for (const node of picture.nodes) node.classList.toggle("b-new", !before.has(node));
  if (wasDown !== picture.isDown()) first();
  wasDown = picture.isDown();
  begin();
  if (cell !== null) enter(cell);
});
on("concerns", (nodes) => {
  concerned = nodes;
  ink();
});

// Painting ---

on("steps", (steps) => {
  for (const step of steps) {
    const { cell: use, share } = picture.cellOf(step.id);
    // What the others are that share the cell, only the server knows; what is worse is shown at once.
    const isWorse = use && WORST_FIRST.indexOf(step.state) < WORST_FIRST.indexOf(picture.shownIn(use));
    if (isWorse || (use && share === 1)) use.setAttribute("href", `#b-c-${step.state}`);
    const node = picture.byId(`b-n-${step.id}`);
    if (node) paint(node, step);
  }
});

function paint(node, step) {
  const was = stateOf(node);
  if (was !== step.state) {
    look(node, step.state, "b-i-");
    if (was === "pending") put(node.querySelector(".b-line"), ""); // what it waited for
    node.setAttribute("aria-label", node.getAttribute("aria-label").replace(`: ${word(was)}.`, `: ${word(step.state)}.`));
    const isSettled = ["completed", "discarded", "cancelled"].includes(step.state);
    for (const [path] of picture.leading(node.id)) {
      if (path.closest(".b-cause")) continue;
      path.classList.toggle("b-settled", isSettled);
      path.classList.toggle("b-waiting", !isSettled);
    }
    if (follow.checked && step.state === "executing") camera.bring(node);
  }
  if (step.is_brief) return;
  const part = (name, tag, attributes, isThere) => {
    let found = node.querySelector(`.${name}`);
    if (!isThere) return found?.remove();
    if (!found) node.append((found = drawn(tag, { class: name, ...attributes })));
    return found;
  };
  const hadTime = node.querySelector(".b-time");
  const time = part("b-time", "text", {}, step.ran);
  put(time, step.ran);
  if (time && !hadTime) picture.squeeze(node);
  if (step.started_at) time.dataset.since = step.started_at;
  else delete time?.dataset.since;
  // At the foot how far it is, or that it moves where nobody knows.
  const bar = part("b-bar", "rect", { x: 2, y: HEIGHT - 5, height: 3, rx: 1.5 }, step.state === "executing");
  const { current: done, total } = step.progress ?? {};
  const isKnown = total > 0;
  bar?.classList.toggle("b-moving", !isKnown);
  bar?.setAttribute("width", (WIDTH - 4) * (isKnown ? Math.min(1, Math.max(0, done / total)) : 0.4));
}

// The pointer ---

let inking = 0;

function ink() {
  const focused = document.activeElement.matches("#b-graph :focus-visible") && current;
  const one = picture.nodes.includes(hovered) ? hovered : focused;
  picture.ink(concerned ?? (one ? [one] : null));
}

function say(text) {
  tip.textContent = text;
  tip.hidden = !text;
}

function hover(event) {
  const node = event.target.closest(".b-node");
  const place = node && picture.cellAt(node, event);
  say(place === null ? "" : picture.wordsOf(node, place));
  // Its link is that of the cell, so that every kind of click leads there.
  if (node?.dataset.members) node.setAttribute("href", picture.addressOf(node, place));
  if (node === hovered) return;
  hovered = node;
  clearTimeout(inking);
  inking = setTimeout(ink, node ? 150 : 60);
}

for (const kind of ["pointermove", "pointerdown", "pointerleave"]) box.addEventListener(kind, hover);

// The keys ---

const ARROWS = { ArrowDown: [0, 1], ArrowUp: [0, -1], ArrowRight: [1, 0], ArrowLeft: [-1, 0] };
const KEYS = {
  "+": camera.closer,
  "=": camera.closer,
  "-": camera.wider,
  0: camera.fit,
  c: () => find("[data-critical]").click(),
  f: () => follow.click(),
  "?": () => find("[data-keys-dialog]").showModal(),
};

box.addEventListener("keydown", (event) => {
  if (event.altKey || event.ctrlKey || event.metaKey || !current) return;
  const act = (cell === null ? onNodes(event.key) : inCells(event.key)) ?? KEYS[event.key.toLowerCase()];
  if (act) event.preventDefault();
  act?.();
});

function onNodes(key) {
  if (key === " ") return () => enter(0);
  if (!ARROWS[key]) return undefined;
  const [across, along] = wasDown ? ARROWS[key] : ARROWS[key].toReversed();
  return () => (along ? picture.next(current, along < 0) : picture.beside(current, across))?.focus({ preventScroll: true });
}

function inCells(key) {
  const last = picture.cellsOf(current).length - 1;
  const [x, y] = ARROWS[key] ?? [];
  const to = { Home: 0, End: last }[key] ?? cell + x + y * picture.columnsOf(current);
  if (!Number.isNaN(to)) return () => to >= 0 && to <= last && enter(to);
  if (key === "Enter") return () => visit(picture.addressOf(current, cell), { isByKey: true });
  return key === "Escape" || key === " " ? leave : undefined;
}

function enter(to) {
  const use = picture.cellsOf(current)[to];
  if (!use) return leave();
  cell = to;
  picture.mark(use);
  label.textContent = picture.wordsOf(current, cell);
  say(label.textContent);
}

function leave() {
  cell = null;
  picture.mark(null);
  say("");
}

box.addEventListener("focusin", ({ target }) => {
  current?.setAttribute("tabindex", "-1");
  current = target.closest(".b-node");
  current.setAttribute("tabindex", "0");
  camera.bring(current);
  ink();
});
box.addEventListener("focusout", () => {
  leave();
  ink();
});

// The tools ---

root.addEventListener("click", ({ target }) => {
  const zoom = target.closest("[data-zoom]")?.dataset.zoom;
  if (zoom) KEYS[{ in: "+", out: "-", fit: 0 }[zoom]]();
  if (target.closest("[data-keys]")) KEYS["?"]();
});
follow.addEventListener("change", () => follow.checked && lively() && camera.bring(lively(), true));

box.classList.add("b-live-view");
first();
begin();
