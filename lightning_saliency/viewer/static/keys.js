// The keyboard: everywhere but where something is typed or chosen.

const SHOWS = ["map", "first", "previous", "chosen", "runs"];

export function listenToKeys(app, target) {
  target.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || app.help.node.open || !app.a || app.t === null) return;
    const action = taken(event) ? null : ACTIONS[event.key] || ACTIONS[event.key.toLowerCase()];
    if (!action) return;
    event.preventDefault();
    action(app, event);
  });
}

function taken(event) {
  const { target, key } = event;
  if (!(target instanceof Element)) return false;
  if (target.matches("input, select, textarea")) {
    if (key === "Escape") target.blur();
    return true;
  }
  return target.matches("button") && (key === " " || key === "Enter");
}

const ACTIONS = {
  ArrowLeft: (app, event) => app.move(event.shiftKey ? -10 : -1),
  ArrowRight: (app, event) => app.move(event.shiftKey ? 10 : 1),
  ArrowUp: (app) => app.choose(-1),
  ArrowDown: (app) => app.choose(1),
  Home: (app) => app.go(0),
  End: (app) => app.go(Infinity),
  " ": (app) => app.timeline.play(!app.timeline.playing),
  m: (app) => app.state.set({ view: app.state.get("view") === "grid" ? "matrix" : "grid" }),
  d: (app) => app.state.set({ show: nextShow(app) }),
  h: (app) => app.hold(),
  o: (app) => app.toggleOverlay(),
  "/": (app) => app.filters.text.focus(),
  "?": (app) => app.help.open(),
};

function nextShow(app) {
  const fitting = SHOWS.filter((show) => (show !== "chosen" || app.state.get("chosen") !== null) && (show !== "runs" || app.b));
  return fitting[(fitting.indexOf(app.state.get("show")) + 1) % fitting.length];
}
