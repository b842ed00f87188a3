"use strict";
// One frame on the screen: the network's image and bicubic's, and the divider between them.

const LARGEST_ZOOM = 24; // device pixels per pixel of the image

class FrameView {
  /** `onDrawn(number)` is called when a frame of the server is on the screen, `onChange()` when the view is another. */
  constructor(stage, canvas, { onDrawn, onChange }) {
    this.stage = stage;
    this.canvas = canvas;
    this.onDrawn = onDrawn;
    this.onChange = onChange;
    this.context = canvas.getContext("2d", { alpha: false });
    this.shown = null; // { header, images }
    this.next = null;
    this.mode = "compare";
    this.split = 0.5; // of the stage's width
    this.zoom = 1; // of the whole image in the stage
    this.centre = [0.5, 0.5]; // of the image
    this.request = 0;
    new ResizeObserver(() => this.resized()).observe(stage);
  }

  /** Take a frame to draw; the newest one wins. A still replaces what is shown without asking for more. */
  offer(header, images) {
    const newest = this.next ?? this.shown;
    if (newest && header.frame < newest.header.frame) {
      images.forEach((image) => image.close());
      return;
    }
    this.hold();
    this.next = { header, images };
    this.redraw();
  }

  /** Let what is shown stay: the server knows it by its number. */
  hold() {
    this.next?.images.forEach((image) => image.close());
    this.next = null;
  }

  forget() {
    this.hold();
    if (this.shown) this.shown.header.frame = -1; // a new run counts from the beginning
  }

  get number() { return this.shown?.header.frame ?? -1; }

  /** How much of the stage is bicubic's, from the left. */
  get part() { return { compare: this.split, hasn: 0, bicubic: 1 }[this.mode]; }

  show(mode) {
    this.mode = mode;
    this.changed();
  }

  moveSplit(part) {
    this.split = Math.min(1, Math.max(0, part));
    this.mode = "compare";
    this.changed();
  }

  /** Zoom by a factor around a point of the stage in CSS pixels; its middle without one. */
  zoomBy(factor, at) {
    const { width, height } = this.box();
    const [x, y] = at ?? [width / 2, height / 2];
    const before = this.place();
    const u = (x - before.left) / before.width, v = (y - before.top) / before.height;
    this.zoom = Math.min(this.largest(), Math.max(1, this.zoom * factor));
    const after = this.place();
    this.centre = [u + (width / 2 - x) / after.width, v + (height / 2 - y) / after.height];
    this.changed();
  }

  pan(dx, dy) {
    const { width, height } = this.place();
    this.centre = [this.centre[0] - dx / width, this.centre[1] - dy / height];
    this.changed();
  }

  fit() {
    this.zoom = 1;
    this.centre = [0.5, 0.5];
    this.changed();
  }

  /** One pixel of the image on one of the screen. */
  exact() { this.zoomBy(this.exactZoom() / this.zoom); }

  exactZoom() { return 1 / Math.max(1e-6, this.perPixel() / this.zoom); }

  largest() { return Math.max(1, LARGEST_ZOOM * this.exactZoom()); }

  /** Device pixels per pixel of the image. */
  perPixel() {
    return this.shown ? this.place().width * devicePixelRatio / this.shown.header.width : 1;
  }

  box() { return { width: this.stage.clientWidth, height: this.stage.clientHeight }; }

  /** Where the whole image lies, in CSS pixels of the stage. */
  place() {
    const { width, height } = this.box();
    const header = this.shown?.header ?? this.next?.header ?? { width: 16, height: 9 };
    const fit = Math.min(width / header.width, height / header.height) * this.zoom;
    const w = header.width * fit, h = header.height * fit;
    const inside = (middle, size, room) => size <= room ? (room - size) / 2
      : Math.min(0, Math.max(room - size, room / 2 - middle * size));
    const left = inside(this.centre[0], w, width), top = inside(this.centre[1], h, height);
    this.centre = [(width / 2 - left) / w, (height / 2 - top) / h];
    return { left, top, width: w, height: h };
  }

  resized() {
    const { width, height } = this.box();
    this.canvas.width = Math.max(1, Math.round(width * devicePixelRatio));
    this.canvas.height = Math.max(1, Math.round(height * devicePixelRatio));
    this.changed();
  }

  changed() {
    this.onChange();
    this.redraw();
  }

  redraw() { this.request ||= requestAnimationFrame(() => this.draw()); }

  draw() {
    this.request = 0;
    const next = this.next;
    if (next) {
      const old = this.shown;
      this.shown = next;
      this.next = null;
      old?.images.forEach((image) => image.close());
      const size = `${next.header.width} / ${next.header.height}`;
      if (this.stage.style.getPropertyValue("--shape") !== size) {
        this.stage.style.setProperty("--shape", size);
        this.fit();
      }
    }
    if (this.shown) this.paint();
    if (next) this.onChange();
    if (next?.header.kind === "frame") this.onDrawn(next.header.frame);
  }

  paint() {
    const { context, canvas } = this, ratio = devicePixelRatio;
    const { left, top, width, height } = this.place();
    const [hasn, bicubic] = this.shown.images;
    context.setTransform(1, 0, 0, 1, 0, 0);
    context.fillStyle = "#06080a";
    context.fillRect(0, 0, canvas.width, canvas.height);
    // From exact pixels upwards nothing may be smoothed: it would be a third method of enlarging.
    context.imageSmoothingEnabled = this.perPixel() < 0.999;
    context.imageSmoothingQuality = "high";
    const at = [left, top, width, height].map((value) => Math.round(value * ratio));
    context.drawImage(hasn, ...at);
    const edge = Math.round(this.part * canvas.width);
    if (bicubic && edge > 0) {
      context.save();
      context.beginPath();
      context.rect(0, 0, edge, canvas.height);
      context.clip();
      context.drawImage(bicubic, ...at);
      context.restore();
    }
    if (this.zoom > 1.01) this.map(context, ratio);
  }

  /** Show in the corner which part of the image is seen. */
  map(context, ratio) {
    const { left, top, width, height } = this.place(), box = this.box();
    const w = Math.min(96, box.width / 4) * ratio, h = w * height / width, x = 12 * ratio, y = 12 * ratio;
    context.fillStyle = "rgb(8 11 14 / 60%)";
    context.fillRect(x, y, w, h);
    context.strokeStyle = "#35cfae";
    context.lineWidth = 1.5 * ratio;
    const seen = (value, from, to) => Math.min(to, Math.max(from, value));
    const x0 = seen(-left / width, 0, 1), x1 = seen((box.width - left) / width, 0, 1);
    const y0 = seen(-top / height, 0, 1), y1 = seen((box.height - top) / height, 0, 1);
    context.strokeRect(x + x0 * w, y + y0 * h, (x1 - x0) * w, (y1 - y0) * h);
  }

  /** Return what is shown at full size as a PNG blob: all of the image, with the divider where it is. */
  async saved(images) {
    const { width, height } = images[0];
    const canvas = new OffscreenCanvas(width, height);
    const context = canvas.getContext("2d", { alpha: false });
    context.drawImage(images[0], 0, 0);
    const place = this.place();
    const edge = Math.round((this.part * this.box().width - place.left) / place.width * width);
    const part = this.part >= 1 ? width : Math.min(width, Math.max(0, edge));
    if (images[1] && part > 0) context.drawImage(images[1], 0, 0, part, height, 0, 0, part, height);
    return canvas.convertToBlob({ type: "image/png" });
  }
}
