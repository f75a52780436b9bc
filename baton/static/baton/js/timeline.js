// The timeline: zoomed by dragging over its axis, walked with arrows; while live, now and what reaches it go on.

import { all, drawn, find, hasModifier, on, root, set, toolOf } from "./dom.js";
import { renew, visit } from "./visit.js";

const axis = () => find("[data-axis]");
// Of each part of the axis: where it begins and how wide it is, in percent, and its first and last second.
const parts = () => axis().dataset.axis.split(" ").map((part) => part.split(",").map(Number));
const per = (x) => `${x.toFixed(2)}%`;
const number = (element, name) => Number.parseFloat(element.getAttribute(name));

function placeOf(second) {
  const [x, width, start, end] = parts().find((part) => second <= part[3]) ?? parts().at(-1);
  return Math.min(100, x + (width * Math.max(0, second - start)) / (end - start));
}

function secondAt(place) {
  const [x, width, start, end] = parts().find((part) => place <= part[0] + part[1]) ?? parts().at(-1);
  return start + ((end - start) * (place - x)) / width;
}

// Zoom ---

let brush = null;

function placeUnder({ clientX }) {
  const { left, width } = axis().getBoundingClientRect();
  return Math.min(100, Math.max(0, (100 * (clientX - left)) / width));
}

root.addEventListener("pointerdown", (event) => {
  if (event.button || !event.target.closest(".b-tl-axis")) return;
  event.preventDefault();
  brush = { from: placeUnder(event), rect: drawn("rect", { class: "b-brush", height: 28 }) };
  axis().append(brush.rect);
  axis().setPointerCapture(event.pointerId);
});
root.addEventListener("pointermove", (event) => {
  if (!brush) return;
  brush.ends = [brush.from, placeUnder(event)].sort((one, two) => one - two);
  set(brush.rect, { x: per(brush.ends[0]), width: per(brush.ends[1] - brush.ends[0]) });
});
root.addEventListener("pointerup", () => {
  const [from, to] = brush?.ends ?? [];
  brush?.rect.remove();
  brush = null;
  if (!(to - from > 0.5)) return;
  const address = new URL(location.href);
  address.searchParams.set("from", secondAt(from).toFixed(3));
  // A window that reaches to now goes on with it.
  if (find(".b-now-line") && to >= number(find(".b-now-line"), "x1")) address.searchParams.delete("to");
  else address.searchParams.set("to", secondAt(to).toFixed(3));
  visit(address);
});
root.addEventListener("dblclick", (event) => event.target.closest(".b-tl-axis") && find("[data-zoom=fit]").click());

root.addEventListener("keydown", (event) => {
  if (!event.target.closest("[data-timeline]") || hasModifier(event)) return;
  const rows = all("a.b-tl-row");
  const tool = toolOf(event.key);
  const by = { ArrowDown: 1, ArrowUp: -1 }[event.key];
  const row = by && rows[rows.indexOf(event.target.closest("a.b-tl-row")) + by];
  if (tool || row) event.preventDefault();
  tool?.click();
  row?.focus();
});

// Now ---

on("tick", (now) => {
  const line = find(".b-now-line");
  if (!line) return;
  const before = number(line, "x1");
  const x = placeOf((now - axis().dataset.origin) / 1000);
  set(line, { x1: per(x), x2: per(x) });
  set(find(".b-now-label"), { x: per(x) });
  for (const mark of all(".b-tl-marks :is(rect, line):not(.b-budget)")) {
    const [start, end] = mark.matches("rect") ? ["x", "width"] : ["x1", "x2"];
    const at = end === "width" ? number(mark, start) : 0;
    if (Math.abs(at + number(mark, end) - before) < 0.015) mark.setAttribute(end, per(x - at));
  }
  if (x > 99) renew();
});
