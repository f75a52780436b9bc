// Small things that the modules of a run's page share.

export const STATES = ["pending", "available", "executing", "snoozed", "retryable", "completed", "discarded", "cancelled"];

export const root = document.querySelector(".baton.b-page[data-run]");
export const find = (selector) => root.querySelector(selector);
export const all = (selector, within = root) => [...within.querySelectorAll(selector)];

// Modules tell each other by events: asked, refreshed, steps, tick, concerns.
export const tell = (name, detail) => root.dispatchEvent(new CustomEvent(`baton:${name}`, { detail }));
export const on = (name, act) => root.addEventListener(`baton:${name}`, ({ detail }) => act(detail));

export function put(node, text) {
  if (node && node.textContent !== `${text}`) node.textContent = text;
}

export function set(node, attributes) {
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  return node;
}

export function element(tag, attributes = {}, ...children) {
  const made = set(document.createElement(tag), attributes);
  made.append(...children);
  return made;
}

export const drawn = (tag, attributes) => set(document.createElementNS("http://www.w3.org/2000/svg", tag), attributes);

export const stateOf = (node) => STATES.find((state) => node.classList.contains(`b-${state}`));

// Gives something the colour of a state, and its icon the shape.
export function look(node, state, icons = "b-") {
  node.classList.replace(`b-${stateOf(node)}`, `b-${state}`);
  node.querySelector("use")?.setAttribute("href", `#${icons}${state}`);
}
