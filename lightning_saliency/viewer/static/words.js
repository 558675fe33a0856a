// Numbers in few letters.

export function short(value) {
  if (value === null || value === undefined || Number.isNaN(value)) return "";
  if (value === 0) return "0";
  if (Math.abs(value) < 0.001) return value.toExponential(0);
  return Math.abs(value) < 0.095 ? value.toFixed(3) : value.toFixed(2);
}

export function percent(value) {
  return `${Math.round(100 * value)} %`;
}

export function grouped(number) {
  return String(number).replace(/\B(?=(\d{3})+$)/g, "\u202f");
}

export function counted(count, one, many = `${one}s`) {
  return `${grouped(count)} ${count === 1 ? one : many}`;
}

// What the median and other quantiles of values are; NaN are left out.
export function quantiles(values, shares) {
  const known = values.filter((value) => !Number.isNaN(value)).sort((one, other) => one - other);
  return shares.map((share) => {
    if (known.length === 0) return NaN;
    const place = share * (known.length - 1);
    const below = Math.floor(place);
    const above = Math.min(below + 1, known.length - 1);
    return known[below] + (known[above] - known[below]) * (place - below);
  });
}
