// How a scene is covered with windows. Counterpart of landcover/windows.py and landcover/inference/grid.py.

import { scaledLength, type Size } from "./resample";

/** Longest side, in pixels at the model's GSD, up to which a scene is one window. */
const WHOLE_PX = 1536;
const COARSEST = 10;

export interface Span {
  start: number;
  length: number;
  /** The window's share of the blended answer at each position, 0 to 1. */
  weights: Float32Array;
}

export interface Axis {
  /** The logit cell whose centre is at or before each pixel's. */
  low: Int32Array;
  /** How much the cell after it counts, 0 to 1. */
  weight: Float32Array;
}

export interface Grid {
  size: Size;
  modelSize: Size;
  stride: number;
  rows: Span[];
  cols: Span[];
  ownRows: Axis;
  ownCols: Axis;
}

/** Cover an axis with windows of one length; at each position their weights sum to one. */
export function spans(total: number, window: number, overlap: number): Span[] {
  if (window >= total) return [{ start: 0, length: total, weights: new Float32Array(total).fill(1) }];
  const last = total - window;
  const starts: number[] = [];
  for (let start = 0; start < last; start += window - overlap) starts.push(start);
  starts.push(last);
  const raw = starts.map((start) => trapezoid(start, window, total, overlap));
  const sums = new Float64Array(total);
  starts.forEach((start, n) => raw[n].forEach((weight, i) => (sums[start + i] += weight)));
  return starts.map((start, n) => ({
    start,
    length: window,
    weights: Float32Array.from(raw[n], (weight, i) => weight / sums[start + i]),
  }));
}

function trapezoid(start: number, length: number, total: number, overlap: number): Float64Array {
  const margin = Math.floor(overlap / 4);
  const rise = Float64Array.from({ length }, (_, i) =>
    Math.min(1, Math.max(0, (i - margin + 0.5) / Math.max(overlap - 2 * margin, 1))),
  );
  const weights = new Float64Array(length).fill(1);
  if (overlap && start > 0) weights.set(rise);
  if (overlap && start + length < total) {
    for (let i = 0; i < length; i++) weights[i] = Math.min(weights[i], rise[length - 1 - i]);
  }
  return weights;
}

/** Place pixels between logit cells; both begin at the same edge. */
export function axis(pixels: number, cells: number, cellsPerPixel: number): Axis {
  const low = new Int32Array(pixels);
  const weight = new Float32Array(pixels);
  const lastLow = Math.max(cells - 2, 0);
  for (let i = 0; i < pixels; i++) {
    const position = Math.min(cells - 1, Math.max(0, (i + 0.5) * cellsPerPixel - 0.5));
    low[i] = Math.min(Math.trunc(position), lastLow);
    weight[i] = position - low[i];
  }
  return { low, weight };
}

/** A message for the person at the page. */
export class UserError extends Error {}

/**
 * Cover a scene with windows.
 *
 * @param sides Metres down and across a pixel.
 */
export function makeGrid(
  size: Size,
  sides: [number, number],
  model: { gsd: number; window_px: number; overlap_px: number },
  stride: number,
): Grid {
  const scales = sides.map((side) => side / model.gsd);
  if (Math.max(...scales) > COARSEST) {
    throw new UserError(
      `The imagery has ${Math.max(...sides).toPrecision(3)} m per pixel, more than ${COARSEST} times the ` +
        `model's ${model.gsd} m: it is too coarse for this model. Check the scale.`,
    );
  }
  const modelSize = {
    height: scaledLength(size.height, scales[0]),
    width: scaledLength(size.width, scales[1]),
  };
  const isWhole = Math.max(modelSize.height, modelSize.width) <= WHOLE_PX;
  const cells = [Math.ceil(modelSize.height / stride), Math.ceil(modelSize.width / stride)];
  const window = isWhole ? Math.max(...cells) : Math.ceil(model.window_px / stride);
  const overlap = isWhole ? 0 : Math.min(Math.ceil(model.overlap_px / stride), window - 1);
  return {
    size,
    modelSize,
    stride,
    rows: spans(cells[0], window, overlap),
    cols: spans(cells[1], window, overlap),
    ownRows: axis(size.height, cells[0], modelSize.height / size.height / stride),
    ownCols: axis(size.width, cells[1], modelSize.width / size.width / stride),
  };
}

/** Return how many rows of the logit grid are complete after a row of windows. */
export function finalCells(grid: Grid, block: number): number {
  if (block + 1 < grid.rows.length) return grid.rows[block + 1].start;
  const last = grid.rows[grid.rows.length - 1];
  return last.start + last.length;
}

/** Return the scene's rows of pixels that a row of windows completes. */
export function blockRows(grid: Grid, block: number): [number, number] {
  const stop = (n: number): number => {
    if (n < 0) return 0;
    if (n + 1 === grid.rows.length) return grid.size.height;
    const limit = finalCells(grid, n) - 1;
    let [a, b] = [0, grid.size.height];
    while (a < b) {
      const middle = (a + b) >> 1;
      if (grid.ownRows.low[middle] < limit) a = middle + 1;
      else b = middle;
    }
    return a;
  };
  return [stop(block - 1), stop(block)];
}
