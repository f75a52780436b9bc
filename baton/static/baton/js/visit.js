// The page as the server has it: asked for again, or under another address.

import { all, find, hasModifier, root, rowOf, tell } from "./dom.js";
import { fetchPage, morph } from "./morph.js";

// How soon, and how many times as long as an answer takes: fifty open pages are to cost less than a core.
const [SOON, LATER] = [[1_000, 20], [5_000, 100]];

let asking = null;
let took = 0;
let endedAt = Date.now();
let dueAt = Infinity;
let timer = 0;
let opener = null;
let isPressed = false;
let kept = {};
try {
  kept = localStorage;
} catch {
  // Nothing may be kept here.
}

export function renew(isUrgent = false) {
  const [least, times] = isUrgent ? SOON : LATER;
  const at = endedAt + Math.max(least, times * took);
  if (at >= dueAt) return;
  clearTimeout(timer);
  dueAt = at;
  timer = setTimeout(again, at - Date.now());
}

async function again() {
  dueAt = Infinity;
  if (document.hidden) return document.addEventListener("visibilitychange", () => renew(), { once: true });
  const here = new URL(location.href);
  // A run that fails would open the panel of what failed, and nothing is to move.
  if (!here.searchParams.has("step") && !find("[data-panel]")) here.searchParams.set("step", "");
  const fresh = asking || isHeld() ? null : await load(here).catch(() => false); // the connection tells of it
  if (fresh && !isHeld()) take(fresh);
  else if (fresh !== false) {
    endedAt = Date.now();
    renew();
  }
}

// Show what another address of this page shows.
export async function visit(address, isByKey = false) {
  const before = find("#b-panel-name")?.textContent;
  opener = before ? opener : document.activeElement;
  const fresh = await load(address).catch(() => location.assign(address));
  if (!fresh) return;
  if (`${address}` !== location.href) history.pushState(null, "", address);
  find(".b-sort-again").hidden = true;
  take(fresh, true);
  const name = find("#b-panel-name");
  if (name && name.textContent !== before) {
    if (isByKey) name.focus({ preventScroll: true });
    name.scrollIntoView({ block: "nearest" });
  } else if (!name && before) (opener ?? find("#b-graph [tabindex='0']"))?.focus({ preventScroll: true });
}

// Nothing where another page was asked for meanwhile.
async function load(address) {
  asking?.abort();
  const mine = (asking = new AbortController());
  const began = Date.now();
  tell("asked");
  try {
    const fresh = await fetchPage(address, mine.signal);
    took = Date.now() - began;
    if (!fresh.querySelector(".b-page[data-run]")) throw new Error("That is another page.");
    return fresh;
  } catch (error) {
    if (asking === mine) throw error;
    return null;
  } finally {
    if (asking === mine) asking = null;
    endedAt = Date.now();
  }
}

// Rows of the table of steps stay where they are until the reader chooses.
function take(fresh, isChosen) {
  const rows = isChosen ? [] : all("tr[data-step]").map((row) => rowOf(row.dataset.step));
  const parts = [".b-head", ".b-headline", ".b-facts", ".b-tabs", ...rows, rows.length ? ".b-panel" : ".b-columns", ".object-tools"];
  for (const part of parts) {
    const [old, made] = [document, fresh].map((page) => page.querySelector(part));
    if (old && made) morph(old, made);
  }
  root.dataset.asOf = fresh.querySelector(".b-page").dataset.asOf;
  // What nobody waits for takes a frame more, which is not made to lay out twice.
  if (isChosen) tell("refreshed");
  else requestAnimationFrame(() => setTimeout(tell, 0, "refreshed"));
}

// Whether the reader holds something: a selection, a field, a pressed button.
function isHeld() {
  const selection = getSelection();
  const isSelecting = !selection.isCollapsed && find(".b-columns").contains(selection.anchorNode);
  return isSelecting || isPressed || document.activeElement.matches(".b-columns :is(input:not([type=checkbox]), select)");
}

for (const kind of ["pointerdown", "pointerup", "pointercancel"]) {
  addEventListener(kind, () => (isPressed = kind === "pointerdown"), true);
}

// Links to this tab are visits; what would lead to a question asks it here.
document.addEventListener("click", async (event) => {
  const link = event.target.closest("a[href]");
  if (!link || event.defaultPrevented || event.shiftKey || hasModifier(event)) return;
  const address = new URL(link.getAttribute("href"), location.href);
  const view = address.searchParams.get("view") ?? "graph";
  const isOfTab = address.pathname === location.pathname && view === root.dataset.view;
  const isQuestion = link.matches("[data-asks]");
  if (!isQuestion && !(isOfTab && root.contains(link))) return;
  event.preventDefault();
  if (isQuestion) (await import("./dialog.js")).ask(address);
  else visit(address, !event.detail);
});
addEventListener("popstate", () => visit(location.href));

// Keys anywhere on the page: Esc closes the panel, letters lead to tabs, n and p to failed steps.
document.addEventListener("keydown", (event) => {
  const { key, target } = event;
  if (event.defaultPrevented || hasModifier(event)) return;
  if (target.matches("input, textarea, select, dialog *")) return;
  if (key === "Escape") return find(".b-close")?.click();
  if (kept.batonLetters === "off") return;
  if (/^[gtsma]$/.test(key)) find(`[data-tab^=${key}]`)?.click();
  const by = { n: 1, p: -1 }[key];
  if (!by) return;
  const failed = all(".b-node.b-discarded, .b-tl-row:has(.b-icon.b-discarded), tr:has(.b-state.b-discarded) a");
  const links = failed.map((link) => link.getAttribute("href")).filter((href) => href.includes("step="));
  const at = links.findIndex((href) => new URLSearchParams(href).get("step") === find("[data-panel]")?.dataset.step);
  if (links[at + by]) visit(links[at + by], true);
});
for (const choice of all("[data-page-keys]")) {
  choice.checked = kept.batonLetters !== "off";
  choice.addEventListener("change", () => (kept.batonLetters = choice.checked ? "on" : "off"));
}
