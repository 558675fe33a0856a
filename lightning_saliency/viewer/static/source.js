// Where data comes from: TensorBoard's plugin, or the page itself. Nothing else fetches.

export class HttpSource {
  constructor(base) {
    this.base = base;
    this.reloaded = () => {};
    this.early = new Map(); // path → an answer that is on its way
  }

  // Asks for what the first draw will need, while the viewer itself is still being loaded.
  begin({ run, monitor, other = "" }) {
    const paths = ["index"];
    if (run && monitor) paths.push(seriesPath(run, monitor));
    if (other.includes("\n")) paths.push(seriesPath(...other.split("\n")));
    for (const path of paths) {
      const answer = this.get(path);
      answer.catch(() => {}); // whoever takes it is told
      this.early.set(path, answer);
    }
  }

  taken(path) {
    const answer = this.early.get(path) || this.get(path);
    this.early.delete(path);
    return answer;
  }

  async get(path) {
    const answer = await fetch(new URL(path, this.base), { credentials: "same-origin" });
    if (!answer.ok) throw new Error(`${path.split("?")[0]}: ${answer.status} ${answer.statusText}`);
    return answer;
  }

  async index() {
    return (await this.taken("index")).json();
  }

  async series(run, monitor) {
    return (await this.taken(seriesPath(run, monitor))).json();
  }

  async blob(key) {
    return (await this.get(`blob?${new URLSearchParams({ key })}`)).arrayBuffer();
  }

  onReload(callback) {
    this.reloaded = callback;
  }
}

function seriesPath(run, monitor) {
  return `series?${new URLSearchParams({ run, monitor })}`;
}

// Of a page that holds everything: {index, series: {"run\nmonitor": …}, blobs: {key: base64}}.
export class PageSource {
  constructor(page) {
    this.data = JSON.parse(page.getElementById("saliency-data").textContent);
  }

  async index() {
    return this.data.index;
  }

  async series(run, monitor) {
    const found = this.data.series[`${run}\n${monitor}`];
    if (!found) throw new Error(`this page has no run ${run}`);
    return found;
  }

  async blob(key) {
    const text = this.data.blobs[key];
    if (text === undefined) throw new Error("this page does not have these maps");
    const letters = atob(text);
    const bytes = new Uint8Array(letters.length);
    for (let at = 0; at < letters.length; at += 1) bytes[at] = letters.charCodeAt(at);
    return bytes.buffer;
  }

  onReload() {} // a page stays what it is
}
