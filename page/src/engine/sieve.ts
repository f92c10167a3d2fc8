// Small regions get the class of their largest neighbour: the rule of landcover/postprocess/sieve.py.

import { NODATA } from "./engine";

/**
 * Return a map without regions of fewer than `minPixels` pixels.
 *
 * Works on runs (stretches of a row with one class), so that memory depends on the detail of the map and not on
 * its size. Pixels touch along edges. Of equally large neighbours the first in reading order counts.
 */
export function sieve(map: Uint8Array, height: number, width: number, minPixels: number): Uint8Array {
  if (minPixels <= 1 || minPixels > map.length) return map;
  const runs = findRuns(map, height, width);
  const { starts, count } = runs;
  const root = joinRuns(map, runs, height, width);
  const lengthOf = (run: number): number => starts[run + 1] - starts[run];
  const valueOf = (run: number): number => map[starts[run]];
  const size = new Float64Array(count);
  for (let run = 0; run < count; run++) size[root(run)] += lengthOf(run);

  const largest = new Float64Array(count);
  const heir = Int32Array.from({ length: count }, (_, i) => i);
  const meet = (first: number, second: number): void => {
    if (valueOf(first) === NODATA || valueOf(second) === NODATA) return;
    const [a, b] = [root(first), root(second)];
    if (a === b) return;
    if (size[a] < minPixels && size[b] > largest[a]) [largest[a], heir[a]] = [size[b], b];
    if (size[b] < minPixels && size[a] > largest[b]) [largest[b], heir[b]] = [size[a], a];
  };
  // In reading order, at each pixel the neighbour above before the one to the left.
  eachContactAbove(runs, height, width, meet, (run) => meet(run - 1, run));

  // Chains of small regions end at a large one, or in a circle of small ones, which then stay.
  const end = lastOf(heir);
  const values = new Uint8Array(count);
  for (let run = 0; run < count; run++) {
    const own = root(run);
    values[run] = valueOf(size[end[own]] >= minPixels ? end[own] : own);
  }
  const result = new Uint8Array(map.length);
  for (let run = 0; run < count; run++) result.fill(values[run], starts[run], starts[run + 1]);
  return result;
}

/** Return the regions of a map: a label of each pixel, and the number of pixels by label. */
export function labelRegions(
  map: Uint8Array,
  height: number,
  width: number,
): { labels: Int32Array; sizes: Float64Array } {
  const runs = findRuns(map, height, width);
  const root = joinRuns(map, runs, height, width);
  const labels = new Int32Array(map.length);
  const sizes = new Float64Array(runs.count);
  for (let run = 0; run < runs.count; run++) {
    labels.fill(root(run), runs.starts[run], runs.starts[run + 1]);
    sizes[root(run)] += runs.starts[run + 1] - runs.starts[run];
  }
  return { labels, sizes };
}

/** Join runs of one class that touch; returns the first run of each run's region. */
function joinRuns(map: Uint8Array, runs: Runs, height: number, width: number): (run: number) => number {
  const parent = Int32Array.from({ length: runs.count }, (_, i) => i);
  const root = (run: number): number => {
    while (parent[run] !== run) run = parent[run] = parent[parent[run]];
    return run;
  };
  eachContactAbove(runs, height, width, (above, run) => {
    if (map[runs.starts[above]] !== map[runs.starts[run]]) return;
    const [a, b] = [root(above), root(run)];
    parent[Math.max(a, b)] = Math.min(a, b);
  });
  return root;
}

/** Return where the way from each node ends, if each goes on to the node that it names. */
function lastOf(following: Int32Array): Int32Array {
  for (let n = 1; n < 2 * following.length; n *= 2) {
    const further = following.map((next) => following[next]);
    if (further.every((next, i) => next === following[i])) break;
    following = further;
  }
  return following;
}

interface Runs {
  /** First pixel of each run, and the number of pixels as the last entry. */
  starts: Int32Array;
  /** First run of each row, and the number of runs as the last entry. */
  rowFirst: Int32Array;
  count: number;
}

function findRuns(map: Uint8Array, height: number, width: number): Runs {
  const rowFirst = new Int32Array(height + 1);
  let count = 0;
  for (let row = 0, i = 0; row < height; row++) {
    rowFirst[row] = count;
    for (let col = 0; col < width; col++, i++) if (col === 0 || map[i] !== map[i - 1]) count++;
  }
  rowFirst[height] = count;
  const starts = new Int32Array(count + 1);
  let run = 0;
  for (let row = 0, i = 0; row < height; row++) {
    for (let col = 0; col < width; col++, i++) if (col === 0 || map[i] !== map[i - 1]) starts[run++] = i;
  }
  starts[count] = map.length;
  return { starts, rowFirst, count };
}

/** Call back for each pair of runs that touch across rows, and for each run that has one to its left. */
function eachContactAbove(
  runs: Runs,
  height: number,
  width: number,
  above: (upper: number, lower: number) => void,
  beside?: (run: number) => void,
): void {
  const { starts, rowFirst } = runs;
  for (let row = 0; row < height; row++) {
    let upper = row ? rowFirst[row - 1] : 0;
    for (let run = rowFirst[row]; run < rowFirst[row + 1]; run++) {
      const from = starts[run] - width;
      const to = starts[run + 1] - width;
      if (row) {
        while (starts[upper + 1] <= from) upper++;
        above(upper, run);
      }
      if (beside && run > rowFirst[row]) beside(run);
      if (row) while (starts[upper + 1] < to) above(++upper, run);
    }
  }
}
