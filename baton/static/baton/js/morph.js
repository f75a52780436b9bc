// Makes one piece of a page like another and leaves alone what is the same, so that focus, scroll and selection stay.

const KEPT = { DETAILS: ["open"], BUTTON: ["hidden", "disabled"], DIALOG: ["open"] }; // the reader's and the script's

export function morph(old, fresh) {
  if (old.nodeType !== Node.ELEMENT_NODE) {
    if (old.nodeValue !== fresh.nodeValue) old.nodeValue = fresh.nodeValue;
    return;
  }
  const kept = KEPT[old.tagName] ?? [];
  for (const { name } of [...old.attributes]) {
    if (!fresh.hasAttribute(name) && !kept.includes(name)) old.removeAttribute(name);
  }
  for (const { name, value } of fresh.attributes) {
    if (!kept.includes(name) && old.getAttribute(name) !== value) old.setAttribute(name, value);
  }
  const twins = pairs([...old.childNodes], [...fresh.childNodes]);
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

// Each new child with the old one that it is, if there is one; the others are removed.
function pairs(olds, news) {
  const byKey = new Map();
  for (const node of olds) byKey.set(key(node), [...(byKey.get(key(node)) ?? []), node]);
  const found = news.map((child) => [byKey.get(key(child))?.shift() ?? null, child]);
  for (const rest of byKey.values()) for (const node of rest) node.remove();
  return found;
}

function key(node) {
  if (node.nodeType !== Node.ELEMENT_NODE) return node.nodeName;
  const summary = node.tagName === "DETAILS" ? node.querySelector("summary")?.firstChild?.textContent.trim() : "";
  return `${node.nodeName}#${node.id}#${node.dataset.step ?? ""}#${node.dataset.key ?? ""}#${summary}`;
}
