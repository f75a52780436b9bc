// The picture of a graph: its nodes and the edges between them, the groups and their cells, and what is painted there.

import { all, drawn, look, put, set, stateOf } from "./dom.js";
import { number, word } from "./words.js";

const PITCH = 12; // of cells
const [WIDTH, HEIGHT] = [200, 52]; // of a step, as graph.css has it
const SETTLED = ["completed", "discarded", "cancelled"];
const WORST_FIRST = ["discarded", "retryable", "executing", "snoozed", "available", "pending", "cancelled", "completed"];

export class Picture {
  constructor(box) {
    this.box = box;
    this.svg = box.querySelector("svg");
    this.read();
  }

  // What an edge joins is told for a bunch of them, by the places of nodes and junctions in the document.
  read() {
    this.nodes = all(".b-node", this.svg);
    const ids = [...this.nodes, ...all(".b-junction", this.svg)].map(({ id }) => id);
    const edges = all(".b-edges > g", this.svg).flatMap(({ children, dataset }) =>
      dataset.ends.split(" ").map((ends, index) => {
        const [from, to] = ends.split("-").map((place) => ids[place]);
        return { path: children[index], from, to };
      }));
    this.into = Map.groupBy(edges, ({ to }) => to);
    this.outOf = Map.groupBy(edges, ({ from }) => from);
    const outer = this.nodes.filter((node) => !node.dataset.in);
    this.rows = this.svg.querySelector(".b-nodes").dataset.rows.split(" ").map((count) => outer.splice(0, count));
    this.groups = new Map();
    this.places = new Map(); // of steps in groups, by id
    const names = JSON.parse(this.box.dataset.names || "{}");
    for (const node of this.nodes.filter((each) => each.dataset.members)) {
      const ids = [...idsIn(node.dataset.members)];
      const key = new URLSearchParams(node.getAttribute("href")).get("group");
      this.groups.set(node, { node, key, name: names[key], share: Number(node.dataset.share ?? 1), count: ids.length });
      ids.forEach((id, place) => this.places.set(id, { node, place }));
    }
  }

  get isDown() {
    return this.svg.classList.contains("b-down");
  }

  find(id) {
    return this.svg.getElementById(id);
  }

  // The nodes that show the steps of these names.
  showing(names) {
    const isOf = (node, name) => {
      const [start, , end] = this.groups.get(node)?.name ?? [];
      return node.dataset.step === name || (start && name.startsWith(start) && name.endsWith(end));
    };
    return this.nodes.filter((node) => names.some((name) => isOf(node, name)));
  }

  // Names were cut for the usual fonts; in a wider one they are pressed together rather than run into the time.
  squeeze() {
    const parts = all(".b-name, .b-line", this.svg).map((text) => {
      const beside = text.parentNode.querySelector(text.matches(".b-name") ? ".b-time" : ".b-cost");
      const [mine, other] = [text, beside ?? text].map((each) => each.getBoundingClientRect());
      return [text, beside ? (other.left - mine.left) / (mine.width * 1.04) : 1, text.getComputedTextLength()];
    });
    for (const [text, part, length] of parts) {
      if (part > 0.2 && part < 1) set(text, { textLength: length * part, lengthAdjust: "spacingAndGlyphs" });
    }
  }

  // Along the edges -------------------------------------------------------------------------------------------------

  // The edges that lead on from a node, each with what it leads to.
  leading(id, isUp) {
    const edges = (isUp ? this.into : this.outOf).get(id) ?? [];
    return edges.map(({ path, from, to }) => [path, isUp ? from : to]);
  }

  // The nearest node that waits for this one, or that this one waits for; junctions between are passed through.
  next(node, isUp) {
    const ways = [home(node)];
    const found = [];
    for (const from of ways) {
      for (const [, id] of this.leading(from, isUp)) {
        const other = this.find(id);
        if (other?.matches(".b-node")) found.push(other);
        else if (!ways.includes(id)) ways.push(id);
      }
    }
    const [x, y] = middle(node);
    const far = (other) => Math.hypot(middle(other)[0] - x, middle(other)[1] - y);
    return found.sort((one, two) => far(one) - far(two))[0];
  }

  beside(node, by) {
    const inside = this.nodes.filter((each) => each.dataset.in === node.dataset.in);
    const row = this.rows.find((each) => each.includes(node)) ?? inside;
    return row[row.indexOf(node) + by];
  }

  // Ink some nodes and the edges between them, or one with all it comes from and leads to, and dim the rest.
  ink(nodes) {
    for (const lit of all(".b-lit", this.svg)) lit.classList.remove("b-lit");
    this.svg.classList.toggle("b-dims", Boolean(nodes));
    const ids = new Set(nodes?.map(home));
    for (const isUp of nodes?.length === 1 ? [true, false] : []) {
      const ways = [home(nodes[0])];
      for (const from of ways) {
        for (const [, id] of this.leading(from, isUp)) {
          if (!ids.has(id)) ways.push(id);
          ids.add(id);
        }
      }
    }
    for (const id of ids) {
      this.find(id)?.classList.add("b-lit");
      for (const [edge, to] of this.leading(id, false)) edge.classList.toggle("b-lit", ids.has(to));
    }
    for (const inner of all("[data-in]", this.svg)) inner.classList.toggle("b-lit", ids.has(inner.dataset.in));
  }

