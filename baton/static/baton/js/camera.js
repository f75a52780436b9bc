// What of the picture is to be seen: its size on the page, and how far it is scrolled. The plain wheel is the page's.

export const FACTOR = 1.25;
const [LEAST, MOST, READABLE] = [0.25, 2, 0.75];
const TALLEST = 0.86; // of the window
const between = (low, value, high) => Math.min(high, Math.max(low, value));

export class Camera {
  #scale = 1;
  #pointers = new Map();
  #isDragged = false;

  // `dragged` is called where the reader begins to drag.
  constructor(box, svg, dragged) {
    Object.assign(this, { box, svg, dragged });
    new ResizeObserver(() => this.show()).observe(box);
    for (const kind of ["pointerdown", "pointermove", "pointerup", "pointercancel"]) {
      box.addEventListener(kind, (event) => this.#point(event, kind));
    }
    box.addEventListener("dragstart", (event) => event.preventDefault());
    box.addEventListener("click", (event) => this.#isDragged && event.detail && event.preventDefault());
    box.addEventListener("wheel", (event) => {
      if (!event.ctrlKey && !event.metaKey) return;
      event.preventDefault();
      this.zoom(between(1 / FACTOR, FACTOR ** (-event.deltaY / 60), FACTOR), event);
    }, { passive: false });
  }

  show() {
    const { width, height } = this.svg.viewBox.baseVal;
    this.svg.setAttribute("width", width * this.#scale);
    this.svg.setAttribute("height", height * this.#scale);
    const usual = height * between(READABLE, this.box.clientWidth / width, 1);
    this.box.style.height = `${between(200, usual, Math.max(420, innerHeight * TALLEST))}px`;
  }

  get #fitting() {
    const { width, height } = this.svg.viewBox.baseVal;
    return Math.min(1, this.box.clientWidth / width, this.box.clientHeight / height);
  }

  fit() {
    this.zoom(this.#fitting / this.#scale);
  }

  // What is in the middle stays there, or what is at a point.
  zoom(factor, { clientX, clientY } = {}) {
    const { box } = this;
    const frame = box.getBoundingClientRect();
    const x = clientX === undefined ? box.clientWidth / 2 : clientX - frame.left;
    const y = clientY === undefined ? box.clientHeight / 2 : clientY - frame.top;
    const scale = between(Math.min(LEAST, this.#fitting), this.#scale * factor, MOST);
    const larger = scale / this.#scale;
    const [left, top] = [(box.scrollLeft + x) * larger - x, (box.scrollTop + y) * larger - y];
    this.#scale = scale;
    this.show();
    box.scrollTo(left, top);
  }

  // All of it, but never too small to read; then what matters is in the middle.
  first(node) {
    this.show();
    this.#scale = Math.max(READABLE, this.#fitting);
    this.show();
    if (node) this.bring(node, true);
  }

  // Bring a node into view: into the middle where it is outside, or always.
  bring(node, isAlways = false) {
    const [here, frame] = [node, this.box].map((each) => each.getBoundingClientRect());
    const isSeen = here.left >= frame.left && here.right <= frame.right && here.top >= frame.top && here.bottom <= frame.bottom;
    if (isSeen && !isAlways) return;
    this.box.scrollBy((here.left + here.right - frame.left - frame.right) / 2, (here.top + here.bottom - frame.top - frame.bottom) / 2);
  }

  // One pointer drags, two pinch.
  #point(event, kind) {
    const { pointerId, clientX, clientY } = event;
    if (kind === "pointerdown") {
      if (event.button || (event.pointerType === "mouse" && event.target.closest("text"))) return;
      this.#pointers.set(pointerId, event);
      this.#isDragged = false;
    } else if (kind !== "pointermove") {
      this.#pointers.delete(pointerId);
      this.box.classList.remove("b-dragging");
    } else if (this.#pointers.has(pointerId)) {
      const last = this.#pointers.get(pointerId);
      const [x, y] = [last.clientX - clientX, last.clientY - clientY];
      if (!this.#isDragged && Math.hypot(x, y) < 4) return;
      if (!this.#isDragged) this.#begin(pointerId);
      const before = this.#spread();
      this.#pointers.set(pointerId, event);
      if (before) this.zoom(this.#spread() / before, event);
      else this.box.scrollBy(x, y);
    }
  }

  #begin(pointerId) {
    this.#isDragged = true;
    this.box.setPointerCapture(pointerId);
    this.box.classList.add("b-dragging");
    this.dragged();
  }

  #spread() {
    const [one, two] = [...this.#pointers.values()];
    return two ? Math.hypot(one.clientX - two.clientX, one.clientY - two.clientY) : 0;
  }
}
