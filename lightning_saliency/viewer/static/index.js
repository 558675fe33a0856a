// TensorBoard's way in: it loads this module in a frame of its own and calls `render`.

import { Address, listenToTensorBoard } from "./host.js";
import { HttpSource } from "./source.js";

// The rest is loaded beside the data, not before it.
export function render() {
  const source = new HttpSource(import.meta.url);
  source.begin(new Address(true).read());
  const viewer = import("./viewer.js");
  const styled = styleSheet();
  const root = document.createElement("main");
  document.body.append(root);
  document.documentElement.lang = "en";
  listenToTensorBoard(() => source.reloaded());
  return viewer.then(
    ({ mount }) => void mount(root, source, { framed: true, styled }),
    (error) => void (root.textContent = `The Saliency tab can’t be loaded: ${error.message}`),
  );
}

function styleSheet() {
  const style = document.createElement("link");
  style.rel = "stylesheet";
  style.href = new URL("./style.css", import.meta.url).href;
  document.head.append(style);
  return new Promise((done) => style.addEventListener("load", done));
}
