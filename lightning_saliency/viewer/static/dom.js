// Elements. Whatever a run's author wrote becomes text, never markup.

export function h(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) give(node, name, value);
  node.append(...children.flat().filter((child) => child !== null && child !== undefined));
  return node;
}

function give(node, name, value) {
  if (name === "text") node.textContent = value;
  else if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
  else if (value === true) node.setAttribute(name, "");
  else if (value !== false && value !== null && value !== undefined) node.setAttribute(name, value);
}

// 16 × 16, drawn with the pen of the text around them.
const SHAPES = {
  play: "M4.5 2.8v10.4L13 8z",
  pause: "M4.5 3h2.4v10H4.5zM9.1 3h2.4v10H9.1z",
  before: "M10.5 3 5.5 8l5 5",
  after: "M5.5 3l5 5-5 5",
  first: "M11.5 3 6.5 8l5 5M4 3v10",
  last: "M4.5 3l5 5-5 5M12 3v10",
  help: "M5.6 6a2.4 2.4 0 1 1 3.6 2.1c-.8.5-1.2.9-1.2 1.7M8 12.2v.3",
  flip: "M3 6h9L9.4 3.4M13 10H4l2.6 2.6",
  search: "M7 11.5a4.5 4.5 0 1 0 0-9 4.5 4.5 0 0 0 0 9zM10.4 10.4 13.5 13.5",
  close: "M4 4l8 8M12 4l-8 8",
  pin: "M8 13.5V9.5M5 9.5h6L9.8 6.6V3.2H6.2v3.4z",
  link: "M6.8 9.2a2.6 2.6 0 0 0 3.7 0l2-2a2.6 2.6 0 0 0-3.7-3.7l-.7.7M9.2 6.8a2.6 2.6 0 0 0-3.7 0l-2 2a2.6 2.6 0 0 0 3.7 3.7l.7-.7",
  alert: "M8 2.5 14 13H2zM8 6.5v3M8 11.2v.2",
};
const FILLED = new Set(["play", "pause"]);

export function icon(name) {
  const space = "http://www.w3.org/2000/svg";
  const drawing = document.createElementNS(space, "svg");
  const path = document.createElementNS(space, "path");
  drawing.setAttribute("viewBox", "0 0 16 16");
  drawing.setAttribute("class", FILLED.has(name) ? "icon filled" : "icon");
  drawing.setAttribute("aria-hidden", "true");
  path.setAttribute("d", SHAPES[name]);
  drawing.append(path);
  return drawing;
}

export function button(name, label, onclick, attributes = {}) {
  return h("button", { type: "button", class: "button quiet", title: label, "aria-label": label, onclick, ...attributes }, icon(name));
}

// Options [value, words]: a select that keeps its value when its options change.
export function fill(select, options, value) {
  const wanted = JSON.stringify(options);
  if (select.dataset.options !== wanted) {
    select.dataset.options = wanted;
    select.replaceChildren(...options.map(([key, words]) => h("option", { value: key, text: words })));
  }
  select.value = value;
}

export function labelled(words, control, attributes = {}) {
  control.setAttribute("aria-label", words); // also where there is no room for the words
  return h("label", { class: "field", ...attributes }, h("span", { class: "name", text: words }), control);
}

// Bold between ** in words that a run wrote, and nothing else of Markdown.
export function prose(text) {
  return text.split("**").map((part, at) => (at % 2 ? h("strong", { text: part }) : document.createTextNode(part)));
}

// A canvas of a size in CSS pixels, crisp on this screen; returns its pen in those units.
export function pen(canvas, width, height) {
  const ratio = window.devicePixelRatio || 1;
  const [wide, high] = [Math.round(width * ratio), Math.round(height * ratio)];
  if (canvas.width !== wide || canvas.height !== high) {
    canvas.width = wide;
    canvas.height = high;
    canvas.style.width = `${width}px`;
    canvas.style.height = `${height}px`;
  }
  const context = canvas.getContext("2d");
  context.setTransform(ratio, 0, 0, ratio, 0, 0);
  context.clearRect(0, 0, width, height);
  return context;
}
