// The connection of a page to what it shows: a socket, or questions over HTTP where there is none.

const FIRST_PAUSE = 500;
const LONGEST_PAUSE = 15_000;
const JITTER = 0.3;
const FAILURES = 5; // so many in a row, and the page asks over HTTP instead
const ASK_EVERY = 15_000;
const ANSWER_WITHIN = 10_000;
const POLL_EVERY = 5_000;
const SOCKET_AGAIN = 60_000; // beside the questions, where there never was a socket
const SOCKET_AGAIN_SOON = 10_000; // where there was one
const BAD_MESSAGE = 4400;
const DENIED = 4403;

export const POLL_SECONDS = POLL_EVERY / 1000;

export class Live {
  #asOf;
  #socket = null;
  #failures = 0;
  #state = "none";
  #isCaughtUp = false;
  #wasOpen = false;
  #timers = {};
  #etag = "";
  #polling = null;
  #offset;

  // `tell` is given every message, `show` the state of the connection: open, lost, polling, finished, gone, denied.
  // Where there is no socket, `changes` is asked, or `poll` is called.
  constructor({ socket, changes, asOf, tell, show, poll, pollSeconds = POLL_SECONDS }) {
    Object.assign(this, { socket, changes, tell, show, poll, pollSeconds });
    this.seen(asOf);
  }

  start() {
    addEventListener("online", () => this.retry());
    document.addEventListener("visibilitychange", () => document.visibilityState === "visible" && this.retry());
    addEventListener("pageshow", (event) => event.persisted && this.retry());
    if (this.socket && "WebSocket" in globalThis) this.#connect();
    else this.#startPolling();
  }

  // What the clock of the database shows now.
  now() {
    return Date.now() + this.#offset;
  }

  // What the page shows was read then, by the clock of the database.
  seen(asOf) {
    if (!(Date.parse(asOf) > Date.parse(this.#asOf ?? 0))) return;
    this.#asOf = asOf;
    this.#offset = Date.parse(asOf) - Date.now();
  }

  // Connect at once, where that is waited for.
  retry() {
    if (this.#isOver) return;
    if (this.#polling) this.#poll();
    if (!this.socket) return;
    if (!this.#socket) this.#connect();
    else if (this.#isCaughtUp) this.#ask();
  }

  get #isOver() {
    return ["finished", "gone", "denied"].includes(this.#state);
  }

  #become(state) {
    if (this.#state === state || this.#isOver) return;
    this.#state = state;
    if (this.#isOver) this.#stop();
    this.show(state);
  }

  #stop() {
    for (const name of Object.keys(this.#timers)) this.#clear(name);
    clearInterval(this.#polling);
    this.#polling = null;
    this.#drop();
  }

  #set(name, pause, act) {
    clearTimeout(this.#timers[name]);
    this.#timers[name] = setTimeout(act, pause);
  }

  #clear(name) {
    clearTimeout(this.#timers[name]);
    delete this.#timers[name];
  }

  // The socket -----------------------------------------------------------------------------------------------------

  #connect() {
    this.#clear("connect");
    this.#drop();
    const address = new URL(this.socket, location.href);
    address.protocol = location.protocol === "https:" ? "wss:" : "ws:";
    if (document.documentElement.lang) address.searchParams.set("lang", document.documentElement.lang);
    const socket = new WebSocket(address);
    this.#socket = socket;
    this.#isCaughtUp = false;
    this.#set("answer", ANSWER_WITHIN, () => this.#fail());
    socket.addEventListener("open", () => this.#ask());
    socket.addEventListener("message", (event) => socket === this.#socket && this.#hear(JSON.parse(event.data)));
    socket.addEventListener("close", (event) => {
      if (socket !== this.#socket) return;
      if (event.code === DENIED) this.#become("denied");
      else if (event.code === BAD_MESSAGE) this.#startPolling((this.socket = ""));
      else if (!this.#isOver) this.#fail();
    });
  }

  #ask() {
    if (this.#socket?.readyState !== WebSocket.OPEN) return;
    this.#socket.send(JSON.stringify({ type: "since", as_of: this.#asOf }));
    this.#set("answer", ANSWER_WITHIN, () => this.#fail());
    this.#set("ask", ASK_EVERY * (1 - JITTER * Math.random()), () => this.#ask());
  }

  #hear(message) {
    if (message.is_answer || message.type !== "changes") {
      this.#clear("answer");
      this.#failures = 0;
      this.#isCaughtUp = true;
      this.#wasOpen = true;
      this.#endPolling();
    }
    if (!this.#isCaughtUp) return;
    this.seen(message.as_of);
    this.tell(message);
    if (message.type === "finished" || message.type === "gone") this.#become(message.type);
    else this.#become("open");
  }

  #fail() {
    this.#drop();
    this.#clear("answer");
    this.#clear("ask");
    if (this.#polling) {
      this.#connectBeside();
      return;
    }
    this.#failures += 1;
    this.#become("lost");
    if (this.#failures >= FAILURES) {
      this.#startPolling();
      return;
    }
    const pause = Math.min(LONGEST_PAUSE, FIRST_PAUSE * 2 ** (this.#failures - 1));
    this.#set("connect", pause * (1 + JITTER * (2 * Math.random() - 1)), () => this.#connect());
  }

  #drop() {
    const socket = this.#socket;
    this.#socket = null;
    if (socket && socket.readyState <= WebSocket.OPEN) socket.close();
  }

  // Questions over HTTP ----------------------------------------------------------------------------------------------

  #startPolling() {
    this.#polling ??= setInterval(() => this.#poll(), this.pollSeconds * 1000);
    this.#connectBeside();
    this.#poll();
  }

  #connectBeside() {
    if (this.socket) this.#set("connect", this.#wasOpen ? SOCKET_AGAIN_SOON : SOCKET_AGAIN, () => this.#connect());
  }

  #endPolling() {
    clearInterval(this.#polling);
    this.#polling = null;
    this.#etag = "";
  }

  async #poll() {
    if (document.visibilityState === "hidden" || this.#isOver) return;
    try {
      if (this.poll) {
        await this.poll();
        if (this.#polling) this.#become("polling");
        return;
      }
      const address = new URL(this.changes, location.href);
      address.searchParams.set("since", this.#asOf);
      const headers = this.#etag ? { "If-None-Match": this.#etag } : {};
      const options = { headers, cache: "no-store", redirect: "manual", signal: AbortSignal.timeout(ANSWER_WITHIN) };
      const answer = await fetch(address, options);
      if (!this.#polling) return;
      if (answer.status === 404) return this.#become("gone");
      if (answer.status === 403) return this.#become("denied");
      if (answer.status !== 304) {
        if (!answer.ok) throw new Error(answer.status);
        const message = await answer.json();
        this.#etag = answer.headers.get("ETag") ?? "";
        this.seen(message.as_of);
        this.tell({ type: message.reload ? "reload" : "changes", ...message });
        if (message.run?.is_over) return this.#become("finished");
      }
      this.#become("polling");
    } catch {
      if (this.#polling) this.#become("lost");
    }
  }
}
