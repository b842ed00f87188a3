"use strict";
// Charts over the last minute, drawn by hand.

const MINUTE = 60;

class Chart {
  /** `series`: [{ name, ink (a CSS variable), value(sample), under: fill down to the series before }]. */
  constructor(canvas, legend, unit, series) {
    this.canvas = canvas;
    this.unit = unit;
    this.series = series;
    this.samples = []; // { at (seconds), ... }
    this.pointed = null;
    this.values = series.map(({ name, ink }) => {
      const item = document.createElement("span"), line = document.createElement("i"), value = document.createElement("b");
      line.style.setProperty("--ink", `var(${ink})`);
      item.append(line, `${name} `, value);
      legend.append(item);
      return value;
    });
    const point = (event) => {
      this.pointed = event.offsetX;
      this.draw();
    };
    canvas.addEventListener("pointermove", point);
    canvas.addEventListener("pointerdown", point);
    canvas.addEventListener("pointerleave", () => { this.pointed = null; this.draw(); });
    new ResizeObserver(() => this.draw()).observe(canvas);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.draw());
  }

  clear() { this.samples = []; }

  push(sample) {
    this.samples.push(sample);
    while (this.samples[0].at < sample.at - MINUTE - 2) this.samples.shift();
  }

  draw() {
    const { canvas, samples } = this, ratio = devicePixelRatio;
    const width = canvas.clientWidth, height = canvas.clientHeight;
    if (!width) return;
    canvas.width = Math.round(width * ratio);
    canvas.height = Math.round(height * ratio);
    const context = canvas.getContext("2d"), style = getComputedStyle(canvas);
    const colour = (name) => style.getPropertyValue(name).trim();
    context.scale(ratio, ratio);
    const end = samples.at(-1)?.at ?? 0, right = width - 34;
    const known = samples.flatMap((s) => this.series.map(({ value }) => value(s))).filter((v) => v != null);
    const top = nice(Math.max(1e-9, ...known));
    const x = (at) => right * (1 - (end - at) / MINUTE), y = (value) => 6 + (height - 12) * (1 - value / top);

    context.font = "11px system-ui, sans-serif";
    context.textBaseline = "middle";
    for (const level of [0, top / 2, top]) {
      context.strokeStyle = colour("--line");
      context.lineWidth = 1;
      line(context, [[0, Math.round(y(level)) + 0.5], [right, Math.round(y(level)) + 0.5]]);
      context.fillStyle = colour("--muted");
      if (known.length) context.fillText(short(level), right + 6, y(level));
    }
    let below = [];
    for (const { value, ink, under } of this.series) {
      const parts = unbroken(samples, value).map((part) => part.map((s) => [x(s.at), y(value(s))]));
      context.strokeStyle = colour(ink);
      context.lineWidth = 1.8;
      context.lineJoin = "round";
      parts.forEach((points, index) => {
        if (under && points.length > 1 && below[index]?.length === points.length) {
          context.globalAlpha = 0.13;
          context.fillStyle = colour(ink);
          fill(context, [...points, ...below[index].toReversed()]);
          context.globalAlpha = 1;
        }
        line(context, points);
      });
      if (samples.length && value(samples.at(-1)) != null) dot(context, parts.at(-1).at(-1), colour(ink));
      below = parts;
    }
    const at = this.pointed == null ? null : this.nearest(end - MINUTE * (1 - this.pointed / right));
    if (at) {
      context.strokeStyle = colour("--faint");
      line(context, [[x(at.at), 4], [x(at.at), height - 4]]);
      for (const { value, ink } of this.series) {
        if (value(at) != null) dot(context, [x(at.at), y(value(at))], colour(ink));
      }
    }
    this.describe(at ?? samples.at(-1));
  }

  nearest(time) {
    return this.samples.reduce((best, s) => Math.abs(s.at - time) < Math.abs(best.at - time) ? s : best, this.samples[0]);
  }

  describe(sample) {
    const texts = this.series.map(({ value }) => sample ? short(value(sample)) : "–");
    texts.forEach((text, index) => { this.values[index].textContent = text; });
    this.canvas.ariaLabel = this.series.map(({ name }, index) => `${name} ${texts[index]} ${this.unit}`).join(", ");
  }
}

/** The samples in parts without a gap: where a figure was not known, no line claims that it was. */
function unbroken(samples, value) {
  const parts = [[]];
  for (const sample of samples) {
    if (value(sample) != null) parts.at(-1).push(sample);
    else if (parts.at(-1).length) parts.push([]);
  }
  return parts.filter((part) => part.length);
}

/** The next number above that people like: 1, 2, 2.5, 4, 5 or 8 times a power of ten. */
function nice(value) {
  const power = 10 ** Math.floor(Math.log10(value));
  return power * [1, 2, 2.5, 4, 5, 8, 10].find((step) => step * power >= value * 1.02 || step === 10);
}

/** Three digits that mean something. */
function short(value) {
  if (value == null) return "–";
  return value >= 100 ? value.toFixed(0) : value >= 10 || value === 0 ? String(+value.toFixed(1)) : String(+value.toFixed(2));
}

function line(context, points) {
  context.beginPath();
  points.forEach(([x, y], index) => index ? context.lineTo(x, y) : context.moveTo(x, y));
  context.stroke();
}

function fill(context, points) {
  context.beginPath();
  points.forEach(([x, y], index) => index ? context.lineTo(x, y) : context.moveTo(x, y));
  context.closePath();
  context.fill();
}

function dot(context, [x, y], colour) {
  context.fillStyle = colour;
  context.beginPath();
  context.arc(x, y, 3, 0, 2 * Math.PI);
  context.fill();
}
