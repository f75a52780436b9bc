// The graph under pointer and keys, repainted with what changes. Without it the picture stands still, with its links.

import { Camera, FACTOR } from "./camera.js";
import { all, find, on, root } from "./dom.js";
import { Picture } from "./picture.js";
import { visit } from "./visit.js";

const WIDE = 1200;

const box = find("[data-graph]");
const picture = new Picture(box);
const { svg } = picture;
const [critical, follow, tip, label] = ["critical", "follow", "tip", "cell-label"].map((name) => find(`[data-${name}]`));
const camera = new Camera(box, svg, () => (follow.checked = false));

let current = null; // the one node that Tab reaches
let cell = null; // where the keys are in its cells
let hovered = null;
let concerned = null; // what a question is about
let isDown = picture.isDown;

function read() {
  for (const node of picture.nodes) node.setAttribute("tabindex", "-1");
  current = picture.find(current?.id) ?? svg.querySelector(".b-selected") ?? picture.nodes[0];
  current?.setAttribute("tabindex", "0");
  svg.classList.toggle("b-no-critical", !critical.checked);
  ink();
  picture.squeeze();
}

const lively = () => ["executing", "discarded", "retryable"].map((each) => svg.querySelector(`.b-node.b-${each}`)).find(Boolean);
const first = () => camera.first(svg.querySelector(".b-selected") ?? lively() ?? picture.find(svg.dataset.look));

on("steps", (steps) => {
  const begun = steps.filter((step) => picture.paint(step));
  if (follow.checked && begun.length) camera.bring(picture.find(`b-n-${begun.at(-1).id}`));
});
on("refreshed", () => {
  const before = new Set(picture.nodes);
  picture.read();
  for (const node of picture.nodes) node.classList.toggle("b-new", !before.has(node));
  camera.show();
  if (isDown !== picture.isDown) first();
  isDown = picture.isDown;
  read();
  if (cell !== null) enter(cell);
});
on("concerns", (names) => {
  concerned = names && picture.showing(names);
  ink();
});

// The pointer --------------------------------------------------------------------------------------------------------

let inking = 0;

function ink() {
  const focused = document.activeElement.matches("#b-graph :focus-visible") ? current : null;
  const one = picture.nodes.includes(hovered) ? hovered : focused;
  picture.ink(concerned ?? (one && [one]));
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

// The keys -----------------------------------------------------------------------------------------------------------

const ARROWS = { ArrowDown: [0, 1], ArrowUp: [0, -1], ArrowRight: [1, 0], ArrowLeft: [-1, 0] };
const KEYS = {
  "+": () => camera.zoom(FACTOR),
  "=": () => camera.zoom(FACTOR),
  "-": () => camera.zoom(1 / FACTOR),
  0: () => camera.fit(),
  c: () => critical.click(),
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
  const [across, along] = isDown ? ARROWS[key] : ARROWS[key].toReversed();
  return () => (along ? picture.next(current, along < 0) : picture.beside(current, across))?.focus({ preventScroll: true });
}

function inCells(key) {
  const last = picture.cells(current).length - 1;
  const [x, y] = ARROWS[key] ?? [];
  const to = { Home: 0, End: last }[key] ?? cell + x + y * picture.columns(current);
  if (!Number.isNaN(to)) return () => to >= 0 && to <= last && enter(to);
  if (key === "Enter") return () => visit(picture.addressOf(current, cell), { isByKey: true });
  return key === "Escape" || key === " " ? leave : undefined;
}

function enter(to) {
  const use = picture.cells(current)[to];
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

box.addEventListener("focusin", (event) => {
  current?.setAttribute("tabindex", "-1");
  current = event.target.closest(".b-node") ?? current;
  current.setAttribute("tabindex", "0");
  camera.bring(current);
  ink();
});
box.addEventListener("focusout", () => {
  leave();
  ink();
});

// The tools ----------------------------------------------------------------------------------------------------------

for (const hidden of all("[data-graph-zoom], [data-graph-option]")) hidden.hidden = false;
root.addEventListener("click", (event) => {
  const zoom = event.target.closest("[data-zoom]")?.dataset.zoom;
  if (zoom) KEYS[{ in: "+", out: "-", fit: 0 }[zoom]]();
  if (event.target.closest("[data-keys]")) KEYS["?"]();
});
critical.addEventListener("change", read);
follow.addEventListener("change", () => follow.checked && lively() && camera.bring(lively(), true));

// A long chain that nobody chose a direction for goes by the width, which the server knows from this cookie alone: the
// first time it may have drawn it the wrong way.
const width = `baton_wide=${Number(root.clientWidth >= WIDE)}`;
const isKnown = () => document.cookie.split("; ").includes(width);
if ("byWidth" in box.dataset && !isKnown()) {
  document.cookie = `${width}; path=/; max-age=31536000; samesite=lax`;
  if (isKnown() && isDown === width.endsWith("1")) location.reload();
}

box.classList.add("b-live-view");
first();
read();
