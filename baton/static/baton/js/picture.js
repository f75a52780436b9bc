// What the picture of a graph holds: nodes and the edges between them, groups and their cells.

import { all, drawn, find, set } from "./dom.js";
import { number, word } from "./words.js";

const PITCH = 12; // of cells
const box = find("[data-graph]");
const svg = find("#b-graph");
let [nodes, rows, into, outOf, groups, places] = [];

export { groups, nodes };
export const byId = (id) => svg.getElementById(id);
export const isDown = () => svg.matches(".b-down");

// What edges join is told for a bunch of them, by the places of nodes and junctions in the document.
export function read() {
  nodes = all(".b-node", svg);
  const ends = [...nodes, ...all(".b-junction", svg)].map(({ id }) => id);
  const edges = all(".b-edges > g", svg).flatMap(({ children, dataset }) =>
    dataset.ends.split(" ").map((pair, index) => {
      const [from, to] = pair.split("-").map((place) => ends[place]);
      return { path: children[index], from, to };
    }));
  into = Map.groupBy(edges, ({ to }) => to);
  outOf = Map.groupBy(edges, ({ from }) => from);
  const outer = nodes.filter((node) => !node.dataset.in);
  rows = svg.querySelector(".b-nodes").dataset.rows.split(" ").map((count) => outer.splice(0, count));
  groups = new Map();
  places = new Map(); // of steps in groups, by id
  const names = JSON.parse(box.dataset.names);
  for (const node of all("[data-members]", svg)) {
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
    const beside = text.parentNode.querySelector(text.matches(".b-name") ? ".b-time" : ".b-cost");
    const [mine, other] = [text, beside ?? text].map((each) => each.getBoundingClientRect());
    return [text, beside ? (other.left - mine.left) / (mine.width * 1.04) : 1, text.getComputedTextLength()];
  });
  for (const [text, part, length] of parts) {
    if (part > 0.2 && part < 1) set(text, { textLength: length * part, lengthAdjust: "spacingAndGlyphs" });
  }
}

// Along the edges ---

// The edges that lead on from a node, each with what it leads to.
export function leading(id, isUp = false) {
  const edges = (isUp ? into : outOf).get(id) ?? [];
  return edges.map(({ path, from, to }) => [path, isUp ? from : to]);
}

// Steps that are drawn within a group have its edges.
const home = (node) => node.dataset.in || node.id;

// The nearest node that waits for this one, or that this one waits for; junctions between are passed through.
export function next(node, isUp) {
  const ways = [home(node)];
  const found = [];
  for (const from of ways) {
    for (const [, id] of leading(from, isUp)) {
      if (byId(id).matches(".b-node")) found.push(byId(id));
      else if (!ways.includes(id)) ways.push(id);
    }
  }
  const far = (other) => {
    const [a, b] = [node, other].map((each) => each.getBoundingClientRect());
    return Math.hypot(a.left + a.right - b.left - b.right, a.top + a.bottom - b.top - b.bottom);
  };
  return found.sort((one, two) => far(one) - far(two))[0];
}

export function beside(node, by) {
  const row = rows.find((each) => each.includes(node)) ?? nodes.filter((each) => each.dataset.in === node.dataset.in);
  return row[row.indexOf(node) + by];
}

// Ink some nodes and the edges between them, or one with all it comes from and leads to, and dim the rest.
export function ink(chosen) {
  for (const lit of all(".b-lit", svg)) lit.classList.remove("b-lit");
  svg.classList.toggle("b-dims", Boolean(chosen));
  const ids = new Set(chosen?.map(home));
  for (const isUp of chosen?.length === 1 ? [true, false] : []) {
    const ways = [home(chosen[0])];
    for (const from of ways) {
      for (const [, id] of leading(from, isUp)) {
        if (!ids.has(id)) ways.push(id);
        ids.add(id);
      }
    }
  }
  for (const id of ids) {
    byId(id)?.classList.add("b-lit");
    for (const [path, to] of leading(id)) path.classList.toggle("b-lit", ids.has(to));
  }
  for (const inner of all("[data-in]", svg)) inner.classList.toggle("b-lit", ids.has(inner.dataset.in));
}

// Cells ---

// Cells of one state side by side come as one; here they are taken apart.
export function cellsOf(node) {
  const group = groups.get(node);
  if (!group || group.cells) return group?.cells ?? [];
  for (const run of all(".b-cells > use", node)) {
    const [, state, length] = /^#b-c-([a-z]+)-?(\d*)/.exec(run.getAttribute("href"));
    const [x, y] = ["x", "y"].map((name) => Number(run.getAttribute(name)));
    run.replaceWith(...Array.from({ length: length || 1 }, (_, at) => drawn("use", { href: `#b-c-${state}`, x: x + at * PITCH, y })));
  }
  group.cells = all(".b-cells > use", node);
  group.columns = group.cells.filter((cell) => cell.getAttribute("y") === "0").length;
  return group.cells;
}

export const columnsOf = (node) => cellsOf(node) && groups.get(node).columns;

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
  const { name, share } = groups.get(node);
  return name && share === 1 && `${name[0]}${name[1] + cell}${name[2]}`;
}

export function wordsOf(node, cell) {
  const { share, count } = groups.get(node);
  const first = number(cell * share + 1);
  const values = { first, place: first, last: number(Math.min(count, (cell + 1) * share)), count: number(count) };
  const text = nameOf(node, cell) || word(share > 1 ? "steps-of" : "step-of", values);
  return `${text}, ${word(shownIn(cellsOf(node)[cell]))}`;
}

// Of the step of a cell, of several steps that share one, or of the group.
export function addressOf(node, cell) {
  const { searchParams } = new URL(node.getAttribute("href"), location.href);
  const name = cell !== null && nameOf(node, cell);
  for (const each of ["step", "group", "cell"]) searchParams.delete(each);
  searchParams.set(name ? "step" : "group", name || groups.get(node).key);
  if (cell !== null && !name) searchParams.set("cell", cell);
  return `?${searchParams}`;
}

export function mark(cell) {
  svg.querySelector(".b-at")?.remove();
  const [x, y] = ["x", "y"].map((name) => cell?.getAttribute(name) - 2);
  cell?.parentNode.append(drawn("rect", { class: "b-at", x, y, width: 14, height: 14, rx: 3 }));
}

read();
