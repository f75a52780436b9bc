// What the picture of a graph holds: nodes and the edges between them, groups and their cells.

import { box, svg, way } from "./camera.js";
import { all, drawn, find, set } from "./dom.js";
import { number, word } from "./words.js";

const PITCH = 12; // of cells
let [nodes, ends, edges, rows, into, outOf, groups, places] = [];

export { groups, nodes };
export const byId = (id) => svg.getElementById(id);

// What edges join is told for a bunch of them, by the places of nodes and junctions in the document.
export function read() {
  nodes = all(".b-node");
  ends = [...nodes, ...all(".b-junction")];
  edges = all(".b-edges > g").flatMap(({ children, dataset }) =>
    dataset.ends.split(" ").map((pair, index) => {
      const [from, to] = pair.split("-").map((place) => ends[place]);
      return { path: children[index], from, to };
    }));
  into = Map.groupBy(edges, ({ to }) => to);
  outOf = Map.groupBy(edges, ({ from }) => from);
  const outer = nodes.filter((node) => node === home(node));
  rows = find(".b-nodes").dataset.rows.split(" ").map((count) => outer.splice(0, count));
  groups = new Map();
  places = new Map(); // of steps in groups, by id
  const names = JSON.parse(box.dataset.names);
  for (const node of all("[data-members]")) {
    const key = new URLSearchParams(node.getAttribute("href")).get("group");
    const steps = [...idsIn(node.dataset.members)];
    groups.set(node, { key, name: names[key], share: Number(node.closest("[data-share]").dataset.share), count: steps.length });
    steps.forEach((id, place) => places.set(id, { node, place }));
  }
  squeeze();
}

// "7-19/2,30": from 7 to 19 every second, and 30.
function* idsIn(text) {
  for (const part of text.split(",")) {
    const [first, last = first, stride = 1] = part.split(/[-/]/).map(Number);
    for (let id = first; id <= last; id += stride) yield id;
  }
}

// Names were cut for the usual fonts; in a wider one they are pressed together.
export function squeeze(within = svg) {
  const parts = all(".b-name, .b-line", within).map((text) => {
    const [box, side = box] = all(text.matches(".b-name") ? ".b-box, .b-time" : ".b-box, .b-cost", text.parentNode);
    const [mine, other] = [text, side].map((each) => each.getBoundingClientRect());
    const room = other[side === box ? "right" : "left"] - mine.left;
    return [text, room / mine.width / 1.04, text.getComputedTextLength()];
  });
  for (const [text, part, length] of parts) {
    if (part > 0.2 && part < 1) set(text, { textLength: length * part, lengthAdjust: "spacingAndGlyphs" });
  }
}

// Along the edges ---

// Steps that are drawn within a group have its edges.
const home = (node) => byId(node.dataset.in) ?? node;

// The edges that lead on from a node.
export const leading = (node) => outOf.get(node) ?? [];

// What one comes to along the edges: everything, or the nearest nodes, for which junctions are passed through.
function along(node, isUp, isNearest) {
  const found = new Set([node]);
  for (const each of found) {
    if (isNearest && each !== node && each.matches(".b-node")) continue;
    for (const { from, to } of (isUp ? into : outOf).get(each) ?? []) found.add(isUp ? from : to);
  }
  found.delete(node);
  return [...found];
}

// The nearest node that waits for this one, or that this one waits for.
export function next(node, isUp) {
  const far = (other) => Math.hypot(...way(node, other));
  const found = along(home(node), isUp, true).filter((each) => each.matches(".b-node"));
  return found.sort((one, two) => far(one) - far(two))[0];
}

export function beside(node, by) {
  const row = rows.find((each) => each.includes(node)) ?? nodes.filter((each) => each.dataset.in === node.dataset.in);
  return row[row.indexOf(node) + by];
}

// Ink some nodes and the edges between them, or one with all it comes from and leads to, and dim the rest.
export function ink(chosen) {
  const lit = new Set(chosen?.map(home));
  if (chosen?.length === 1) for (const isUp of [true, false]) along(home(chosen[0]), isUp).forEach((each) => lit.add(each));
  svg.classList.toggle("b-dims", Boolean(chosen));
  for (const end of ends) end.classList.toggle("b-lit", lit.has(home(end)));
  for (const { path, from, to } of edges) path.classList.toggle("b-lit", lit.has(from) && lit.has(to));
}

// Cells ---

// Cells of one state side by side come as one; here they are taken apart.
export function cellsOf(node) {
  const group = groups.get(node);
  if (!group || group.cells) return group?.cells ?? [];
  for (const run of all(".b-cells > use", node)) {
    const [, state, length] = /^#b-c-([a-z]+)-?(\d*)/.exec(run.getAttribute("href"));
    const [x, y] = placeOf(run);
    run.replaceWith(...Array.from({ length: length || 1 }, (_, at) => drawn("use", { href: `#b-c-${state}`, x: x + at * PITCH, y })));
  }
  return (group.cells = all(".b-cells > use", node));
}

const placeOf = (cell) => ["x", "y"].map((name) => Number(cell.getAttribute(name)));

export const columnsOf = (node) => cellsOf(node).filter((cell) => !placeOf(cell)[1]).length;

// The cell of a step, and how many share it.
export function cellOf(id) {
  const { node, place } = places.get(id) ?? {};
  const share = groups.get(node)?.share;
  return { cell: cellsOf(node)[Math.floor(place / share)], share };
}

// The state that a cell shows.
export const shownIn = (cell) => cell.getAttribute("href").slice("#b-c-".length);

// By where the pointer is: through the holes in a cell one would hit the node behind it.
export function cellAt(node, { clientX, clientY }) {
  const matrix = node.querySelector(".b-cells")?.getScreenCTM();
  if (!matrix) return null;
  const { x, y } = new DOMPoint(clientX, clientY).matrixTransform(matrix.inverse());
  const [column, row] = [x, y].map((each) => Math.floor((each + 1) / PITCH));
  const columns = columnsOf(node);
  const cell = row * columns + column;
  return column >= 0 && column < columns && cellsOf(node)[cell] ? cell : null;
}

function nameOf(node, cell) {
  const { name } = groups.get(node);
  return name && `${name[0]}${name[1] + cell}${name[2]}`;
}

export function wordsOf(node, cell) {
  const { share, count } = groups.get(node);
  const first = number(cell * share + 1);
  const values = { first, last: number(Math.min(count, (cell + 1) * share)), count: number(count) };
  const text = nameOf(node, cell) || word(share > 1 ? "steps-of" : "step-of", values);
  return `${text}, ${word(shownIn(cellsOf(node)[cell]))}`;
}

// Of the step of a cell, of several steps that share one, or of the group.
export function addressOf(node, cell) {
  const words = new URLSearchParams(node.getAttribute("href"));
  const name = cell !== null && nameOf(node, cell);
  for (const each of ["step", "group", "cell"]) words.delete(each);
  words.set(name ? "step" : "group", name || groups.get(node).key);
  if (cell !== null && !name) words.set("cell", cell);
  return `?${words}`;
}

export function mark(cell) {
  find(".b-at")?.remove();
  if (!cell) return;
  const [x, y] = placeOf(cell).map((at) => at - 2);
  cell.parentNode.append(drawn("rect", { class: "b-at", x, y, width: 14, height: 14, rx: 3 }));
}

read();
