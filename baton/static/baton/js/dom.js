// Small things that the modules of a run's page share.

// The worst first, of those that share a cell; messages tell their numbers.
export const STATES = ["discarded", "retryable", "executing", "snoozed", "available", "pending", "cancelled", "completed"];

export const root = document.querySelector(".baton.b-page[data-run]");
export const find = (selector) => root.querySelector(selector);
export const all = (selector, within = root) => [...within.querySelectorAll(selector)];

// Modules tell each other by events: asked, refreshed, steps, tick, concerns.
export const tell = (name, detail) => root.dispatchEvent(new CustomEvent(`baton:${name}`, { detail }));
export const on = (name, act) => root.addEventListener(`baton:${name}`, ({ detail }) => act(detail));

export const rowOf = (name) => `tr[data-step="${CSS.escape(name)}"]`;
export const hasModifier = ({ altKey, ctrlKey, metaKey }) => altKey || ctrlKey || metaKey;

// What a key stands for, of the buttons and boxes above a tab.
export const toolOf = (key) => find(`.b-tools [data-on-key~="${CSS.escape(key.toLowerCase())}"]`);

export function put(node, text) {
  if (node && node.textContent !== `${text}`) node.textContent = text;
}

export function set(node, attributes) {
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  return node;
}

export const drawn = (tag, attributes) => set(document.createElementNS("http://www.w3.org/2000/svg", tag), attributes);

export const stateOf = (node) => STATES.find((state) => node.classList.contains(`b-${state}`));

// From when on what is written there ticks; it stands still where there is no time.
export function tickSince(node, time) {
  if (time) node.dataset.since = time;
  else delete node?.dataset.since;
}

// Gives something the colour of a state, and its icon the shape.
export function look(node, state, icons = "b-") {
  node.classList.replace(`b-${stateOf(node)}`, `b-${state}`);
  node.querySelector("use")?.setAttribute("href", `#${icons}${state}`);
}
