// The words of a page, in its language, and durations as people say them.

const words = {};
for (const { dataset, textContent } of document.querySelector("template[data-words]").content.children) {
  words[dataset.word] = textContent;
}

export const word = (name, values = {}) =>
  (words[name] ?? name).replace(/\{(\w+)\}/g, (whole, key) => values[key] ?? whole);

export const number = (count) => count.toLocaleString("en-US");

// What ticks: the same as `duration` of baton.explain.words, in whole seconds.
export function ticking(milliseconds) {
  const seconds = Math.max(0, Math.floor(milliseconds / 1000));
  const [minutes, hours, days] = [60, 3600, 86_400].map((unit) => Math.floor(seconds / unit));
  if (!minutes) return word("s", { seconds });
  if (!hours) return word("ms", { minutes, seconds: seconds % 60 });
  if (days < 2) return word("hm", { hours, minutes: minutes % 60 });
  return word("dh", { days, hours: hours % 24 });
}
