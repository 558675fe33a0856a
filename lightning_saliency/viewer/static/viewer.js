// The whole: loads runs, keeps what is shown in step with what is chosen, and tells the parts.

import { Cache } from "./cache.js";
import { mostMoved, shownProbes } from "./choice.js";
import { Controls } from "./controls.js";
import { Curves } from "./curves.js";
import { decodeMaps } from "./decode.js";
import { h } from "./dom.js";
import { Notices, failure, noObservation, nothingYet } from "./empty.js";
import { Filmstrip } from "./filmstrip.js";
import { Filters } from "./filters.js";
import { keysOf, loadedSides, sidesAt } from "./frames.js";
import { Grid } from "./grid.js";
import { Happenings } from "./happenings.js";
import { Help } from "./help.js";
import { Address, followTheme } from "./host.js";
import { Inspector } from "./inspector.js";
import { listenToKeys } from "./keys.js";
import { Library } from "./library.js";
import { Looks } from "./looks.js";
import { Matrix } from "./matrix.js";
import { DEFAULTS, State, fromAddress } from "./state.js";
import { Timeline } from "./timeline.js";
import { Tip } from "./tip.js";

const HELD = 256 * 2 ** 20; // bytes of maps
const AHEAD = [1, -1, 2]; // observations that are likely to be next
const FILTERS = ["text", "klass", "flips", "least", "gridOrder", "matrixOrder", "view", "method", "measure"];
const MOMENT = ["step", "method", "show", "chosen"];
const TINTS = ["a", "b", "text", "quiet", "line", "faint", "ground", "flip", "alert", "event", "rate", "best", "resumed"];

export function mount(root, source, options = {}) {
  const viewer = new Viewer(root, source, options);
  viewer.start();
  return viewer;
}

class Viewer {
  constructor(root, source, { framed = false, styled = Promise.resolve() }) {
    Object.assign(this, { root, source, styled });
    this.state = new State();
    this.address = new Address(framed);
    this.cache = new Cache((key) => this.loadMaps(key), HELD);
    this.library = new Library(source);
    this.a = this.b = this.sides = this.loading = null;
    this.shown = [];
    this.token = 0;
    this.drawing = 0;
    this.asked = performance.now();
    this.build();
    this.dark = followTheme(framed, (dark) => this.paintTheme(dark));
    listenToKeys(this, document);
  }

  build() {
    const { root } = this;
    this.tip = new Tip();
    this.notices = new Notices();
    this.help = new Help(this);
    this.controls = new Controls(this);
    this.filters = new Filters(this);
    this.grid = new Grid(this);
    this.matrix = new Matrix(this);
    this.looks = new Looks(this);
    this.inspector = new Inspector(this);
    this.filmstrip = new Filmstrip(this);
    this.curves = new Curves(this);
    this.happenings = new Happenings(this);
    this.timeline = new Timeline(this);
    // The matrix before the legend, which says what its colours mean.
    this.parts = [this.controls, this.filters, this.grid, this.matrix, this.looks, this.inspector, this.filmstrip, this.curves, this.happenings, this.timeline];
    this.blank = h("div", { class: "stage blanks", hidden: true });
    this.stage = h(
      "div",
      { class: "stage" },
      h("div", { class: "probes" }, this.filters.node, this.grid.node, this.matrix.node, this.looks.node),
      h(
        "aside",
        { class: "inspector", "aria-label": "Chosen probe" },
        h("div", { class: "upper" }, this.inspector.node, this.filmstrip.node, this.happenings.node),
        this.curves.node,
      ),
    );
    root.classList.add("saliency");
    root.dataset.state = "loading";
    root.append(this.controls.node, this.notices.node, this.stage, this.blank, this.timeline.node, this.tip.node, this.help.node);
  }

  async start() {
    this.state.values = fromAddress(this.address.read());
    this.state.told = (changed) => this.change(changed);
    this.address.onChange((strings) => this.goTo(strings));
    this.source.onReload(() => this.reload());
    new ResizeObserver(() => this.tell(["resize"])).observe(this.root);
    await this.open();
  }

  // From nothing, or another run.
  async open() {
    const token = (this.token += 1);
    try {
      this.asked = performance.now();
      await Promise.all([this.library.refresh(), this.styled]);
      if (token !== this.token) return;
      this.paintTheme(this.dark, false);
      await this.take(token);
    } catch (error) {
      if (token === this.token) this.fail(error);
    }
  }

