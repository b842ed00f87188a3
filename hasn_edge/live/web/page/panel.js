"use strict";
// The figures: tiles, what limits, the stages' times, and the rest.

const STAGES = {
  capture: ["Capture", "--line", "waiting for the source included"],
  wait: ["Waiting", "--faint", "for the network and the stage behind it; with the stages below it makes the latency"],
  prepare: ["Prepare", "--calm", "fitting the frame to the network's input"],
  infer: ["Network", "--hasn", "with copies to and from the device"],
  present: ["Present", "--other", "making the image and handing it to views"],
  display: ["Display", "--late", "from there until it was on a screen"],
  record: ["Record", "--alarm", "encoding the file"],
};

const BEGINS = { capture: "From the capture of a frame", prepare: "From a frame's preparation (a recording is read ahead)" };
const ENDS = { screen: "until the first viewer has it on the screen", view: "until it is handed to the views" };

const byId = (id) => document.getElementById(id);
const sized = (size) => size ? `${size[1]}×${size[0]}` : "–";
const decibels = (value) => value == null ? "–" : `${value.toFixed(2)}\u00a0dB`;

class Panel {
  constructor() {
    this.latency = new Chart(byId("latency-chart"), byId("latency-legend"), "ms", [
      { name: "p50", ink: "--hasn", value: (s) => s.p50 },
      { name: "p95", ink: "--other", value: (s) => s.p95, under: true },
    ]);
    this.rate = new Chart(byId("fps-chart"), byId("fps-legend"), "frames a second", [
      { name: "screen", ink: "--late", value: (s) => s.screen },
      { name: "upscaled", ink: "--hasn", value: (s) => s.out },
      { name: "captured", ink: "--calm", value: (s) => s.in },
    ]);
  }

  /** Begin with what happened before this viewer came: [seconds, p50, p95, fps in, fps out, fps on the screen]. */
  begin(history) {
    this.latency.clear();
    this.rate.clear();
    history.forEach(([at, p50, p95, fpsIn, out, screen]) => this.push({ at, p50, p95, in: fpsIn, out, screen }));
  }

  push(sample) {
    this.latency.push(sample);
    this.rate.push(sample);
  }

  update({ stats, you, viewers }) {
    const { now, frames } = stats, latency = now.latency_ms;
    const rates = { in: now.fps_in, out: now.fps_out, screen: now.fps_screen };
    this.push({ at: stats.seconds, p50: latency.p50, p95: latency.p95, ...rates });
    this.latency.draw();
    this.rate.draw();
    byId("fps-name").textContent = now.fps_screen == null ? "Frame rate" : "On screen";
    figure("fps", now.fps_screen ?? now.fps_out, "fps");
    byId("fps-out").textContent = `${short(now.fps_out)} upscaled`;
    figure("latency", ...duration(latency.p50));
    const where = `${BEGINS[stats.latency_begins]} ${ENDS[stats.latency_ends]}`;
    byId("latency-tile").title = byId("latency-caption").title = `${where}; ${latency.count} frames`;
    byId("latency-95").textContent = `p95 ${milliseconds(latency.p95)}`;
    if (stats.quality) this.quality(stats.quality);
    else this.drops(frames);
    byId("limit").hidden = !stats.limit;
    byId("limit").lastElementChild.textContent = stats.limit?.text ?? "";
    this.stages(now);
    this.details(stats, you, viewers);
  }

  drops(frames) {
    byId("third").textContent = "Dropped";
    figure("dropped", ...compact(frames.dropped), String);
    byId("dropped").title = String(frames.dropped);
    byId("dropped-share").textContent = `${(100 * frames.dropped / Math.max(1, frames.captured)).toFixed(0)} % of all`;
  }

  quality({ hasn_db: hasn, bicubic_db: bicubic }) {
    byId("third").textContent = "PSNR-Y";
    byId("dropped").title = "";
    figure("dropped", hasn, "dB", (value) => value.toFixed(1));
    const gain = hasn == null || bicubic == null ? "" : `${hasn >= bicubic ? "+" : "−"}${Math.abs(hasn - bicubic).toFixed(2)}`;
    byId("dropped-share").textContent = `${gain} over bicubic`;
  }

