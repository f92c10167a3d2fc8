// Rows of windows at the model's GSD from a scene that is read in strips.
// Counterpart of landcover/inference/reading.py: the same steps, so that resampling rounds alike.

import { wholePixels } from "./filling";
import type { Grid } from "./grid";
import { resampleRows, roundHalfEven, sourceRows } from "./resample";

const STEP_ROWS = 128;
const STEP_PIXELS = 1 << 22;
const PART_ROWS = 128;

/** Rows of a scene: RGB bytes, and which pixels are imagery (null: all). */
export interface Strip {
  image: Uint8Array;
  valid: Uint8Array | null;
}

export interface Source {
  height: number;
  width: number;
  readRows(start: number, stop: number): Promise<Strip>;
}

export interface WindowRow {
  height: number;
  width: number;
  image: Uint8Array;
  whole: Uint8Array | null;
  seen: boolean[];
  strips: { start: number; stop: number; strip: Strip }[];
}

interface Step {
  start: number;
  stop: number;
  image: Uint8Array;
  whole: Uint8Array | null;
  seen: boolean[];
}

/** Yield the imagery of each row of windows, reading each row of pixels once. */
export async function* windowRows(
  source: Source,
  grid: Grid,
  mean: readonly number[],
): AsyncGenerator<WindowRow> {
  const { size, modelSize, stride } = grid;
  const filling = mean.map((value) => roundHalfEven(255 * value));
  const perRow = Math.max(modelSize.width, Math.floor((size.width * size.height) / modelSize.height));
  const stepHeight = Math.max(1, Math.floor(Math.floor(STEP_PIXELS / perRow) / STEP_ROWS)) * STEP_ROWS;
  const partHeight = Math.min(PART_ROWS, Math.floor(stepHeight / 2));
  const line = size.width * 3;
  const lastCol = grid.cols[grid.cols.length - 1];
  const width = (lastCol.start + lastCol.length) * stride;
  const scale = (size.width / modelSize.width) * stride;
  const columns = grid.cols.map((span) => [
    Math.floor(span.start * scale),
    Math.max(1, Math.ceil((span.start + span.length) * scale)),
  ]);
  let at = 0;
  let top = 0;
  let rows: Uint8Array = new Uint8Array(0);
  let valid: Uint8Array | null = null;
  let steps: Step[] = [];

  for (const span of grid.rows) {
    const first = span.start * stride;
    const last = Math.min((span.start + span.length) * stride, modelSize.height);
    const strips: WindowRow["strips"] = [];
    steps = steps.filter((step) => step.stop > first);
    while (at < last) {
      const stop = Math.min(at + stepHeight, modelSize.height);
      const [from, to] = sourceRows(at, stop, size.height, modelSize.height);
      const bottom = top + rows.length / line;
      if (to > bottom) {
        const strip = await source.readRows(bottom, to);
        strips.push({ start: bottom, stop: to, strip });
        const joined = new Uint8Array(rows.length + strip.image.length);
        joined.set(rows);
        joined.set(strip.image, rows.length);
        if (strip.valid) fillMissing(joined, rows.length, strip.valid, filling);
        if (strip.valid || valid) {
          const mask = new Uint8Array(joined.length / 3).fill(1);
          if (valid) mask.set(valid);
          if (strip.valid) mask.set(strip.valid, rows.length / 3);
          valid = mask;
        }
        rows = joined;
      }
      rows = rows.subarray((from - top) * line);
      valid = valid && valid.subarray((from - top) * size.width);
      top = from;
      const image = new Uint8Array((stop - at) * modelSize.width * 3);
      for (let part = at; part < stop; part += partHeight) {
        const end = Math.min(part + partHeight, stop);
        const [a, b] = sourceRows(part, end, size.height, modelSize.height);
        const cut = rows.subarray((a - top) * line, (b - top) * line);
        image.set(resampleRows(cut, a, part, end, size, modelSize), (part - at) * modelSize.width * 3);
      }
      const hasHoles = valid !== null && valid.includes(0);
      steps.push({
        start: at,
        stop,
        image,
        whole: hasHoles ? wholePixels(valid!, top, at, stop, size, modelSize) : null,
        seen: seenWindows(hasHoles ? valid : null, size.width, columns),
      });
      at = stop;
    }
    const height = span.length * stride;
    const hasHoles = steps.some((step) => step.whole);
    const image = new Uint8Array(height * width * 3);
    const whole = hasHoles ? new Uint8Array(height * width).fill(1) : null;
    for (const step of steps) {
      for (let row = Math.max(first, step.start); row < Math.min(last, step.stop); row++) {
        const source = (row - step.start) * modelSize.width;
        const target = (row - first) * width;
        image.set(step.image.subarray(source * 3, (source + modelSize.width) * 3), target * 3);
        if (whole && step.whole) whole.set(step.whole.subarray(source, source + modelSize.width), target);
      }
    }
    repeatEdges(image, 3, last - first, modelSize.width, height, width);
    if (whole) repeatEdges(whole, 1, last - first, modelSize.width, height, width);
    const seen = grid.cols.map((_, n) => steps.some((step) => step.seen[n]));
    yield { height, width, image, whole, seen, strips };
  }
}

function fillMissing(image: Uint8Array, offset: number, valid: Uint8Array, filling: number[]): void {
  for (let i = 0; i < valid.length; i++) {
    if (valid[i]) continue;
    for (let band = 0; band < 3; band++) image[offset + i * 3 + band] = filling[band];
  }
}

function seenWindows(valid: Uint8Array | null, width: number, columns: number[][]): boolean[] {
  if (!valid) return columns.map(() => true);
  const any = new Uint8Array(width);
  for (let i = 0, col = 0; i < valid.length; i++) {
    any[col] |= valid[i];
    if (++col === width) col = 0;
  }
  return columns.map(([from, to]) => any.subarray(from, to).includes(1));
}

/** Repeat the last column and row of the filled part of an array up to its size. */
function repeatEdges(
  values: Uint8Array,
  bands: number,
  rows: number,
  cols: number,
  height: number,
  width: number,
): void {
  for (let row = 0; row < rows; row++) {
    for (let col = cols; col < width; col++) {
      const last = (row * width + cols - 1) * bands;
      values.copyWithin((row * width + col) * bands, last, last + bands);
    }
  }
  for (let row = rows; row < height; row++) {
    values.copyWithin(row * width * bands, (rows - 1) * width * bands, rows * width * bands);
  }
}
