// A number of every probe over the run: each as a thin line, the median and the 10 to 90 % of those
// shown, the chosen one bold, and the floors: how far maps move when nothing that matters changed.

import { StepAxis, stepWords, tickWords, ticks } from "./axis.js";
import { fill, h, pen } from "./dom.js";
import { KINDS, drawMark } from "./marks.js";
import { MEASURES } from "./run.js";
import { grouped, quantiles, short } from "./words.js";

const EDGE = { left: 40, right: 14, top: 20, bottom: 22 };
const NEAR = 6;
const FONT = "11px system-ui, sans-serif";

const RUNGS = {
  repeat: "repeat",
  batch_size: "batch size",
  precision: "precision",
  jitter_1: "1 % jitter",
  jitter_5: "5 % jitter",
  pixel: "one pixel",
  step: "one step",
  seed: "other seed",
  redrawn: "random weights",
};

export class Curves {
  constructor(app) {
    this.app = app;
    this.back = h("canvas", { "aria-hidden": "true" });
    this.front = h("canvas", { class: "over", "aria-hidden": "true" });
    this.plot = h("div", { class: "plot", role: "img" }, this.back, this.front);
    this.choice = h("select", {
      class: "heading",
      "aria-label": "Number shown as curves",
      onchange: () => app.state.set({ measure: this.choice.value }),
    });
    this.legend = h("div", { class: "legend" });
    this.node = h("section", { class: "curves" }, h("header", {}, this.choice, this.legend), this.plot);
    this.plot.addEventListener("pointermove", (event) => this.explain(event));
    this.plot.addEventListener("pointerleave", () => this.leave());
    this.plot.addEventListener("click", (event) => this.jump(event));
    this.hover = null;
  }

  get measure() {
    const known = this.app.a.measures(this.app.state.get("method"));
    const wanted = this.app.state.get("measure");
    return known.includes(wanted) ? wanted : known[0];
  }

  get runs() {
    return [["a", this.app.a], ["b", this.app.b]].filter(([, run]) => run && run.length > 0);
  }

  update(changed) {
    const { app } = this;
    if (!app.a || app.a.length === 0) return;
    const stale = ["data", "other", "method", "measure", "probes", "resize", "theme"].some((name) => changed.has(name));
    if (stale) this.drawLines();
    if (stale || changed.has("step") || changed.has("probe") || changed.has("chosen")) this.drawHead();
  }

  drawLines() {
    const { app } = this;
    const [width, height] = [this.plot.clientWidth, this.plot.clientHeight];
    if (width === 0 || height === 0) return;
    const known = app.a.measures(app.state.get("method"));
    fill(this.choice, known.map((name) => [name, MEASURES[name]]), this.measure);
    this.axis = new StepAxis(this.runs.map(([, run]) => run), EDGE.left, width - EDGE.right);
    this.height = height;
    this.floors = this.measure.startsWith("drift") ? app.a.floors(app.state.get("method"), app.a.length - 1) : [];
    this.highest = this.range();
    const context = pen(this.back, width, height);
    context.font = FONT;
    this.drawAxes(context, width);
    for (const [name, run] of this.runs) this.drawRun(context, run, app.colours[name]);
    this.drawFloors(context, width - EDGE.right);
    for (const mark of app.a.marks) drawMark(context, mark.kind, this.axis.x(app.a.steps[mark.t]), 8, 4.5, app.colours);
    this.explainLines();
  }

  range() {
    if (!this.measure.startsWith("drift")) return 1;
    let highest = 0;
    for (const [, run] of this.runs) {
      for (const probe of this.app.shown) {
        highest = Math.max(highest, run.extent(this.app.state.get("method"), this.measure, probe).largest || 0);
      }
    }
    for (const { value } of this.floors) if (value < 1.25 * highest) highest = Math.max(highest, value);
    return highest > 0 ? highest * 1.04 : 1;
  }

  y(value) {
    const bottom = this.height - EDGE.bottom;
    return bottom - (value / this.highest) * (bottom - EDGE.top);
  }

  drawAxes(context, width) {
    const { colours } = this.app;
    const rows = ticks(0, this.highest, Math.max(2, Math.floor((this.height - EDGE.top - EDGE.bottom) / 36)));
    context.textBaseline = "middle";
    context.textAlign = "right";
    for (const value of rows) {
      const y = Math.round(this.y(value)) + 0.5;
      context.fillStyle = value === 0 ? colours.line : colours.faint;
      context.fillRect(EDGE.left, y - 0.5, width - EDGE.left - EDGE.right, 1);
      context.fillStyle = colours.quiet;
      context.fillText(tickWords(value, rows), EDGE.left - 8, y);
    }
    const columns = ticks(this.axis.low, this.axis.high, Math.max(2, Math.floor(width / 90)));
    context.textBaseline = "top";
    for (const step of columns) {
      const x = this.axis.x(step);
      context.textAlign = x > width - 30 ? "right" : "center";
      context.fillText(stepWords(step), Math.min(x, width - 4), this.height - EDGE.bottom + 6);
    }
  }

