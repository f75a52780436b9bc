// The list of runs and the page Now, kept up to date. New runs are announced, not inserted: nothing moves.

import { follow } from "./live.js";
import { fetchPage, morph } from "./morph.js";
import { ticking, word } from "./words.js";

const root = document.querySelector(".baton[data-follow-runs]");
const EVERY = 5_000;
const POLL_SECONDS = 10;
const { socket, asOf } = root.dataset;
const LINK = 'a[href*="/workflowrun/"]';

let heard = "";
let refreshedAt = Date.now();
let pause = EVERY;
let timer = 0;

function hear({ counts }) {
  const text = JSON.stringify(counts);
  // Counts that are the same do not say that nothing moved; they come again every quarter of a minute.
  if (heard && (text !== heard || counts.running)) later();
  heard = text;
}

function later() {
  timer ||= setTimeout(() => refresh().catch(() => {}), Math.max(0, refreshedAt + pause - Date.now()));
}

async function refresh() {
  timer = 0;
  if (document.hidden) return document.addEventListener("visibilitychange", later, { once: true });
  const began = Date.now();
  const headers = { "Baton-As-Of": asOf };
  const fresh = await fetchPage(location.href, null, headers).finally(() => (refreshedAt = Date.now()));
  // What costs the server much is asked for seldom.
  pause = Math.max(EVERY, 20 * (refreshedAt - began));
  for (const part of ["[data-strip]", "[data-refreshed]"]) {
    const [old, made] = [root, fresh].map((page) => page.querySelector(part));
    if (old && made) morph(old, made);
  }
  const [link, made] = [root, fresh].map((page) => page.querySelector("[data-new-runs]"));
  if (made) morph(link, made);
  link.hidden = !Number(link.dataset.newRuns);
  const left = renew(rowsOf(document), fresh).filter((row) => row.querySelector("[data-since]"));
  // What the address's filters no longer find is shown as it is until somebody reloads.
  if (left.length) renew(left, await fetchPage(`?id__in=${left.map((row) => runOf(row).split("/").at(-3))}`, null, headers));
}

// Makes rows like those of a fresh page; returns the others.
function renew(rows, fresh) {
  const news = new Map(rowsOf(fresh).map((row) => [runOf(row), row]));
  return rows.filter((row) => {
    const made = news.get(runOf(row));
    if (made?.children.length !== row.children.length) return true;
    [...row.children].forEach((cell, index) => {
      if (!cell.matches(".action-checkbox")) morph(cell, made.children[index]);
    });
  });
}

const rowsOf = (page) => [...page.querySelectorAll("#result_list tbody tr")];
const runOf = (row) => row.querySelector(LINK)?.pathname;

function show(state) {
  root.dataset.connection = { gone: "lost", denied: "lost" }[state] ?? state;
  const name = state === "lost" ? "paused" : state;
  root.querySelector("[data-live]").textContent = word(name, { seconds: POLL_SECONDS });
}

function tick() {
  if (document.hidden || !["open", "polling"].includes(root.dataset.connection)) return;
  for (const time of document.querySelectorAll("#result_list [data-since]")) {
    time.textContent = ticking(live.now() - Date.parse(time.dataset.since));
  }
}

const live = follow({ socket, asOf, tell: hear, show, poll: refresh, seconds: POLL_SECONDS });
setInterval(tick, 1_000);
