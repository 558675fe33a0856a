// How maps are drawn, and what their colours mean: the legend and its controls in one line.

import { COLOURS, mixed, palette, ramp } from "./colour.js";
import { fill, h, pen } from "./dom.js";
import { MEASURES } from "./run.js";
import { short } from "./words.js";

const BAR = [112, 10];

export class Looks {
  constructor(app) {
    this.app = app;
    const { state } = app;
    this.bar = h("canvas", { "aria-hidden": "true" });
    this.low = h("span");
    this.high = h("span");
    this.scale = h("div", { class: "scale" }, this.low, this.bar, this.high);
    this.colour = h("select", { "aria-label": "Colour map", title: "Colour map", onchange: () => this.pickColour() });
    this.span = h("select", { "aria-label": "Scale", title: "Scale of the colours", onchange: () => state.set({ scale: this.span.value }) });
    this.opacity = h("input", { type: "range", min: "0", max: "1", step: "0.05", oninput: () => state.set({ opacity: Number(this.opacity.value) }) });
    this.outlines = h("input", { type: "checkbox", onchange: () => state.set({ outlines: this.outlines.checked }) });
    this.masks = h("label", { class: "check", hidden: true }, this.outlines, h("span", { text: "objects" }));
    this.size = h("select", { "aria-label": "Size of the pictures", title: "Size of the pictures", onchange: () => state.set({ size: this.size.value }) });
    this.words = h("span", { class: "words" });
    this.maps = [
      this.colour,
      this.span,
      h("label", { class: "slide", title: "How much of the map lies over the image (o: off and on)" }, h("span", { text: "overlay" }), this.opacity),
      this.masks,
      this.size,
    ];
    this.node = h("div", { class: "looks" }, h("div", { class: "meaning" }, this.scale, this.words), ...this.maps);
  }

  get signed() {
    const { app } = this;
    const about = app.a.probes.methods[app.state.get("method")];
    const loaded = app.sides && app.sides[0].maps;
    return loaded ? loaded.signed : Boolean(about && about.signed);
  }

  pickColour() {
    const [colour, magnitude] = this.colour.value.split(" ");
    this.app.state.set({ magnitude: magnitude === "magnitude", ...(colour === "both" ? {} : { colour }) });
  }

  update(changed) {
    const { app } = this;
    if (!app.a) return;
    const keys = ["data", "other", "frame", "colour", "magnitude", "scale", "opacity", "outlines", "size", "view", "show", "theme", "method", "measure"];
    if (!keys.some((name) => changed.has(name))) return;
    const { values } = app.state;
    const matrix = values.view === "matrix";
    for (const control of this.maps) control.classList.toggle("away", matrix);
    this.masks.hidden = !(app.a.sheet && app.a.sheet.masks);
    this.colours(values);
    fill(this.span, [["map", "own peak"], ["shared", "shared"]], values.scale);
    fill(this.size, [["fit", "fit"], ["s", "small"], ["m", "medium"], ["l", "large"]], values.size);
    this.opacity.value = String(values.opacity);
    this.outlines.checked = values.outlines;
    if (matrix) this.explainMatrix();
    else this.explainMaps(values);
  }

  colours(values) {
    const changes = values.show !== "map" && values.show !== "chosen" ? true : values.show === "chosen" && values.chosen !== null;
    const { signed } = this;
    this.colour.disabled = changes;
    const plain = signed ? COLOURS.map(([name, words]) => [`${name} magnitude`, `${words} of magnitude`]) : COLOURS;
    const options = changes ? [["both", "Blue − to red +"]] : signed ? [["both", "Blue − to red +"], ...plain] : plain;
    const value = changes || (signed && !values.magnitude) ? "both" : signed ? `${values.colour} magnitude` : values.colour;
    fill(this.colour, options, value);
    this.diverging = value === "both";
    this.changes = changes;
  }

  explainMaps(values) {
    const shades = palette(values.colour, this.diverging);
    this.paintBar((share) => shades.css(this.diverging ? 2 * share - 1 : share));
    this.low.textContent = this.diverging ? "−1" : "0";
    this.high.textContent = this.diverging ? "+1" : "1";
    const unit = values.scale === "map" ? "1 is the peak of each map" : `1 is a probe’s largest peak over ${this.app.b ? "both runs" : "the run"}`;
    this.words.textContent = this.changes ? `change; ${unit}` : unit;
    this.words.title = this.words.textContent;
  }

  explainMatrix() {
    const { matrix, dark } = this.app;
    const stops = ramp(dark);
    this.paintBar((share) => `rgb(${mixed(stops, share).join(" ")})`);
    this.low.textContent = "0";
    this.high.textContent = matrix.highest ? short(matrix.highest) : "";
    const words = matrix.measure ? MEASURES[matrix.measure].toLowerCase() : "drift";
    this.words.textContent = `${words}; a dot where the prediction changed${this.app.b ? "; A above B" : ""}`;
  }

  paintBar(colourAt) {
    const context = pen(this.bar, ...BAR);
    for (let x = 0; x < BAR[0]; x += 1) {
      context.fillStyle = colourAt(x / (BAR[0] - 1));
      context.fillRect(x, 0, 1, BAR[1]);
    }
  }
}