  stages({ stages_ms: times, busy }) {
    const work = Object.keys(times).filter((stage) => stage !== "capture" && times[stage].p50 != null);
    const total = work.reduce((sum, stage) => sum + times[stage].p50, 0);
    byId("budget").replaceChildren(...work.map((stage) => {
      const part = document.createElement("i");
      part.style.setProperty("--ink", `var(${STAGES[stage][1]})`);
      part.style.width = `${100 * times[stage].p50 / Math.max(1e-9, total)}%`;
      part.title = `${STAGES[stage][0]}: ${short(times[stage].p50)} ms`;
      return part;
    }));
    const listed = Object.keys(times).filter((stage) => stage !== "display" || times[stage].p50 != null);
    byId("stages").replaceChildren(...listed.map((stage) => {
      const [name, ink, title] = STAGES[stage];
      const row = document.createElement("tr"), head = document.createElement("th"), mark = document.createElement("i");
      row.classList.toggle("waits", stage === "capture" || stage === "wait");
      row.title = title;
      head.scope = "row";
      mark.style.setProperty("--ink", `var(${ink})`);
      head.append(mark, name);
      const share = busy[stage];
      row.append(head, cell(milliseconds(times[stage].p50)), cell(milliseconds(times[stage].p95)),
        cell(share == null ? "" : `${Math.round(100 * share)} %`, share > 0.85));
      return row;
    }));
  }

  details(stats, you, viewers) {
    const { frames, run } = stats, minutes = Math.floor(stats.seconds / 60);
    const lines = [
      ["Source", used(stats)],
      ["Size", `${sized(stats.input)} → ${sized(stats.output)}`],
      ["This screen", `${short(you.fps)}\u00a0fps, ${milliseconds(you.p50)}`],
      ["Viewers", String(viewers)],
      ["Whole run", `p50 ${milliseconds(run.latency_ms.p50)}, p95 ${milliseconds(run.latency_ms.p95)}`],
      ["Captured", String(frames.captured)],
      ["Upscaled", String(frames.shown)],
      ["Came on a screen", frames.displayed == null ? "–" : String(frames.displayed)],
      ...Object.entries(frames.drops).filter(([, count]) => count).map(([why, count]) => [`Dropped, ${why}`, String(count)]),
      ["Running", minutes ? `${minutes}\u00a0min ${Math.floor(stats.seconds % 60)}\u00a0s` : `${Math.floor(stats.seconds)}\u00a0s`],
    ];
    if (stats.quality) {
      const { hasn_mean_db: hasn, bicubic_mean_db: bicubic } = stats.quality;
      lines.push(["Mean PSNR-Y", `${decibels(hasn)}, bicubic ${decibels(bicubic)}`]);
    }
    byId("details").replaceChildren(...lines.flatMap(([name, value]) => {
      const term = document.createElement("dt"), text = document.createElement("dd");
      term.textContent = name;
      text.textContent = value;
      return [term, text];
    }));
  }
}

/** What becomes of the source's frames before the network. */
function used({ source_size: size, part, fitted, pixel_aspect: aspect }) {
  if (!size) return "–";
  const same = (one, other) => one[0] === other[0] && one[1] === other[1];
  const pixels = aspect === 1 ? "" : `, pixels ${short(aspect)}:1`;
  const cut = same(part, size) ? "" : `, middle ${sized(part)}`;
  const how = aspect !== 1 ? "resized" : fitted[0] > part[0] ? "enlarged" : "made smaller";
  return `${sized(size)}${pixels}${cut}${same(fitted, part) ? "" : `, ${how} to ${sized(fitted)}`}`;
}

/** A count in a tile, as a number and its unit: exact as long as there is room. */
function compact(count) {
  if (count < 1e5) return [count, ""];
  const power = count < 999500 ? 3 : count < 999.5e6 ? 6 : 9;
  return [(count / 10 ** power).toPrecision(3), { 3: "k", 6: "M", 9: "G" }[power]];
}

/** A duration in milliseconds as a number and its unit. */
const duration = (value) => value == null ? [null, ""] : value < 1000 ? [value, "ms"] : [value / 1000, "s"];

function milliseconds(value) {
  const [number, unit] = duration(value);
  return unit ? `${short(number)}\u00a0${unit}` : "–";
}

function figure(id, value, unit = "", write = short) {
  const small = document.createElement("span");
  small.textContent = unit;
  byId(id).replaceChildren(value == null ? "–" : write(value), ...(unit && value != null ? [small] : []));
}

function cell(text, hot = false) {
  const element = document.createElement("td");
  element.textContent = text;
  element.classList.toggle("hot", hot);
  return element;
}
