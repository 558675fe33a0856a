// Which maps a moment needs, and the panes that are painted of them.

// One side of a moment: the maps of an observation, and those that are taken off them.
function side(run, t, method, base = null, note = "") {
  return { run, t, key: run.mapsKey(t, method), base, note };
}

function other(run, t, method) {
  return { run, t, key: run.mapsKey(t, method) };
}

// The sides of observation `t` of run a, and of the nearest of run b.
export function sidesAt(app, t) {
  const [a, b] = [app.a, app.b];
  const { method, show, chosen } = app.state.values;
  const nearest = b && b.length > 0 ? b.at(a.steps[t]) : null;
  if (show === "runs" && nearest !== null) return [side(b, nearest, method, other(a, t, method))];
  const sides = [changed(a, t, method, show, chosen)];
  if (nearest !== null) sides.push(changed(b, nearest, method, show, chosen));
  return sides;
}

function changed(run, t, method, show, chosen) {
  if (show === "first") return side(run, t, method, other(run, 0, method));
  if (show === "previous" && t > 0) return side(run, t, method, other(run, t - 1, method));
  if (show === "previous") return side(run, t, method, null, "the first");
  if (show === "chosen" && chosen !== null) return side(run, t, method, other(run, run.at(chosen), method));
  return side(run, t, method);
}

export function keysOf(sides) {
  const keys = sides.flatMap((one) => [one.key, one.base && one.base.key]);
  return [...new Set(keys.filter((key) => key))];
}

// The sides with their maps; null while any is still to be loaded.
export function loadedSides(sides, cache) {
  const here = new Map(keysOf(sides).map((key) => [key, cache.peek(key)]));
  for (const maps of here.values()) if (maps === undefined) return null;
  return sides.map((one) => ({
    ...one,
    maps: ofSameFit(one, here.get(one.key)),
    baseMaps: one.base ? ofSameFit(one.base, here.get(one.base.key)) : null,
  }));
}

// Where two fits wrote into one folder, one of TensorBoard's loaders gives the maps of the older.
function ofSameFit({ run, t }, maps) {
  if (!maps) return null;
  const { session } = run.observations[t];
  return maps.session === undefined || session === undefined || maps.session === session ? maps : null;
}

// What `paint` paints of one probe of a loaded side.
export function paneOf(app, one, probe) {
  const pane = { sheet: one.run.sheet, probe, maps: one.maps, base: null, gain: 1, baseGain: 1, note: one.note };
  if (pane.note) return pane;
  pane.note = lack(one, probe, app.state.get("method"));
  if (pane.note) return pane;
  pane.gain = gainOf(app, one.run, one.maps, probe);
  if (one.base) {
    pane.base = one.baseMaps;
    pane.baseGain = gainOf(app, one.base.run, one.baseMaps, probe);
  }
  return pane;
}

function lack({ run, t, maps, base, baseMaps }, probe, method) {
  if (!maps) return "no map";
  if (!maps.defined(probe)) return "undefined";
  if (run.unreliable(method, t, probe)) return "unreliable";
  if (!base) return "";
  if (!baseMaps) return "none to compare";
  if (baseMaps.size !== maps.size) return "another size";
  if (base.run.unreliable(method, base.t, probe)) return "unreliable then";
  return baseMaps.defined(probe) ? "" : "undefined then";
}

// Each map to its own peak; or to the largest peak of the probe, in both runs.
function gainOf(app, run, maps, probe) {
  if (app.state.get("scale") === "map") return 1 / maps.top(probe);
  const method = app.state.get("method");
  let largest = 0;
  for (const one of [app.a, app.b]) {
    const peaks = one && one.peaks(method);
    if (peaks && peaks[probe] > largest) largest = peaks[probe];
  }
  return largest > 0 ? maps.peaks[probe] / largest : 1;
}

export function look(app) {
  const { colour, magnitude, opacity, outlines } = app.state.values;
  return { colour, magnitude, opacity, outlines };
}
