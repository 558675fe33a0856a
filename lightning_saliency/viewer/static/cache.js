// What was loaded, while there is room: the least recently used goes first.

const BACKGROUND = 2; // requests at once that nobody waits for

export class Cache {
  constructor(load, limit) {
    this.load = load;
    this.limit = limit;
    this.held = new Map(); // key → {value, bytes}, the newest last
    this.coming = new Map(); // key → promise
    this.wanted = []; // keys that somebody may want soon
    this.running = 0;
    this.bytes = 0;
  }

  // What is here already.
  peek(key) {
    const found = this.held.get(key);
    if (found === undefined) return undefined;
    this.held.delete(key);
    this.held.set(key, found);
    return found.value;
  }

  async get(key) {
    const here = this.peek(key);
    if (here !== undefined) return here;
    if (!this.coming.has(key)) this.coming.set(key, this.bring(key));
    return this.coming.get(key);
  }

  async bring(key) {
    try {
      const value = await this.load(key);
      this.keep(key, value);
      return value;
    } finally {
      this.coming.delete(key);
    }
  }

  keep(key, value) {
    const bytes = value.bytes || 0;
    this.held.set(key, { value, bytes });
    this.bytes += bytes;
    for (const [oldest, one] of this.held) {
      if (this.bytes <= this.limit || oldest === key) break;
      this.held.delete(oldest);
      this.bytes -= one.bytes;
    }
  }

  // Load these when nothing else does; a newer list replaces an older one.
  soon(keys, loaded = () => {}) {
    this.wanted = keys.filter((key) => !this.held.has(key));
    this.loaded = loaded;
    while (this.running < BACKGROUND && this.wanted.length > 0) this.work();
  }

  async work() {
    this.running += 1;
    while (this.wanted.length > 0) {
      const key = this.wanted.shift();
      try {
        await this.get(key);
        this.loaded(key);
      } catch {
        // whoever needs it asks again, and is told
      }
    }
    this.running -= 1;
  }
}
