// The list of runs and the page Now, kept up to date. New runs are announced, not inserted: nothing moves.

import { Live } from "./live.js";
import { morph } from "./morph.js";
import { number, word } from "./words.js";

const root = document.querySelector(".baton[data-follow-runs]");
const EVERY = 5_000;
const POLL_SECONDS = 10;
const LINK = 'a[href*="/workflowrun/"]';

let heard = "";
let refreshedAt = Date.now();
let pause = EVERY;
let timer = 0;

function hear(message) {
  if (message.type !== "runs") return;
  const text = JSON.stringify(message.counts);
  // Counts that are the same do not say that nothing moved; they come again every quarter of a minute.
  if (heard && (text !== heard || message.counts.running)) later();
  heard = text;
  const link = root.querySelector("[data-new-runs]");
  if (!link) return;
  link.href = location.href;
  const words = message.new === 1 ? word("new-one") : word("new", { count: number(message.new) });
  const shown = message.new ? words : "";
  if (link.textContent !== shown) link.textContent = shown;
  link.hidden = !shown;
}

function later() {
  timer ||= setTimeout(() => refresh().catch(() => {}), Math.max(0, refreshedAt + pause - Date.now()));
}

async function refresh() {
  timer = 0;
  if (document.visibilityState === "hidden") {
    document.addEventListener("visibilitychange", later, { once: true });
    return;
  }
  const began = Date.now();
  const answer = await fetch(location.href, { redirect: "manual", headers: { Accept: "text/html" } }).catch(() => null);
  refreshedAt = Date.now();
  // What costs the server much is asked for seldom.
  pause = Math.max(EVERY, 20 * (refreshedAt - began));
  if (!answer?.ok) throw new Error("no answer");
  show(new DOMParser().parseFromString(await answer.text(), "text/html"));
}

function show(fresh) {
  for (const part of root.querySelectorAll("[data-strip], [data-refreshed]")) {
    const name = part.hasAttribute("data-strip") ? "[data-strip]" : `[data-refreshed="${part.dataset.refreshed}"]`;
    const made = fresh.querySelector(name);
    if (made) morph(part, made);
  }
  const rows = new Map();
  for (const row of fresh.querySelectorAll("#result_list tbody tr")) {
    const link = row.querySelector(LINK);
    if (link) rows.set(link.pathname, row);
  }
  for (const row of document.querySelectorAll("#result_list tbody tr")) {
    const made = rows.get(row.querySelector(LINK)?.pathname);
    if (made?.children.length !== row.children.length) continue;
    [...row.children].forEach((cell, index) => {
      if (!cell.classList.contains("action-checkbox")) morph(cell, made.children[index]);
    });
  }
}

function tell(state) {
  root.dataset.connection = { gone: "lost", denied: "lost" }[state] ?? state;
  const words = { open: word("live"), polling: word("polling", { seconds: POLL_SECONDS }), lost: word("paused") };
  root.querySelector("[data-live]")?.replaceChildren(words[state] ?? word(state));
}

if (root) {
  new Live({
    socket: root.dataset.socket,
    asOf: root.dataset.asOf,
    language: document.documentElement.lang,
    tell: hear,
    show: tell,
    poll: refresh,
    pollSeconds: POLL_SECONDS,
  }).start();
}
