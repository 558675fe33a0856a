// Which probes are shown, and in which order.

export const ORDERS = {
  given: "As given",
  drift: "Largest drift first",
  flips: "Most flips first",
  class: "By class",
  confidence: "Least confident first",
};

export const FLIPS = {
  any: "Predictions",
  flipped: "Flipped",
  kept: "Never flipped",
  wrong: "Wrong at the end",
};

// Drift is what probes are sorted and filtered by, also while the curves show something else.
export function driftMeasure(app) {
  const wanted = app.state.get("measure");
  const known = app.a.measures(app.state.get("method"));
  if (wanted.startsWith("drift") && known.includes(wanted)) return wanted;
  return known.find((name) => name === "drift_first") || known.find((name) => name.startsWith("drift")) || "drift_first";
}

export function driftOf(app, probe) {
  return app.a.extent(app.state.get("method"), driftMeasure(app), probe).largest;
}

// The probe whose maps moved the most: the one to begin with.
export function mostMoved(app) {
  let [found, largest] = [0, -Infinity];
  for (let probe = 0; probe < app.a.count; probe += 1) {
    const drift = driftOf(app, probe);
    if (drift > largest) [found, largest] = [probe, drift];
  }
  return found;
}

export function shownProbes(app) {
  const { text, klass, flips, least, view, gridOrder, matrixOrder } = app.state.values;
  const run = app.a;
  const last = run.length - 1;
  const words = text.toLowerCase().split(/\s+/).filter(Boolean);
  const floor = least > 0 ? least * largestDrift(app) : -Infinity;
  const kept = [];
  for (let probe = 0; probe < run.count; probe += 1) {
    if (klass !== "" && String(run.target(probe)) !== klass) continue;
    if (least > 0 && !(driftOf(app, probe) >= floor)) continue;
    if (flips === "flipped" && run.flips(probe) === 0) continue;
    if (flips === "kept" && run.flips(probe) > 0) continue;
    if (flips === "wrong" && !(last >= 0 && run.wrong(last, probe))) continue;
    if (words.length > 0 && !matches(run, probe, last, words)) continue;
    kept.push(probe);
  }
  return sorted(app, kept, view === "matrix" ? matrixOrder : gridOrder);
}

function matches(run, probe, last, words) {
  const prediction = last >= 0 ? run.named(run.prediction(last, probe)) : "";
  const all = `${probe} ${run.probes.names[probe]} ${run.title(probe)} ${prediction}`.toLowerCase();
  return words.every((word) => all.includes(word));
}

export function largestDrift(app) {
  let largest = 0;
  for (let probe = 0; probe < app.a.count; probe += 1) largest = Math.max(largest, driftOf(app, probe) || 0);
  return largest;
}

function sorted(app, probes, order) {
  const run = app.a;
  const last = run.length - 1;
  const ranks = {
    drift: (probe) => -(driftOf(app, probe) || 0),
    flips: (probe) => -run.flips(probe),
    class: (probe) => run.target(probe) ?? Infinity,
    confidence: (probe) => (last < 0 ? 0 : (run.confidence(last, probe) ?? Infinity)),
  };
  const rank = ranks[order];
  if (!rank) return probes;
  const known = new Map(probes.map((probe) => [probe, rank(probe)]));
  return probes.sort((one, next) => known.get(one) - known.get(next) || one - next);
}
