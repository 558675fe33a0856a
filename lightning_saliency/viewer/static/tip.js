// One small card beside the pointer, for all canvases.

import { h } from "./dom.js";

export class Tip {
  constructor() {
    this.node = h("div", { class: "tip", role: "tooltip", hidden: true });
  }

  // Lines are [words, class?, colour?].
  show(event, lines) {
    this.node.replaceChildren(
      ...lines.map(([words, kind = "", colour = null]) => {
        const swatch = colour ? h("span", { class: "swatch", style: `background:${colour}` }) : null;
        return h("div", { class: `line ${kind}` }, swatch, h("span", { text: words }));
      }),
    );
    this.node.hidden = false;
    const { offsetWidth: wide, offsetHeight: high } = this.node;
    const right = event.clientX + 14 + wide > window.innerWidth;
    const below = event.clientY + 14 + high > window.innerHeight;
    this.node.style.left = `${Math.max(4, right ? event.clientX - wide - 10 : event.clientX + 14)}px`;
    this.node.style.top = `${Math.max(4, below ? event.clientY - high - 10 : event.clientY + 14)}px`;
  }

  hide() {
    this.node.hidden = true;
  }
}
