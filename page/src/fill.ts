// Fill that a file does not declare: whole rows and columns of one value at the edges of a scene. A value is that of a
// pixel: a number for each band.
// Counterpart of landcover/raster/fill.py.

import type { GeoTIFFImage } from "geotiff";
import type { Size } from "./engine/resample";
import type { Numbers } from "./bands";
import type { Box } from "./sources";

/** Shorter rows and columns may have one value by chance: black or white, or one colour. */
const SHORTEST_PX = 16;
const SHORTEST_COLOUR_PX = 128;
/** Fraction of the height or width that rows or columns of a colour are at most: more is flat water. */
const LARGEST_COLOUR = 0.25;
const CORNER_PX = 16;
const SIDES = ["top", "bottom", "left", "right"] as const;

/** Read the values of a box, a plane for each band. */
type Read = (box: Box) => Promise<Numbers[]>;
type Side = (typeof SIDES)[number];
type Value = readonly number[];

/** Which blocks of a GeoTIFF were never written, row by row. */
interface Missing {
  flags: Uint8Array;
  count: number;
  high: number;
  wide: number;
  across: number;
}

/** What is fill in a scene. */
export class Fill {
  missing: Missing | null = null;

  /**
   * @param inside The part without the rows and columns of fill.
   * @param lines Side, value and number of rows or columns of fill, from the outside.
   * @param corners Values of square corners of the rest, which may be fill or imagery.
   */
  constructor(
    private readonly size: Size,
    readonly inside: Box,
    readonly lines: readonly [Side, Value, number][],
    readonly corners: readonly Value[],
  ) {}

  get isEmpty(): boolean {
    return !this.lines.length && !this.missing;
  }

  notes(name: string): string[] {
    const found: string[] = [];
    if (this.lines.length) {
      const sides = this.lines.map(([side, value, count]) => `${count} at the ${side} (${shown(value)})`).join(", ");
      found.push(
        `${name} has rows or columns of one value, which it does not declare as nodata: ${sides}. They become nodata. ` +
          "To map them, change the settings: Advanced.",
      );
    }
    if (this.corners.length) {
      const first = this.corners[0];
      const what = isColour(first) ? "mark them, for example by an alpha band" : `declare ${first[0]} as the nodata value`;
      found.push(
        `${name} has corners of the one value ${this.corners.map(shown).join(" and ")}, which it does not declare as ` +
          `nodata: they are mapped as imagery. If they are not imagery, ${what}.`,
      );
    }
    if (this.missing) {
      const { count, high, wide } = this.missing;
      found.push(
        `${name} lacks ${count.toLocaleString("en")} blocks of ${high} x ${wide} pixels (value 0), which were never ` +
          "written: they become nodata. To map them, change the settings: Advanced.",
      );
    }
    return found;
  }

  /** Return whether a pixel has the value of a corner: it does not count in percentiles. */
  hasCornerValue(planes: Numbers[], at: number): boolean {
    return this.corners.some((value) => planes.every((plane, band) => plane[at] === value[band]));
  }

  /** Set what is fill in a box of the scene, or of a smaller version of it, to 0. */
  apply(valid: Uint8Array, [left, top, right, bottom]: Box, version: Size): void {
    if (this.isEmpty) return;
    const { size, inside, missing } = this;
    const rows = ends(top, bottom, version.height, size.height);
    const cols = ends(left, right, version.width, size.width);
    const width = right - left;
    for (let y = 0; y < bottom - top; y++) {
      const line = valid.subarray(y * width, (y + 1) * width);
      if (rows[0][y] < inside[1] || rows[1][y] >= inside[3]) {
        line.fill(0);
        continue;
      }
      for (let x = 0; x < width; x++) if (cols[0][x] < inside[0] || cols[1][x] >= inside[2]) line[x] = 0;
      if (!missing) continue;
      for (const row of rows) {
        const first = Math.floor(row[y] / missing.high) * missing.across;
        for (const col of cols) {
          for (let x = 0; x < width; x++) if (missing.flags[first + Math.floor(col[x] / missing.wide)]) line[x] = 0;
        }
      }
    }
  }
}

function isColour(value: Value): boolean {
  return value.some((number) => number !== value[0]);
}

function shown(value: Value): string {
  return isColour(value) ? `(${value.join(", ")})` : String(value[0]);
}

function isSame(value: Value, other: Value | null): boolean {
  return other !== null && value.every((number, band) => number === other[band]);
}

/** Return the first and last pixel, of `length`, of what each one from `start` to `stop`, of `count`, stands for. */
function ends(start: number, stop: number, count: number, length: number): [Float64Array, Float64Array] {
  const first = Float64Array.from({ length: stop - start }, (_, i) => Math.floor(((start + i) * length) / count));
  return [first, first.map((_, i) => Math.floor(((start + i + 1) * length - 1) / count))];
}

/**
 * Find rows and columns of pixels of one value at the four edges of a scene.
 *
 * Rows and columns of a colour are fill in a small part of a scene alone. Where the corners differ, as in imagery without fill, only the corners are read.
 *
 * @param step Rows to read at a time.
 */
