// Makes one piece of a page like another and leaves alone what is the same, so that focus, scroll and selection stay.

const KEPT = ["hidden", "open"]; // the reader's and the scripts'

// The page at an address, to take pieces from.
export async function fetchPage(address, signal, more) {
  const answer = await fetch(address, { redirect: "manual", signal, headers: { Accept: "text/html", ...more } });
  if (!answer.ok || !answer.headers.get("Content-Type")?.startsWith("text/html")) throw new Error("There is no such page.");
  return parsed(await answer.text());
}

export const parsed = (html) => new DOMParser().parseFromString(html, "text/html");

export function morph(old, fresh) {
  if (old.nodeType !== Node.ELEMENT_NODE) {
    if (old.nodeValue !== fresh.nodeValue) old.nodeValue = fresh.nodeValue;
    return;
  }
  if (isOwn(old)) return;
  for (const { name } of [...old.attributes, ...fresh.attributes]) {
    const value = fresh.getAttribute(name);
    if (KEPT.includes(name) || old.getAttribute(name) === value) continue;
    if (value === null) old.removeAttribute(name);
    else old.setAttribute(name, value);
  }
  // Each new child with the old one that it is, if there is one; the others are removed.
  const olds = Map.groupBy(old.childNodes, key);
  const twins = [...fresh.childNodes].map((child) => [olds.get(key(child))?.shift(), child]);
  for (const node of [...olds.values()].flat()) if (!isOwn(node)) node.remove();
  let place = old.firstChild;
  for (const [twin, child] of twins) {
    if (!twin) old.insertBefore(document.importNode(child, true), place);
    else {
      if (twin === place) place = place.nextSibling;
      else old.insertBefore(twin, place);
      morph(twin, child);
    }
  }
}

// What scripts have made or write into stays theirs.
const isOwn = (node) => node.dataset?.own !== undefined;

const key = ({ nodeName, id, dataset }) => [nodeName, id, dataset?.step, dataset?.key].join("#");