  drawRun(context, run, colour) {
    const values = run.values(this.app.state.get("method"), this.measure);
    const { shown } = this.app;
    context.save();
    context.strokeStyle = colour;
    context.lineWidth = 1;
    context.globalAlpha = Math.min(0.5, Math.max(0.1, 8 / Math.max(shown.length, 1)));
    context.beginPath();
    for (const probe of shown) this.trace(context, run, (t) => values[t * run.count + probe]);
    context.stroke();
    const rows = this.quantilesOf(run);
    context.globalAlpha = 0.16;
    context.fillStyle = colour;
    this.band(context, run, rows);
    context.globalAlpha = 1;
    context.lineWidth = 1.5;
    context.setLineDash([5, 3]);
    context.beginPath();
    this.trace(context, run, (t) => rows[t][1]);
    context.stroke();
    context.restore();
  }

  quantilesOf(run) {
    const { app } = this;
    const method = app.state.get("method");
    return run.once(`quantiles ${method} ${this.measure} ${app.shown.join()}`, () => {
      const values = run.values(method, this.measure);
      return run.steps.map((_, t) => quantiles(app.shown.map((probe) => values[t * run.count + probe]), [0.1, 0.5, 0.9]));
    });
  }

  trace(context, run, valueAt) {
    let down = false;
    let alone = null;
    for (let t = 0; t < run.length; t += 1) {
      const value = valueAt(t);
      const known = !Number.isNaN(value);
      if (known) {
        const [x, y] = [this.axis.x(run.steps[t]), this.y(value)];
        if (down) context.lineTo(x, y);
        else context.moveTo(x, y);
        alone = down ? null : [x, y];
      } else if (alone) context.rect(alone[0] - 1, alone[1] - 1, 2, 2);
      if (!known) alone = null;
      down = known;
    }
    if (alone) context.rect(alone[0] - 1, alone[1] - 1, 2, 2);
  }

  band(context, run, rows) {
    const known = rows.map((row, t) => [this.axis.x(run.steps[t]), row]).filter(([, row]) => !Number.isNaN(row[1]));
    if (known.length < 2) return;
    context.beginPath();
    for (const [x, row] of known) context.lineTo(x, this.y(row[2]));
    for (const [x, row] of known.reverse()) context.lineTo(x, this.y(row[0]));
    context.closePath();
    context.fill();
  }

  drawFloors(context, right) {
    context.save();
    context.strokeStyle = this.app.colours.quiet;
    context.setLineDash([1, 3]);
    context.beginPath();
    for (const { value } of this.floors) {
      if (value > this.highest) continue;
      const y = Math.round(this.y(value)) + 0.5;
      context.moveTo(EDGE.left, y);
      context.lineTo(right, y);
    }
    context.stroke();
    context.restore();
  }

  // Over all lines: the names of the floors, of those that share a place the highest.
  nameFloors(context, right) {
    const above = this.floors.filter(({ value }) => value > this.highest);
    let room = above.length > 0 ? EDGE.top + 4 : -Infinity;
    context.font = FONT;
    context.textAlign = "right";
    context.textBaseline = "bottom";
    for (const { rung, value } of [...this.floors].reverse()) {
      const y = this.y(value);
      if (value > this.highest || y - room < 13) continue;
      room = y;
      this.haloed(context, RUNGS[rung] || rung, right - 2, y - 1);
    }
    if (above.length === 0) return;
    context.textBaseline = "top";
    const words = above.map(({ rung, value }) => `${RUNGS[rung] || rung} ${short(value)}`).join(", ");
    this.haloed(context, `↑ ${words}`, right - 2, EDGE.top + 1);
  }

  haloed(context, words, x, y) {
    const { colours } = this.app;
    context.save();
    context.setLineDash([]);
    context.lineWidth = 3;
    context.lineJoin = "round";
    context.strokeStyle = colours.ground;
    context.strokeText(words, x, y);
    context.fillStyle = colours.quiet;
    context.fillText(words, x, y);
    context.restore();
  }

  drawHead() {
    const { app } = this;
    if (!this.axis) return;
    const context = pen(this.front, this.plot.clientWidth, this.plot.clientHeight);
    const [top, bottom] = [EDGE.top - 4, this.height - EDGE.bottom];
    const chosen = app.state.get("chosen");
    context.strokeStyle = app.colours.text;
    if (chosen !== null) this.upright(context, this.axis.x(app.a.steps[app.a.at(chosen)]), top, bottom, [2, 3], 0.6);
    if (this.hover !== null) this.upright(context, this.axis.x(app.a.steps[this.hover]), top, bottom, [], 0.25);
    this.upright(context, this.axis.x(app.a.steps[app.t]), top, bottom, [], 1);
    for (const [name, run] of this.runs) this.drawProbe(context, run, app.colours[name]);
    this.nameFloors(context, this.plot.clientWidth - EDGE.right);
  }

