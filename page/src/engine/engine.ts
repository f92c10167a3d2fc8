// From a scene to its classes, in row blocks. Counterpart of landcover/inference/engine.py and grid.py.

import { NODATA } from "./classmap";
import { mirrored } from "./filling";
import { axis, blockRows, finalCells, UserError, type Axis, type Grid } from "./grid";
import { windowRows, type Source, type Strip, type WindowRow } from "./reading";
import { resampleRows } from "./resample";

const MINIMUM_PX = 32;

/** Run the network on planar float RGB; returns probabilities (classes, rows, columns) on the logit grid. */
export type Network = (image: Float32Array, height: number, width: number) => Promise<Float32Array>;

export interface RowBlock {
  start: number;
  stop: number;
  /** Class index of each pixel, NODATA where there is no imagery. */
  classes: Uint8Array;
}

export interface Hooks {
  /** Called with rows of the scene as they are read, from the top. */
  onStrip?(start: number, stop: number, strip: Strip): void;
  /** Called with each row of windows at the model's GSD, and how many of its rows are new. */
  onWindowRow?(row: WindowRow, number: number): void;
  /** Called with final rows of probabilities on the logit grid. */
  onCells?(first: number, rows: number, cells: Float32Array): void;
  onProgress?(done: number, total: number): Promise<void>;
  isCancelled?(): boolean;
}

export class Cancelled extends Error {}

/** Yield the classes of a scene from top to bottom. */
export async function* rowBlocks(
  network: Network,
  source: Source,
  grid: Grid,
  model: { mean: readonly number[]; scored: number[]; views: number },
  hooks: Hooks = {},
): AsyncGenerator<RowBlock> {
  const classes = model.scored.length;
  const lastCol = grid.cols[grid.cols.length - 1];
  const width = lastCol.start + lastCol.length;
  const total = grid.rows.length * grid.cols.length;
  let done = 0;
  let top = 0;
  let held = 0;
  let sums = new Float32Array(0);
  let masks: { start: number; stop: number; valid: Uint8Array | null }[] = [];
  let number = 0;
  for await (const row of windowRows(source, grid, model.mean)) {
    const span = grid.rows[number];
    const rows = span.start + span.length - top;
    sums = grow(sums, classes, held, rows, width);
    held = rows;
    for (const { start, stop, strip } of row.strips) {
      hooks.onStrip?.(start, stop, strip);
      masks.push({ start, stop, valid: strip.valid });
    }
    hooks.onWindowRow?.(row, number);
    for (const [n, col] of grid.cols.entries()) {
      if (hooks.isCancelled?.()) throw new Cancelled();
      if (row.seen[n]) {
        const window = windowImage(row, col.start * grid.stride, col.length * grid.stride);
        const answer = await classify(network, window, row.height, col.length * grid.stride, grid.stride, model.views);
        for (let k = 0; k < classes; k++) {
          for (let y = 0; y < span.length; y++) {
            const target = (k * rows + span.start - top + y) * width + col.start;
            const from = (k * span.length + y) * col.length;
            const down = span.weights[y];
            for (let x = 0; x < col.length; x++) {
              sums[target + x] += Math.fround(Math.fround(answer[from + x] * down) * col.weights[x]);
            }
          }
        }
      }
      await hooks.onProgress?.(++done, total);
    }
    const [start, stop] = blockRows(grid, number);
    const final = finalCells(grid, number);
    if (start < stop) {
      const low = grid.ownRows.low[start];
      const cells = cut(sums, classes, rows, low - top, final - top, width);
      const block = argmax(cells, classes, final - low, width, grid, start, stop, low, model.scored);
      for (const mask of masks) {
        if (!mask.valid) continue;
        for (let y = Math.max(start, mask.start); y < Math.min(stop, mask.stop); y++) {
          for (let x = 0; x < grid.size.width; x++) {
            if (!mask.valid[(y - mask.start) * grid.size.width + x]) {
              block[(y - start) * grid.size.width + x] = NODATA;
            }
          }
        }
      }
      hooks.onCells?.(low, final - low, cells);
      yield { start, stop, classes: block };
    }
    masks = masks.filter((mask) => mask.stop > stop);
    sums = cut(sums, classes, rows, final - 1 - top, rows, width);
    held = rows - (final - 1 - top);
    top = final - 1;
    number++;
  }
}

