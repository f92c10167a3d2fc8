// The map as polygons: one per region, along pixel edges.

import { NODATA, type ClassMap } from "./engine/classmap";

export interface Region {
  value: number;
  pixels: number;
  squareMetres: number;
  /** Outer ring first, then holes; x and y of each corner in pixels, closed. */
  rings: Int32Array[];
}

/** Yield the regions of a map, pixels of one class that touch along edges. */
export function* regions(map: ClassMap, areaOfRow: Float64Array): Generator<Region> {
  const { height, width, values, starts, rowFirst } = map;
  const root = map.regions();
  const sizes = map.regionSizes(root);
  const areas = new Float64Array(map.count);
  for (let row = 0; row < height; row++) {
    for (let run = rowFirst[row]; run < rowFirst[row + 1]; run++) {
      areas[root(run)] += (starts[run + 1] - starts[run]) * areaOfRow[row];
    }
  }
  const regionAt = (row: number, col: number): number =>
    row < 0 || col < 0 || row >= height || col >= width ? -1 : root(map.runAt(row, col));
  // Pixels at which a stretch of upper edges begins that a ring has followed.
  const followed = new Set<number>();
  const found = new Map<number, Region>();
  const begin = (row: number, col: number, region: number): void => {
    if (followed.delete(row * width + col)) return;
    const ring = follow(regionAt, region, row, col, (y, x) => followed.add(y * width + x));
    followed.delete(row * width + col);
    const known = found.get(region);
    if (known) known.rings.push(ring);
    else found.set(region, { value: values[region], pixels: sizes[region], squareMetres: areas[region], rings: [ring] });
  };
  for (let row = 0; row < height; row++) {
    let upper = row ? rowFirst[row - 1] : 0;
    for (let run = rowFirst[row]; run < rowFirst[row + 1]; run++) {
      if (values[run] === NODATA) continue;
      const region = root(run);
      const [from, to] = [starts[run] - row * width, starts[run + 1] - row * width];
      if (!row) {
        begin(row, from, region);
        continue;
      }
      const above = starts[run] - width;
      while (starts[upper + 1] <= above) upper++;
      let isOpen = false;
      for (let other = upper; other < rowFirst[row] && starts[other] - (row - 1) * width < to; other++) {
        const isEdge = root(other) !== region;
        if (isEdge && !isOpen) begin(row, Math.max(from, starts[other] - (row - 1) * width), region);
        isOpen = isEdge;
      }
    }
  }
  yield* found.values();
}

/** Follow the edge of a region, which stays on the right, from the upper edge of a pixel. */
function follow(
  regionAt: (row: number, col: number) => number,
  region: number,
  row: number,
  col: number,
  visit: (row: number, col: number) => void,
): Int32Array {
  // Directions: 0 east, 1 south, 2 west, 3 north. (y, x) is a corner of pixels.
  let [y, x, direction] = [row, col, 0];
  const ring = [x, y];
  const step = [
    [0, 1],
    [1, 0],
    [0, -1],
    [-1, 0],
  ];
  // The pixels ahead to the right and ahead to the left of a corner, by direction.
  const right = [
    [0, 0],
    [0, -1],
    [-1, -1],
    [-1, 0],
  ];
  const left = [
    [-1, 0],
    [0, 0],
    [0, -1],
    [-1, -1],
  ];
  do {
    y += step[direction][0];
    x += step[direction][1];
    const before = direction;
    if (regionAt(y + right[direction][0], x + right[direction][1]) !== region) direction = (direction + 1) % 4;
    else if (regionAt(y + left[direction][0], x + left[direction][1]) === region) direction = (direction + 3) % 4;
    if (direction === before) continue;
    ring.push(x, y);
    if (direction === 0) visit(y, x);
  } while (y !== row || x !== col || direction !== 0);
  if (ring[0] !== ring[ring.length - 2] || ring[1] !== ring[ring.length - 1]) ring.push(ring[0], ring[1]);
  return Int32Array.from(ring);
}