  upright(context, x, top, bottom, dash, alpha) {
    context.save();
    context.globalAlpha = alpha;
    context.setLineDash(dash);
    context.lineWidth = 1.25;
    context.beginPath();
    context.moveTo(x, top);
    context.lineTo(x, bottom);
    context.stroke();
    context.restore();
  }

  drawProbe(context, run, colour) {
    const { app } = this;
    const values = run.values(app.state.get("method"), this.measure);
    const valueAt = (t) => values[t * run.count + app.probe];
    context.save();
    context.lineJoin = "round";
    context.strokeStyle = app.colours.ground;
    const dense = run.length > (this.axis.right - this.axis.left) / 2;
    context.lineWidth = dense ? 2.5 : 4.5;
    context.beginPath();
    this.trace(context, run, valueAt);
    context.stroke();
    context.strokeStyle = colour;
    context.lineWidth = dense ? 1.25 : 2.25;
    context.stroke();
    const now = run.at(app.a.steps[app.t]);
    if (!Number.isNaN(valueAt(now))) this.dot(context, this.axis.x(run.steps[now]), this.y(valueAt(now)), colour);
    context.restore();
  }

  dot(context, x, y, colour) {
    context.beginPath();
    context.arc(x, y, 4, 0, 2 * Math.PI);
    context.fillStyle = colour;
    context.lineWidth = 2;
    context.strokeStyle = this.app.colours.ground;
    context.fill();
    context.stroke();
  }

  place(event) {
    const { left, top } = this.plot.getBoundingClientRect();
    const [x, y] = [event.clientX - left, event.clientY - top];
    return { x, y, t: this.app.a.at(this.axis.step(x)) };
  }

  // To the moment; and to the probe, where its line is under the pointer.
  jump(event) {
    const { x, y, t } = this.place(event);
    const probe = this.lineAt(x, y);
    this.app.state.set({ step: this.app.a.steps[t], ...(probe === null ? {} : { probe }) });
  }

  lineAt(x, y) {
    let [found, nearest] = [null, NEAR];
    for (const [, run] of this.runs) {
      const t = run.at(this.axis.step(x));
      const values = run.values(this.app.state.get("method"), this.measure);
      for (const probe of this.app.shown) {
        const away = Math.abs(this.y(values[t * run.count + probe]) - y);
        if (away < nearest) [found, nearest] = [probe, away];
      }
    }
    return found;
  }

  explain(event) {
    const { app } = this;
    if (!this.axis) return;
    const { x, y, t } = this.place(event);
    if (t !== this.hover) {
      this.hover = t;
      this.drawHead();
    }
    const lines = [[`${app.a.label(t)} · step ${grouped(app.a.steps[t])}`, "head"]];
    const under = this.lineAt(x, y);
    for (const [name, run] of this.runs) {
      const at = run.at(app.a.steps[t]);
      const [low, middle, high] = this.quantilesOf(run)[at];
      const values = run.values(app.state.get("method"), this.measure);
      const probe = under ?? app.probe;
      const value = short(values[at * run.count + probe]) || "undefined";
      lines.push([`${run.title(probe)} ${value}`, "", app.colours[name]]);
      if (!Number.isNaN(middle)) lines.push([`median ${short(middle)}, 10–90 % ${short(low)}–${short(high)}`, "quiet"]);
    }
    for (const mark of app.a.marks) if (mark.t === t) lines.push([KINDS[mark.kind], "", app.colours[mark.kind]]);
    app.tip.show(event, lines);
  }

  leave() {
    this.app.tip.hide();
    this.hover = null;
    this.drawHead();
  }

  explainLines() {
    const { app } = this;
    const item = (kind, words, colour) => h("span", { class: `key ${kind}`, style: `--key:${colour}` }, h("i"), h("span", { text: words }));
    const many = app.shown.length === app.a.count ? "" : ` of the ${app.shown.length} shown`;
    const [{ colours }, two] = [app, app.b !== null];
    const items = two ? this.runs.map(([name, run]) => item("solid", run.name, colours[name])) : [item("solid", "chosen", colours.a)];
    const shade = two ? colours.quiet : colours.a;
    items.push(item("dashed", `median${many}`, shade), item("band", "10–90 %", shade));
    if (this.floors.length > 0) items.push(item("dotted", "floors", app.colours.quiet));
    this.legend.replaceChildren(...items);
    const rows = this.quantilesOf(app.a);
    const last = rows[rows.length - 1];
    const median = Number.isNaN(last[1]) ? "undefined" : short(last[1]);
    this.plot.setAttribute("aria-label", `${MEASURES[this.measure]} over ${app.a.length} observations; median at the end ${median}. Arrow keys move through time.`);
  }
}
