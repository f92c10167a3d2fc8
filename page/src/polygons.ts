// The map as polygons: one per region, along pixel edges.

import { NODATA } from "./engine/engine";
import { labelRegions } from "./engine/sieve";

export interface Region {
  value: number;
  pixels: number;
  /** Outer ring first, then holes; positions in pixels, closed. */
  rings: [number, number][][];
}

/** Yield the regions of a map, pixels of one class that touch along edges. */
export function* regions(map: Uint8Array, height: number, width: number): Generator<Region> {
  const { labels, sizes } = labelRegions(map, height, width);
  const at = (row: number, col: number): number =>
    row < 0 || col < 0 || row >= height || col >= width ? -1 : labels[row * width + col];
  const visited = new Uint8Array(Math.ceil((height * width) / 8));
  const found = new Map<number, Region>();
  for (let row = 0, i = 0; row < height; row++) {
    for (let col = 0; col < width; col++, i++) {
      if (map[i] === NODATA || visited[i >> 3] & (1 << (i & 7))) continue;
      const label = labels[i];
      if (at(row - 1, col) === label) continue;
      const ring = trace(at, label, row, col, (edge) => (visited[edge >> 3] |= 1 << (edge & 7)), width);
      const region = found.get(label);
      if (region) region.rings.push(ring);
      else found.set(label, { value: map[i], pixels: sizes[label], rings: [ring] });
    }
  }
  yield* found.values();
}

/** Follow the edge of a region, which stays on the right, from the upper edge of a pixel. */
function trace(
  at: (row: number, col: number) => number,
  label: number,
  row: number,
  col: number,
  visit: (pixel: number) => void,
  width: number,
): [number, number][] {
  // Directions: 0 east, 1 south, 2 west, 3 north. (y, x) is a corner of pixels.
  let [y, x, direction] = [row, col, 0];
  const ring: [number, number][] = [[x, y]];
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
    if (direction === 0) visit(y * width + x);
    y += step[direction][0];
    x += step[direction][1];
    const before = direction;
    if (at(y + right[direction][0], x + right[direction][1]) !== label) direction = (direction + 1) % 4;
    else if (at(y + left[direction][0], x + left[direction][1]) === label) direction = (direction + 3) % 4;
    if (direction !== before) ring.push([x, y]);
  } while (y !== row || x !== col || direction !== 0);
  const [firstX, firstY] = ring[0];
  const last = ring[ring.length - 1];
  if (last[0] !== firstX || last[1] !== firstY) ring.push([firstX, firstY]);
  return ring;
}
