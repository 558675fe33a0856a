// What surrounds the viewer: TensorBoard's page, or a page of its own. Any of it may be out of
// reach (a notebook, a proxy), and is then done without.

const PREFIX = "p.saliency.";

// TensorBoard calls from the page that holds our frame, through a channel that we offer.
export function listenToTensorBoard(onReload) {
  const channel = new MessageChannel();
  channel.port1.onmessage = (event) => {
    const { type, id, isReply } = JSON.parse(event.data);
    if (isReply) return;
    channel.port1.postMessage(JSON.stringify({ type, id, payload: null, error: null, isReply: true }));
    if (type === "experimental.DataReloaded") onReload();
  };
  window.parent.postMessage("experimental.bootstrap", "*", [channel.port2]);
}

// Dark or light: TensorBoard's own setting, else what the system prefers.
export function followTheme(framed, onChange) {
  const prefers = window.matchMedia("(prefers-color-scheme: dark)");
  const host = framed ? hostBody() : null;
  const dark = () => (host ? host.classList.contains("dark-mode") : prefers.matches);
  const tell = () => onChange(dark());
  if (host) new MutationObserver(tell).observe(host, { attributes: true, attributeFilter: ["class"] });
  else prefers.addEventListener("change", tell);
  return dark();
}

function hostBody() {
  try {
    return window.parent === window ? null : window.parent.document.body;
  } catch {
    return null;
  }
}

// The address that can be copied: TensorBoard's, in its own scheme for plugins, or the page's.
export class Address {
  constructor(framed) {
    this.framed = framed && hostBody() !== null;
    this.page = this.framed ? window.parent : window;
    this.prefix = this.framed ? PREFIX : "";
  }

  read() {
    const found = {};
    for (const part of this.page.location.hash.slice(1).split("&")) {
      const at = part.indexOf("=");
      if (at > 0 && part.startsWith(this.prefix)) {
        found[part.slice(this.prefix.length, at)] = decoded(part.slice(at + 1));
      }
    }
    return found;
  }

  write(values) {
    const parts = this.framed ? ["saliency"] : [];
    for (const [name, value] of Object.entries(values)) {
      parts.push(`${this.prefix}${name}=${encodeURIComponent(value)}`);
    }
    const hash = `#${parts.join("&")}`;
    if (hash === this.page.location.hash || this.elsewhere()) return;
    try {
      this.page.history.replaceState(this.page.history.state, "", hash);
    } catch {
      // pages of a file, in some browsers: the address stays, the viewer goes on
    }
  }

  elsewhere() {
    const hash = this.page.location.hash;
    return this.framed && hash !== "" && !/^#saliency(&|$)/.test(hash);
  }

  onChange(callback) {
    this.page.addEventListener("hashchange", () => this.elsewhere() || callback(this.read()));
  }
}

function decoded(text) {
  try {
    return decodeURIComponent(text);
  } catch {
    return text;
  }
}
