// A question before an act: the form of its page, over the page of the run. Sent, it is the ordinary form.

import { root, set, tell } from "./dom.js";
import { fetchPage } from "./morph.js";

export async function ask(address) {
  const fresh = await fetchPage(address).catch(() => null);
  const form = fresh?.querySelector("form[data-preview]");
  // What was refused is said on the run's page, once.
  if (!form) return location.reload();
  const title = element("h2", { id: "b-asks-title" }, form.dataset.title);
  const dialog = element("dialog", { class: "b-dialog b-asks", "aria-labelledby": title.id }, title, document.adoptNode(form));
  root.append(dialog);
  form.querySelector("[data-keep-as-is]").addEventListener("click", (event) => {
    event.preventDefault();
    dialog.close();
  });
  dialog.addEventListener("close", () => {
    dialog.remove();
    tell("concerns", null);
  });
  dialog.showModal();
  const names = JSON.parse(form.dataset.steps);
  if (names.length && root.dataset.view === "graph") tell("concerns", showing(await import("./picture.js"), names));
}

function element(tag, attributes, ...children) {
  const made = set(document.createElement(tag), attributes);
  made.append(...children);
  return made;
}

// The nodes that show the steps of these names.
function showing({ nodes, groups }, names) {
  const isOf = (node, name) => {
    const [start, , end] = groups.get(node)?.name ?? [];
    return node.dataset.step === name || (start && name.startsWith(start) && name.endsWith(end));
  };
  return nodes.filter((node) => names.some((name) => isOf(node, name)));
}
