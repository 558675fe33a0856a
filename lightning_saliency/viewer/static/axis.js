// Steps and values → places, and round numbers between them.

export class StepAxis {
  constructor(runs, left, right) {
    const steps = runs.filter((run) => run && run.length > 0).flatMap((run) => [run.steps[0], run.steps[run.length - 1]]);
    this.low = Math.min(...steps);
    this.high = Math.max(...steps);
    this.left = left;
    this.right = right;
  }

  x(step) {
    if (this.high === this.low) return (this.left + this.right) / 2;
    return this.left + ((step - this.low) / (this.high - this.low)) * (this.right - this.left);
  }

  step(x) {
    return this.low + ((x - this.left) / (this.right - this.left)) * (this.high - this.low);
  }
}

export function ticks(low, high, most) {
  const span = high - low;
  if (!(span > 0)) return [low];
  const rough = span / most;
  const power = 10 ** Math.floor(Math.log10(rough));
  const size = [1, 2, 5, 10].map((one) => one * power).find((one) => one >= rough * 0.999);
  const found = [];
  for (let at = Math.ceil(low / size - 1e-9); at * size <= high + size * 1e-6; at += 1) found.push(at * size);
  return found;
}

export function tickWords(value, values) {
  const gap = values.length > 1 ? values[1] - values[0] : 1;
  const digits = Math.max(0, -Math.floor(Math.log10(gap) + 1e-9));
  return digits ? value.toFixed(Math.min(digits, 4)) : stepWords(value);
}

// 12 600 as 12.6k: ticks have little room.
export function stepWords(value) {
  if (Math.abs(value) >= 1e6) return `${Number((value / 1e6).toPrecision(3))}M`;
  if (Math.abs(value) >= 1e4) return `${Number((value / 1e3).toPrecision(3))}k`;
  return String(Number(value.toPrecision(4)));
}
