// Watches a page from before its first script: when the graph was painted, how long scripts run in a frame, and when
// each cell of the graph showed a new state.

(() => {
  const FRAMES = "long-animation-frame";
  const probe = (globalThis.batonProbe = { painted: 0, frames: [], seen: [], kind: "" });

  // A frame of 50 ms and more, with what ran in it. A browser without these entries tells of long tasks only.
  const kinds = PerformanceObserver.supportedEntryTypes;
  probe.kind = kinds.includes(FRAMES) ? FRAMES : kinds.includes("longtask") ? "longtask" : "";
  if (probe.kind) {
    new PerformanceObserver((list) => {
      for (const entry of list.getEntries()) {
        const scripts = (entry.scripts ?? []).map((script) => ({
          ms: script.duration,
          layout: script.forcedStyleAndLayoutDuration,
          invoker: script.invoker,
          name: `${script.sourceURL.split("/").pop()} ${script.sourceFunctionName}`,
        }));
        const ms = entry.scripts ? scripts.reduce((sum, script) => sum + script.ms, 0) : entry.duration;
        probe.frames.push({ at: entry.startTime, frame: entry.duration, ms, scripts });
      }
    }).observe({ type: probe.kind, buffered: true });
  }

  // A message is delivered after the frame in which it was posted has been painted.
  const channel = new MessageChannel();
  const posted = [];
  channel.port1.onmessage = () => posted.shift()();
  const afterPaint = (act) => {
    posted.push(act);
    channel.port2.postMessage(0);
  };
  const afterNextPaint = (act) => requestAnimationFrame(() => afterPaint(act));

  // The picture is there once the script has put it in its place; without the script it would have been earlier.
  const waiting = new MutationObserver(() => {
    if (!document.querySelector("[data-graph].b-live-view svg .b-node")) return;
    waiting.disconnect();
    afterNextPaint(() => {
      probe.painted = performance.now();
      // The page loaded itself again, because very much had changed: what it shows now is seen now.
      if (sessionStorage.getItem("batonProbe")) probe.follow(true);
    });
  });
  waiting.observe(document, { subtree: true, childList: true, attributes: true, attributeFilter: ["class"] });

  // The states of a group's cells, one after the other; cells of one state may stand there as one element.
  const statesOf = (group) =>
    [...group.querySelectorAll(".b-cells > use")].flatMap((use) => {
      const [, state, length] = /^#b-c-([a-z]+)-?(\d*)$/.exec(use.getAttribute("href"));
      return Array(Number(length) || 1).fill(state);
    });

  const idsOf = (group) =>
    group.dataset.members.split(",").flatMap((part) => {
      const [range, stride = 1] = part.split("/");
      const [first, last = first] = range.split("-").map(Number);
      return Array.from({ length: (last - first) / stride + 1 }, (_, at) => first + at * stride);
    });

  // From now on note each cell that changes: the id of its step, its state, and the wall clock after it was painted.
  // Returns of how many steps that is told.
  probe.follow = (isAgain = false) => {
    const graph = document.querySelector("[data-graph] svg");
    const shown = new Map();
    const look = (groups) => {
      const found = [];
      for (const group of groups) {
        if (Number(group.dataset.share ?? 1) !== 1) continue;
        const ids = idsOf(group);
        statesOf(group).forEach((state, at) => {
          if (shown.get(ids[at]) === state) return;
          shown.set(ids[at], state);
          found.push([ids[at], state]);
        });
      }
      return found;
    };
    const all = () => graph.querySelectorAll("[data-members]");
    const tell = (found) => {
      if (found.length) afterPaint(() => found.forEach(([id, state]) => probe.seen.push([id, state, Date.now() / 1000])));
    };
    const first = look(all());
    if (isAgain) tell(first);
    sessionStorage.setItem("batonProbe", "follows");
    new MutationObserver((changes) => {
      const touched = new Set(changes.map(({ target }) => target.closest("[data-members]") ?? graph));
      tell(look(touched.has(graph) ? all() : touched));
    }).observe(graph, { subtree: true, childList: true, attributes: true, attributeFilter: ["href"] });
    return shown.size;
  };

  // Give every cell of a group another state, as the page's modules tell each other; milliseconds until it is painted.
  probe.restyle = async (states) => {
    const page = document.querySelector(".baton.b-page[data-run]");
    const group = document.querySelector("[data-members]");
    const ids = idsOf(group);
    const took = [];
    let version = 1000;
    for (const state of states) {
      version += 1;
      const detail = ids.map((id) => ({ id, name: `bench${id}`, state, version, label: state }));
      await new Promise((resolve) => {
        requestAnimationFrame(() => {
          const began = performance.now();
          page.dispatchEvent(new CustomEvent("baton:steps", { detail }));
          afterPaint(() => resolve(took.push(performance.now() - began)));
        });
      });
      if (statesOf(group).some((each) => each !== state)) throw new Error("The cells were not painted.");
      await new Promise((resolve) => setTimeout(resolve, 100));
    }
    return { count: ids.length, took };
  };
})();
