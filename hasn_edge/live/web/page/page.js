"use strict";
// Puts the parts together: what comes from the server, and what the user does.

const stage = byId("stage"), divider = byId("divider"), engine = byId("engine"), quality = byId("quality");
const panel = new Panel();
// What stands for each state of the run, and of the connection.
const STATES = {
  running: "Live", opening: "Opening engine", trouble: "Trouble",
  connecting: "Connecting", lost: "Not connected", ended: "Ended", refused: "Not let in",
};
let paused = false, wanted = null, runState = "running", still = null, scale = 4, chosen = null, toastTimer = 0;

const link = new Link({ message: receive, frame: receiveFrame, lost });
const view = new FrameView(stage, byId("image"), {
  onDrawn: (frame) => link.send("drawn", { frame }),
  onChange: arrange,
});

/** Act on a message of the server by its type. */
function receive(message) {
  ({ welcome, stats, notice, refused })[message.type]?.(message);
}

function refused({ about, text }) {
  if (about === "still") still = null; // there will be no answer; the next one may be asked for at once
  toast(text);
}

function welcome(data) {
  scale = data.scale;
  wanted = null;
  still = null;
  view.forget();
  panel.begin(data.history);
  byId("source").textContent = data.source;
  document.title = `${data.source} · hasn-edge live`;
  engine.replaceChildren(...data.engines.map((name) => new Option(name, name)));
  engine.disabled = data.engines.length < 2;
  if (paused) pause();
  runState = "running";
  showState(runState);
  byId("waiting").textContent = "Waiting for the first image";
  sendWanted();
}

function stats(data) {
  panel.update(data);
  const { engine: now, opening: next } = data.stats;
  // The engine asked for stays chosen while it is being opened; otherwise the one that computes is shown.
  const opening = chosen && chosen.name !== now && (next === chosen.name || Date.now() < chosen.until);
  if (!opening) chosen = null;
  engine.parentElement.classList.toggle("busy", Boolean(opening));
  showRunState();
  if (document.activeElement !== engine || !chosen) engine.value = chosen?.name ?? now;
  if (data.stats.quality) {
    divider.dataset.hasn = decibels(data.stats.quality.hasn_db);
    divider.dataset.bicubic = decibels(data.stats.quality.bicubic_db);
  }
}

function notice({ state, text }) {
  runState = state;
  showRunState();
  banner(text);
}

/** Show the run's state; an engine that was chosen here does not compute yet. */
function showRunState() {
  showState(runState === "running" && chosen ? "opening" : runState);
}

function lost(text, code) {
  showState({ [WRONG_TOKEN]: "refused", [ENDED]: "ended" }[code] ?? "lost");
  byId("waiting").textContent = text;
  banner(view.shown ? text : null);
  if (code === WRONG_TOKEN) {
    if (link.token) toast(text);
    byId("token").value = "";
    byId("ask").showModal();
  }
}

async function receiveFrame(header, blobs) {
  let images;
  try {
    images = await Promise.all(blobs.map((blob) => createImageBitmap(blob, { colorSpaceConversion: "none" })));
  } catch {
    link.socket?.close();
    return;
  }
  if (header.kind === "still") {
    await still?.take(header, images);
    return;
  }
  if (paused || document.hidden) images.forEach((image) => image.close());
  else view.offer(header, images);
}

/** Let the server know which images are of use here. */
function sendWanted() {
  const want = { watch: !paused && !document.hidden, compare: view.part > 0, quality: quality.value };
  const text = JSON.stringify(want);
  if (text === wanted) return;
  wanted = text;
  if (!want.watch) view.hold();
  link.send("want", want);
}

/** Arrange what lies over the image. */
function arrange() {
  const { shown, part } = view, width = stage.clientWidth;
  byId("waiting").hidden = Boolean(shown);
  divider.hidden = !shown || view.mode !== "compare";
  divider.style.left = `${100 * view.split}%`;
  divider.ariaValueNow = String(Math.round(100 * view.split));
  divider.ariaValueText = `${divider.ariaValueNow} % bicubic`;
  stage.classList.toggle("zoomed", view.zoom > 1.01);
  const { hasn = "", bicubic = "" } = divider.dataset;
  label("left", `Bicubic ${bicubic}`, shown && part * width > 110);
  label("right", `HASN ×${scale} ${hasn}`, shown && (1 - part) * width > 110);
  const level = view.perPixel();
  byId("zoom").textContent = shown ? `${Math.round(100 * level)} %` : "fit";
  document.querySelectorAll("[data-mode]").forEach((button) => {
    button.ariaChecked = String(button.dataset.mode === view.mode);
    button.tabIndex = button.dataset.mode === view.mode ? 0 : -1;
  });
  sendWanted();
}

