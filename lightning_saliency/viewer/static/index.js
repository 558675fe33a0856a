// TensorBoard's way in: it loads this module in a frame of its own and calls `render`.

import { listenToTensorBoard } from "./host.js";
import { HttpSource } from "./source.js";
import { mount } from "./viewer.js";

export function render() {
  const style = document.createElement("link");
  style.rel = "stylesheet";
  style.href = new URL("./style.css", import.meta.url).href;
  document.head.append(style);
  const root = document.createElement("main");
  document.body.append(root);
  document.documentElement.lang = "en";
  const source = new HttpSource(import.meta.url);
  listenToTensorBoard(() => source.reloaded());
  const styled = new Promise((done) => style.addEventListener("load", done));
  mount(root, source, { framed: true, styled });
}