function grow(sums: Float32Array, classes: number, held: number, rows: number, width: number): Float32Array<ArrayBuffer> {
  const grown = new Float32Array(classes * rows * width);
  for (let k = 0; k < classes; k++) {
    grown.set(sums.subarray(k * held * width, (k + 1) * held * width), k * rows * width);
  }
  return grown;
}

function cut(
  sums: Float32Array,
  classes: number,
  rows: number,
  from: number,
  to: number,
  width: number,
): Float32Array<ArrayBuffer> {
  const part = new Float32Array(classes * (to - from) * width);
  for (let k = 0; k < classes; k++) {
    part.set(sums.subarray((k * rows + from) * width, (k * rows + to) * width), k * (to - from) * width);
  }
  return part;
}

/** Return the RGB bytes of a window, with imagery mirrored into places without. */
function windowImage(row: WindowRow, left: number, width: number): Uint8Array {
  const { height } = row;
  const image = new Uint8Array(height * width * 3);
  const whole = row.whole && new Uint8Array(height * width);
  for (let y = 0; y < height; y++) {
    const from = y * row.width + left;
    image.set(row.image.subarray(from * 3, (from + width) * 3), y * width * 3);
    whole?.set(row.whole!.subarray(from, from + width), y * width);
  }
  return whole ? mirrored(image, whole, height, width) : image;
}

/**
 * Return the mean of the probabilities of some views of an image, float32 (classes, rows, columns) on the logit grid.
 *
 * @param views 1: the image; 2: also enlarged 1.35 times; 3: also mirrored from left to right; 8: the four rotations
 *   of the image and of its mirror image.
 */
export async function classify(
  network: Network,
  image: Uint8Array,
  height: number,
  width: number,
  stride: number,
  views: number,
): Promise<Float32Array> {
  const [rows, cols] = [height / stride, width / stride];
  const answers: Float32Array[] = [];
  const turns = views === 8 ? 4 : 1;
  for (const mirror of views === 3 || views === 8 ? [false, true] : [false]) {
    let oriented = mirror ? flipped(image, width, 3) : image;
    for (let turn = 0; turn < turns; turn++) {
      const [high, wide] = turn % 2 ? [width, height] : [height, width];
      let answer = await run(network, oriented, high, wide, stride);
      for (let back = turn; back % 4; back++) {
        answer = back % 2 ? turned(answer, cols, rows, 1) : turned(answer, rows, cols, 1);
      }
      answers.push(mirror ? flipped(answer, cols, 1) : answer);
      if (turn + 1 < turns) oriented = turned(oriented, high, wide, 3);
    }
  }
  if (views === 2 || views === 3) {
    // A side of n cells becomes one of 1.35 n, rounded, so that both grids cover the same ground.
    const [down, across] = [rows, cols].map((n) => Math.floor((27 * n + 10) / 20));
    const size = { height: down * stride, width: across * stride };
    const larger = resampleRows(image, 0, 0, size.height, { height, width }, size);
    const answer = await run(network, larger, size.height, size.width, stride);
    answers.push(upsample(answer, down, across, axis(rows, down, down / rows), axis(cols, across, across / cols)));
  }
  const [mean, ...others] = answers;
  for (const answer of others) answer.forEach((value, i) => (mean[i] += value));
  if (views > 1) for (let i = 0; i < mean.length; i++) mean[i] /= views;
  return mean;
}

/** Return planes of `height` x `width` pixels, of some values each, turned a quarter to the left. */
function turned<T extends Uint8Array | Float32Array>(planes: T, height: number, width: number, bands: number): T {
  const out = planes.slice() as T;
  const plane = height * width * bands;
  for (let at = 0; at < planes.length; at++) {
    const start = at - (at % plane);
    const pixel = Math.floor((at - start) / bands);
    const [row, col] = [Math.floor(pixel / height), pixel % height];
    out[at] = planes[start + (col * width + width - 1 - row) * bands + (at % bands)];
  }
  return out;
}

/** Return lines of `width` pixels, of some values each, from right to left. */
function flipped<T extends Uint8Array | Float32Array>(lines: T, width: number, bands: number): T {
  const out = lines.slice() as T;
  for (let at = 0; at < lines.length; at += bands) {
    const col = (at / bands) % width;
    for (let band = 0; band < bands; band++) out[at + band] = lines[at + (width - 1 - 2 * col) * bands + band];
  }
  return out;
}

