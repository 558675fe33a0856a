// The film's controls: play, steps, and the track with what happened on it.

import { StepAxis } from "./axis.js";
import { button, fill, h, icon, pen } from "./dom.js";
import { KINDS, drawMark } from "./marks.js";
import { counted, grouped } from "./words.js";

const HEIGHT = 52;
const MARKS = 9; // their height on the track
const BARS = [18, 36]; // between these, the flips
const LINE = 42;
const MARGIN = 10;
const NEAR = 7;
const PACES = [[400, "0.5 ×"], [200, "1 ×"], [100, "2 ×"], [40, "5 ×"]];

export class Timeline {
  constructor(app) {
    this.app = app;
    this.playing = false;
    this.back = h("canvas", { "aria-hidden": "true" });
    this.front = h("canvas", { class: "over", "aria-hidden": "true" });
    this.track = h("div", { class: "track", role: "slider", tabindex: "0", "aria-label": "Observation" }, this.back, this.front);
    this.toggle = button("play", "Play (space)", () => this.play(!this.playing), { class: "button quiet play" });
    this.pace = h("select", { "aria-label": "Pace", title: "Pace" });
    fill(this.pace, PACES, "200");
    this.moment = h("div", { class: "moment", role: "status" }, h("strong"), h("span"));
    this.hold = button("pin", "Hold this step for comparison (h)", () => app.hold(), { class: "button quiet hold", "aria-pressed": "false" });
    this.node = h(
      "footer",
      { class: "timeline" },
      h(
        "div",
        { class: "buttons" },
        button("first", "First observation (Home)", () => app.go(0)),
        button("before", "Back (←)", () => app.move(-1)),
        this.toggle,
        button("after", "Forward (→)", () => app.move(1)),
        button("last", "Newest observation (End)", () => app.go(Infinity)),
      ),
      this.track,
      this.moment,
      this.hold,
      this.pace,
    );
    this.listen();
  }

  listen() {
    const { track } = this;
    const seek = (event) => this.app.go(this.nearest(event));
    track.addEventListener("pointerdown", (event) => {
      track.setPointerCapture(event.pointerId);
      this.play(false);
      seek(event);
    });
    track.addEventListener("pointermove", (event) => {
      if (track.hasPointerCapture(event.pointerId)) seek(event);
      this.explain(event);
    });
    track.addEventListener("pointerleave", () => this.app.tip.hide());
  }

  nearest(event) {
    const { left } = this.track.getBoundingClientRect();
    return this.app.a.at(this.axis.step(event.clientX - left));
  }

  play(wanted) {
    if (wanted === this.playing || !this.app.a) return;
    this.playing = wanted;
    const words = wanted ? "Pause (space)" : "Play (space)";
    this.toggle.replaceChildren(icon(wanted ? "pause" : "play"));
    this.toggle.setAttribute("aria-label", words);
    this.toggle.title = words;
    this.moment.setAttribute("aria-live", wanted ? "off" : "polite"); // a film is not read out
    if (wanted) this.run();
  }

  // One observation after the other, none before the last is drawn.
  async run() {
    const { app } = this;
    if (app.t === app.a.length - 1) app.go(0);
    while (this.playing && app.a && app.t < app.a.length - 1) {
      const pause = new Promise((done) => setTimeout(done, Number(this.pace.value)));
      await app.settled();
      await pause;
      if (this.playing) app.move(1);
    }
    this.play(false);
  }

  update(changed) {
    const { app } = this;
    const some = app.a !== null && app.a.length > 0;
    this.node.classList.toggle("idle", !some);
    if (!some) return;
    if (["data", "other", "resize", "theme"].some((name) => changed.has(name))) this.drawTrack();
    if (["step", "data", "other", "resize", "theme", "chosen"].some((name) => changed.has(name))) this.drawHead();
  }