  async take(token) {
    const { library, root, state } = this;
    const row = library.wanted(state.get("run"), state.get("monitor"));
    if (row === null) return this.showBlank(nothingYet(library.index.refused), "empty");
    const [a, [b, why]] = await Promise.all([library.open(row), library.beside(state.get("other"), row)]);
    if (token !== this.token) return undefined;
    const before = this.a;
    if (!before || before.id !== a.id) this.sides = null;
    Object.assign(state.values, { run: row.run, monitor: row.monitor });
    Object.assign(this, { a, b });
    this.notices.show([why, ...library.notes(a, b)]);
    this.settle();
    if (a.length === 0) return this.showBlank(noObservation(a), "empty");
    this.derive();
    for (const key of keysOf(sidesAt(this, this.t))) this.cache.get(key).catch(() => {}); // while images come
    await library.illustrate(a, before);
    if (b) await library.illustrate(b, a);
    if (token !== this.token) return undefined;
    this.stage.hidden = false;
    this.blank.hidden = true;
    root.classList.add("opened");
    this.request(["index", "data", "other", "probes", "probe", "step"]);
    return undefined;
  }

  // What was chosen for another run may not be there.
  settle() {
    const { values } = this.state;
    if (!this.a.methods.includes(values.method)) [values.method] = this.a.methods;
    if (values.probe !== null && !(values.probe >= 0 && values.probe < this.a.count)) values.probe = null;
    if (values.klass !== "" && !this.a.probes.targets) values.klass = "";
    if (!this.b) values.other = "";
    if (values.show === "chosen" && values.chosen === null) values.show = "map";
    if (values.show === "runs" && !this.b) values.show = "map";
  }

  derive() {
    const { step, probe } = this.state.values;
    this.t = step === null ? this.a.length - 1 : this.a.at(step);
    this.shown = shownProbes(this);
    this.stage.dataset.view = this.state.get("view");
    if (probe === null && this.first === undefined) this.first = mostMoved(this);
    this.probe = probe ?? this.first;
    this.subject = [this.a.id, this.b && this.b.id, ...["method", "show", "chosen"].map((name) => this.state.get(name)), this.state.get("scale")].join("\n");
  }

  change(changed) {
    if (["run", "monitor", "other"].some((name) => changed.has(name))) {
      if (!changed.has("other") || changed.has("run")) this.first = undefined;
      this.root.dataset.state = "loading";
      this.open();
    } else if (this.a && this.a.length > 0) {
      this.settle();
      this.derive();
      const more = FILTERS.some((name) => changed.has(name)) ? ["probes"] : [];
      if (MOMENT.some((name) => changed.has(name))) this.request([...changed, ...more]);
      else this.tell([...changed, ...more]);
      if (changed.has("probe")) this.reveal();
    }
    this.remember();
  }

  // The maps of the moment: at once if they are here, else as soon as they are.
  request(changed) {
    if (!this.a.sheet) return undefined; // its images are on their way
    this.asked = performance.now();
    const loaded = loadedSides(sidesAt(this, this.t), this.cache);
    this.current = loaded !== null;
    if (loaded) return this.draw(loaded, true, changed);
    this.tell(changed);
    this.root.setAttribute("aria-busy", "true");
    this.loading = this.loading || this.load();
    return undefined;
  }

  // One moment at a time: while somebody drags, each that arrives is drawn, and then the newest.
  async load() {
    try {
      for (;;) {
        const [sides, { subject, t }] = [sidesAt(this, this.t), this];
        await Promise.all(keysOf(sides).map((key) => this.cache.get(key)));
        const loaded = loadedSides(sides, this.cache);
        if (this.current) break; // a newer moment needed nothing, and is seen already
        if (loaded && subject === this.subject) this.draw(loaded, false, []);
        if (subject === this.subject && t === this.t) break;
      }
    } catch (error) {
      this.notices.show([`The maps of this moment can’t be read: ${error.message}`]);
      this.root.dataset.state = "error";
    } finally {
      this.loading = null;
      this.root.removeAttribute("aria-busy");
    }
  }

  draw(loaded, cached, changed) {
    this.sides = loaded;
    this.drawing += 1;
    this.tell([...changed, "frame"]);
    const { root } = this;
    const steps = loaded.map((one) => one.run.steps[one.t]);
    root.dataset.drawn = steps.join(" ");
    performance.clearMeasures("saliency:draw");
    performance.measure("saliency:draw", { start: this.asked, end: performance.now(), detail: { cached } });
    if (root.dataset.state !== "ready") {
      root.dataset.state = "ready";
      performance.mark("saliency:complete");
    }
    this.prefetch();
  }

