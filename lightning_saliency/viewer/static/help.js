// What is seen, what it means and which keys there are, without leaving the place.

import { button, h, pen } from "./dom.js";
import { drawMark } from "./marks.js";

const MEANING = [
  ["Maps", "show where the model’s answer reacts to the input. They are sensitivities: a map that moved says that the model reacts to other pixels, not that it relies on them."],
  ["Drift", "compares the signed map of a probe at two observations: 0 is the same, 1 unrelated, 2 opposite. The class is fixed for each probe."],
  ["Floors", "are the drift of the same probes when nothing that matters changed (1 % jitter, one step) or everything did (other seed, random weights). What stands below an accident’s floor says nothing."],
  ["Hatched", "is what is no map: undefined (constant, or not finite; counted nowhere and averaged nowhere), or unreliable (reliability below 0.5: noise for the most part)."],
  ["Shared scale", "makes the maps of one probe comparable over the run in strength as well; each map to its peak compares places only."],
];

const MARKS = [
  ["alert", "Region alert: a place gained evidence that the others did not"],
  ["event", "Training event: all maps moved more than usual; information, no alarm"],
  ["rate", "The learning rate changed at once"],
  ["best", "The best checkpoint so far"],
  ["resumed", "The run was resumed"],
];

const KEYS = [
  ["← →", "one observation back, forward; with Shift ten"],
  ["Home End", "the first; the newest, and follow it"],
  ["Space", "play, pause"],
  ["↑ ↓", "the probe before, after"],
  ["M", "grid or matrix"],
  ["D", "maps, change from the first, the previous, the held step, between runs"],
  ["H", "hold this step for comparison"],
  ["O", "overlay off and on"],
  ["/", "search"],
  ["?", "this help"],
];

export class Help {
  constructor(app) {
    this.app = app;
    this.node = h("dialog", { class: "help", "aria-label": "Help", onclick: (event) => event.target === this.node && this.node.close() });
  }

  open() {
    this.node.replaceChildren(h("div", { class: "sheet" }, ...this.content()));
    this.node.showModal();
  }

  content() {
    const { app } = this;
    const about = app.a ? app.a.probes.methods[app.state.get("method")] : null;
    const method = about ? [h("p", { class: "quiet", text: [about.words, about.caution, `target: ${app.a.probes.target}`].filter(Boolean).join(" · ") })] : [];
    return [
      h("header", {}, h("h1", { text: "Reading this tab" }), button("close", "Close (Esc)", () => this.node.close())),
      ...method,
      h("dl", {}, ...MEANING.flatMap(([name, words]) => [h("dt", { text: name }), h("dd", { text: words })])),
      h("h2", { text: "Marks" }),
      h("ul", { class: "marks" }, ...MARKS.map(([kind, words]) => h("li", {}, this.mark(kind), h("span", { text: words }))), h("li", {}, h("i", { class: "bar" }), h("span", { text: "Predictions that changed, as bars; in the matrix as dots" }))),
      h("h2", { text: "Keys" }),
      h("dl", { class: "keys" }, ...KEYS.flatMap(([keys, words]) => [h("dt", {}, ...keys.split(" ").map((key) => h("kbd", { text: key }))), h("dd", { text: words })])),
    ];
  }

  mark(kind) {
    const canvas = h("canvas", { "aria-hidden": "true" });
    drawMark(pen(canvas, 14, 14), kind, 7, 7, 5, this.app.colours);
    return canvas;
  }
}
