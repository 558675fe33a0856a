// Which probes: search, class, predictions, drift; and their order.

import { FLIPS, ORDERS, driftMeasure, largestDrift } from "./choice.js";
import { fill, h, icon } from "./dom.js";
import { counted, short } from "./words.js";

export class Filters {
  constructor(app) {
    this.app = app;
    const { state } = app;
    this.text = h("input", { type: "search", placeholder: "Search", "aria-label": "Search probes by name, class or prediction (/)", title: "Name, class or prediction (/)", oninput: () => state.set({ text: this.text.value }) });
    this.klass = h("select", { "aria-label": "Class", onchange: () => state.set({ klass: this.klass.value }) });
    this.flips = h("select", { "aria-label": "Predictions", onchange: () => state.set({ flips: this.flips.value }) });
    this.order = h("select", { "aria-label": "Order", onchange: () => state.set({ [this.orderName]: this.order.value }) });
    this.least = h("input", { type: "range", min: "0", max: "0.95", step: "0.05", "aria-label": "Least drift", oninput: () => state.set({ least: Number(this.least.value) }) });
    this.drift = h("output");
    this.count = h("span", { class: "count", role: "status" });
    this.clear = h("button", { type: "button", class: "link", text: "clear", onclick: () => app.clearFilter() });
    this.node = h(
      "div",
      { class: "filters" },
      h("label", { class: "search" }, icon("search"), this.text),
      this.klass,
      this.flips,
      h("label", { class: "slide", title: "Leaves out probes whose drift is never above this" }, h("span", { text: "drift ≥" }), this.least, this.drift),
      this.order,
      this.clear,
      this.count,
    );
  }

  get orderName() {
    return this.app.state.get("view") === "matrix" ? "matrixOrder" : "gridOrder";
  }

  update(changed) {
    const { app } = this;
    if (!app.a || !["data", "probes", "view", "measure", "method"].some((name) => changed.has(name))) return;
    const { values } = app.state;
    if (this.text.value !== values.text) this.text.value = values.text;
    this.classes();
    fill(this.flips, Object.entries(FLIPS), values.flips);
    fill(this.order, Object.entries(ORDERS), values[this.orderName]);
    this.least.value = String(values.least);
    this.drift.textContent = values.least > 0 ? short(values.least * largestDrift(app)) : "0";
    this.least.title = `${driftMeasure(app).replace("_", " from the ")}, the largest over the run`;
    const all = app.shown.length === app.a.count;
    this.count.textContent = all ? counted(app.a.count, "probe") : `${app.shown.length} of ${counted(app.a.count, "probe")}`;
    this.clear.hidden = all && values.text === "";
  }

  classes() {
    const { app } = this;
    const found = new Set();
    for (let probe = 0; probe < app.a.count; probe += 1) {
      const target = app.a.target(probe);
      if (app.a.classified && target !== null) found.add(target);
    }
    const options = [...found].sort((one, other) => one - other).map((target) => [String(target), app.a.named(target)]);
    fill(this.klass, [["", "Classes"], ...options], app.state.get("klass"));
    this.klass.hidden = options.length < 2;
  }
}
