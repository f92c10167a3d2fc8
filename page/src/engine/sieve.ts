// Small regions get the class of their largest neighbour: the rule of landcover/postprocess/sieve.py.

import { ClassMap, NODATA } from "./classmap";

/** Return a map without regions of fewer than `minPixels` pixels. Of equal neighbours the first in reading order counts. */
export function sieve(map: ClassMap, minPixels: number): ClassMap {
  const { height, width, starts, values, rowFirst, count } = map;
  if (minPixels <= 1 || minPixels > height * width) return map;
  const root = map.regions();
  const size = map.regionSizes(root);
  const largest = new Int32Array(count);
  let heir: Int32Array = Int32Array.from({ length: count }, (_, i) => i);
  const meet = (first: number, second: number): void => {
    if (values[first] === NODATA || values[second] === NODATA) return;
    const [a, b] = [root(first), root(second)];
    if (a === b) return;
    if (size[a] < minPixels && size[b] > largest[a]) [largest[a], heir[a]] = [size[b], b];
    if (size[b] < minPixels && size[a] > largest[b]) [largest[b], heir[b]] = [size[a], a];
  };
  // In reading order, at each pixel the neighbour above before the one to the left.
  map.eachTouch(meet, (run) => meet(run - 1, run));

  // Chains of small regions end at a large one, or in a circle of small ones, which then stay.
  for (let n = 1; n < 2 * count; n *= 2) {
    const further = heir.map((next) => heir[next]);
    const isDone = further.every((next, i) => next === heir[i]);
    heir = further;
    if (isDone) break;
  }
  const result = new ClassMap(height, width);
  for (let row = 0; row < height; row++) {
    for (let run = rowFirst[row]; run < rowFirst[row + 1]; run++) {
      const own = root(run);
      const end = heir[own];
      result.add(values[size[end] >= minPixels ? end : own], starts[run] - row * width);
    }
    result.endRow();
  }
  return result;
}
