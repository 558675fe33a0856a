// Bytes of the record → maps. A length, a header as JSON, a zlib stream of one byte per place.

const PERCENTILE = 0.995; // a single hot pixel does not darken the rest

export async function decodeMaps(buffer) {
  const length = new DataView(buffer).getUint32(0, true);
  const header = JSON.parse(new TextDecoder().decode(new Uint8Array(buffer, 4, length)));
  if (header.version > 1) throw new Error(`maps of version ${header.version} of the record; version 1 is known here`);
  const levels = await inflate(new Uint8Array(buffer, 4 + length));
  return new Maps(header, levels);
}

async function inflate(bytes) {
  const stream = new DecompressionStream("deflate");
  const writer = stream.writable.getWriter();
  const written = writer.write(bytes).then(() => writer.close());
  const [inflated] = await Promise.all([new Response(stream.readable).arrayBuffer(), written]);
  return new Uint8Array(inflated);
}

// One method's maps of one observation, as planes: the middle slice of a volume, a signal as a row.
export class Maps {
  constructor(header, levels) {
    const [count, ...spatial] = header.shape;
    const depth = spatial.length > 2 ? spatial[0] : 1;
    [this.height, this.width] = spatial.length > 1 ? spatial.slice(-2) : [1, spatial[0]];
    this.count = count;
    this.signed = header.signed;
    this.peaks = header.peaks;
    this.session = header.session; // when the fit began that made them
    this.levels = levels;
    this.size = this.height * this.width;
    this.stride = this.size * depth;
    this.skip = this.size * Math.floor(depth / 2);
    if (levels.length !== count * this.stride) throw new Error("maps that are not whole");
    this.tops = new Float32Array(count);
  }

  get bytes() {
    return this.levels.length;
  }

  defined(probe) {
    return this.peaks[probe] !== null;
  }

  plane(probe) {
    const start = probe * this.stride + this.skip;
    return this.levels.subarray(start, start + this.size);
  }

  // Where all but the highest values of a map end, in 0..1: what is drawn brightest.
  top(probe) {
    if (this.tops[probe] === 0) this.tops[probe] = topOf(this.plane(probe), this.signed);
    return this.tops[probe];
  }
}

function topOf(plane, signed) {
  const counts = new Uint32Array(256);
  if (signed) for (const level of plane) counts[Math.abs(level - 128)] += 1;
  else for (const level of plane) counts[level] += 1;
  const most = signed ? 127 : 255;
  let above = Math.floor((1 - PERCENTILE) * (plane.length - 1));
  let highest = 0;
  for (let level = most; level > 0; level -= 1) {
    if (counts[level] > 0 && highest === 0) highest = level;
    above -= counts[level];
    if (above < 0) return level / most;
  }
  return Math.max(highest, 1) / most; // few places are not zero: the highest of them
}
