// One probe over the whole run, from left to right; of two runs, the second below the first.

import { h, pen } from "./dom.js";
import { keysOf, loadedSides, look, paneOf, sidesAt } from "./frames.js";
import { paint } from "./paint.js";

const WIDE = 52;
const GAP = 6;
const LABEL = 18;
const ROWS = 2; // of the few
const BETWEEN = 2;
const EDGE = 2;

export class Filmstrip {
  constructor(app) {
    this.app = app;
    this.frames = [];
    this.strip = h("div", { class: "frames", role: "group", "aria-label": "Filmstrip of the chosen probe" });
    this.more = h("button", {
      type: "button",
      class: "link",
      onclick: () => app.state.set({ frames: app.state.get("frames") === "all" ? "few" : "all" }),
    });
    this.title = h("h2", { text: "Over the run" });
    this.node = h("section", { class: "filmstrip" }, h("header", {}, this.title, this.more), this.strip);
    this.strip.addEventListener("scroll", () => this.draw(), { passive: true });
  }

  update(changed) {
    const { app } = this;
    if (!app.a || app.a.length === 0) return;
    if (["data", "other", "resize", "frames", "show"].some((name) => changed.has(name))) this.arrange();
    if (changed.has("step") || changed.has("data") || changed.has("frames")) this.point();
    this.draw();
  }

  // Evenly over the run, the first and the newest always.
  picks(room) {
    const { length } = this.app.a;
    if (length <= room || this.app.state.get("frames") === "all") return Array.from({ length }, (_, t) => t);
    return Array.from({ length: room }, (_, at) => Math.round((at * (length - 1)) / (room - 1)));
  }

  arrange() {
    const { app } = this;
    const width = this.strip.clientWidth - 2 * EDGE;
    if (width <= 0) return;
    const sides = sidesAt(app, 0).length;
    const columns = Math.max(3, Math.floor((width + GAP) / (WIDE + GAP)));
    this.wide = Math.floor((width - GAP * (columns - 1)) / columns);
    this.high = Math.round(this.wide / app.a.sheet.aspect);
    this.row = sides * (this.high + BETWEEN) - BETWEEN + LABEL + GAP;
    this.columns = columns;
    const picks = this.picks(columns * (sides > 1 ? 1 : ROWS));
    this.strip.style.gridTemplateColumns = `repeat(${columns}, ${this.wide}px)`;
    this.strip.style.height = `${Math.min(Math.ceil(picks.length / columns), sides > 1 ? 1 : ROWS) * this.row - GAP + 2 * EDGE}px`;
    this.frames = picks.map((t) => this.made(t));
    this.strip.replaceChildren(...this.frames.map((frame) => frame.node));
    this.more.textContent = app.state.get("frames") === "all" ? "show few" : `show all ${app.a.length}`;
    this.more.hidden = picks.length === app.a.length && app.state.get("frames") !== "all";
    this.point();
  }

  made(t) {
    const { app } = this;
    const canvas = h("canvas");
    const words = app.a.label(t);
    const node = h(
      "button",
      { type: "button", class: "frame", title: `${words}, step ${app.a.steps[t]}`, onclick: () => app.go(t) },
      canvas,
      h("span", { class: "when", text: words.replace(/^epoch /, "") }),
    );
    return { t, node, canvas, drawn: null };
  }

  // The frame of the moment, or the last one before it.
  point() {
    let now = null;
    for (const frame of this.frames) if (frame.t <= this.app.t) now = frame;
    for (const frame of this.frames) {
      if (frame === now) frame.node.setAttribute("aria-current", "true");
      else frame.node.removeAttribute("aria-current");
    }
  }

  get visible() {
    const first = Math.floor(this.strip.scrollTop / this.row) * this.columns;
    const rows = Math.ceil(this.strip.clientHeight / this.row) + 1;
    return this.frames.slice(first, first + rows * this.columns);
  }

  draw() {
    const { app } = this;
    if (!this.row || this.strip.clientWidth === 0) return;
    const style = look(app);
    const token = `${app.probe} ${app.subject} ${JSON.stringify(style)} ${this.wide} ${window.devicePixelRatio}`;
    for (const frame of this.visible) {
      const sides = sidesAt(app, frame.t);
      const loaded = loadedSides(sides, app.cache);
      const wanted = `${token} ${loaded !== null} ${keysOf(sides)}`;
      if (frame.drawn === wanted) continue;
      frame.drawn = wanted;
      this.drawFrame(frame, loaded, sides, style);
    }
  }

  drawFrame(frame, loaded, sides, style) {
    const { app } = this;
    const high = sides.length * (this.high + BETWEEN) - BETWEEN;
    const context = pen(frame.canvas, this.wide, high);
    sides.forEach((one, at) => {
      const box = { left: 0, top: at * (this.high + BETWEEN), width: this.wide, height: this.high };
      const pane = loaded ? paneOf(app, loaded[at], app.probe) : { sheet: one.run.sheet, probe: app.probe, maps: null, note: "" };
      paint(context, box, pane, style);
      if (sides.length > 1) {
        context.fillStyle = app.colours[at ? "b" : "a"];
        context.fillRect(0, box.top + box.height - 2, box.width, 2);
      }
    });
    const flipped = app.a.flipped(frame.t, app.probe);
    frame.node.classList.toggle("flipped", flipped);
    const prediction = app.a.named(app.a.prediction(frame.t, app.probe));
    frame.node.setAttribute("aria-label", `${app.a.label(frame.t)}: predicted ${prediction}${flipped ? ", changed here" : ""}`);
  }

  // The maps that the visible frames still lack.
  wanted() {
    if (!this.row) return [];
    return this.visible.flatMap((frame) => keysOf(sidesAt(this.app, frame.t)));
  }
}