  drawTrack() {
    const { app } = this;
    const width = this.track.clientWidth;
    if (width === 0) return;
    this.axis = new StepAxis([app.a, app.b], MARGIN, width - MARGIN);
    const context = pen(this.back, width, HEIGHT);
    const flips = app.a.steps.map((_, t) => this.flipsAt(t));
    const most = Math.max(...flips, 1);
    const wide = Math.max(1, Math.min(6, (width - 2 * MARGIN) / app.a.length - 1));
    context.fillStyle = app.colours.flip;
    flips.forEach((count, t) => {
      const high = ((BARS[1] - BARS[0]) * count) / most;
      if (count > 0) context.fillRect(this.axis.x(app.a.steps[t]) - wide / 2, BARS[1] - high, wide, high);
    });
    context.fillStyle = app.colours.line;
    context.fillRect(MARGIN, LINE - 1, width - 2 * MARGIN, 2);
    for (const step of app.a.steps) context.fillRect(Math.round(this.axis.x(step)) - 0.5, LINE - 3, 1, 6);
    for (const mark of app.a.marks) drawMark(context, mark.kind, this.axis.x(app.a.steps[mark.t]), MARKS, 5, app.colours);
  }

  flipsAt(t) {
    const run = this.app.a;
    return run.once(`flips at ${t}`, () => {
      let count = 0;
      for (let probe = 0; probe < run.count; probe += 1) count += run.flipped(t, probe);
      return count;
    });
  }

  drawHead() {
    const { app } = this;
    if (!this.axis) return;
    const context = pen(this.front, this.track.clientWidth, HEIGHT);
    const x = this.axis.x(app.a.steps[app.t]);
    context.fillStyle = app.colours.text;
    context.fillRect(MARGIN, LINE - 1, Math.max(0, x - MARGIN), 2);
    context.fillRect(x - 0.75, BARS[0] - 2, 1.5, LINE - BARS[0]);
    const chosen = app.state.get("chosen");
    if (chosen !== null) this.drawChosen(context, this.axis.x(app.a.steps[app.a.at(chosen)]));
    context.beginPath();
    context.arc(x, LINE, 6.5, 0, 2 * Math.PI);
    context.fill();
    context.lineWidth = 2;
    context.strokeStyle = app.colours.ground;
    context.stroke();
    this.say();
  }

  drawChosen(context, x) {
    context.save();
    context.strokeStyle = this.app.colours.text;
    context.setLineDash([2, 2]);
    context.beginPath();
    context.moveTo(x, 3);
    context.lineTo(x, LINE);
    context.stroke();
    context.restore();
    context.fillRect(x - 3, LINE - 3, 6, 6);
  }

  say() {
    const { app } = this;
    const [run, t] = [app.a, app.t];
    const [title, rest] = this.moment.children;
    title.textContent = run.label(t);
    rest.textContent = `step ${grouped(run.steps[t])} · ${t + 1} of ${run.length}`;
    this.hold.setAttribute("aria-pressed", String(app.state.get("chosen") === run.steps[t]));
    const { track } = this;
    track.setAttribute("aria-valuemin", "1");
    track.setAttribute("aria-valuemax", String(run.length));
    track.setAttribute("aria-valuenow", String(t + 1));
    track.setAttribute("aria-valuetext", `${run.label(t)}, step ${run.steps[t]}, observation ${t + 1} of ${run.length}`);
  }

  explain(event) {
    const { app } = this;
    if (!this.axis) return;
    const { left } = this.track.getBoundingClientRect();
    const run = app.a;
    const t = this.nearest(event);
    const lines = [[`${run.label(t)} · step ${grouped(run.steps[t])}`, "head"]];
    const flips = this.flipsAt(t);
    if (flips > 0) lines.push([`${counted(flips, "prediction")} changed`, "", app.colours.flip]);
    for (const mark of run.marks) {
      const away = Math.abs(this.axis.x(run.steps[mark.t]) - (event.clientX - left));
      if (away <= NEAR) lines.push([`${KINDS[mark.kind]}: ${mark.text.replaceAll("**", "")}`, "", app.colours[mark.kind]]);
    }
    app.tip.show(event, lines);
  }
}