/** Interpolate (classes, rows, columns) bilinearly at positions between rows and columns. */
function upsample(values: Float32Array, rows: number, cols: number, down: Axis, across: Axis): Float32Array {
  const classes = values.length / rows / cols;
  const out = new Float32Array(classes * down.low.length * across.low.length);
  const tall = new Float32Array(cols);
  const [below, beside] = [rows > 1 ? cols : 0, cols > 1 ? 1 : 0];
  let at = 0;
  for (let k = 0; k < classes; k++) {
    down.low.forEach((row, y) => {
      const from = (k * rows + row) * cols;
      for (let x = 0; x < cols; x++) {
        const low = values[from + x];
        tall[x] = low + Math.fround(Math.fround(values[from + below + x] - low) * down.weight[y]);
      }
      across.low.forEach((col, x) => {
        out[at++] = tall[col] + Math.fround(Math.fround(tall[col + beside] - tall[col]) * across.weight[x]);
      });
    });
  }
  return out;
}

/** Run the network on RGB bytes: probabilities (classes, rows, columns) on the logit grid, in an array of their own. */
async function run(
  network: Network,
  image: Uint8Array,
  height: number,
  width: number,
  stride: number,
): Promise<Float32Array> {
  // A network accepts no smaller image: mirror outwards, then drop what was added.
  const high = Math.max(height, MINIMUM_PX);
  const wide = Math.max(width, MINIMUM_PX);
  const plane = high * wide;
  const input = new Float32Array(3 * plane);
  for (let y = 0; y < high; y++) {
    const from = symmetric(y, height) * width;
    for (let x = 0; x < wide; x++) {
      const at = (from + (x < width ? x : symmetric(x, width))) * 3;
      const to = y * wide + x;
      input[to] = image[at];
      input[plane + to] = image[at + 1];
      input[2 * plane + to] = image[at + 2];
    }
  }
  const answer = await network(input, high, wide);
  for (let i = 0; i < answer.length; i++) {
    if (!Number.isFinite(answer[i])) {
      throw new UserError("The model returned NaN or infinite values: its file is corrupt. Export it again.");
    }
  }
  if (high === height && wide === width) return answer;
  const [rows, cols] = [height / stride, width / stride];
  const [gotRows, gotCols] = [Math.ceil(high / stride), Math.ceil(wide / stride)];
  const classes = answer.length / gotRows / gotCols;
  const part = new Float32Array(classes * rows * cols);
  for (let k = 0; k < classes; k++) {
    for (let y = 0; y < rows; y++) {
      const from = (k * gotRows + y) * gotCols;
      part.set(answer.subarray(from, from + cols), (k * rows + y) * cols);
    }
  }
  return part;
}

/** Return the position within `length` that a position beyond it mirrors, with the edge repeated. */
function symmetric(at: number, length: number): number {
  const turn = at % (2 * length);
  return turn < length ? turn : 2 * length - 1 - turn;
}

/** Return the class with the largest interpolated probability of each pixel of some rows. */
function argmax(
  cells: Float32Array,
  classes: number,
  rows: number,
  width: number,
  grid: Grid,
  start: number,
  stop: number,
  firstCell: number,
  labels: number[],
): Uint8Array {
  const plane = rows * width;
  const winner = new Uint8Array(plane);
  for (let i = 0; i < plane; i++) {
    let best = cells[i];
    for (let k = 1; k < classes; k++) {
      if (cells[k * plane + i] > best) {
        best = cells[k * plane + i];
        winner[i] = k;
      }
    }
  }
  const { low, weight }: Axis = grid.ownCols;
  const out = new Uint8Array((stop - start) * grid.size.width);
  for (let y = start; y < stop; y++) {
    const upper = (grid.ownRows.low[y] - firstCell) * width;
    const lower = rows > 1 ? upper + width : upper;
    const down = grid.ownRows.weight[y];
    const target = (y - start) * grid.size.width;
    for (let x = 0; x < grid.size.width; x++) {
      const a = upper + low[x];
      const b = lower + low[x];
      const next = width > 1 ? 1 : 0;
      let chosen = winner[a];
      if (winner[b] !== chosen || winner[a + next] !== chosen || winner[b + next] !== chosen) {
        let best = -1;
        for (let k = 0; k < classes; k++) {
          const base = k * plane;
          const left = cells[base + a] + (cells[base + b] - cells[base + a]) * down;
          const right = cells[base + a + next] + (cells[base + b + next] - cells[base + a + next]) * down;
          const value = left + (right - left) * weight[x];
          if (value > best) {
            best = value;
            chosen = k;
          }
        }
      }
      out[target + x] = labels[chosen];
    }
  }
  return out;
}
