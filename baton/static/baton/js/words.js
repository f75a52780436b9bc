// The words of a page, in its language, and durations as people say them.

const words = {};
for (const element of document.querySelector("template[data-words]")?.content.querySelectorAll("[data-word]") ?? []) {
  words[element.dataset.word] = element.textContent;
}

export const word = (name, values = {}) =>
  (words[name] ?? name).replace(/\{(\w+)\}/g, (whole, key) => values[key] ?? whole);

export const number = (count) => count.toLocaleString("en-US");

// The same as `duration` of baton.explain.words.
export function duration(milliseconds) {
  const seconds = Math.max(0, milliseconds / 1000);
  if (Math.round(seconds * 10) < 100) return word("s", { seconds: seconds.toFixed(1) });
  const whole = Math.round(seconds);
  if (whole < 60) return word("s", { seconds: whole });
  const minutes = Math.floor(whole / 60);
  if (whole < 3600) return word("ms", { minutes, seconds: whole % 60 });
  const hours = Math.floor(whole / 3600);
  if (whole < 172_800) return word("hm", { hours, minutes: minutes % 60 });
  return word("dh", { days: Math.floor(hours / 24), hours: hours % 24 });
}

// Whole seconds: what ticks.
export const ticking = (milliseconds) => duration(Math.max(0, Math.floor(milliseconds / 1000)) * 1000).replace(/\.0 /, " ");
