// What of the picture is to be seen: its size on the page, and how far it is scrolled.

import { find } from "./dom.js";

const FACTOR = 1.25;
const [LEAST, MOST, READABLE] = [0.25, 2, 0.75];
const TALLEST = 0.86; // of the window
export const between = (low, value, high) => Math.min(high, Math.max(low, value));

export const box = find("[data-graph]");
export const svg = find("#b-graph");
const pointers = new Map();
let scale = 1;
let isDragged = false;

export function show() {
  const { width, height } = svg.viewBox.baseVal;
  svg.setAttribute("width", width * scale);
  svg.setAttribute("height", height * scale);
  const usual = height * between(READABLE, box.clientWidth / width, 1);
  box.style.height = `${between(200, usual, Math.max(420, innerHeight * TALLEST))}px`;
}

function fitting() {
  const { width, height } = svg.viewBox.baseVal;
  return Math.min(1, box.clientWidth / width, box.clientHeight / height);
}

export const zooms = { fit: () => zoom(fitting() / scale), in: () => zoom(FACTOR), out: () => zoom(1 / FACTOR) };

// What is in the middle stays there, or what is at a point.
function zoom(factor, point) {
  const { left, top, width, height } = box.getBoundingClientRect();
  const [x, y] = point ? [point.clientX - left, point.clientY - top] : [width / 2, height / 2];
  const larger = between(Math.min(LEAST, fitting()), scale * factor, MOST) / scale;
  const [toLeft, toTop] = [(box.scrollLeft + x) * larger - x, (box.scrollTop + y) * larger - y];
  scale *= larger;
  show();
  box.scrollTo(toLeft, toTop);
}

// All of it, but never too small to read; then what matters is in the middle.
export function first(node) {
  show();
  scale = Math.max(READABLE, fitting());
  show();
  if (node) bring(node, true);
}

// Bring a node into view: into the middle where it is outside, or always.
export function bring(node, isAlways = false) {
  const { width, height } = node.getBoundingClientRect();
  const [x, y] = way(box, node);
  const isSeen = 2 * Math.abs(x) <= box.clientWidth - width && 2 * Math.abs(y) <= box.clientHeight - height;
  if (isAlways || !isSeen) box.scrollBy(x, y);
}

// How far it is from the middle of one thing to that of another.
export function way(from, to) {
  const [one, two] = [from, to].map((each) => each.getBoundingClientRect());
  return [two.left - one.left + (two.width - one.width) / 2, two.top - one.top + (two.height - one.height) / 2];
}

new ResizeObserver(show).observe(box);

// One pointer drags, two pinch; text is to be selected.
box.addEventListener("pointerdown", (event) => {
  if (event.button || (event.pointerType === "mouse" && event.target.closest("text"))) return;
  pointers.set(event.pointerId, event);
  isDragged = false;
});
box.addEventListener("pointermove", (event) => {
  const last = pointers.get(event.pointerId);
  if (!last) return;
  const [x, y] = [last.clientX - event.clientX, last.clientY - event.clientY];
  if (!isDragged) {
    if (Math.hypot(x, y) < 4) return;
    isDragged = true;
    box.setPointerCapture(event.pointerId);
    box.classList.add("b-dragging");
    find("[data-follow]").checked = false;
  }
  const before = spread();
  pointers.set(event.pointerId, event);
  if (before) zoom(spread() / before, event);
  else box.scrollBy(x, y);
});
for (const kind of ["pointerup", "pointercancel"]) {
  box.addEventListener(kind, ({ pointerId }) => {
    pointers.delete(pointerId);
    box.classList.remove("b-dragging");
  });
}
box.addEventListener("dragstart", (event) => event.preventDefault());
// Whoever has dragged, or selected a name, has not chosen it.
box.addEventListener("click", (event) => {
  if (event.detail && (isDragged || !getSelection().isCollapsed)) event.preventDefault();
});
box.addEventListener("wheel", (event) => {
  if (!event.ctrlKey && !event.metaKey) return;
  event.preventDefault();
  zoom(between(1 / FACTOR, FACTOR ** (-event.deltaY / 60), FACTOR), event);
}, { passive: false });

function spread() {
  const [one, two] = [...pointers.values()];
  return two && Math.hypot(one.clientX - two.clientX, one.clientY - two.clientY);
}