  prefetch() {
    const near = AHEAD.map((away) => this.t + away).filter((t) => t >= 0 && t < this.a.length);
    const keys = near.flatMap((t) => keysOf(sidesAt(this, t)));
    this.cache.soon([...keys, ...this.filmstrip.wanted()], () => this.filmstrip.draw());
  }

  async loadMaps(key) {
    return decodeMaps(await this.source.blob(key.slice(0, key.lastIndexOf(" "))));
  }

  tell(changed) {
    if (!this.colours || !this.a || !this.a.sheet) return; // a frame has its size before its data
    const names = new Set(changed);
    for (const part of this.parts) part.update(names);
  }

  // TensorBoard read its files anew. What is chosen stays; who watched the newest goes on to it.
  async reload() {
    if (this.root.dataset.state === "loading") return;
    const token = (this.token += 1);
    try {
      const shown = [this.a, this.b].filter(Boolean);
      await this.library.refresh();
      if (token !== this.token) return;
      const same = this.root.dataset.state === "ready" && shown.every((run) => this.library.fresh(run));
      if (same) this.tell(["index"]);
      else await this.take(token);
    } catch (error) {
      if (token === this.token) this.notices.show([`TensorBoard’s newest data can’t be read: ${error.message}`]);
    }
  }

  paintTheme(dark, tell = true) {
    this.dark = dark;
    this.root.classList.toggle("dark", dark);
    const style = getComputedStyle(this.root);
    this.colours = Object.fromEntries(TINTS.map((name) => [name, style.getPropertyValue(`--${name}`).trim()]));
    if (tell && this.a && this.a.length > 0) this.tell(["theme"]);
  }

  showBlank(node, state) {
    this.stage.hidden = true;
    this.blank.hidden = false;
    this.blank.replaceChildren(node);
    this.root.dataset.state = state;
    this.root.classList.toggle("opened", this.library.index.runs.length > 0); // others can be picked
    this.timeline.node.classList.add("idle");
    if (!this.a) this.notices.show(this.library.notes());
    this.controls.update(new Set(["index", "data"]));
    performance.mark("saliency:complete");
  }

  fail(error) {
    this.showBlank(failure(error.message, () => this.open()), "error");
  }

  goTo(strings) {
    const wanted = fromAddress(strings);
    this.state.set(wanted);
  }

  remember() {
    clearTimeout(this.remembering);
    this.remembering = setTimeout(() => this.address.write(this.state.address()), 150);
  }

  async settled() {
    while (this.loading) await this.loading;
  }

  pick(id) {
    const [run, monitor] = id.split("\n");
    const other = this.state.get("other") === id ? "" : this.state.get("other");
    this.state.set({ run, monitor, other, step: null, probe: null, chosen: null, klass: "" });
  }

  go(t) {
    const last = this.a.length - 1;
    this.state.set({ step: t >= last ? null : this.a.steps[Math.max(t, 0)] });
  }

  move(by) {
    this.go(Math.min(Math.max(this.t + by, 0), this.a.length - 1));
  }

  choose(by) {
    if (this.shown.length === 0) return;
    const at = this.shown.indexOf(this.probe);
    const next = Math.min(Math.max(at < 0 ? 0 : at + by, 0), this.shown.length - 1);
    this.state.set({ probe: this.shown[next] });
  }

  reveal() {
    if (this.state.get("view") === "matrix") this.matrix.reveal();
    else this.grid.reveal();
  }

  // Holds the step of now, or lets it go; the change from it is then one choice away.
  hold() {
    const step = this.a.steps[this.t];
    const held = this.state.get("chosen") === step;
    const show = held && this.state.get("show") === "chosen" ? "map" : this.state.get("show");
    this.state.set({ chosen: held ? null : step, show });
  }

  toggleOverlay() {
    const { opacity } = this.state.values;
    if (opacity > 0) this.opacityBefore = opacity;
    this.state.set({ opacity: opacity > 0 ? 0 : this.opacityBefore || DEFAULTS.opacity });
  }

  clearFilter() {
    const names = ["text", "klass", "flips", "least"];
    this.state.set(Object.fromEntries(names.map((name) => [name, DEFAULTS[name]])));
  }

  alertsAt(side) {
    return side.run.marks.filter((mark) => mark.kind === "alert" && mark.t === side.t);
  }
}
