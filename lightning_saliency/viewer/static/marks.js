// What happened at which observation: for the time axis, the curves and the list.

const STEADY = [0.8, 1.25]; // a schedule that changes a rate this little at a time is no event

export const KINDS = {
  alert: "Region alert",
  event: "Training event",
  rate: "Learning rate",
  best: "Best checkpoint",
  resumed: "Resumed",
};

export function marksOf(run) {
  const found = [];
  run.observations.forEach((one, t) => {
    for (const event of one.events || []) {
      found.push({ t, kind: KINDS[event.kind] ? event.kind : "event", text: event.text, event });
    }
    const text = t > 0 ? rateWords(run.observations[t - 1].rates, one.rates) : "";
    if (text) found.push({ t, kind: "rate", text });
  });
  const best = bestOf(run);
  if (best !== null) found.push({ t: best, kind: "best", text: `Step ${run.steps[best]} is the best checkpoint so far.` });
  return found.sort((one, other) => one.t - other.t);
}

function bestOf(run) {
  const last = run.observations[run.observations.length - 1];
  const step = last ? last.best : null;
  return step === null || step === undefined ? null : run.at(step);
}

function rateWords(before, now) {
  if (!before || !now || before.length !== now.length) return "";
  const words = now
    .map((rate, at) => [before[at], rate])
    .filter(([old, rate]) => old !== null && rate !== null && !(STEADY[0] * old <= rate && rate <= STEADY[1] * old))
    .map(([old, rate]) => `${format(old)} → ${format(rate)}`);
  return words.length ? `Learning rate ${[...new Set(words)].join("; ")}.` : "";
}

function format(rate) {
  return String(Number(rate.toPrecision(3)));
}

// The mark of a kind, as a shape around a point; its meaning never hangs on its colour alone.
export function drawMark(context, kind, x, y, size, colours) {
  context.beginPath();
  SHAPES[kind](context, x, y, size);
  context.fillStyle = colours[kind];
  context.fill();
}

const SHAPES = {
  alert(context, x, y, size) {
    context.moveTo(x, y - size);
    context.lineTo(x + size, y + size * 0.8);
    context.lineTo(x - size, y + size * 0.8);
    context.closePath();
  },
  event(context, x, y, size) {
    context.arc(x, y, size * 0.75, 0, 2 * Math.PI);
  },
  rate(context, x, y, size) {
    context.moveTo(x, y - size);
    context.lineTo(x + size * 0.8, y);
    context.lineTo(x, y + size);
    context.lineTo(x - size * 0.8, y);
    context.closePath();
  },
  best(context, x, y, size) {
    for (let at = 0; at < 10; at += 1) {
      const radius = at % 2 ? size * 0.5 : size * 1.15;
      const angle = (Math.PI * at) / 5 - Math.PI / 2;
      context.lineTo(x + radius * Math.cos(angle), y + radius * Math.sin(angle));
    }
    context.closePath();
  },
  resumed(context, x, y, size) {
    context.rect(x - size * 0.7, y - size * 0.8, size * 0.5, size * 1.6);
    context.moveTo(x, y - size * 0.8);
    context.lineTo(x + size, y);
    context.lineTo(x, y + size * 0.8);
    context.closePath();
  },
};