  // Cells -----------------------------------------------------------------------------------------------------------

  // Cells of one state side by side come as one; whoever wants the cells of a group takes them apart.
  cells(node) {
    const group = this.groups.get(node);
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

  columns(node) {
    return this.cells(node) && this.groups.get(node).columns;
  }

  // By where the pointer is: through the holes in a cell one would hit the node behind it.
  cellAt(node, { clientX, clientY }) {
    const matrix = node.querySelector(".b-cells")?.getScreenCTM();
    if (!matrix) return null;
    const { x, y } = new DOMPoint(clientX, clientY).matrixTransform(matrix.inverse());
    const [column, row] = [x, y].map((each) => Math.floor((each + 1) / PITCH));
    const columns = this.columns(node);
    const cell = row * columns + column;
    return column >= 0 && column < columns && cell >= 0 && cell < this.cells(node).length ? cell : null;
  }

  nameOf(node, cell) {
    const { name, share } = this.groups.get(node);
    return name && share === 1 ? `${name[0]}${name[1] + cell}${name[2]}` : null;
  }

  wordsOf(node, cell) {
    const { share, count } = this.groups.get(node);
    const { stepOf, stepsOf } = this.box.dataset;
    const [first, last, all] = [cell * share + 1, Math.min(count, (cell + 1) * share), count].map(number);
    const name = this.nameOf(node, cell) ?? (share > 1 ? stepsOf : stepOf);
    const text = name.replace("{first}", first).replace("{place}", first).replace("{last}", last).replace("{count}", all);
    return `${text}, ${word(shownIn(this.cells(node)[cell]))}`;
  }

  // Of the step of a cell, of several steps that share one, or of the group.
  addressOf(node, cell) {
    const { searchParams } = new URL(node.getAttribute("href"), location.href);
    const name = cell === null ? null : this.nameOf(node, cell);
    for (const each of ["step", "group", "cell"]) searchParams.delete(each);
    searchParams.set(name ? "step" : "group", name ?? this.groups.get(node).key);
    if (cell !== null && !name) searchParams.set("cell", cell);
    return `?${searchParams}`;
  }

  mark(cell) {
    this.svg.querySelector(".b-at")?.remove();
    const [x, y] = ["x", "y"].map((name) => cell?.getAttribute(name) - 2);
    cell?.parentNode.append(drawn("rect", { class: "b-at", x, y, width: 14, height: 14, rx: 3 }));
  }

  // Painting --------------------------------------------------------------------------------------------------------

  // What a message tells of a step: true where it has begun to execute.
  paint(step) {
    const { node: around, place } = this.places.get(step.id) ?? {};
    const share = this.groups.get(around)?.share;
    const cell = this.cells(around)[Math.floor(place / share)];
    // What the others are that share the cell, only the server knows; what is worse is shown at once.
    const isWorse = cell && WORST_FIRST.indexOf(step.state) < WORST_FIRST.indexOf(shownIn(cell));
    if (cell && (isWorse || share === 1)) cell.setAttribute("href", `#b-c-${step.state}`);
    const node = this.find(`b-n-${step.id}`);
    const was = node && stateOf(node);
    if (node && was !== step.state) {
      look(node, step.state, "b-i-");
      node.setAttribute("aria-label", node.getAttribute("aria-label").replace(`: ${word(was)}.`, `: ${word(step.state)}.`));
      for (const [edge] of this.leading(node.id, false)) {
        if (edge.closest(".b-cause")) continue;
        edge.classList.toggle("b-settled", SETTLED.includes(step.state));
        edge.classList.toggle("b-waiting", !SETTLED.includes(step.state));
      }
    }
    if (node && !step.is_brief) paintTime(node, step);
    return node && was !== step.state && step.state === "executing";
  }
}

// At the right how long it takes, and at the foot how far it is, or that it moves where nobody knows.
function paintTime(node, { state, ran, started_at: since, progress }) {
  let time = node.querySelector(".b-time");
  if (ran && !time) node.append((time = drawn("text", { class: "b-time" })));
  put(time, ran);
  if (since) time.dataset.since = since;
  else delete time?.dataset.since;
  let bar = node.querySelector(".b-bar");
  if (state !== "executing") return bar?.remove();
  if (!bar) node.append((bar = drawn("rect", { class: "b-bar", x: 2, y: HEIGHT - 5, height: 3, rx: 1.5 })));
  const isKnown = progress?.total > 0;
  const part = isKnown ? Math.min(1, Math.max(0, progress.current / progress.total)) : 0.4;
  bar.classList.toggle("b-moving", !isKnown);
  bar.setAttribute("width", Math.round((WIDTH - 4) * part));
}

// "7-19/2,30": from 7 to 19 every second, and 30.
function* idsIn(text) {
  for (const part of text.split(",")) {
    const [first, last = first, stride = 1] = part.split(/[-/]/).map(Number);
    for (let id = first; id <= last; id += stride) yield id;
  }
}

// The state that a cell shows.
const shownIn = (cell) => cell.getAttribute("href").slice("#b-c-".length);

// Steps that are drawn within a group have its edges.
const home = (node) => node.dataset.in || node.id;

function middle(node) {
  const { left, right, top, bottom } = node.getBoundingClientRect();
  return [left + right, top + bottom];
}
