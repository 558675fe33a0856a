// One run's series as the parts of the viewer ask for it. Observations are counted t = 0, 1, …

import { marksOf } from "./marks.js";

export const MEASURES = {
  drift_first: "Drift from the first",
  drift_previous: "Drift from the previous",
  drift_reference: "Drift from the reference",
  reliability: "Reliability of the map",
  confidence: "Confidence",
};

const RELIABLE = 0.5; // 1 is noiseless

export class Run {
  constructor(series) {
    this.name = series.run;
    this.monitor = series.monitor;
    this.probes = series.probes;
    this.sheet = null; // the images, as soon as they are here
    this.observations = series.observations;
    this.notes = series.notes || [];
    this.count = series.probes.count;
    this.steps = this.observations.map((one) => one.step);
    this.methods = Object.keys(series.probes.methods);
    this.marks = marksOf(this);
    this.memory = new Map();
    const { targets } = series.probes; // classes, but for a regression's
    this.classified = Boolean(targets) && targets.every((one) => one === null || Number.isInteger(one));
  }

  get length() {
    return this.steps.length;
  }

  get id() {
    return `${this.name}\n${this.monitor}`;
  }

  // The observation that is nearest to a step.
  at(step) {
    let [low, high] = [0, this.length - 1];
    while (low < high) {
      const middle = (low + high) >> 1;
      if (this.steps[middle] < step) low = middle + 1;
      else high = middle;
    }
    return low > 0 && step - this.steps[low - 1] <= this.steps[low] - step ? low - 1 : low;
  }

  label(t) {
    return this.observations[t].label || `step ${this.steps[t]}`;
  }

  named(index) {
    const names = this.probes.classes;
    return names && names[index] !== undefined ? names[index] : String(index);
  }

  target(probe) {
    const targets = this.probes.targets;
    return targets && targets[probe] !== null ? targets[probe] : null;
  }

  // What a probe is called in few letters: its class, where it has one.
  title(probe) {
    const target = this.target(probe);
    return this.classified && target !== null ? this.named(target) : this.probes.names[probe];
  }

  prediction(t, probe) {
    return this.observations[t].predictions[probe];
  }

  wrong(t, probe) {
    const target = this.target(probe);
    return this.classified && target !== null && this.prediction(t, probe) !== target;
  }

  flipped(t, probe) {
    return t > 0 && this.prediction(t, probe) !== this.prediction(t - 1, probe);
  }

  flips(probe) {
    return this.once(`flips ${probe}`, () => {
      let count = 0;
      for (let t = 1; t < this.length; t += 1) count += this.flipped(t, probe);
      return count;
    });
  }

  confidence(t, probe) {
    return (this.observations[t].confidence || [])[probe] ?? null;
  }

  // Where the maps of an observation are: a key of the cache; null where there are none.
  mapsKey(t, method) {
    const one = this.observations[t];
    const key = one && one.maps[method];
    return key ? `${key} ${one.time}` : null;
  }

  measures(method) {
    return this.once(`measures ${method}`, () => {
      const known = new Set(["confidence"]);
      for (const one of this.observations) Object.keys(one.methods[method] || {}).forEach((name) => known.add(name));
      return Object.keys(MEASURES).filter((name) => known.has(name));
    });
  }

  // [t · count + probe] of a measure; NaN where it is undefined.
  values(method, measure) {
    return this.once(`values ${method} ${measure}`, () => {
      const values = new Float32Array(this.length * this.count).fill(NaN);
      this.observations.forEach((one, t) => {
        const found = measure === "confidence" ? one.confidence : (one.methods[method] || {})[measure];
        (found || []).forEach((value, probe) => {
          if (value !== null) values[t * this.count + probe] = value;
        });
      });
      return values;
    });
  }

  value(method, measure, t, probe) {
    return this.values(method, measure)[t * this.count + probe];
  }

  // Whether a map is noise for the most part, as far as its method knows.
  unreliable(method, t, probe) {
    return this.measures(method).includes("reliability") && this.value(method, "reliability", t, probe) < RELIABLE;
  }

  // The largest and the mean of a probe's values over the run; NaN without any.
  extent(method, measure, probe) {
    return this.once(`extent ${method} ${measure} ${probe}`, () => {
      const values = this.values(method, measure);
      let [largest, sum, known] = [NaN, 0, 0];
      for (let t = 0; t < this.length; t += 1) {
        const value = values[t * this.count + probe];
        if (Number.isNaN(value)) continue;
        if (!(value <= largest)) largest = value;
        sum += value;
        known += 1;
      }
      return { largest, mean: sum / known };
    });
  }

  // The largest peak of each probe's maps over the run; null where the record does not say.
  peaks(method) {
    return this.once(`peaks ${method}`, () => {
      const largest = new Float32Array(this.count);
      for (const one of this.observations) {
        const peaks = (one.methods[method] || {}).peaks;
        (peaks || []).forEach((peak, probe) => {
          if (peak > largest[probe]) largest[probe] = peak;
        });
      }
      return largest.some((peak) => peak > 0) ? largest : null;
    });
  }

  // The newest floors up to an observation: how far maps move when nothing that matters changed.
  floors(method, t) {
    const prefix = `${method}/floor_`;
    for (let at = Math.min(t, this.length - 1); at >= 0; at -= 1) {
      const found = Object.entries(this.observations[at].numbers || {})
        .filter(([tag, value]) => tag.startsWith(prefix) && !/_p[19]0$/.test(tag) && value !== null)
        .map(([tag, value]) => ({ rung: tag.slice(prefix.length), value }));
      if (found.length > 0) return found.sort((one, other) => one.value - other.value);
    }
    return [];
  }

  once(key, make) {
    if (!this.memory.has(key)) this.memory.set(key, make());
    return this.memory.get(key);
  }
}

// Why two runs can't be laid side by side; "" where they watch the same probes.
export function unlike(one, other) {
  if (one.count !== other.count || one.probes.hash !== other.probes.hash) {
    return (
      `“${other.name}” watched other probes than “${one.name}” (hash ${short(other)}, not ${short(one)}): ` +
      "there is nothing to lay side by side. Give both runs the same probes."
    );
  }
  return "";
}

function short(run) {
  return String(run.probes.hash).slice(0, 8);
}
