// The chosen probe: its image, its maps now, what the model says of it, and its way here.

import { button, h, pen } from "./dom.js";
import { look, paneOf } from "./frames.js";
import { paint } from "./paint.js";
import { MEASURES } from "./run.js";
import { percent, short } from "./words.js";

const SIDES = [72, 148]; // of a picture
const REST = [690, 720]; // height of all that is to be seen beside the pictures, of one run and of two
const FACTS = 148; // room for the numbers beside the pictures
// In a column, and at the head of one.
const NAMES = {
  drift_first: ["from first", "first"],
  drift_previous: ["from previous", "previous"],
  drift_reference: ["from reference", "ref."],
  reliability: ["reliability", "reliab."],
};
const GAP = 8;

export class Inspector {
  constructor(app) {
    this.app = app;
    this.title = h("h1");
    this.name = h("p", { class: "quiet" });
    this.pictures = h("div", { class: "pictures" });
    this.facts = h("table", { class: "facts" });
    this.node = h(
      "section",
      { class: "probe" },
      h(
        "header",
        {},
        h("div", { class: "names" }, this.title, this.name),
        button("before", "Previous probe (↑)", () => app.choose(-1)),
        button("after", "Next probe (↓)", () => app.choose(1)),
      ),
      h("div", { class: "now" }, this.pictures, h("div", { class: "beside" }, this.facts)),
    );
  }

  update(changed) {
    const { app } = this;
    if (!app.a || app.t === null || this.node.clientWidth === 0) return;
    if (changed.has("data") || changed.has("probe") || changed.has("other")) this.entitle();
    if (["frame", "data", "probe", "other", "resize", "colour", "magnitude", "opacity", "scale", "outlines", "theme"].some((one) => changed.has(one))) {
      this.draw();
      this.tell();
    }
  }

  entitle() {
    const { a, probe } = this.app;
    const target = a.target(probe);
    const whole = a.classified && target !== null;
    this.title.textContent = whole ? `${a.probes.classes ? "" : "class "}${a.named(target)}` : a.probes.names[probe];
    const parts = [`probe ${probe + 1} of ${a.count}`];
    if (whole) parts.unshift(a.probes.names[probe]);
    const explained = a.probes.explained[probe];
    if (a.classified && explained !== target) parts.push(`explained: ${a.named(explained)}`);
    this.name.textContent = parts.join(" · ");
    this.name.title = this.name.textContent;
  }

  draw() {
    const { app } = this;
    if (!app.sides) return;
    const count = 1 + app.sides.length;
    const room = this.node.clientWidth - 2 * 16;
    const beside = Math.floor((room - FACTS - GAP * count) / count);
    const below = Math.floor((room - GAP * (count - 1)) / count);
    const most = Math.min(Math.max(app.root.clientHeight - REST[app.b ? 1 : 0], 88), SIDES[1]);
    const wide = Math.min(most, beside >= SIDES[0] && !app.b ? beside : below);
    const high = Math.round(wide / app.a.sheet.aspect);
    while (this.pictures.children.length > count) this.pictures.lastChild.remove();
    while (this.pictures.children.length < count) {
      this.pictures.append(h("figure", {}, h("canvas"), h("figcaption")));
    }
    const style = look(app);
    const box = { left: 0, top: 0, width: wide, height: high };
    [...this.pictures.children].forEach((figure, at) => {
      const context = pen(figure.firstChild, wide, high);
      if (at === 0) app.a.sheet.draw(context, app.probe, box, 0);
      else paint(context, box, paneOf(app, app.sides[at - 1], app.probe), style);
      if (at === 0 && style.outlines && app.a.sheet.masks) app.a.sheet.outline(context, app.probe, box);
      figure.style.width = `${wide}px`;
      figure.lastChild.textContent = at === 0 ? "image" : this.caption(app.sides[at - 1]);
      figure.style.setProperty("--key", at === 0 || !app.b ? "transparent" : app.colours[app.sides[at - 1].run === app.a ? "a" : "b"]);
    });
  }

  caption(one) {
    const { app } = this;
    const when = one.run.label(one.t);
    if (app.state.get("show") === "runs") return `B − A, ${when}`;
    return one.base ? `${when} − ${one.base.run.label(one.base.t)}` : when;
  }

  // Of one run a column beside the pictures, of two a row for each below them.
  tell() {
    const { app } = this;
    const runs = [[app.a, app.t]];
    if (app.b && app.b.length > 0) runs.push([app.b, app.b.at(app.a.steps[app.t])]);
    const facts = this.known(runs);
    const rows =
      runs.length === 1
        ? facts.map(([name, words, tell]) => h("tr", {}, h("th", { scope: "row", title: words, text: name }), cell(tell(...runs[0]))))
        : [
            h("tr", {}, h("td"), ...facts.map(([name, words]) => h("th", { scope: "col", title: words, text: name }))),
            ...runs.map((run, at) => h("tr", {}, h("th", { scope: "row", class: "ab"[at], text: "AB"[at] }), ...facts.map(([, , tell]) => cell(tell(...run))))),
          ];
    this.facts.parentNode.classList.toggle("wide", runs.length > 1);
    this.facts.replaceChildren(h("tbody", {}, ...rows));
  }

  // [name, what it is, how to tell it].
  known(runs) {
    const { app } = this;
    const method = app.state.get("method");
    const found = [["predicted", "The class that the model gives to the probe", (run, t) => this.predicted(run, t)]];
    if (runs.some(([run, t]) => run.confidence(t, app.probe) !== null)) {
      found.push([runs.length > 1 ? "conf." : "confidence", "Probability of the predicted class", (run, t) => share(run.confidence(t, app.probe))]);
    }
    for (const [measure, names] of Object.entries(NAMES)) {
      if (!app.a.measures(method).includes(measure)) continue;
      found.push([names[runs.length - 1], MEASURES[measure], (run, t) => short(run.value(method, measure, t, app.probe)) || "–"]);
    }
    found.push(["flips", "Changes of the prediction so far", (run, t) => String(flipsUntil(run, t, app.probe))]);
    return found;
  }

  predicted(run, t) {
    const { probe } = this.app;
    return h("span", { class: run.wrong(t, probe) ? "wrong" : "", text: run.named(run.prediction(t, probe)) });
  }
}

function cell(value) {
  return value instanceof Node ? h("td", { title: value.textContent }, value) : h("td", { text: value });
}

function share(value) {
  return value === null ? "–" : percent(value);
}

function flipsUntil(run, last, probe) {
  let count = 0;
  for (let t = 1; t <= last; t += 1) count += run.flipped(t, probe);
  return count;
}
