// A map kept as runs, so that its memory depends on its detail and not on its size.

import { UserError } from "./grid";

const MAX_RUNS = 1 << 26;

export const NODATA = 255;

/** A map of class indices. A run is a stretch of a row with one class; neighbours in a row differ. */
export class ClassMap {
  /** First pixel of each run, counted in reading order; the end of the map as the last entry. */
  starts = new Int32Array(1024);
  values = new Uint8Array(1024);
  /** First run of each row, and the number of runs as the last entry. */
  readonly rowFirst: Int32Array;
  count = 0;
  private rows = 0;

  constructor(
    readonly height: number,
    readonly width: number,
  ) {
    this.rowFirst = new Int32Array(height + 1);
  }

  /** Append whole rows of class indices. */
  addRows(classes: Uint8Array): void {
    const { width } = this;
    for (let i = 0; i < classes.length; i += width) {
      let at = i;
      while (at < i + width) {
        const value = classes[at];
        const start = at;
        while (++at < i + width && classes[at] === value);
        this.add(value, start - i);
      }
      this.endRow();
    }
  }

  /** Append a run to the unfinished row; it joins the one before it if they have one class. */
  add(value: number, column: number): void {
    const first = this.rowFirst[this.rows];
    if (this.count > first && this.values[this.count - 1] === value) return;
    if (this.count + 1 >= this.starts.length) this.grow();
    this.values[this.count] = value;
    this.starts[this.count++] = this.rows * this.width + column;
  }

  endRow(): void {
    this.rowFirst[++this.rows] = this.count;
    this.starts[this.count] = this.rows * this.width;
  }

  private grow(): void {
    if (this.starts.length >= MAX_RUNS) {
      throw new UserError("The map is too detailed for a browser. Map this scene with landcover predict.");
    }
    const [starts, values] = [this.starts, this.values];
    this.starts = new Int32Array(2 * starts.length);
    this.starts.set(starts);
    this.values = new Uint8Array(2 * values.length);
    this.values.set(values);
  }

  /** Write a row's class indices, from a column to another, to an array. */
  readRow(row: number, out: Uint8Array, offset = 0, from = 0, to = this.width): void {
    const line = row * this.width;
    for (let run = this.runAt(row, from), at = from; at < to; run++) {
      const end = Math.min(to, this.starts[run + 1] - line);
      out.fill(this.values[run], offset + at - from, offset + end - from);
      at = end;
    }
  }

  /** Return the run that a pixel is in. */
  runAt(row: number, column: number): number {
    const pixel = row * this.width + column;
    let [low, high] = [this.rowFirst[row], this.rowFirst[row + 1]];
    while (high - low > 1) {
      const middle = (low + high) >> 1;
      if (this.starts[middle] <= pixel) low = middle;
      else high = middle;
    }
    return low;
  }

  /** Call back for each run and each run above it that it touches, from left to right. */
  eachTouch(touch: (upper: number, lower: number) => void, beside?: (run: number) => void): void {
    const { starts, rowFirst, width } = this;
    for (let row = 0; row < this.height; row++) {
      let upper = row ? rowFirst[row - 1] : 0;
      for (let run = rowFirst[row]; run < rowFirst[row + 1]; run++) {
        const to = starts[run + 1] - width;
        if (row) {
          while (starts[upper + 1] <= starts[run] - width) upper++;
          touch(upper, run);
        }
        if (beside && run > rowFirst[row]) beside(run);
        if (row) while (starts[upper + 1] < to) touch(++upper, run);
      }
    }
  }

  /** Return the first run of each run's region: runs of one class that touch along edges. */
  regions(): (run: number) => number {
    const parent = Int32Array.from({ length: this.count }, (_, i) => i);
    const root = (run: number): number => {
      while (parent[run] !== run) run = parent[run] = parent[parent[run]];
      return run;
    };
    this.eachTouch((upper, lower) => {
      if (this.values[upper] !== this.values[lower]) return;
      const [a, b] = [root(upper), root(lower)];
      parent[Math.max(a, b)] = Math.min(a, b);
    });
    return root;
  }

  /** Return the number of pixels of each region, at its first run. */
  regionSizes(root: (run: number) => number): Int32Array {
    const sizes = new Int32Array(this.count);
    for (let run = 0; run < this.count; run++) sizes[root(run)] += this.starts[run + 1] - this.starts[run];
    return sizes;
  }
}
