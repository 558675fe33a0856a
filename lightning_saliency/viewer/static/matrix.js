// Probe × observation: drift as colour, flips as dots; one row for each probe.

import { StepAxis, stepWords, ticks } from "./axis.js";
import { mixed, ramp } from "./colour.js";
import { driftMeasure } from "./choice.js";
import { h, pen } from "./dom.js";
import { MEASURES } from "./run.js";
import { grouped, quantiles, short } from "./words.js";

const LABEL = 148;
const EDGE = 16;
const HEAD = 28;
const FONT = "12px system-ui, sans-serif";
const SMALL = "11px system-ui, sans-serif";
const ROW = [16, 26];
const DOT = 3; // pixels per observation from which flips are told apart

export class Matrix {
  constructor(app) {
    this.app = app;
    this.canvas = h("canvas", { class: "stick", "aria-hidden": "true" });
    this.spread = h("div", { class: "spread" });
    this.caption = h("div", { class: "sr", "aria-live": "polite" });
    this.node = h("div", { class: "scroll matrix", tabindex: "0", role: "application", "aria-label": "Matrix of probes and observations: up and down choose a probe, left and right a moment" }, this.canvas, this.spread, this.caption);
    this.node.addEventListener("scroll", () => this.draw(), { passive: true });
    this.node.addEventListener("click", (event) => this.jump(event));
    this.node.addEventListener("pointermove", (event) => this.explain(event));
    this.node.addEventListener("pointerleave", () => app.tip.hide());
  }

  update(changed) {
    if (this.app.state.get("view") !== "matrix") return;
    if (["data", "other", "method", "measure", "resize", "theme", "probes", "view"].some((name) => changed.has(name))) this.arrange();
    this.draw();
  }

  arrange() {
    const { app } = this;
    const [width, height] = [this.node.clientWidth, this.node.clientHeight];
    if (width === 0 || app.a.length === 0) return;
    const room = (height - HEAD - EDGE) / Math.max(app.a.count, 1);
    this.row = Math.floor(Math.min(Math.max(room, ROW[0]), ROW[1]));
    this.measure = driftMeasure(app);
    this.axis = new StepAxis([app.a, app.b], LABEL, width - EDGE);
    this.spread.style.height = `${HEAD + app.shown.length * this.row + EDGE - height}px`;
    const runs = [app.a, app.b].filter(Boolean);
    const all = runs.flatMap((run) => [...run.values(app.state.get("method"), this.measure)]);
    [this.highest] = quantiles(all, [0.99]);
    if (!(this.highest > 0)) this.highest = 1;
    this.stops = ramp(app.dark);
    this.edges = runs.map((run) => this.edgesOf(run));
  }

  // Where each observation's column begins and ends.
  edgesOf(run) {
    const places = run.steps.map((step) => this.axis.x(step));
    const half = run.length > 1 ? (places[1] - places[0]) / 2 : (this.axis.right - this.axis.left) / 2;
    return places.map((x, t) => [
      t > 0 ? (places[t - 1] + x) / 2 : Math.max(x - half, this.axis.left),
      t < places.length - 1 ? (x + places[t + 1]) / 2 : Math.min(x + half, this.axis.right),
    ]);
  }

  draw() {
    const { app } = this;
    const [width, height] = [this.node.clientWidth, this.node.clientHeight];
    if (width === 0 || !this.axis || app.a.length === 0) return;
    const context = pen(this.canvas, width, height);
    const top = HEAD - this.node.scrollTop;
    const first = Math.max(0, Math.floor(-top / this.row));
    const last = Math.min(app.shown.length, Math.ceil((height - top) / this.row));
    context.font = FONT;
    context.textBaseline = "middle";
    for (let at = first; at < last; at += 1) this.drawRow(context, app.shown[at], top + at * this.row);
    this.drawNow(context, top, first, last);
    this.drawHead(context, width);
    this.say();
  }

  // Steps, over whatever has been scrolled under them.
  drawHead(context, width) {
    const { colours } = this.app;
    context.fillStyle = colours.ground;
    context.fillRect(0, 0, width, HEAD - 6);
    context.fillStyle = colours.quiet;
    context.font = SMALL;
    const steps = ticks(this.axis.low, this.axis.high, Math.max(2, Math.floor(width / 110)));
    for (const step of steps) {
      const x = this.axis.x(step);
      context.textAlign = x > width - 40 ? "right" : x < LABEL + 20 ? "left" : "center";
      context.fillText(stepWords(step), x, HEAD / 2 - 3);
    }
    context.textAlign = "left";
  }

