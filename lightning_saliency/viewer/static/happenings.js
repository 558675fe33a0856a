// What happened in the run, in words: each line leads to its moment.

import { h, pen, prose } from "./dom.js";
import { KINDS, drawMark } from "./marks.js";

export class Happenings {
  constructor(app) {
    this.app = app;
    this.list = h("ol");
    this.node = h("section", { class: "happenings" }, h("header", {}, h("h2", { text: "What happened" })), this.list);
  }

  update(changed) {
    const { app } = this;
    if (!app.a) return;
    if (["data", "other", "theme"].some((name) => changed.has(name))) this.write();
    if (["step", "data"].some((name) => changed.has(name))) this.point();
  }

  write() {
    const { app } = this;
    const lines = app.a.marks.map((mark) => this.line(mark, app.a, "a"));
    if (app.b) lines.push(...app.b.marks.map((mark) => this.line(mark, app.b, "b")));
    lines.sort((one, other) => one.step - other.step);
    this.lines = lines;
    this.list.replaceChildren(...lines.map((line) => line.node));
    if (lines.length === 0) this.list.append(h("li", { class: "quiet", text: "Nothing stood out: no alert, no sudden change of the learning rate, no checkpoint known." }));
  }

  line(mark, run, name) {
    const { app } = this;
    const canvas = h("canvas", { "aria-hidden": "true" });
    drawMark(pen(canvas, 14, 14), mark.kind, 7, 7, 5, app.colours);
    const when = h("span", { class: `when ${app.b ? name : ""}`, text: `${app.b ? `${name.toUpperCase()} · ` : ""}${run.label(mark.t)}` });
    const step = run.steps[mark.t];
    const node = h(
      "li",
      {},
      h(
        "button",
        { type: "button", onclick: () => app.state.set({ step: app.a.steps[app.a.at(step)] }) },
        canvas,
        h("span", { class: "what" }, when, h("span", { class: "sr", text: `${KINDS[mark.kind]}: ` }), h("span", {}, ...prose(mark.text))),
      ),
    );
    return { node, step };
  }

  point() {
    for (const { node, step } of this.lines || []) {
      node.classList.toggle("current", step === this.app.a.steps[this.app.t]);
    }
  }
}
