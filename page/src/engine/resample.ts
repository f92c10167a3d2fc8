// Pillow's resampling of 8-bit images, to the byte: Hamming to reduce, bilinear to enlarge.
// Counterpart of landcover/model/preprocessing.py; the arithmetic is that of Pillow's Resample.c.

const PRECISION_BITS = 22;

export interface Size {
  height: number;
  width: number;
}

interface Coefficients {
  first: Int32Array;
  count: Int32Array;
  taps: number;
  values: Int32Array;
}

const hamming = (x: number): number => {
  if (x < 0) x = -x;
  if (x === 0) return 1;
  if (x >= 1) return 0;
  x *= Math.PI;
  return (Math.sin(x) / x) * (0.54 + 0.46 * Math.cos(x));
};

const bilinear = (x: number): number => {
  if (x < 0) x = -x;
  return x < 1 ? 1 - x : 0;
};

/** Return a number rounded to the nearest integer, halves to the even one, as Python rounds. */
export function roundHalfEven(value: number): number {
  const floor = Math.floor(value);
  const rest = value - floor;
  if (rest !== 0.5) return Math.round(value);
  return floor % 2 === 0 ? floor : floor + 1;
}

/** Return a length times a factor, rounded, at least 1. */
export const scaledLength = (length: number, scale: number): number =>
  Math.max(1, roundHalfEven(length * scale));

/** Return the weights with which each output position mixes input positions. */
function coefficients(
  inputs: number,
  from: number,
  to: number,
  outputs: number,
  filter: (x: number) => number,
): Coefficients {
  const start = Math.fround(from);
  const scale = Math.fround(Math.fround(to) - start) / outputs;
  const filterScale = Math.max(scale, 1);
  const taps = Math.ceil(filterScale) * 2 + 1;
  const first = new Int32Array(outputs);
  const count = new Int32Array(outputs);
  const values = new Int32Array(outputs * taps);
  const weights = new Float64Array(taps);
  for (let out = 0; out < outputs; out++) {
    const center = start + (out + 0.5) * scale;
    const low = Math.max(0, Math.trunc(center - filterScale + 0.5));
    const n = Math.min(inputs, Math.trunc(center + filterScale + 0.5)) - low;
    let sum = 0;
    for (let i = 0; i < n; i++) {
      weights[i] = filter((i + low - center + 0.5) / filterScale);
      sum += weights[i];
    }
    for (let i = 0; i < n; i++) {
      const weight = sum !== 0 ? weights[i] / sum : weights[i];
      values[out * taps + i] = Math.trunc(0.5 + weight * (1 << PRECISION_BITS));
    }
    first[out] = low;
    count[out] = n;
  }
  return { first, count, taps, values };
}

const clip8 = (sum: number): number => {
  const value = sum >> PRECISION_BITS;
  return value < 0 ? 0 : value > 255 ? 255 : value;
};

/** Return the source rows that rows `start` to `stop` of a resampled image are made of. */
export function sourceRows(start: number, stop: number, source: number, target: number): [number, number] {
  const step = source / target;
  const reach = Math.max(step, 1);
  const first = Math.floor((start + 0.5) * step - reach);
  const last = Math.ceil((stop - 0.5) * step + reach);
  return [Math.max(0, first), Math.min(source, last)];
}

/**
 * Return rows of a resampled image from a strip of the source.
 *
 * @param strip RGB bytes of consecutive source rows.
 * @param top The source row that the strip begins with.
 * @param start First row of the resampled image.
 * @param stop Row after the last.
 * @param source Size of the whole source.
 * @param target Size of the whole resampled image.
 */
export function resampleRows(
  strip: Uint8Array,
  top: number,
  start: number,
  stop: number,
  source: Size,
  target: Size,
): Uint8Array {
  const line = source.width * 3;
  if (source.height === target.height && source.width === target.width) {
    return strip.subarray((start - top) * line, (stop - top) * line);
  }
  const reduces = target.height * target.width < source.height * source.width;
  const filter = reduces ? hamming : bilinear;
  const rows = strip.length / line;
  const step = source.height / target.height;
  const from = Math.max(0, start * step - top);
  const to = Math.min(stop * step - top, rows);
  const height = stop - start;
  // Pillow skips a pass that would change nothing.
  const isWhole = height === rows && Math.fround(from) === 0 && Math.fround(to) === rows;
  const tall = isWhole ? strip : resampleDown(strip, line, coefficients(rows, from, to, height, filter), height);
  if (source.width === target.width) return tall;
  return resampleAcross(
    tall,
    height,
    source.width,
    coefficients(source.width, 0, source.width, target.width, filter),
    target.width,
  );
}

function resampleDown(strip: Uint8Array, line: number, weights: Coefficients, height: number): Uint8Array {
  const out = new Uint8Array(height * line);
  const sums = new Int32Array(line);
  for (let row = 0; row < height; row++) {
    sums.fill(1 << (PRECISION_BITS - 1));
    for (let tap = 0; tap < weights.count[row]; tap++) {
      const weight = weights.values[row * weights.taps + tap];
      const offset = (weights.first[row] + tap) * line;
      for (let i = 0; i < line; i++) sums[i] += strip[offset + i] * weight;
    }
    const target = row * line;
    for (let i = 0; i < line; i++) out[target + i] = clip8(sums[i]);
  }
  return out;
}

function resampleAcross(
  image: Uint8Array,
  height: number,
  width: number,
  weights: Coefficients,
  columns: number,
): Uint8Array {
  const out = new Uint8Array(height * columns * 3);
  for (let row = 0; row < height; row++) {
    const source = row * width * 3;
    for (let column = 0; column < columns; column++) {
      let red = 1 << (PRECISION_BITS - 1);
      let green = red;
      let blue = red;
      let at = source + weights.first[column] * 3;
      const base = column * weights.taps;
      for (let tap = 0; tap < weights.count[column]; tap++, at += 3) {
        const weight = weights.values[base + tap];
        red += image[at] * weight;
        green += image[at + 1] * weight;
        blue += image[at + 2] * weight;
      }
      const target = (row * columns + column) * 3;
      out[target] = clip8(red);
      out[target + 1] = clip8(green);
      out[target + 2] = clip8(blue);
    }
  }
  return out;
}