function label(id, text, visible) {
  const element = byId(id);
  element.hidden = !view.shown;
  if (element.textContent !== text) element.textContent = text;
  element.classList.toggle("gone", !visible);
}

function showState(name) {
  document.body.dataset.state = name;
  byId("status").textContent = STATES[name];
}

function banner(text) {
  byId("banner").hidden = !text;
  byId("banner").textContent = text ?? "";
}

function toast(text) {
  clearTimeout(toastTimer);
  byId("toast").textContent = text;
  byId("toast").classList.add("up");
  toastTimer = setTimeout(() => byId("toast").classList.remove("up"), 3200);
}

/** Ask for the lossless images of the frame that is shown; `use(header, images)` closes them or keeps them. */
function freeze(use) {
  if (still || view.number < 0) return;
  const asked = { take: async (header, images) => { if (still === asked) still = null; await use(header, images); } };
  still = asked;
  setTimeout(() => { if (still === asked) still = null; }, 10000);
  link.send("still", { frame: view.number });
}

function pause() {
  paused = !paused;
  const button = byId("pausing");
  button.ariaPressed = String(paused);
  button.ariaLabel = paused ? "Go on" : "Pause";
  button.querySelector("use").setAttribute("href", paused ? "#play" : "#pause");
  byId("badge").hidden = !paused;
  byId("badge").textContent = "Paused";
  sendWanted();
  if (paused) {
    freeze((header, images) => {
      if (!paused || header.frame !== view.number) return images.forEach((image) => image.close());
      byId("badge").textContent = "Paused, lossless";
      return view.offer(header, images);
    });
  }
}

function snapshot() {
  if (view.number < 0) return toast("There is no image yet");
  const { mode } = view;
  return freeze(async (header, images) => {
    const blob = await view.saved(images);
    images.forEach((image) => image.close());
    const anchor = document.createElement("a");
    anchor.href = URL.createObjectURL(blob);
    anchor.download = `hasn-edge-frame${String(header.index).padStart(6, "0")}-${mode}.png`;
    anchor.click();
    setTimeout(() => URL.revokeObjectURL(anchor.href), 10000);
    toast(`Saved ${anchor.download}`);
  });
}

function full() {
  if (document.fullscreenElement) document.exitFullscreen();
  else byId("view").requestFullscreen?.();
}

const actions = {
  pause, snapshot, full,
  help: () => byId("help").showModal(),
  in: () => view.zoomBy(1.5),
  out: () => view.zoomBy(1 / 1.5),
  fit: () => view.zoom > 1.01 ? view.fit() : view.exact(),
};
document.querySelectorAll("[data-do]").forEach((button) => button.addEventListener("click", () => actions[button.dataset.do]()));
const modes = [...document.querySelectorAll("[data-mode]")];
modes.forEach((button, index) => {
  button.addEventListener("click", (event) => {
    view.show(button.dataset.mode);
    if (event.detail) button.blur(); // clicked: the arrows move the divider, not this choice
  });
  button.addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
    if (!step) return;
    event.preventDefault();
    event.stopPropagation();
    const next = modes[(index + step + modes.length) % modes.length];
    next.focus();
    view.show(next.dataset.mode);
  });
});
document.querySelector('[data-do="full"]').hidden = !document.fullscreenEnabled;
engine.addEventListener("change", () => {
  chosen = { name: engine.value, until: Date.now() + 2000 };
  link.send("select", { engine: engine.value });
});
quality.addEventListener("change", sendWanted);
document.addEventListener("visibilitychange", sendWanted);
byId("ask").addEventListener("close", () => link.useToken(byId("token").value));
watchPointers(stage, divider, view);
watchKeys(view, actions);
link.open();
