// What is said where there is nothing to show, or something could not be shown.

import { button, h } from "./dom.js";

const CODE = "Trainer(callbacks=[SaliencyMonitor()]).fit(model, datamodule=data)";

export function nothingYet(refused) {
  const words = refused.length
    ? "No run in this log directory has a record that can be shown."
    : "No run in this log directory has a saliency record yet.";
  return h(
    "div",
    { class: "blank" },
    h("h1", { text: words }),
    h("p", { text: "A fit with a SaliencyMonitor writes one (but not with record=None), and it is here after the first validation." }),
    h("pre", { text: CODE }),
    h("p", { class: "quiet", text: "Then press TensorBoard’s reload button." }),
  );
}

export function noObservation(run) {
  const lost = run.notes.length > 0;
  return h(
    "div",
    { class: "blank" },
    h("h1", { text: `“${run.name}” has no observation ${lost ? "that can be shown" : "yet"}.` }),
    h("p", { hidden: lost, text: `Its ${run.count} probes are recorded. The first observation comes with the first validation; then press TensorBoard’s reload button.` }),
  );
}

export function failure(words, again) {
  return h(
    "div",
    { class: "blank" },
    h("h1", { text: "This run can’t be shown." }),
    h("p", { text: words }),
    h("button", { type: "button", class: "button", text: "Try again", onclick: again }),
  );
}

// Lines above everything that can be put away; what was put away stays away.
export class Notices {
  constructor() {
    this.node = h("div", { class: "notices", role: "status" });
    this.away = new Set();
  }

  show(lines) {
    const wanted = lines.filter((words) => words && !this.away.has(words));
    this.node.replaceChildren(...wanted.map((words) => this.line(words)));
  }

  line(words) {
    const line = h("p", {}, h("span", { text: words }));
    line.append(
      button("close", "Put this note away", () => {
        this.away.add(words);
        line.remove();
      }),
    );
    return line;
  }
}
