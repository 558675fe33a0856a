// One probe in one box: its image, a map or the difference of two over it, and what is to be said.

import { palette } from "./colour.js";

const COARSE = 6; // pixels per place: few large places would be read as edges of the evidence
const FEW = 3; // below this many, places are not told apart anyway
const FINEST = 96; // places along a side up to which a coarse map is interpolated
const OVER_COARSE = 0.8; // what lies under a wide spot is what one wants to see

// A pane is {sheet, probe, maps, base, gain, baseGain, note}: values × gain are 0..1 or −1..1.
export function paint(context, box, pane, look) {
  const { sheet, probe, maps, note } = pane;
  const bare = look.opacity >= 1;
  if (note || !maps) {
    sheet.draw(context, probe, box, Math.min(look.opacity, 0.6));
    if (note) write(context, box, note);
    return;
  }
  const pixels = Math.min(box.width / maps.width, box.height / maps.height);
  const coarse = pixels > COARSE && maps.size > 1;
  sheet.draw(context, probe, box, look.opacity);
  if (look.opacity > 0) {
    const tile = coloured(pane, look, bare, coarse, box);
    context.imageSmoothingEnabled = coarse || pixels < FEW;
    context.imageSmoothingQuality = "medium";
    context.globalAlpha = bare ? 1 : look.opacity * (coarse ? OVER_COARSE : 1);
    context.drawImage(tile, box.left, box.top, box.width, box.height);
    context.globalAlpha = 1;
  }
  if (look.outlines && sheet.masks) sheet.outline(context, probe, box);
}

// A canvas with the pane's values in colours, one pixel for each place.
function coloured(pane, look, bare, coarse, box) {
  const { maps, base } = pane;
  let [values, width, height] = [valuesOf(pane, look), maps.width, maps.height];
  if (coarse) {
    const ratio = window.devicePixelRatio || 1;
    const wide = Math.max(width, Math.min(FINEST, Math.round((box.width * ratio) / 2)));
    const high = Math.max(height, Math.min(FINEST, Math.round((box.height * ratio) / 2)));
    values = finer(values, width, height, wide, high);
    [width, height] = [wide, high];
  }
  const tile = tileOf(width, height);
  palette(look.colour, isSigned(maps, base, look)).paint(values, tile.pixels, bare);
  tile.context.putImageData(tile.data, 0, 0);
  return tile.canvas;
}

export function isSigned(maps, base, look) {
  return Boolean(base) || (maps.signed && !look.magnitude);
}

const tiles = new Map();

// One for each size: beside a smaller map, a larger one's remains would show at its edge.
function tileOf(width, height) {
  const key = width * 65536 + height;
  if (!tiles.has(key)) {
    const canvas = document.createElement("canvas");
    [canvas.width, canvas.height] = [width, height];
    const context = canvas.getContext("2d", { willReadFrequently: true });
    const data = new ImageData(width, height);
    tiles.set(key, { canvas, context, data, pixels: new Uint32Array(data.data.buffer) });
  }
  return tiles.get(key);
}

function valuesOf({ maps, base, probe, gain, baseGain }, look) {
  const values = unit(maps, probe, gain, look.magnitude);
  if (!base) return values;
  const others = unit(base, probe, baseGain, look.magnitude);
  const share = maps.signed && base.signed && !look.magnitude ? 0.5 : 1; // from −1 to +1 is a change of 2
  for (let at = 0; at < values.length; at += 1) values[at] = (values[at] - others[at]) * share;
  return values;
}

function unit(maps, probe, gain, magnitude) {
  const plane = maps.plane(probe);
  const values = new Float32Array(plane.length);
  const [zero, scale] = maps.signed ? [128, gain / 127] : [0, gain / 255];
  const least = magnitude || !maps.signed ? 0 : -1;
  for (let at = 0; at < plane.length; at += 1) {
    let value = (plane[at] - zero) * scale;
    if (magnitude && value < 0) value = -value;
    values[at] = value > 1 ? 1 : value < least ? least : value;
  }
  return values;
}

// Between the places: of the values, not of their colours.
function finer(values, width, height, wide, high) {
  const [across, down] = [weights(width, wide), weights(height, high)];
  const found = new Float32Array(wide * high);
  for (let y = 0; y < high; y += 1) {
    const [above, below, share] = [down.low[y] * width, down.high[y] * width, down.share[y]];
    for (let x = 0; x < wide; x += 1) {
      const [left, right, part] = [across.low[x], across.high[x], across.share[x]];
      const top = values[above + left] + (values[above + right] - values[above + left]) * part;
      const bottom = values[below + left] + (values[below + right] - values[below + left]) * part;
      found[y * wide + x] = top + (bottom - top) * share;
    }
  }
  return found;
}

const known = new Map();

function weights(size, wanted) {
  const key = size * 65536 + wanted;
  if (known.has(key)) return known.get(key);
  const low = new Int32Array(wanted);
  const high = new Int32Array(wanted);
  const share = new Float32Array(wanted);
  for (let at = 0; at < wanted; at += 1) {
    const place = Math.min(Math.max(((at + 0.5) * size) / wanted - 0.5, 0), size - 1);
    low[at] = Math.floor(place);
    high[at] = Math.min(low[at] + 1, size - 1);
    share[at] = place - low[at];
  }
  known.set(key, { low, high, share });
  return known.get(key);
}

// A hatching that no map can look like, and words on it.
function write(context, box, note) {
  const { left, top, width, height } = box;
  context.save();
  context.beginPath();
  context.rect(left, top, width, height);
  context.clip();
  context.strokeStyle = "rgb(255 255 255 / 22%)";
  context.lineWidth = 2;
  context.beginPath();
  for (let x = left - height; x < left + width; x += 8) {
    context.moveTo(x, top + height);
    context.lineTo(x + height, top);
  }
  context.stroke();
  if (width >= 56) plate(context, box, note);
  context.restore();
}

function plate(context, { left, top, width, height }, note) {
  context.font = "500 11px system-ui, sans-serif";
  const wide = Math.min(context.measureText(note).width + 12, width);
  const [x, y] = [left + width / 2, top + height / 2];
  context.fillStyle = "rgb(16 18 22 / 82%)";
  context.fillRect(x - wide / 2, y - 9, wide, 18);
  context.fillStyle = "#e6e8eb";
  context.textAlign = "center";
  context.textBaseline = "middle";
  context.fillText(note, x, y + 0.5, width - 6);
}
