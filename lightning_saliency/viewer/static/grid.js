// Every probe at the chosen moment: image, map over it, class, prediction, drift.

import { h, icon, pen } from "./dom.js";
import { look, paneOf } from "./frames.js";
import { paint } from "./paint.js";
import { driftMeasure } from "./choice.js";
import { percent, short } from "./words.js";

const GAP = 12;
const BETWEEN = 2; // the two runs of one probe
const CAPTION = [24, 38]; // in one line; in two, where there is no room
const NARROW = 132;
const PADDING = 16;
const SIZES = { s: 72, m: 112, l: 168 };
const FIT = [88, 300];

export class Grid {
  constructor(app) {
    this.app = app;
    this.cells = new Map(); // probe → its elements
    this.list = h("div", { class: "cells", role: "listbox", tabindex: "0", "aria-label": "Probes" });
    this.empty = h("div", { class: "nothing", hidden: true });
    this.node = h("div", { class: "scroll grid" }, this.list, this.empty);
    this.node.addEventListener("scroll", () => this.draw(), { passive: true });
    this.layout = null;
  }

  update(changed) {
    if (this.app.state.get("view") !== "grid") return;
    if (this.whose !== this.app.a.id) this.cells.clear();
    this.whose = this.app.a.id;
    if (["data", "other", "show", "size", "resize", "probes", "view"].some((name) => changed.has(name))) this.arrange();
    if (changed.has("frame") || changed.has("probes")) this.stamp();
    if (changed.has("probe") || changed.has("data") || changed.has("probes")) this.select();
    this.draw();
  }

  // Places: as large as lets all probes be seen, so that a filter changes no size.
  arrange() {
    const { app } = this;
    const width = this.node.clientWidth - 2 * PADDING;
    if (width <= 0) return;
    const panes = app.b && app.state.get("show") !== "runs" ? 2 : 1;
    const fits = this.fitted(width, this.node.clientHeight - 2 * PADDING, panes);
    this.layout = { ...fits, panes };
    this.list.classList.toggle("narrow", fits.wide < NARROW);
    this.list.style.gridTemplateColumns = `repeat(${fits.columns}, ${fits.wide}px)`;
    const nodes = app.shown.map((probe) => this.cell(probe).node);
    if (nodes.length !== this.list.children.length || nodes.some((node, at) => node !== this.list.children[at])) {
      this.list.replaceChildren(...nodes);
    }
    this.nothing();
    this.stamp();
  }

  fitted(width, height, panes) {
    const { aspect } = this.app.a.sheet;
    const size = SIZES[this.app.state.get("size")];
    let found = null;
    for (let columns = 1; columns <= 64; columns += 1) {
      const wide = Math.floor((width - GAP * (columns - 1)) / columns);
      const pane = Math.floor((wide - BETWEEN * (panes - 1)) / panes);
      if (found && pane < (size || FIT[0])) break;
      const high = Math.round(pane / aspect);
      found = { columns, wide, pane, high, row: high + CAPTION[wide < NARROW ? 1 : 0] + GAP };
      const rows = Math.ceil(this.app.a.count / columns);
      if (!size && pane <= FIT[1] && rows * found.row - GAP <= height) break;
    }
    return found;
  }

  cell(probe) {
    if (!this.cells.has(probe)) this.cells.set(probe, this.made(probe));
    return this.cells.get(probe);
  }

  made(probe) {
    const canvas = h("canvas");
    const flip = h("span", { class: "chip", hidden: true, title: "The prediction changed here" }, icon("flip"));
    const title = h("span", { class: "title" });
    const answer = h("span", { class: "answer wrong" });
    const value = h("span", { class: "value" });
    title.textContent = this.app.a.title(probe);
    const node = h(
      "div",
      { class: "cell", title: this.app.a.probes.names[probe], role: "option", id: `probe-${probe}`, "aria-selected": "false", onclick: () => this.app.state.set({ probe }) },
      h("div", { class: "picture" }, canvas, flip),
      h("div", { class: "caption" }, title, answer, value),
    );
    return { node, canvas, flip, title, answer, value, drawn: null };
  }

