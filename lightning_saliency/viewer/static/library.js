// The runs of a source: which there are, and those that were opened, until something is added.

import { Run, unlike } from "./run.js";
import { Sheet } from "./sheet.js";

const HELD = 4; // runs

export class Library {
  constructor(source) {
    this.source = source;
    this.index = { runs: [], refused: [] };
    this.held = new Map(); // id → {time, a promise of the run}
  }

  async refresh() {
    this.index = await this.source.index();
  }

  row(id) {
    return this.index.runs.find((row) => idOf(row) === id) || null;
  }

  // The run of a name, or else the newest; null where there is none at all.
  wanted(run, monitor) {
    const { runs } = this.index;
    const named = runs.find((row) => row.run === run && (monitor === "" || row.monitor === monitor));
    return named || runs.reduce((best, row) => (best && best.time >= row.time ? best : row), null);
  }

  // Whether a run is as it was when it was opened.
  fresh(run) {
    const [row, held] = [this.row(run.id), this.held.get(run.id)];
    return row !== null && held !== undefined && held.time === row.time;
  }

  open(row) {
    const id = idOf(row);
    const held = this.held.get(id);
    if (held && held.time === row.time) return held.run;
    const run = this.load(row);
    run.catch(() => this.held.delete(id)); // whoever asked is told
    this.held.delete(id);
    this.held.set(id, { time: row.time, run });
    if (this.held.size > HELD) this.held.delete(this.held.keys().next().value);
    return run;
  }

  async load(row) {
    const series = await this.source.series(row.run, row.monitor);
    if (series.refused) throw new Error(series.refused);
    return new Run(series);
  }

  // A run to lay beside another, or why there is none; its absence is no reason to show nothing.
  async beside(id, row) {
    const found = this.row(id);
    if (found === null || found === row) return [null, ""];
    try {
      const [one, other] = await Promise.all([this.open(row), this.open(found)]);
      const why = unlike(one, other);
      return why ? [null, why] : [other, ""];
    } catch (error) {
      return [null, `“${found.run}” is not shown: ${error.message}`];
    }
  }

  // The images of a run's probes, or those of another run that are the same.
  async illustrate(run, other) {
    if (run.sheet) return;
    const same = other && other.sheet && other.probes.hash === run.probes.hash && Boolean(other.probes.masks) === Boolean(run.probes.masks);
    run.sheet = same ? other.sheet : await Sheet.load(run.probes, this.source);
  }

  // What is to be said of the runs that are shown, and of those that are not.
  notes(...runs) {
    const notes = runs.filter(Boolean).flatMap((run) => run.notes.map((note) => `“${run.name}”: ${note}`));
    return [...notes, ...this.index.refused.map((one) => `“${one.run}” is not shown: ${one.why}`)];
  }
}

function idOf(row) {
  return `${row.run}\n${row.monitor}`;
}
