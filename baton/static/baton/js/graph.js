/* The graph: zoom, pan, keys, the critical path, and repainting of what changes. Without it the picture stands still,
   with all its links. */

const LEAST = 0.25;
const MOST = 2;
const FACTOR = 1.25;
const FIRST = 0.75;
const TALLEST = 0.86;
const REFRESH_MS = 5000;
const STATES = ["pending", "available", "executing", "snoozed", "retryable", "completed", "discarded", "cancelled"];
const PITCH = 12;
const USUAL = [200, 52]; // how big a step is, and how far from the sides its texts stand: as in graph.css
const PLACES = { ".b-name": 33, ".b-line": 16, ".b-time": 11, ".b-cost": 16 };
const SETTLED = new Set(["completed", "discarded", "cancelled"]);
const ORDER = ["executing", "retryable", "available", "snoozed", "pending", "discarded", "cancelled", "completed"];
const WORST = ["discarded", "retryable", "executing", "snoozed", "available", "pending", "cancelled", "completed"];

const page = document.querySelector(".baton.b-page");
const view = page?.querySelector("[data-graph]");
const graph = view?.querySelector("svg") ? start(view) : null;

/** Repaint a step: {id, name, state, version, attempt, time}; what is older than what is shown is dropped. */
export function paint(step) {
  return graph ? graph.paint(step) : false;
}

/** Ask the server for the picture, where more changed than steps tell; at most once in five seconds. */
export function refresh() {
  graph?.refresh();
}

