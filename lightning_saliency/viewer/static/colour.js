// Values → colours. A palette has 256 pixels: of 0..1, or of −1..1 around entry 128.

import { DIVERGING, HEAT, SEA } from "./tables.js";

export const COLOURS = [["heat", "Heat"], ["sea", "Sea"], ["grey", "Grey"]];

const GREY = Array.from({ length: 768 }, (_, at) => Math.floor(at / 3));

export class Palette {
  constructor(table, signed) {
    this.table = table;
    this.signed = signed;
    this.cover = new Uint32Array(256); // laid over a picture: weak evidence hides little of it
    this.solid = new Uint32Array(256); // bare
    for (let at = 0; at < 256; at += 1) {
      const [red, green, blue] = this.table.slice(3 * at, 3 * at + 3);
      const strength = signed ? Math.min(Math.abs(at - 128) / 127, 1) : at / 255;
      const colour = (blue << 16) | (green << 8) | red;
      this.cover[at] = ((Math.round(255 * strength * (2 - strength)) << 24) | colour) >>> 0;
      this.solid[at] = ((255 << 24) | colour) >>> 0;
    }
  }

  css(value) {
    const at = this.signed ? Math.round(128 + 127 * value) : Math.round(255 * value);
    const clipped = Math.min(Math.max(at, 0), 255);
    return `rgb(${this.table.slice(3 * clipped, 3 * clipped + 3).join(" ")})`;
  }

  // Pixels of values; values beyond the range have the colour of its end.
  paint(values, pixels, bare) {
    const colours = bare ? this.solid : this.cover;
    const [scale, zero, least] = this.signed ? [127, 128.5, 1] : [255, 0.5, 0];
    for (let at = 0; at < values.length; at += 1) {
      const entry = (values[at] * scale + zero) | 0;
      pixels[at] = colours[entry < least ? least : entry > 255 ? 255 : entry];
    }
  }
}

const PALETTES = {
  heat: new Palette(unpacked(HEAT), false),
  sea: new Palette(unpacked(SEA), false),
  grey: new Palette(GREY, false),
  diverging: new Palette(unpacked(DIVERGING), true),
};

export function palette(name, signed) {
  return signed ? PALETTES.diverging : PALETTES[name] || PALETTES.heat;
}

function unpacked(text) {
  return Array.from(atob(text), (letter) => letter.charCodeAt(0));
}

// From the ground of the theme over the colour of a run to its strongest: the matrix.
export function ramp(dark) {
  return dark
    ? [[43, 46, 51], [150, 74, 20], [255, 158, 66], [255, 232, 196]]
    : [[240, 242, 245], [253, 205, 150], [226, 104, 16], [110, 36, 4]];
}

export function mixed(stops, value) {
  const place = Math.min(Math.max(value, 0), 1) * (stops.length - 1);
  const below = Math.min(Math.floor(place), stops.length - 2);
  const share = place - below;
  return stops[below].map((one, at) => Math.round(one + (stops[below + 1][at] - one) * share));
}
