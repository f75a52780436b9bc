// A long chain that nobody chose a direction for goes by the width, which the server knows from this cookie alone: the
// first time it may have drawn it the wrong way.

const WIDE = 1200;

const width = `baton_wide=${Number(document.querySelector(".baton.b-page").clientWidth >= WIDE)}`;
const isKnown = () => document.cookie.split("; ").includes(width);

if (!isKnown()) {
  document.cookie = `${width}; path=/; max-age=31536000; samesite=lax`;
  if (isKnown() && document.querySelector("#b-graph").matches(".b-down") === width.endsWith("1")) location.reload();
}
