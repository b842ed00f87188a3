"use strict";
// Mouse, fingers and keys on the image.

const STEP = 0.02;

/** Drag to move the divider, or the image once it is enlarged; wheel and two fingers zoom. */
function watchPointers(stage, divider, view) {
  const fingers = new Map();
  let what = null; // "split" or "pan", of one finger

  const at = (event) => {
    const box = stage.getBoundingClientRect();
    return [event.clientX - box.left, event.clientY - box.top];
  };
  const spread = () => {
    const [[ax, ay], [bx, by]] = fingers.values();
    return { distance: Math.hypot(ax - bx, ay - by), middle: [(ax + bx) / 2, (ay + by) / 2] };
  };
  const begin = (event) => {
    if (event.button > 0) return;
    const onDivider = divider.contains(event.target);
    fingers.set(event.pointerId, at(event));
    stage.setPointerCapture(event.pointerId);
    what = onDivider || view.zoom <= 1.01 ? "split" : "pan";
    // Touching means pointing at a place only for the divider itself or a mouse: a finger may want to scroll.
    if (what === "split" && event.pointerType === "mouse" && !onDivider && view.mode === "compare") {
      view.moveSplit(at(event)[0] / stage.clientWidth);
    }
    stage.classList.toggle("moving", what === "pan");
    stage.classList.toggle("moving-divider", what === "split");
  };
  const move = (event) => {
    const before = fingers.get(event.pointerId);
    if (!before) return;
    if (fingers.size === 2) {
      const old = spread();
      fingers.set(event.pointerId, at(event));
      const now = spread();
      view.zoomBy(now.distance / Math.max(1, old.distance), now.middle);
      view.pan(now.middle[0] - old.middle[0], now.middle[1] - old.middle[1]);
      return;
    }
    const now = at(event);
    fingers.set(event.pointerId, now);
    if (what === "split" && view.mode === "compare") view.moveSplit(now[0] / stage.clientWidth);
    else if (what === "pan") view.pan(now[0] - before[0], now[1] - before[1]);
  };
  const end = (event) => {
    fingers.delete(event.pointerId);
    stage.classList.remove("moving", "moving-divider");
  };
  stage.addEventListener("pointerdown", begin);
  stage.addEventListener("pointermove", move);
  stage.addEventListener("pointerup", end);
  stage.addEventListener("pointercancel", end);
  // Two fingers must not scroll or zoom the page.
  stage.addEventListener("touchstart", (event) => { if (event.touches.length > 1) event.preventDefault(); }, { passive: false });
  stage.addEventListener("wheel", (event) => {
    event.preventDefault();
    const lines = event.deltaMode === 1 ? 30 : 1;
    view.zoomBy(Math.exp(-event.deltaY * lines * (event.ctrlKey ? 0.01 : 0.0018)), at(event));
  }, { passive: false });
  stage.addEventListener("dblclick", (event) => {
    if (divider.contains(event.target)) view.moveSplit(0.5);
    else if (view.zoom > 1.01) view.fit();
    else view.zoomBy(Math.max(2, 2 * view.exactZoom()), at(event));
  });
}

/** Keys for everything; not while somebody writes or chooses, nor together with Ctrl, Alt or the command key. */
function watchKeys(view, actions) {
  const keys = {
    ArrowLeft: () => view.moveSplit(view.split - STEP),
    ArrowRight: () => view.moveSplit(view.split + STEP),
    Home: () => view.moveSplit(0),
    End: () => view.moveSplit(1),
    b: () => view.show(view.mode === "hasn" ? "bicubic" : "hasn"),
    c: () => view.show("compare"),
    "+": () => view.zoomBy(1.25),
    "=": () => view.zoomBy(1.25),
    "-": () => view.zoomBy(0.8),
    0: () => view.fit(),
    1: () => view.exact(),
    " ": actions.pause,
    s: actions.snapshot,
    f: actions.full,
    "?": actions.help,
  };
  addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.altKey || event.metaKey || document.querySelector("dialog[open]")) return;
    if (event.target.closest?.("input, select") || (event.key === " " && event.target.closest?.("button"))) return;
    const action = keys[event.key.length === 1 ? event.key.toLowerCase() : event.key];
    const onDivider = event.target.getAttribute?.("role") === "slider";
    if (!action || (["Home", "End"].includes(event.key) && !onDivider)) return;
    event.preventDefault();
    action();
  });
}
