// The probes' images, all in one picture: as they are, dim and grey under a map, and the outlines
// of the objects in them.

const CRISP = 2; // from this enlargement on, pixels are shown as what they are

export class Sheet {
  constructor(layout, image, masks) {
    [this.height, this.width] = layout.cell;
    this.columns = layout.columns;
    this.aspect = Math.min(Math.max(layout.size[1] / layout.size[0], 1 / 3), 3);
    this.image = image;
    this.dim = dimmed(image);
    this.masks = masks; // null where the probes have none
  }

  // As long as nobody wants to see them they are not made.
  get outlines() {
    if (!this.made) this.made = outlined(this.masks, this);
    return this.made;
  }

  static async load(probes, source) {
    const [image, masks] = await Promise.all(
      [probes.sprite, probes.masks].map(async (key) => key && picture(await source.blob(key))),
    );
    return new Sheet(probes.image, image, masks);
  }

  // The image of a probe in a box; `opacity` of 0 is the image as it is, 1 is black.
  draw(context, probe, box, opacity) {
    context.imageSmoothingEnabled = box.width < CRISP * this.width;
    context.globalAlpha = 1;
    if (opacity < 1) this.cut(context, this.image, probe, box);
    if (opacity > 0 && opacity < 1) {
      context.globalAlpha = opacity;
      this.cut(context, this.dim, probe, box);
    }
    if (opacity === 1) {
      context.fillStyle = "#000";
      context.fillRect(box.left, box.top, box.width, box.height);
    }
    context.globalAlpha = 1;
  }

  outline(context, probe, box) {
    context.imageSmoothingEnabled = box.width < CRISP * this.width;
    this.cut(context, this.outlines, probe, box);
  }

  cut(context, picture, probe, box) {
    const left = (probe % this.columns) * this.width;
    const top = Math.floor(probe / this.columns) * this.height;
    context.drawImage(picture, left, top, this.width, this.height, box.left, box.top, box.width, box.height);
  }
}

async function picture(buffer) {
  return createImageBitmap(new Blob([buffer]));
}

function copied(image) {
  const canvas = document.createElement("canvas");
  [canvas.width, canvas.height] = [image.width, image.height];
  const context = canvas.getContext("2d");
  context.drawImage(image, 0, 0);
  return [canvas, context];
}

function dimmed(image) {
  const [canvas, context] = copied(image);
  context.globalCompositeOperation = "saturation";
  context.fillStyle = "hsl(0 0% 50%)";
  context.fillRect(0, 0, canvas.width, canvas.height);
  context.globalCompositeOperation = "source-over";
  context.fillStyle = "rgb(0 0 0 / 66%)";
  context.fillRect(0, 0, canvas.width, canvas.height);
  return canvas;
}

// White where a place of the object has a neighbour that is not of it.
function outlined(masks, { height, width }) {
  const [canvas, context] = copied(masks);
  const found = context.getImageData(0, 0, canvas.width, canvas.height);
  const pixels = new Uint32Array(found.data.buffer);
  const inside = pixels.map((pixel) => ((pixel & 255) > 127 ? 1 : 0));
  const wide = canvas.width;
  for (let at = 0; at < inside.length; at += 1) {
    const [across, down] = [(at % wide) % width, Math.floor(at / wide) % height];
    const surrounded =
      (across === 0 || inside[at - 1]) &&
      (across === width - 1 || inside[at + 1]) &&
      (down === 0 || inside[at - wide]) &&
      (down === height - 1 || inside[at + wide]);
    pixels[at] = inside[at] && !surrounded ? 0xffffffff : 0;
  }
  context.putImageData(found, 0, 0);
  return canvas;
}