export async function findFill(read: Read, size: Size, step: number): Promise<Fill> {
  let [left, top, right, bottom]: Box = [0, 0, size.width, size.height];
  const lines: [Side, Value, number][] = [];
  let previous = -1;
  while (previous !== lines.length) {
    // Rows that are fill but for columns of another value are found then.
    previous = lines.length;
    for (const side of SIDES) {
      const most = Math.floor(LARGEST_COLOUR * (side === "top" || side === "bottom" ? size.height : size.width));
      const [value, count] = await depth(read, [left, top, right, bottom], side, step, most);
      if (!count) continue;
      lines.push([side, value, count]);
      if (side === "top") top += count;
      else if (side === "bottom") bottom -= count;
      else if (side === "left") left += count;
      else right -= count;
    }
  }
  const corners: Value[] = [];
  if (Math.min(bottom - top, right - left) >= 2 * CORNER_PX) {
    for (const row of [top, bottom - CORNER_PX]) {
      for (const col of [left, right - CORNER_PX]) {
        const value = oneValue(await read([col, row, col + CORNER_PX, row + CORNER_PX]));
        if (value !== null && !corners.some((other) => isSame(value, other))) corners.push(value);
      }
    }
  }
  return new Fill(size, [left, top, right, bottom], lines, corners.sort(compare));
}

/** Return which of two values comes first, as Python's tuples. */
function compare(value: Value, other: Value): number {
  const band = value.findIndex((number, at) => number !== other[at]);
  return band < 0 ? 0 : value[band] - other[band];
}

/** Return the only value of some pixels; null if there are others. */
function oneValue(planes: Numbers[]): Value | null {
  const isOne = planes.every((plane) => Array.prototype.every.call(plane, (other) => other === plane[0]));
  return isOne ? planes.map((plane) => plane[0]) : null;
}

/**
 * Return the value of the rows or columns of fill at a side of a part, and their number. More than `most` of a colour
 * are not fill.
 */
async function depth(read: Read, part: Box, side: Side, step: number, most: number): Promise<[Value, number]> {
  const [left, top, right, bottom] = part;
  const isRow = side === "top" || side === "bottom";
  const isLast = side === "bottom" || side === "right";
  const [lines, length] = isRow ? [bottom - top, right - left] : [right - left, bottom - top];
  if (length < SHORTEST_PX || !lines) return [[], 0];

  /** Read `count` lines, inwards from line `first`, between two positions along them. */
  const readLines = (first: number, count: number, start: number, stop: number): Promise<Numbers[]> => {
    const from = isLast ? lines - first - count : first;
    return read(
      isRow
        ? [left + start, top + from, left + stop, top + from + count]
        : [left + from, top + start, left + from + count, top + stop],
    );
  };

  const value = oneValue(await readLines(0, 1, 0, 1));
  if (value === null || (isColour(value) && (length < SHORTEST_COLOUR_PX || !most))) return [[], 0];
  const end = isColour(value) ? Math.min(lines, most + 1) : lines; // one more tells that there are too many
  for (const at of [length - 1, length >> 1]) {
    if (!isSame(value, oneValue(await readLines(0, 1, at, at + 1)))) return [value, 0];
  }

  /** Return how many of `count` lines have the value alone, from the outside. */
  const leading = async (first: number, count: number, start: number, stop: number): Promise<number> => {
    const planes = await readLines(first, count, start, stop);
    const along = stop - start;
    for (let n = 0; n < count; n++) {
      const line = isLast ? count - 1 - n : n;
      for (let i = 0; i < along; i++) {
        const at = isRow ? line * along + i : i * count + line;
        if (planes.some((plane, band) => plane[at] !== value[band])) return n;
      }
    }
    return count;
  };

  let total = isRow ? 0 : end;
  if (isRow) {
    let [found, count] = [1, 1];
    while (total < end && found === count) {
      count = Math.min(total ? step : 1, end - total);
      found = await leading(total, count, 0, length);
      total += found;
    }
  } else {
    for (let start = 0; start < length && total; start += step) {
      total = await leading(0, total, start, Math.min(start + step, length));
    }
  }
  return [value, isColour(value) && total > most ? 0 : total];
}

/** Return which blocks of a part of a GeoTIFF were never written in any of some bands; null if all are there. */
export async function missingBlocks(image: GeoTIFFImage, bands: readonly number[], inside: Box): Promise<Missing | null> {
  const [high, wide] = [image.getTileHeight(), image.getTileWidth()];
  const [down, across] = [Math.ceil(image.getHeight() / high), Math.ceil(image.getWidth() / wide)];
  const tag = image.isTiled ? "TileByteCounts" : "StripByteCounts";
  const bytes: ArrayLike<number | bigint> = (await image.fileDirectory.loadValue(tag)) ?? [];
  const planes = image.planarConfiguration === 2 ? bands : [0];
  const missing = { flags: new Uint8Array(down * across), count: 0, high, wide, across };
  const [left, top, right, bottom] = inside;
  for (let row = Math.floor(top / high); row * high < bottom; row++) {
    for (let col = Math.floor(left / wide); col * wide < right; col++) {
      const at = row * across + col;
      if (planes.some((band) => Number(bytes[band * down * across + at]) !== 0)) continue;
      missing.flags[at] = 1;
      missing.count++;
    }
  }
  return missing.count ? missing : null;
}