  // Words of the moment.
  stamp() {
    const { app } = this;
    const t = app.t;
    if (t === null) return;
    const measure = driftMeasure(app);
    const values = app.a.values(app.state.get("method"), measure);
    for (const probe of app.shown) {
      const cell = this.cell(probe);
      const wrong = app.a.wrong(t, probe);
      const flipped = app.a.flipped(t, probe);
      const answer = wrong ? `→ ${app.a.named(app.a.prediction(t, probe))}` : "";
      const value = short(values[t * app.a.count + probe]);
      if (cell.answer.textContent !== answer) cell.answer.textContent = answer;
      if (cell.value.textContent !== value) cell.value.textContent = value;
      if (cell.flip.hidden === flipped) cell.flip.hidden = !flipped;
      cell.node.setAttribute("aria-label", this.spoken(probe, t, wrong, flipped, value));
    }
  }

  spoken(probe, t, wrong, flipped, value) {
    const run = this.app.a;
    const confidence = run.confidence(t, probe);
    const parts = [`${run.title(probe)}, ${run.probes.names[probe]}`];
    parts.push(`predicted ${run.named(run.prediction(t, probe))}${confidence === null ? "" : ` ${percent(confidence)}`}`);
    if (wrong) parts.push("wrong");
    if (flipped) parts.push("changed here");
    if (value) parts.push(`drift ${value}`);
    return parts.join("; ");
  }

  select() {
    const { probe } = this.app;
    const before = this.list.querySelector("[aria-selected=true]");
    const now = this.cells.get(probe);
    if (before) before.setAttribute("aria-selected", "false");
    if (!now) return;
    now.node.setAttribute("aria-selected", "true");
    this.list.setAttribute("aria-activedescendant", now.node.id);
  }

  // Scrolls as little as it takes.
  reveal() {
    const now = this.cells.get(this.app.probe);
    if (now && now.node.isConnected) now.node.scrollIntoView({ block: "nearest" });
  }

  draw() {
    const { app, layout } = this;
    if (!layout || !app.sides || this.node.clientWidth === 0) return;
    const style = look(app);
    const token = `${app.drawing} ${JSON.stringify(style)} ${layout.pane} ${window.devicePixelRatio} ${app.state.get("scale")}`;
    const first = Math.floor((this.node.scrollTop - PADDING) / layout.row) - 1;
    const last = Math.ceil((this.node.scrollTop + this.node.clientHeight) / layout.row) + 1;
    const [from, to] = [Math.max(first, 0) * layout.columns, last * layout.columns];
    for (const probe of app.shown.slice(from, to)) {
      const cell = this.cells.get(probe);
      if (!cell || cell.drawn === token) continue;
      cell.drawn = token;
      this.drawCell(cell, probe, style);
    }
  }

  drawCell(cell, probe, style) {
    const { app, layout } = this;
    const context = pen(cell.canvas, layout.wide, layout.high);
    app.sides.forEach((one, at) => {
      const box = { left: at * (layout.pane + BETWEEN), top: 0, width: layout.pane, height: layout.high };
      if (app.sides.length === 1) box.width = layout.wide;
      paint(context, box, paneOf(app, one, probe), style);
      for (const mark of app.alertsAt(one)) outlineCell(context, box, mark.event, one.run, probe);
      if (app.b && app.sides.length > 1) {
        context.fillStyle = app.colours[at ? "b" : "a"];
        context.fillRect(box.left, box.height - 2, box.width, 2);
      }
    });
  }

  nothing() {
    const none = this.app.shown.length === 0;
    this.empty.hidden = !none;
    this.list.hidden = none;
    if (!none || this.empty.firstChild) return;
    this.empty.append(
      h("p", { class: "lead", text: "No probe fits the filter." }),
      h("button", { type: "button", class: "button", text: "Show all probes", onclick: () => this.app.clearFilter() }),
    );
  }
}

// Where the alert of this moment was raised, on the probes that it is about.
function outlineCell(context, box, event, run, probe) {
  if (event.panel !== "probes" || !event.cell || event.cell.length !== 2) return;
  if (event.group > 0 && run.probes.explained[probe] !== event.group - 1) return;
  const [rows, columns] = event.cells;
  const [row, column] = event.cell;
  const [high, wide] = [box.height / rows, box.width / columns];
  context.strokeStyle = "#ff4d4f";
  context.lineWidth = 2;
  context.strokeRect(box.left + column * wide + 1, box.top + row * high + 1, wide - 2, high - 2);
}
