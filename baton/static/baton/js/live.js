// The connection of a page to what it shows: a socket, or questions over HTTP where there is none.

export const POLL_SECONDS = 5;
const [FIRST_PAUSE, LONGEST_PAUSE, JITTER] = [500, 15_000, 0.3];
const FAILURES = 5; // so many in a row, and the page asks over HTTP instead
const [ASK_EVERY, ANSWER_WITHIN] = [15_000, 10_000];
const [SOCKET_AGAIN, SOCKET_AGAIN_SOON] = [60_000, 10_000]; // beside the questions; soon where there was a socket
const [BAD_MESSAGE, DENIED] = [4400, 4403];
const OVER = ["finished", "gone", "denied"];

// `tell` is given messages, `show` the state: open, lost, polling, finished, gone, denied. Where there is no socket,
// `changes` is asked, or `poll` is called.
export function follow({ socket, changes, asOf, tell, show, poll, seconds = POLL_SECONDS }) {
  const timers = {};
  let [state, line, polling, failures, etag] = ["none", null, 0, 0, ""];
  let [isCaughtUp, wasOpen] = [false, false];
  let offset = Date.parse(asOf) - Date.now();

  const isOver = () => OVER.includes(state);

  function become(next) {
    if (state === next || isOver()) return;
    state = next;
    if (isOver()) {
      Object.values(timers).forEach(clearTimeout);
      stopPolling();
      drop();
    }
    show(state);
  }

  function after(name, pause, act) {
    clearTimeout(timers[name]);
    timers[name] = setTimeout(act, pause);
  }

  // What the page shows was read then, by the clock of the database.
  function seen(time) {
    if (!(Date.parse(time) > Date.parse(asOf))) return;
    asOf = time;
    offset = Date.parse(time) - Date.now();
  }

  // Connect or ask at once.
  function retry() {
    if (isOver()) return;
    if (polling) question();
    if (socket && !line) connect();
    else if (isCaughtUp) ask();
  }

  // The socket ---

  function connect() {
    clearTimeout(timers.connect);
    drop();
    const address = new URL(socket, location.href);
    address.protocol = address.protocol.replace("http", "ws");
    address.searchParams.set("lang", document.documentElement.lang);
    line = new WebSocket(address);
    after("answer", ANSWER_WITHIN, fail);
    line.onopen = ask;
    line.onmessage = ({ data }) => hear(JSON.parse(data));
    line.onclose = ({ code }) => {
      if (code === BAD_MESSAGE) socket = ""; // the server is another version
      if (code === DENIED) become("denied");
      else fail();
    };
  }

  function drop() {
    isCaughtUp = false;
    if (!line) return;
    // It may have more to say before it is closed.
    line.onopen = line.onmessage = line.onclose = null;
    line.close();
    line = null;
  }

  function ask() {
    line.send(JSON.stringify({ type: "since", as_of: asOf }));
    after("answer", ANSWER_WITHIN, fail);
    after("ask", ASK_EVERY * (1 - JITTER * Math.random()), ask);
  }

  function hear(message) {
    if (message.is_answer || message.type !== "changes") {
      clearTimeout(timers.answer);
      failures = 0;
      isCaughtUp = wasOpen = true;
      stopPolling();
    }
    if (!isCaughtUp) return;
    seen(message.as_of);
    tell(message);
    become(OVER.includes(message.type) ? message.type : "open");
  }

  function fail() {
    drop();
    clearTimeout(timers.answer);
    clearTimeout(timers.ask);
    if (polling) return connectBeside();
    failures += 1;
    become("lost");
    if (!socket || failures >= FAILURES) return startPolling();
    const pause = Math.min(LONGEST_PAUSE, FIRST_PAUSE * 2 ** (failures - 1));
    after("connect", pause * (1 + JITTER * (2 * Math.random() - 1)), connect);
  }

  // Questions over HTTP ---

  function startPolling() {
    polling ||= setInterval(question, seconds * 1000);
    connectBeside();
    question();
  }

  function stopPolling() {
    clearInterval(polling);
    polling = 0;
  }

  function connectBeside() {
    if (socket) after("connect", wasOpen ? SOCKET_AGAIN_SOON : SOCKET_AGAIN, connect);
  }

  async function question() {
    if (document.hidden) return;
    const next = await (poll ?? askForChanges)().catch(() => "lost");
    if (polling) become(next ?? "polling");
  }

  async function askForChanges() {
    const address = new URL(changes, location.href);
    address.searchParams.set("since", asOf);
    const headers = etag ? { "If-None-Match": etag } : {};
    const signal = AbortSignal.timeout(ANSWER_WITHIN);
    const answer = await fetch(address, { headers, signal, cache: "no-store", redirect: "manual" });
    if (answer.status === 304 || !polling) return undefined;
    if (!answer.ok) return { 403: "denied", 404: "gone" }[answer.status] ?? "lost";
    const message = await answer.json();
    etag = answer.headers.get("ETag") ?? "";
    seen(message.as_of);
    tell({ type: message.reload ? "reload" : "changes", ...message });
    return message.run?.is_over ? "finished" : undefined;
  }

  addEventListener("online", retry);
  addEventListener("pageshow", (event) => event.persisted && retry());
  document.addEventListener("visibilitychange", () => document.hidden || retry());
  if (socket) connect();
  else startPolling();
  return { seen, retry, now: () => Date.now() + offset };
}
