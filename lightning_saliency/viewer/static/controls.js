// The bar at the top: which run, beside which, by which method, and what of the maps is shown.

import { button, fill, h, icon, labelled } from "./dom.js";

const VIEWS = [["grid", "Grid"], ["matrix", "Matrix"]];

export class Controls {
  constructor(app) {
    this.app = app;
    const { state } = app;
    const chosen = (name) => (event) => state.set({ [name]: event.target.value });
    this.run = h("select", { onchange: (event) => app.pick(event.target.value) });
    this.other = h("select", { onchange: chosen("other") });
    this.method = h("select", { onchange: chosen("method") });
    this.show = h("select", { onchange: chosen("show") });
    this.views = VIEWS.map(([view, words]) =>
      h("button", { type: "button", role: "radio", "aria-checked": "false", text: words, onclick: () => state.set({ view }) }),
    );
    this.copied = h("span", { class: "copied", role: "status" });
    this.node = h(
      "header",
      { class: "controls" },
      h("div", { class: "pair" }, labelled("Run", this.run, { class: "field a" }), labelled("Beside", this.other, { class: "field b" })),
      labelled("Method", this.method),
      labelled("Show", this.show),
      h("div", { class: "space" }),
      h("div", { class: "switch", role: "radiogroup", "aria-label": "View" }, this.views),
      this.copied,
      button("link", "Copy a link to what is shown", () => this.copy()),
      h("button", { type: "button", class: "button quiet", "aria-label": "Help (?)", title: "Help (?)", onclick: () => app.help.open() }, icon("help")),
    );
  }

  update(changed) {
    const { app } = this;
    if (changed.has("index") || changed.has("data") || changed.has("other")) this.runs();
    if (!app.a) return;
    this.methods();
    this.shows();
    const view = app.state.get("view");
    VIEWS.forEach(([name], at) => this.views[at].setAttribute("aria-checked", String(name === view)));
  }

  runs() {
    const { app } = this;
    const rows = app.library.index.runs;
    const words = (row) => (rows.some((one) => one.run === row.run && one.monitor !== row.monitor) ? `${row.run} · ${row.monitor}` : row.run);
    const options = rows.map((row) => [`${row.run}\n${row.monitor}`, words(row)]);
    const now = app.a ? app.a.id : "";
    fill(this.run, options, now);
    fill(this.other, [["", "no other run"], ...options.filter(([id]) => id !== now)], app.b ? app.b.id : "");
    this.node.classList.toggle("compared", app.b !== null);
    this.other.disabled = options.length < 2;
  }

  methods() {
    const { app } = this;
    fill(this.method, app.a.methods.map((name) => [name, name]), app.state.get("method"));
    const about = app.a.probes.methods[app.state.get("method")];
    this.method.title = about ? [about.words, about.caution].filter(Boolean).join(". ") : "";
  }

  shows() {
    const { app } = this;
    const { show, chosen } = app.state.values;
    const options = [["map", "Maps"], ["first", "Change from the first"], ["previous", "Change from the previous"]];
    options.push(["chosen", chosen === null ? "Change from a held step…" : `Change from ${app.a.label(app.a.at(chosen))}`]);
    if (app.b) options.push(["runs", "Difference B − A"]);
    fill(this.show, options, show);
  }

  async copy() {
    this.app.address.write(this.app.state.address());
    try {
      await navigator.clipboard.writeText(this.app.address.page.location.href);
      this.copied.textContent = "copied";
    } catch {
      this.copied.textContent = "the address bar has it";
    }
    setTimeout(() => (this.copied.textContent = ""), 2000);
  }
}