  drawRow(context, probe, y) {
    const { app } = this;
    const runs = [app.a, app.b].filter(Boolean);
    const high = this.row - 2;
    const chosen = probe === app.probe;
    app.a.sheet.draw(context, probe, { left: EDGE, top: y, width: high * Math.min(app.a.sheet.aspect, 1.5), height: high }, 0);
    context.fillStyle = chosen ? app.colours.text : app.colours.quiet;
    context.font = chosen ? `600 ${FONT}` : FONT;
    const left = EDGE + high * Math.min(app.a.sheet.aspect, 1.5) + 8;
    context.fillText(clipped(context, app.a.title(probe), LABEL - left - 10), left, y + high / 2);
    runs.forEach((run, at) => {
      const part = runs.length > 1 ? high / 2 : high;
      this.drawValues(context, run, this.edges[at], probe, y + at * part, part);
    });
    if (!chosen) return;
    context.strokeStyle = app.colours.text;
    context.lineWidth = 1.5;
    context.strokeRect(LABEL - 1, y - 1, this.axis.right - LABEL + 2, high + 2);
  }

  drawValues(context, run, edges, probe, y, high) {
    const { app } = this;
    const values = run.values(app.state.get("method"), this.measure);
    let [drawn, strongest] = [-Infinity, NaN];
    for (let t = 0; t < run.length; t += 1) {
      const value = values[t * run.count + probe];
      const [left, right] = [Math.floor(edges[t][0]), Math.max(Math.floor(edges[t][1]), Math.floor(edges[t][0]) + 1)];
      // Of observations that share a pixel, the one that moved the most is seen.
      strongest = left === drawn && !(value > strongest) ? strongest : value;
      drawn = left;
      context.fillStyle = Number.isNaN(strongest) ? app.colours.faint : `rgb(${mixed(this.stops, strongest / this.highest).join(" ")})`;
      context.fillRect(left, y, right - left, high);
    }
    context.fillStyle = app.colours.flip;
    context.strokeStyle = app.colours.ground;
    context.lineWidth = 1;
    for (let t = 1; t < run.length; t += 1) {
      if (!run.flipped(t, probe) || edges[t][1] - edges[t][0] < DOT) continue;
      context.beginPath();
      context.arc((edges[t][0] + edges[t][1]) / 2, y + high / 2, Math.min(3, high / 3), 0, 2 * Math.PI);
      context.fill();
      context.stroke();
    }
  }

  drawNow(context, top, first, last) {
    const { app } = this;
    const [left, right] = this.edges[0][app.t];
    const [from, to] = [top + first * this.row - 4, top + last * this.row];
    context.strokeStyle = app.colours.text;
    context.lineWidth = 1.5;
    context.strokeRect(Math.round(left) - 0.5, from, Math.max(right - left, 2) + 1, to - from);
  }

  say() {
    const { app } = this;
    const value = short(app.a.value(app.state.get("method"), this.measure, app.t, app.probe)) || "undefined";
    const words = `${app.a.title(app.probe)}, ${app.a.label(app.t)}: ${MEASURES[this.measure]} ${value}`;
    if (this.caption.textContent !== words) this.caption.textContent = words;
  }

  place(event) {
    const box = this.node.getBoundingClientRect();
    const [x, y] = [event.clientX - box.left, event.clientY - box.top + this.node.scrollTop - HEAD];
    const probe = this.app.shown[Math.floor(y / this.row)];
    const t = x < LABEL ? null : this.app.a.at(this.axis.step(x));
    return probe === undefined || y < 0 ? null : { probe, t };
  }

  jump(event) {
    const found = this.place(event);
    if (found) this.app.state.set({ probe: found.probe, ...(found.t === null ? {} : { step: this.app.a.steps[found.t] }) });
  }

  explain(event) {
    const { app } = this;
    const found = this.axis && this.place(event);
    if (!found) return app.tip.hide();
    const lines = [[`${app.a.title(found.probe)} · ${app.a.probes.names[found.probe]}`, "head"]];
    if (found.t !== null) {
      lines.push([`${app.a.label(found.t)} · step ${grouped(app.a.steps[found.t])}`, "quiet"]);
      for (const [name, run] of [["a", app.a], ["b", app.b]]) {
        if (!run) continue;
        const t = run.at(app.a.steps[found.t]);
        const value = short(run.value(app.state.get("method"), this.measure, t, found.probe)) || "undefined";
        const flip = run.flipped(t, found.probe) ? `, now ${run.named(run.prediction(t, found.probe))}` : "";
        lines.push([`${MEASURES[this.measure].toLowerCase()} ${value}${flip}`, "", app.b ? app.colours[name] : null]);
      }
    }
    return app.tip.show(event, lines);
  }

  reveal() {
    const at = this.app.shown.indexOf(this.app.probe);
    if (at < 0 || !this.row) return;
    const [top, bottom] = [at * this.row - 4, HEAD + (at + 1) * this.row + 4];
    if (top < this.node.scrollTop) this.node.scrollTop = top;
    else if (bottom > this.node.scrollTop + this.node.clientHeight) this.node.scrollTop = bottom - this.node.clientHeight;
  }
}

function clipped(context, words, width) {
  if (context.measureText(words).width <= width) return words;
  let end = words.length;
  while (end > 1 && context.measureText(`${words.slice(0, end)}…`).width > width) end -= 1;
  return `${words.slice(0, end)}…`;
}
