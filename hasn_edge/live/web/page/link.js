"use strict";
// The connection to the server: token, messages, frames, and coming back when it is lost.

const ENDED = 1001, WRONG_TOKEN = 4401, TOO_MANY = 4429;

// Of this page only: behind a reverse proxy, another one may have the same origin.
const TOKEN_KEY = `hasn-edge token ${location.pathname}`;

/** Read the token from the address, keep it for this tab, and take it out of sight. */
function rememberedToken() {
  const given = new URLSearchParams(location.hash.slice(1)).get("token")
    ?? new URLSearchParams(location.search).get("token");
  try {
    if (given !== null) sessionStorage.setItem(TOKEN_KEY, given);
    if (given !== null) history.replaceState(null, "", location.pathname);
    return given ?? sessionStorage.getItem(TOKEN_KEY);
  } catch {
    return given; // storage may be forbidden; then it lasts as long as the page
  }
}

/** The WebSocket beside this page, under whatever path a proxy shows it. */
function socketAddress() {
  const address = new URL("live", location.href);
  address.protocol = address.protocol === "https:" ? "wss:" : "ws:";
  return address;
}

/** Calls `on.message(message)`, `on.frame(header, blobs)` and `on.lost(text, code)`. */
class Link {
  constructor(on) {
    this.on = on;
    this.token = rememberedToken();
    this.tries = 0;
    this.ended = false; // the run, as far as it was told
    this.timer = 0;
    this.socket = null;
    const again = () => { if (!document.hidden && !this.socket && this.timer) this.open(); };
    addEventListener("online", again);
    document.addEventListener("visibilitychange", again);
  }

  open() {
    clearTimeout(this.timer);
    this.timer = 0;
    const socket = new WebSocket(socketAddress());
    socket.binaryType = "arraybuffer";
    socket.onopen = () => socket.send(JSON.stringify({ type: "hello", token: this.token }));
    socket.onmessage = ({ data }) => {
      this.tries = 0;
      this.ended = false;
      if (typeof data === "string") this.on.message(JSON.parse(data));
      else this.unpack(data);
    };
    socket.onclose = ({ code, reason }) => this.closed(code, reason);
    this.socket = socket;
  }

  send(type, content = {}) {
    if (this.socket?.readyState === WebSocket.OPEN) this.socket.send(JSON.stringify({ type, ...content }));
  }

  useToken(token) {
    this.token = token;
    try { sessionStorage.setItem(TOKEN_KEY, token); } catch { /* lasts as long as the page */ }
    this.open();
  }

  unpack(data) {
    const length = new DataView(data).getUint32(0);
    const header = JSON.parse(new TextDecoder().decode(new Uint8Array(data, 4, length)));
    let start = 4 + length;
    const blobs = header.lengths.map((size) => {
      const blob = new Blob([new Uint8Array(data, start, size)], { type: header.media });
      start += size;
      return blob;
    });
    this.on.frame(header, blobs);
  }

  closed(code, reason) {
    this.socket = null;
    if (code === WRONG_TOKEN) {
      this.on.lost(reason, code);
      return;
    }
    this.ended ||= code === ENDED;
    const wait = this.ended || code === TOO_MANY ? 3000 : Math.min(5000, 500 * 2 ** this.tries);
    this.tries += 1;
    this.timer = setTimeout(() => this.open(), wait);
    if (code === TOO_MANY) this.on.lost(reason, code);
    else if (this.ended) this.on.lost("The run has ended; waiting for the next one", ENDED);
    else this.on.lost("Connection lost; trying again", code);
  }
}