function start(box) {
  const said = page.querySelector("template[data-words]").content;
  const words = Object.fromEntries(STATES.map((state) => [state, said.querySelector(`[data-word=${state}]`).textContent]));
  let patterns = JSON.parse(box.dataset.names || "{}");
  let svg = box.querySelector("svg");
  const [, , width, height] = svg.getAttribute("viewBox").split(" ").map(Number);
  let size = { width, height };
  const label = page.querySelector("[data-cell-label]");
  const tip = page.querySelector("[data-tip]");
  const critical = page.querySelector("[data-critical]");
  const follow = page.querySelector("[data-follow]");
  const memory = `baton-graph-${page.dataset.run}`;
  const versions = new Map();
  let at = { x: 0, y: 0, scale: 1 };
  let around = new Map();
  let ends = new Map();
  let rows = new Map();
  let groups = [];
  let steps = new Map();
  let current = null;
  let cell = null;
  let frame = 0;

  // What is where --------------------------------------------------------------------------------------------------

  function read() {
    around = new Map();
    const of = (id) => around.get(id) ?? around.set(id, { up: [], down: [], edges: [] }).get(id);
    ends = new Map();
    const ids = [...nodes(), ...svg.querySelectorAll(".b-junction")].map(({ id }) => id);
    for (const bunch of svg.querySelectorAll(".b-edges > g")) {
      bunch.dataset.ends.split(" ").forEach((pair, index) => {
        const edge = bunch.children[index];
        const [from, to] = pair.split("-").map((place) => ids[place]);
        ends.set(edge, { from, to });
        of(from).down.push(to);
        of(to).up.push(from);
        of(from).edges.push(edge);
        of(to).edges.push(edge);
      });
    }
    rows = new Map();
    const outer = nodes().filter((node) => !node.dataset.in);
    for (const count of svg.querySelector(".b-nodes").dataset.rows.split(" ")) {
      const row = outer.splice(0, Number(count));
      for (const node of row) rows.set(node, row);
    }
    groups = [...svg.querySelectorAll(".b-group")].map((element) => ({
      element,
      share: shareOf(element),
      series: element.dataset.members.split(",").map((part) => {
        const [range, stride] = part.split("/");
        const [first, last] = range.split("-").map(Number);
        return { first, last: last ?? first, stride: Number(stride || 1) };
      }),
      pattern: patterns[new URLSearchParams(element.getAttribute("href")).get("group")],
    }));
    steps = new Map([...svg.querySelectorAll(".b-node[data-step]")].map((node) => [node.dataset.step, node]));
    for (const node of nodes()) node.setAttribute("tabindex", "-1");
    current = (current && svg.getElementById(current.id)) || svg.querySelector(".b-selected") || nodes()[0] || null;
    current?.setAttribute("tabindex", "0");
    squeeze();
  }

  function squeeze() {
    // Names were cut for the usual fonts; in a wider one they are pressed together rather than run into the time.
    const found = [];
    for (const node of nodes()) {
      for (const [left, right] of [[".b-name", ".b-time"], [".b-line", ".b-cost"]]) {
        const [text, beside] = [node.querySelector(left), node.querySelector(right)];
        if (!text) continue;
        const room = boxOf(node).w - PLACES[left] - (beside ? PLACES[right] : 8);
        const width = room - (beside ? beside.getComputedTextLength() + 6 : 0);
        if (width > 20 && text.getComputedTextLength() > width) found.push([text, width]);
      }
    }
    for (const [text, width] of found) {
      text.setAttribute("textLength", width.toFixed(1));
      text.setAttribute("lengthAdjust", "spacingAndGlyphs");
    }
  }

  function nodes() {
    return [...svg.querySelectorAll(".b-node")];
  }

  function boxOf(node) {
    const [, x, y] = /translate\(([-\d.]+)[ ,]([-\d.]+)\)/.exec(node.getAttribute("transform")) || [0, 0, 0];
    const rect = node.querySelector(".b-box");
    const [w, h] = ["width", "height"].map((name, index) => Number(rect.getAttribute(name) ?? USUAL[index]));
    return { x: Number(x), y: Number(y), w, h, cx: Number(x) + w / 2, cy: Number(y) + h / 2 };
  }

  // Zoom and pan ---------------------------------------------------------------------------------------------------

  function room() {
    const wide = box.clientWidth || 600;
    const tallest = Math.max(420, window.innerHeight * TALLEST);
    return { wide, tall: Math.min(tallest, Math.max(200, size.height * Math.min(1, Math.max(FIRST, wide / size.width)))) };
  }

  function show() {
    frame ||= requestAnimationFrame(() => {
      frame = 0;
      const { wide, tall } = room();
      const w = wide / at.scale;
      const h = tall / at.scale;
      at.x = size.width <= w ? (size.width - w) / 2 : Math.min(size.width - w / 2, Math.max(-w / 2, at.x));
      at.y = size.height <= h ? (size.height - h) / 2 : Math.min(size.height - h / 2, Math.max(-h / 2, at.y));
      svg.setAttribute("width", "100%");
      svg.setAttribute("height", Math.round(tall));
      svg.setAttribute("viewBox", `${at.x.toFixed(1)} ${at.y.toFixed(1)} ${w.toFixed(1)} ${h.toFixed(1)}`);
    });
  }

  function fitting() {
    const { wide, tall } = room();
    return Math.min(1, wide / size.width, tall / size.height);
  }

  function zoom(factor, point) {
    const { wide, tall } = room();
    const before = at.scale;
    const scale = Math.min(MOST, Math.max(Math.min(LEAST, fitting()), before * factor));
    const { x, y } = point ?? { x: wide / 2, y: tall / 2 };
    at = { scale, x: at.x + x / before - x / scale, y: at.y + y / before - y / scale };
    show();
    keep();
  }

  function fit() {
    at = { scale: fitting(), x: 0, y: 0 };
    show();
    keep();
  }

  function centre(node) {
    const { wide, tall } = room();
    const where = boxOf(node);
    at.x = where.cx - wide / at.scale / 2;
    at.y = where.cy - tall / at.scale / 2;
    // Not farther than the edge of the picture.
    at.x = Math.min(Math.max(0, size.width - wide / at.scale), Math.max(0, at.x));
    at.y = Math.min(Math.max(0, size.height - tall / at.scale), Math.max(0, at.y));
    show();
  }

  function bring(node) {
    const { wide, tall } = room();
    const [w, h] = [wide / at.scale, tall / at.scale];
    const where = boxOf(node);
    if (where.x < at.x || where.x + where.w > at.x + w) at.x = where.cx - w / 2;
    if (where.y < at.y || where.y + Math.min(where.h, h) > at.y + h) at.y = where.cy - h / 2;
    show();
  }

  function first() {
    const known = remembered();
    if (known && known.size === `${size.width}x${size.height}`) {
      at = known.at;
      show();
      if (known.top !== undefined) window.scrollTo(0, known.top);
      if (known.focus) focusAgain(known.focus);
      keep();
      return;
    }
    at = { scale: Math.max(FIRST, fitting()), x: 0, y: 0 };
    const { wide, tall } = room();
    if (size.width * at.scale > wide) at.x = (size.width - wide / at.scale) / 2;
    if (size.width * at.scale > wide || size.height * at.scale > tall) {
      const node = svg.querySelector(".b-selected") || lively() || svg.getElementById(svg.dataset.look);
      if (node) centre(node);
    }
    show();
  }

  function lively() {
    return ["executing", "discarded", "retryable"].map((state) => svg.querySelector(`.b-node.b-${state}`)).find(Boolean);
  }

  // What is kept from page to page: opening a step does not move the graph --------------------------------------------

  function keep(more = {}) {
    const value = { at, size: `${size.width}x${size.height}`, ...more };
    try { sessionStorage.setItem(memory, JSON.stringify(value)); } catch { /* full, or not allowed */ }
  }

  function remembered() {
    try { return JSON.parse(sessionStorage.getItem(memory)); } catch { return null; }
  }

  function leave(focus) {
    keep({ top: window.scrollY, focus });
  }

  function focusAgain(what) {
    const element = what === "panel" ? document.getElementById("b-panel-name") : svg.getElementById(what);
    element?.focus({ preventScroll: true });
  }

  // The pointer ----------------------------------------------------------------------------------------------------

  const pointers = new Map();
  let moved = false;

  function pan() {
    if (follow) follow.checked = false;
  }

  box.addEventListener("pointerdown", (event) => {
    if (event.button || (event.pointerType === "mouse" && event.target.closest("text"))) return;
    pointers.set(event.pointerId, { x: event.clientX, y: event.clientY });
    moved = false;
  });
  box.addEventListener("pointermove", (event) => {
    const last = pointers.get(event.pointerId);
    if (!last) return hover(event);
    const [dx, dy] = [event.clientX - last.x, event.clientY - last.y];
    if (!moved && Math.hypot(dx, dy) < 4) return undefined;
    if (!moved) {
      box.setPointerCapture(event.pointerId);
      box.classList.add("b-dragging");
      pan();
    }
    moved = true;
    if (pointers.size === 2) {
      const [one, two] = [...pointers.values()];
      const before = Math.hypot(one.x - two.x, one.y - two.y);
      pointers.set(event.pointerId, { x: event.clientX, y: event.clientY });
      const [three, four] = [...pointers.values()];
      const after = Math.hypot(three.x - four.x, three.y - four.y);
      const frameBox = box.getBoundingClientRect();
      const middle = { x: (three.x + four.x) / 2 - frameBox.left, y: (three.y + four.y) / 2 - frameBox.top };
      if (before > 0 && after > 0) zoom(after / before, middle);
      return undefined;
    }
    pointers.set(event.pointerId, { x: event.clientX, y: event.clientY });
    at.x -= dx / at.scale;
    at.y -= dy / at.scale;
    show();
    return undefined;
  });
  for (const kind of ["pointerup", "pointercancel"]) {
    box.addEventListener(kind, (event) => {
      if (!pointers.delete(event.pointerId)) return;
      box.classList.remove("b-dragging");
      if (moved) keep();
    });
  }
  box.addEventListener("dragstart", (event) => event.preventDefault());
  box.addEventListener("click", (event) => {
    if (moved) {
      event.preventDefault();
      moved = false;
      return;
    }
    const node = event.target.closest?.(".b-node");
    if (!node) return;
    const place = event.detail ? cellAt(node, event) : null;
    const address = place !== null && addressOfCell(node, place);
    leave(event.detail ? node.id : "panel");
    if (address && !event.metaKey && !event.ctrlKey && !event.shiftKey) {
      event.preventDefault();
      location.assign(address);
    }
  }, true);
  box.addEventListener("wheel", (event) => {
    if (!event.ctrlKey && !event.metaKey) return;
    event.preventDefault();
    const frameBox = box.getBoundingClientRect();
    const point = { x: event.clientX - frameBox.left, y: event.clientY - frameBox.top };
    zoom(Math.min(FACTOR, Math.max(1 / FACTOR, FACTOR ** (-event.deltaY / 60))), point);
  }, { passive: false });

  let waiting = 0;
  let hovered = null;

  function hover(event) {
    const node = event.target.closest?.(".b-node") ?? null;
    const place = node && cellAt(node, event);
    tell(place === null ? "" : wordsOfCell(node, place));
    if (node === hovered) return;
    hovered = node;
    clearTimeout(waiting);
    waiting = setTimeout(() => light(node), node ? 150 : 60);
  }

  box.addEventListener("pointerleave", () => {
    hovered = null;
    tell("");
    clearTimeout(waiting);
    light(null);
  });

  function tell(text) {
    tip.textContent = text;
    tip.hidden = !text;
  }

  function light(node) {
    for (const lit of svg.querySelectorAll(".b-lit")) lit.classList.remove("b-lit");
    svg.classList.toggle("b-dims", Boolean(node) && around.has(node.id));
    if (!node) return;
    const home = node.dataset.in ? svg.getElementById(node.dataset.in) : node;
    const seen = new Set([home.id]);
    for (const way of ["up", "down"]) {
      const open = [home.id];
      while (open.length) {
        const id = open.pop();
        for (const next of around.get(id)?.[way] ?? []) {
          for (const edge of around.get(id).edges) {
            const { from, to } = ends.get(edge);
            if (way === "up" ? to === id && from === next : from === id && to === next) edge.classList.add("b-lit");
          }
          if (!seen.has(next)) {
            seen.add(next);
            open.push(next);
          }
        }
      }
    }
    for (const id of seen) svg.getElementById(id)?.classList.add("b-lit");
    for (const inner of svg.querySelectorAll("[data-in]")) if (seen.has(inner.dataset.in)) inner.classList.add("b-lit");
  }

  // The keys -------------------------------------------------------------------------------------------------------

  function go(node, visible = true) {
    if (!node) return;
    current?.setAttribute("tabindex", "-1");
    current = node;
    node.setAttribute("tabindex", "0");
    if (visible) node.focus({ preventScroll: true });
    bring(node);
  }

  function over(way) {
    const found = [];
    const open = [current.dataset.in || current.id];
    const seen = new Set(open);
    while (open.length) {
      for (const id of around.get(open.shift())?.[way] ?? []) {
        if (seen.has(id)) continue;
        seen.add(id);
        const element = svg.getElementById(id);
        if (element?.classList.contains("b-node")) found.push(element);
        else open.push(id);
      }
    }
    const here = boxOf(current);
    const far = (node) => Math.hypot(boxOf(node).cx - here.cx, boxOf(node).cy - here.cy);
    return found.sort((one, two) => far(one) - far(two))[0];
  }

  function beside(step) {
    const row = rows.get(current) ?? nodes().filter((node) => node.dataset.in === current.dataset.in);
    return row[row.indexOf(current) + step];
  }

  const isDown = svg.classList.contains("b-down");

  box.addEventListener("keydown", (event) => {
    if (event.altKey || event.ctrlKey || event.metaKey || !current) return;
    if (cell !== null ? inCells(event) : onNodes(event)) event.preventDefault();
  });

  function onNodes(event) {
    const arrows = isDown
      ? { ArrowDown: () => over("down"), ArrowUp: () => over("up"), ArrowLeft: () => beside(-1), ArrowRight: () => beside(1) }
      : { ArrowRight: () => over("down"), ArrowLeft: () => over("up"), ArrowUp: () => beside(-1), ArrowDown: () => beside(1) };
    if (arrows[event.key]) {
      go(arrows[event.key]());
      return true;
    }
    if (event.key === "Enter") leave("panel");
    if (event.key === " ") {
      if (cellsOf(current).length) enter(0);
      return true;
    }
    return keys(event);
  }

  function keys(event) {
    const acts = {
      "+": () => zoom(FACTOR),
      "=": () => zoom(FACTOR),
      "-": () => zoom(1 / FACTOR),
      0: fit,
      c: () => critical.click(),
      f: () => follow.click(),
      "?": () => page.querySelector("[data-keys-dialog]").showModal(),
      Escape: close,
    };
    const act = acts[event.key.length === 1 ? event.key.toLowerCase() : event.key];
    act?.();
    return Boolean(act);
  }

  function close() {
    const link = page.querySelector(".b-panel .b-close");
    if (!link) return;
    leave(current?.id);
    location.assign(link.href);
  }

  page.addEventListener("keydown", (event) => {
    const isHere = event.target.closest?.(".b-panel");
    if (event.key === "Escape" && isHere && !/^(INPUT|TEXTAREA|SELECT)$/.test(event.target.tagName)) close();
  });
  // The links beside the graph and over it keep the place on the page.
  page.addEventListener("click", (event) => {
    if (event.target.closest?.("a[data-keep], .b-panel .b-close")) leave(current?.id);
  });

  // Cells ----------------------------------------------------------------------------------------------------------

  // Cells of one state side by side come as one; whoever wants the cells of a group takes them apart, once.
  function cellsOf(node) {
    const box = node.querySelector(".b-cells");
    for (const run of box?.querySelectorAll("use:not(.b-one)") ?? []) {
      const [, state, length] = /^#b-c-([a-z]+)-?(\d*)$/.exec(run.getAttribute("href"));
      const [x, y] = ["x", "y"].map((name) => Number(run.getAttribute(name)));
      const cells = Array.from({ length: Number(length) || 1 }, (_, index) =>
        made("use", { class: "b-one", href: `#b-c-${state}`, x: x + index * PITCH, y }));
      run.replaceWith(...cells);
    }
    return [...box?.querySelectorAll("use") ?? []];
  }

  function columnsOf(node) {
    return cellsOf(node).filter((use) => use.getAttribute("y") === "0").length;
  }

  function shareOf(node) {
    return Number(node.dataset.share ?? 1);
  }

  function cellAt(node, event) {
    // By where the pointer is: through the holes in a cell one would hit the node behind it.
    const group = node.querySelector(".b-cells");
    const matrix = group?.getScreenCTM();
    if (!matrix) return null;
    const { x, y } = new DOMPoint(event.clientX, event.clientY).matrixTransform(matrix.inverse());
    const columns = columnsOf(node);
    const [column, row] = [Math.floor((x + 1) / PITCH), Math.floor((y + 1) / PITCH)];
    const place = row * columns + column;
    return column >= 0 && column < columns && row >= 0 && place < cellsOf(node).length ? place : null;
  }

  function enter(place) {
    const cells = cellsOf(current);
    cell = Math.min(cells.length - 1, Math.max(0, place));
    let mark = current.querySelector(".b-at");
    if (!mark) {
      mark = made("rect", { class: "b-at", width: 14, height: 14, rx: 3 });
      current.querySelector(".b-cells").append(mark);
    }
    mark.setAttribute("x", cells[cell].getAttribute("x") - 2);
    mark.setAttribute("y", cells[cell].getAttribute("y") - 2);
    label.textContent = wordsOfCell(current, cell);
    tell(label.textContent);
  }

  function out() {
    svg.querySelector(".b-at")?.remove();
    cell = null;
    tell("");
  }

  function inCells(event) {
    const columns = columnsOf(current);
    const steps = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: columns, ArrowUp: -columns }[event.key];
    if (steps) {
      const next = cell + steps;
      if (next >= 0 && next < cellsOf(current).length) enter(next);
      return true;
    }
    if (event.key === "Home" || event.key === "End") {
      enter(event.key === "Home" ? 0 : Infinity);
      return true;
    }
    if (event.key === "Enter") {
      leave("panel");
      location.assign(addressOfCell(current, cell));
      return true;
    }
    if (event.key === "Escape" || event.key === " ") {
      out();
      return true;
    }
    return keys(event);
  }

  box.addEventListener("focusin", (event) => {
    const node = event.target.closest(".b-node");
    if (!node) return;
    if (node !== current) {
      out();
      go(node, false);
    }
    if (node.matches(":focus-visible")) light(node);
  });
  box.addEventListener("focusout", () => {
    out();
    if (!hovered) light(null);
  });

  function count(node) {
    return groupOf(node)?.series.reduce((sum, part) => sum + (part.last - part.first) / part.stride + 1, 0) ?? 0;
  }

  function groupOf(node) {
    return groups.find((group) => group.element === node);
  }

  function nameAt(node, place) {
    const pattern = groupOf(node)?.pattern;
    return pattern ? `${pattern[0]}${pattern[1] + place}${pattern[2]}` : null;
  }

  function wordsOfCell(node, index) {
    const use = cellsOf(node)[index];
    const state = use ? stateIn(use) : "";
    const share = shareOf(node);
    const [from, to, all] = [index * share + 1, Math.min(count(node), (index + 1) * share), count(node)];
    const many = box.dataset.stepsOf.replace("{first}", from.toLocaleString("en")).replace("{last}", to.toLocaleString("en"));
    const one = nameAt(node, index * share) ?? box.dataset.stepOf.replace("{place}", from.toLocaleString("en"));
    return `${(share > 1 ? many : one).replace("{count}", all.toLocaleString("en"))}, ${words[state] ?? state}`;
  }

  function addressOfCell(node, index) {
    const address = new URL(node.href.baseVal, location.href);
    const name = shareOf(node) === 1 ? nameAt(node, index) : null;
    if (name !== null) {
      address.searchParams.delete("group");
      address.searchParams.set("step", name);
    } else {
      address.searchParams.set("cell", index);
    }
    return address.href;
  }

  // The tools ------------------------------------------------------------------------------------------------------

  for (const hidden of page.querySelectorAll("[data-graph-zoom], [data-graph-option]")) hidden.hidden = false;
  page.querySelector("[data-graph-zoom]").addEventListener("click", (event) => {
    const kind = event.target.closest("[data-zoom]")?.dataset.zoom;
    if (kind === "fit") fit();
    else if (kind) zoom(kind === "in" ? FACTOR : 1 / FACTOR);
  });
  page.querySelector("[data-keys]").addEventListener("click", () => page.querySelector("[data-keys-dialog]").showModal());
  critical.addEventListener("change", () => svg.classList.toggle("b-no-critical", !critical.checked));
  svg.classList.toggle("b-no-critical", !critical.checked);
  follow.addEventListener("change", () => { if (follow.checked) following(lively()); });

  function following(node) {
    if (!follow.checked || !node) return;
    centre(node);
  }

  // Painting -------------------------------------------------------------------------------------------------------

  function paint(step) {
    const key = step.name;
    if (step.version !== undefined && step.version <= (versions.get(key) ?? -1)) return true;
    if (step.version !== undefined) versions.set(key, step.version);
    const node = step.id === undefined ? steps.get(step.name) : svg.getElementById(`b-n-${step.id}`);
    const isCell = paintCell(step);
    if (!node) {
      if (!isCell) later();
      return isCell;
    }
    const was = stateOf(node);
    if (was !== step.state) {
      restate(node, step.state);
      node.querySelector(".b-icon")?.setAttribute("href", `#b-i-${step.state}`);
      const from = node.getAttribute("aria-label") ?? "";
      node.setAttribute("aria-label", from.replace(`: ${words[was]}.`, `: ${words[step.state]}.`));
      settle(node, step.state);
    }
    time(node, step);
    bar(node, step);
    if (was !== step.state && step.state === "executing") following(node);
    if (was !== step.state) later();
    return true;
  }

  function stateOf(element) {
    return STATES.find((state) => element.classList.contains(`b-${state}`));
  }

  function stateIn(use) {
    return use.getAttribute("href").slice("#b-c-".length);
  }

  function restate(element, state) {
    const old = stateOf(element);
    if (old) element.classList.replace(`b-${old}`, `b-${state}`);
    else element.classList.add(`b-${state}`);
  }

  function settle(node, state) {
    const done = SETTLED.has(state);
    for (const edge of around.get(node.id)?.edges ?? []) {
      if (ends.get(edge).from !== node.id || edge.closest(".b-cause")) continue;
      edge.classList.toggle("b-settled", done);
      edge.classList.toggle("b-waiting", !done);
    }
  }

  function time(node, step) {
    const text = step.time ?? step.ran;
    let element = node.querySelector(".b-time");
    if (!text) {
      element?.remove();
      return;
    }
    if (!element) {
      element = made("text", { class: "b-time" });
      node.append(element);
    }
    if (element.textContent !== text) element.textContent = text;
    const since = step.started_at ?? step.since;
    if (step.state === "executing" && since) element.dataset.since = since;
    else delete element.dataset.since;
  }

  function bar(node, step) {
    let element = node.querySelector(":scope > .b-bar");
    if (step.state !== "executing") {
      element?.remove();
      return;
    }
    const { w, h } = boxOf(node);
    if (!element) {
      element = made("rect", { class: "b-bar", x: 2, y: h - 5, height: 3, rx: 1.5 });
      node.append(element);
    }
    const { current: done, total } = step.progress ?? {};
    const known = Number.isFinite(done) && total > 0;
    element.classList.toggle("b-moving", !known);
    element.setAttribute("width", Math.round((w - 4) * (known ? Math.min(1, Math.max(0, done / total)) : 0.4)));
  }

  function paintCell(step) {
    const found = placeOf(step);
    if (!found) return false;
    const { group, place } = found;
    const cells = group.cells ??= cellsOf(group.element);
    const use = cells[Math.floor(place / group.share)];
    if (!use) return Boolean(group.element.classList.contains("b-open"));
    if (group.share > 1) {
      // What the others in the cell are, only the server knows; what is worse is shown at once.
      if (WORST.indexOf(step.state) < WORST.indexOf(stateIn(use))) setCell(use, step.state);
      later();
    } else if (stateIn(use) !== step.state) {
      setCell(use, step.state);
      group.dirty ||= requestAnimationFrame(() => summed(group, cells));
    }
    return true;
  }

  function made(name, attributes) {
    const element = document.createElementNS("http://www.w3.org/2000/svg", name);
    for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
    return element;
  }

  function setCell(use, state) {
    use.setAttribute("href", `#b-c-${state}`);
  }

  function summed(group, cells) {
    group.dirty = 0;
    const counts = {};
    for (const use of cells) counts[stateIn(use)] = (counts[stateIn(use)] ?? 0) + 1;
    const state = ORDER.find((each) => counts[each]);
    if (stateOf(group.element) !== state) {
      restate(group.element, state);
      settle(group.element, cells.every((use) => SETTLED.has(stateIn(use))) ? "completed" : state);
    }
    const done = counts.completed ?? 0;
    const short = boxOf(group.element).w < 300;
    const time = group.element.querySelector(".b-time");
    const text = box.dataset[short ? "doneShort" : "done"];
    if (time) time.textContent = text.replace("{done}", done.toLocaleString("en")).replace("{total}", cells.length.toLocaleString("en"));
    bar(group.element, { state, progress: { current: done, total: cells.length } });
    later();
  }

  function placeOf(step) {
    for (const group of groups) {
      let before = 0;
      if (step.id === undefined) {
        const [start, first, end] = group.pattern ?? [];
        if (start === undefined || !step.name.startsWith(start) || !step.name.endsWith(end)) continue;
        const digits = step.name.slice(start.length, step.name.length - end.length);
        const place = /^(0|[1-9]\d*)$/.test(digits) ? Number(digits) - first : -1;
        if (place >= 0 && place < count(group.element)) return { group, place };
        continue;
      }
      for (const { first, last, stride } of group.series) {
        if (step.id >= first && step.id <= last && (step.id - first) % stride === 0) {
          return { group, place: before + (step.id - first) / stride };
        }
        before += (last - first) / stride + 1;
      }
    }
    return null;
  }

  // Asking again: money, the critical path, cells of many steps, steps that are new --------------------------------------

  let timer = 0;
  let pause = REFRESH_MS;

  function later() {
    timer ||= setTimeout(ask, pause);
  }

  async function ask() {
    if (document.hidden) {
      document.addEventListener("visibilitychange", () => { timer = 0; later(); }, { once: true });
      return;
    }
    const began = performance.now();
    try {
      const answer = await fetch(location.href, { credentials: "same-origin", headers: { Accept: "text/html" } });
      const fresh = new DOMParser().parseFromString(await answer.text(), "text/html");
      if (answer.ok) replace(fresh);
    } catch {
      // The server is away; the page says so where it says whether it is live.
    }
    // So that fifty open pages together never ask for more than half of a core.
    pause = Math.max(REFRESH_MS, 100 * (performance.now() - began));
    timer = 0;
  }

  function replace(fresh) {
    const other = fresh.querySelector("[data-graph]");
    const next = other?.querySelector("svg");
    if (!next) return;
    const hadFocus = svg.contains(document.activeElement) ? document.activeElement.id : "";
    const old = new Set(nodes().map((node) => node.id));
    const inside = cell;
    for (const part of ["defs", ".b-edges", ".b-nodes"]) {
      const [mine, theirs] = [svg.querySelector(part), next.querySelector(part)];
      if (mine.innerHTML !== theirs.innerHTML) mine.replaceWith(document.adoptNode(theirs));
    }
    const [, , w, h] = next.getAttribute("viewBox").split(" ").map(Number);
    size = { width: w, height: h };
    svg.setAttribute("aria-label", next.getAttribute("aria-label"));
    patterns = JSON.parse(other.dataset.names || "{}");
    for (const node of nodes()) if (!old.has(node.id)) node.classList.add("b-new");
    read();
    if (hadFocus) svg.getElementById(hadFocus)?.focus({ preventScroll: true });
    if (inside !== null && current && cellsOf(current).length) enter(inside);
    for (const part of ["[data-caption]", ".b-summary"]) {
      const [mine, theirs] = [page.querySelector(part), fresh.querySelector(part)];
      if (mine && theirs && mine.innerHTML !== theirs.innerHTML && !mine.contains(document.activeElement)) {
        mine.innerHTML = theirs.innerHTML;
      }
    }
    show();
  }

  read();
  box.classList.add("b-live-view");
  first();
  new ResizeObserver(show).observe(box);
  window.addEventListener("pageshow", (event) => { if (event.persisted) show(); });
  return { paint, refresh: later };
}
