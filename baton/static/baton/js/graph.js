// The graph under pointer and keys, repainted with what changes.

import * as camera from "./camera.js";
import { drawn, find, hasModifier, look, on, put, root, STATES, stateOf, tickSince, toolOf } from "./dom.js";
import * as picture from "./picture.js";
import { visit } from "./visit.js";
import { word } from "./words.js";

const [WIDTH, HEIGHT] = [200, 52]; // of a step, as graph.css has it

const { box, svg } = camera;
const [follow, tip, label, keys] = ["follow", "tip", "cell-label", "keys-dialog"].map((name) => find(`[data-${name}]`));
let current = null; // the one node that Tab reaches
let cell = null; // where the keys are in its cells
let hovered = null;
let concerned = null; // what a question is about
let isDown = null;

function begin() {
  if (isDown !== svg.matches(".b-down")) camera.first(picture.byId(svg.dataset.look));
  isDown = svg.matches(".b-down");
  for (const node of picture.nodes) node.setAttribute("tabindex", "-1");
  reach(picture.byId(current?.id) ?? find(".b-node.b-selected") ?? picture.nodes[0]);
  ink();
}

function reach(node) {
  current?.setAttribute("tabindex", "-1");
  current = node;
  current?.setAttribute("tabindex", "0");
}

on("refreshed", () => {
  const before = new Set(picture.nodes);
  camera.show();
  picture.read();
  for (const node of picture.nodes) node.classList.toggle("b-new", !before.has(node));
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
    const isWorse = use && STATES.indexOf(step.state) < STATES.indexOf(picture.shownIn(use));
    if (isWorse || share === 1) use?.setAttribute("href", `#b-c-${step.state}`);
    const node = picture.byId(`b-n-${step.id}`);
    if (node) paint(node, step);
  }
});

function paint(node, step) {
  const was = stateOf(node);
  if (was !== step.state) {
    look(node, step.state, "b-i-");
    if (was === "pending") put(node.querySelector(".b-line"), ""); // what it waited for
    node.setAttribute("aria-label", node.getAttribute("aria-label").replace(`: ${word(was)}.`, `: ${step.label}.`));
    const isSettled = ["completed", "discarded", "cancelled"].includes(step.state);
    for (const { path } of picture.leading(node)) {
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
  tickSince(time, step.started_at);
  // At the foot how far it is, or that it moves where nobody knows.
  const bar = part("b-bar", "rect", { x: 2, y: HEIGHT - 5, height: 3, rx: 1.5 }, step.state === "executing");
  const { current: done, total } = step.progress ?? {};
  const isKnown = total > 0;
  bar?.classList.toggle("b-moving", !isKnown);
  bar?.setAttribute("width", (WIDTH - 4) * (isKnown ? camera.between(0, done / total, 1) : 0.4));
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

box.addEventListener("keydown", (event) => {
  if (hasModifier(event) || !current) return;
  const tool = toolOf(event.key);
  const act = (cell === null ? onNodes(event.key) : inCells(event.key)) ?? tool?.click.bind(tool);
  if (act) event.preventDefault();
  act?.();
});

function onNodes(key) {
  if (key === " ") return () => enter(0);
  if (!ARROWS[key]) return undefined;
  const [across, along] = isDown ? ARROWS[key] : ARROWS[key].toReversed();
  return () => (along ? picture.next(current, along < 0) : picture.beside(current, across))?.focus({ preventScroll: true });
}

function inCells(key) {
  const cells = picture.cellsOf(current);
  const [x, y] = ARROWS[key] ?? [];
  const to = { Home: 0, End: cells.length - 1 }[key] ?? cell + x + y * picture.columnsOf(current);
  if (!Number.isNaN(to)) return () => cells[to] && enter(to);
  if (key === "Enter") return () => visit(picture.addressOf(current, cell), true);
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
  reach(target.closest(".b-node"));
  camera.bring(current);
  ink();
});
box.addEventListener("focusout", () => {
  leave();
  ink();
});

// The tools ---

root.addEventListener("click", ({ target }) => {
  camera.zooms[target.closest("[data-zoom]")?.dataset.zoom]?.();
  if (target.closest(".b-help, .b-shut")) keys[keys.open ? "close" : "showModal"]();
});
follow.addEventListener("change", () => {
  const running = find(".b-node.b-executing");
  if (follow.checked && running) camera.bring(running, true);
});

box.classList.add("b-live-view");
begin();
