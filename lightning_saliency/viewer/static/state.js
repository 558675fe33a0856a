// What the person has chosen, and the same as an address.

export const DEFAULTS = {
  run: "",
  monitor: "",
  other: "", // the run beside it, as "run\nmonitor"
  method: "",
  step: null, // null: the newest, also when there are newer ones
  probe: null, // null: the one that moved the most
  view: "grid", // or "matrix"
  show: "map", // or the change since the "first", "previous" or "chosen" step, or "runs": B − A
  chosen: null, // the step that is held for comparison
  measure: "drift_previous",
  colour: "heat",
  magnitude: false, // of signed maps: how much, not which way
  scale: "map", // or "shared": over the observations of a probe
  opacity: 0.75,
  outlines: false,
  size: "fit", // or "s", "m", "l"
  frames: "few", // or "all"
  text: "",
  klass: "",
  flips: "any", // or "flipped", "kept", "wrong"
  least: 0, // drift below which probes are left out, as a share of the largest
  gridOrder: "given",
  matrixOrder: "drift",
};

const ALLOWED = {
  view: ["grid", "matrix"],
  show: ["map", "first", "previous", "chosen", "runs"],
  scale: ["map", "shared"],
  size: ["fit", "s", "m", "l"],
  frames: ["few", "all"],
  flips: ["any", "flipped", "kept", "wrong"],
  colour: ["heat", "sea", "grey"],
  gridOrder: ["given", "drift", "flips", "class", "confidence"],
  matrixOrder: ["given", "drift", "flips", "class", "confidence"],
};
const SHARES = new Set(["opacity", "least"]);
const NUMBERS = new Set(["step", "probe", "chosen", "opacity", "least"]);
const FLAGS = new Set(["magnitude", "outlines"]);

export class State {
  constructor() {
    this.values = { ...DEFAULTS };
    this.told = () => {};
  }

  get(name) {
    return this.values[name];
  }

  // Takes over what differs, and tells of it once.
  set(patch) {
    const changed = Object.keys(patch).filter((name) => this.values[name] !== patch[name]);
    if (changed.length === 0) return;
    Object.assign(this.values, patch);
    this.told(new Set(changed));
  }

  // What is not as it is by default, as strings.
  address() {
    const found = {};
    for (const [name, value] of Object.entries(this.values)) {
      if (value !== DEFAULTS[name]) found[name] = String(value);
    }
    return found;
  }
}

export function fromAddress(strings) {
  const found = { ...DEFAULTS };
  for (const [name, text] of Object.entries(strings)) {
    if (!(name in DEFAULTS) || (ALLOWED[name] && !ALLOWED[name].includes(text))) continue;
    if (FLAGS.has(name)) found[name] = text === "true";
    else if (!NUMBERS.has(name)) found[name] = text;
    else if (text !== "" && Number.isFinite(Number(text))) found[name] = number(name, Number(text));
  }
  return found;
}

function number(name, value) {
  return SHARES.has(name) ? Math.min(Math.max(value, 0), 1) : value;
}
