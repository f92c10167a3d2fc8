// Imagery mirrored into places without imagery. Counterpart of landcover/model/preprocessing.py.

const FAR = 1 << 28;
const TOUCH = 1e-6;

/** Return RGB bytes whose invalid pixels show the imagery mirrored at its nearest edge. */
export function mirrored(source: Uint8Array, mask: Uint8Array, height: number, width: number): Uint8Array {
  let missing: number[] = [];
  for (let i = 0; i < mask.length; i++) if (!mask[i]) missing.push(i);
  if (!missing.length || missing.length === mask.length) return source;
  const image = source.slice();
  const valid = mask.slice();
  while (missing.length) {
    const [left, right] = nearest(valid, height, width, width, 1);
    const [above, below] = nearest(valid, width, height, 1, width);
    const filled: number[] = [];
    const from: number[] = [];
    const rest: number[] = [];
    for (const at of missing) {
      const row = Math.floor(at / width);
      const col = at - row * width;
      const [across, beside] = mirror(col, left[at], right[at]);
      const [down, over] = mirror(row, above[at], below[at]);
      const sideways = beside <= over;
      const place = sideways ? across : down;
      const inside = place >= 0 && place < (sideways ? width : height);
      const other = sideways ? row * width + place : place * width + col;
      if (inside && valid[other]) {
        filled.push(at);
        from.push(other);
      } else rest.push(at);
    }
    if (!filled.length) break;
    filled.forEach((at, n) => image.copyWithin(at * 3, from[n] * 3, from[n] * 3 + 3));
    for (const at of filled) valid[at] = 1;
    missing = rest;
  }
  return image;
}

/** Return the mirrored position along a line, and the distance to the edge of the imagery. */
function mirror(at: number, before: number, after: number): [number, number] {
  const edge = at - before <= after - at ? before : after;
  return [2 * edge - at + Math.sign(at - edge), Math.abs(edge - at)];
}

/** Return the nearest valid positions before and after each pixel along its line. */
function nearest(
  valid: Uint8Array,
  lines: number,
  length: number,
  lineStep: number,
  step: number,
): [Int32Array, Int32Array] {
  const before = new Int32Array(valid.length);
  const after = new Int32Array(valid.length);
  for (let line = 0; line < lines; line++) {
    let last = -FAR;
    for (let i = 0, at = line * lineStep; i < length; i++, at += step) {
      if (valid[at]) last = i;
      before[at] = last;
    }
    last = FAR;
    for (let i = length - 1, at = line * lineStep + i * step; i >= 0; i--, at -= step) {
      if (valid[at]) last = i;
      after[at] = last;
    }
  }
  return [before, after];
}

/** Return, down a column or along a row, whether anything is missing of what each pixel is resampled from. */
function anyWithin(start: number, stop: number, step: number, offset: number, length: number): [Int32Array, Int32Array] {
  const reach = Math.max(step, 1) - 0.5;
  const first = new Int32Array(stop - start);
  const end = new Int32Array(stop - start);
  for (let i = start; i < stop; i++) {
    const centre = (i + 0.5) * step - offset;
    const a = Math.min(length - 1, Math.max(0, Math.floor(centre - reach + TOUCH)));
    first[i - start] = a;
    end[i - start] = Math.min(length, Math.max(a + 1, Math.ceil(centre + reach - TOUCH)));
  }
  return [first, end];
}

/**
 * Return which pixels of rows `start` to `stop` of a resampled image are made of imagery alone.
 *
 * @param valid Which pixels of the strip are imagery.
 * @param top The source row that the strip begins with.
 */
export function wholePixels(
  valid: Uint8Array,
  top: number,
  start: number,
  stop: number,
  source: { height: number; width: number },
  target: { height: number; width: number },
): Uint8Array {
  const width = source.width;
  const rows = valid.length / width;
  if (source.height === target.height && width === target.width) {
    return valid.subarray((start - top) * width, (stop - top) * width);
  }
  const [firstRow, endRow] = anyWithin(start, stop, source.height / target.height, top, rows);
  const [firstCol, endCol] = anyWithin(0, target.width, width / target.width, 0, width);
  const whole = new Uint8Array((stop - start) * target.width).fill(1);
  const line = new Uint8Array(width);
  for (let row = 0; row < stop - start; row++) {
    line.fill(1);
    for (let y = firstRow[row]; y < endRow[row]; y++) {
      for (let x = 0; x < width; x++) line[x] &= valid[y * width + x];
    }
    for (let col = 0; col < target.width; col++) {
      for (let x = firstCol[col]; x < endCol[col]; x++) {
        if (!line[x]) {
          whole[row * target.width + col] = 0;
          break;
        }
      }
    }
  }
  return whole;
}
