// Files in: pictures decoded by the browser, GeoTIFF read by rows of blocks.

import { fromBlob, type GeoTIFFImage } from "geotiff";
import { COMPRESSIONS, DECODING, jpegHeader, pictureRows, webpSize } from "./decoders";
import { UserError } from "./engine/grid";
import type { Source, Strip } from "./engine/reading";
import { roundHalfEven } from "./engine/resample";
import { findFill, missingBlocks, type Fill } from "./fill";
import { parseGeoreference, scaleOf, type Georeference, type Scale } from "./georeference";
import type { Picture, ReadOptions } from "./protocol";

const MAX_PICTURE_PIXELS = 100_000_000;
const MAX_SCENE_PIXELS = 1_000_000_000;
const MAX_BLOCK_BYTES = 1 << 28;
const MAX_SIDE = 16_384;
const MAX_BANDS = 1000;
const CACHE_ROWS = 256;
const PREVIEW_PIXELS = 36_000_000;
const ALPHA_PX = 256;
/** Above this share of partly transparent pixels a band is not a mask. */
const PARTLY = 0.5;
const ALPHA_PIXELS = 1 << 20;
const ALPHA_BLOCKS = 8;

export interface OpenedFile {
  name: string;
  source: Source;
  kind: "picture" | "scene";
  georeference: Georeference | null;
  scale: Scale | null;
  /** Metres per pixel that the file states but that cannot be checked here. */
  suggestedGsd: number | null;
  /** Values that become 0 and 255 are needed. */
  needsScaling: boolean;
  /** What the file names its bands, in their order. */
  bandNames: string[];
  /** Numbers of the red, green and blue band, from 1. */
  bands: number[];
  notes: string[];
  /** Read a small version of the scene; null where that would take long. */
  preview(side: number): Promise<Picture | null>;
  /** Read a part of the scene, for the view. */
  readWindow(window: Box): Promise<Strip>;
  configure(options: ReadOptions): Promise<void>;
}

export type Numbers = ArrayLike<number>;

/** Left, top, right and bottom in pixels. */
export type Box = [number, number, number, number];

/** Return the step by which a scene is reduced to at most `side` pixels. */
export const stepTo = (side: number, size: { height: number; width: number }): number =>
  Math.max(1, Math.ceil(Math.max(size.height, size.width) / side));

/** A scene reduced by taking one pixel of step x step. */
export class Overview {
  readonly picture: Picture;

  constructor(
    size: { height: number; width: number },
    readonly step: number,
  ) {
    const [height, width] = [Math.ceil(size.height / step), Math.ceil(size.width / step)];
    this.picture = { image: new Uint8ClampedArray(height * width * 4), height, width };
  }

  /** Add rows of the scene from `start` on. Pixels without imagery become transparent. */
  add(start: number, { image, valid }: Strip, width: number): void {
    const { step, picture } = this;
    const stop = start + image.length / 3 / width;
    for (let y = Math.ceil(start / step); y * step < stop; y++) {
      for (let x = 0, out = y * picture.width * 4; x < picture.width; x++, out += 4) {
        const at = (y * step - start) * width + x * step;
        if (valid && !valid[at]) continue;
        picture.image[out] = image[at * 3];
        picture.image[out + 1] = image[at * 3 + 1];
        picture.image[out + 2] = image[at * 3 + 2];
        picture.image[out + 3] = 255;
      }
    }
  }
}

/** Open a file by its content. */
export async function openFile(file: File): Promise<OpenedFile> {
  if (file.size === 0) throw new UserError(`${file.name} is empty.`);
  const head = new Uint8Array(await file.slice(0, 64 * 1024).arrayBuffer());
  const text = (from: number, to?: number): string => new TextDecoder("latin1").decode(head.subarray(from, to));
  if (["II*\0", "MM\0*", "II+\0", "MM\0+"].includes(text(0, 4))) return openScene(file);
  let size: [number, number] | null = null;
  let hasAlpha = false;
  if (text(1, 4) === "PNG") {
    size = pngSize(file.name, head);
    hasAlpha = head[25] >= 4 || text(33).split("IDAT")[0].includes("tRNS");
  } else if (head[0] === 0xff && head[1] === 0xd8) size = await jpegSize(file);
  else if (text(0, 4) === "RIFF" && text(8, 12) === "WEBP") {
    size = webpSize(head);
    const isExtended = text(12, 16) === "VP8X";
    if (isExtended && head[20] & 2) throw animated(file.name);
    hasAlpha = isExtended ? (head[20] & 16) > 0 : text(12, 16) === "VP8L" && (head[24] & 16) > 0;
  } else {
    throw new UserError(`${file.name} is not an image that this page can read. Expected JPEG, PNG, WebP or GeoTIFF.`);
  }
  if (!size) throw new UserError(`${file.name} is damaged: its header gives no size. Copy the file again.`);
  await checkEnd(file, head);
  return openPicture(file, size, hasAlpha);
}

/** Refuse a picture that was cut short: browsers show what is left of it. */
async function checkEnd(file: File, head: Uint8Array): Promise<void> {
  const tail = new Uint8Array(await file.slice(-4096).arrayBuffer());
  let isWhole: boolean;
  if (head[0] === 0xff) isWhole = tail.some((byte, i) => byte === 0xff && tail[i + 1] === 0xd9);
  else if (head[0] === 0x89) isWhole = String.fromCharCode(...tail).includes("IEND");
  else isWhole = new DataView(head.buffer).getUint32(4, true) + 8 <= file.size;
  if (!isWhole) throw new UserError(`${file.name} is cut short: its end is missing. Copy the file again.`);
}

function pngSize(name: string, head: Uint8Array): [number, number] | null {
  if (head.length < 33) return null;
  const view = new DataView(head.buffer, head.byteOffset);
  const [width, height, depth, kind] = [view.getUint32(16), view.getUint32(20), head[24], head[25]];
  if (String.fromCharCode(...head.subarray(33, 4096)).includes("acTL")) throw animated(name);
  if (depth === 16) throw new UserError(`${name} has 16 bits per band; expected 8. Store it as GeoTIFF, or convert it.`);
  if (depth < 8 && kind === 0) throw new UserError(`${name} has ${depth} bits per pixel; expected imagery of 8 bits.`);
  return width && height ? [height, width] : null;
}

async function jpegSize(file: File): Promise<[number, number] | null> {
  const header = jpegHeader(new Uint8Array(await file.slice(0, 1 << 20).arrayBuffer()));
  if (header?.components === 4) throw new UserError(`${file.name} is CMYK; expected RGB or grey. Convert it to RGB.`);
  return header && [header.height, header.width];
}

const animated = (name: string): UserError => new UserError(`${name} is an animation; expected one picture.`);

/** Return a JPEG without its EXIF data, in which browsers, unlike `predict`, find a rotation. */
async function withoutExif(file: File): Promise<Blob> {
  const head = new Uint8Array(await file.slice(0, 1 << 20).arrayBuffer());
  if (head[0] !== 0xff) return file;
  const parts: Blob[] = [];
  let from = 0;
  for (let i = 2; i + 4 < head.length && head[i] === 0xff && head[i + 1] !== 0xda; ) {
    const end = i + 2 + ((head[i + 2] << 8) | head[i + 3]);
    if (head[i + 1] === 0xe1) {
      parts.push(file.slice(from, i));
      from = end;
    }
    i = end;
  }
  return new Blob([...parts, file.slice(from)]);
}

async function openPicture(file: File, size: [number, number], hasAlpha: boolean): Promise<OpenedFile> {
  let [height, width] = size;
  checkPicture(file.name, height, width);
  let bitmap: ImageBitmap;
  try {
    bitmap = await createImageBitmap(await withoutExif(file), DECODING);
  } catch {
    throw new UserError(`${file.name} is damaged or cut short: the browser cannot decode it. Copy the file again.`);
  }
  [height, width] = [bitmap.height, bitmap.width];
  checkPicture(file.name, height, width);
  const image = new Uint8Array(height * width * 3);
  let valid: Uint8Array | null = null;
  for (let top = 0; top < height; top += CACHE_ROWS) {
    const data = pictureRows(bitmap, top, Math.min(height, top + CACHE_ROWS));
    for (let i = 0, at = top * width; i < data.length; i += 4, at++) {
      image[at * 3] = data[i];
      image[at * 3 + 1] = data[i + 1];
      image[at * 3 + 2] = data[i + 2];
      if (!data[i + 3]) (valid ??= new Uint8Array(height * width).fill(1))[at] = 0;
    }
  }
  bitmap.close();
  if (hasAlpha) return asOpened(file.name, memorySource(image, valid, height, width), []);
  const read = async ([left, top, right, bottom]: Box): Promise<Numbers[]> =>
    [0, 1, 2].map((band) => {
      const plane = new Uint8Array((bottom - top) * (right - left));
      for (let y = top, out = 0; y < bottom; y++) {
        for (let x = left; x < right; x++) plane[out++] = image[(y * width + x) * 3 + band];
      }
      return plane;
    });
  const fill = await findFill(read, { height, width }, CACHE_ROWS);
  if (!fill.isEmpty) fill.apply((valid = new Uint8Array(height * width).fill(1)), [0, 0, width, height], { height, width });
  return asOpened(file.name, memorySource(image, valid, height, width), fill.notes(file.name));
}

function checkPicture(name: string, height: number, width: number): void {
  if (height * width > MAX_PICTURE_PIXELS) {
    throw new UserError(
      `${name} has ${width} x ${height} pixels; at most ${MAX_PICTURE_PIXELS / 1e6} million can be decoded here. ` +
        "Store it as a tiled GeoTIFF, which is read in parts.",
    );
  }
  if (Math.max(height, width) > MAX_SIDE * 2) {
    throw new UserError(`${name} has ${width} x ${height} pixels; a side may have ${MAX_SIDE * 2} at most here.`);
  }
}

function asOpened(name: string, source: Source, notes: string[]): OpenedFile {
  const { height, width } = source;
  return {
    name,
    source,
    kind: "picture",
    georeference: null,
    scale: null,
    suggestedGsd: null,
    needsScaling: false,
    bandNames: [],
    bands: [],
    notes,
    preview: async (side) => {
      const overview = new Overview(source, stepTo(side, source));
      overview.add(0, await source.readRows(0, height), width);
      return overview.picture;
    },
    readWindow: async ([left, top, right, bottom]) => {
      const { image, valid } = await source.readRows(top, bottom);
      return {
        image: columns(image, 3 * width, 3 * left, 3 * right),
        valid: valid && columns(valid, width, left, right),
      };
    },
    configure: async () => {},
  };
}

/** Return part of the columns of rows. */
function columns(rows: Uint8Array, width: number, left: number, right: number): Uint8Array {
  const part = new Uint8Array((rows.length / width) * (right - left));
  for (let i = left, out = 0; i < rows.length; i += width, out += right - left) {
    part.set(rows.subarray(i, i + right - left), out);
  }
  return part;
}

const memorySource = (image: Uint8Array, valid: Uint8Array | null, height: number, width: number): Source => ({
  height,
  width,
  readRows: async (start, stop) => ({
    image: image.subarray(start * width * 3, stop * width * 3),
    valid: valid && valid.subarray(start * width, stop * width),
  }),
});

async function openScene(file: File): Promise<OpenedFile> {
  let opened: Scene;
  try {
    opened = await Scene.open(file);
  } catch (error) {
    if (error instanceof UserError) throw error;
    throw new UserError(`${file.name} is damaged, cut short or not a GeoTIFF that this page can read. Copy the file again.`);
  }
  return opened;
}

/** A GeoTIFF that is read by rows of blocks. */
class Scene implements OpenedFile {
  readonly kind = "scene";
  readonly source: Source;
  georeference: Georeference | null = null;
  scale: Scale | null = null;
  suggestedGsd: number | null = null;
  needsScaling = false;
  bandNames: string[] = [];
  private bandCount = 0;
  private chosen: number[] = [];
  private range: [number, number] | null = null;
  private nodata: number | null = null;
  private alpha = -1;
  private mask: GeoTIFFImage | null = null;
  /** Undeclared fill; null in files that declare nodata in any way. */
  private fill: Fill | null = null;
  private readonly ownNotes: string[] = [];
  /** Smaller versions of the scene in the file. */
  private readonly reduced: GeoTIFFImage[] = [];
  private cache: { start: number; stop: number; strip: Strip } | null = null;
  private blockRows: number;

  private constructor(
    readonly name: string,
    private readonly image: GeoTIFFImage,
  ) {
    const [height, width] = [image.getHeight(), image.getWidth()];
    this.source = { height, width, readRows: (start, stop) => this.readRows(start, stop) };
    const high = Math.min(image.getTileHeight(), height);
    this.blockRows = high * Math.ceil(CACHE_ROWS / high);
  }

  static async open(file: File): Promise<Scene> {
    const tiff = await fromBlob(file);
    const image = await tiff.getImage(0);
    const scene = new Scene(file.name, image);
    const tags = image.fileDirectory;
    const value = async (tag: number): Promise<unknown> =>
      tags.hasTag(tag) ? await tags.loadValue(tag) : undefined;
    const { height, width } = scene.source;
    if (!(height > 0 && width > 0) || height * width > MAX_SCENE_PIXELS) {
      throw new UserError(
        `${file.name} has ${width} x ${height} pixels; expected 1 to ${MAX_SCENE_PIXELS / 1e6} million. ` +
          "Map larger scenes with landcover predict.",
      );
    }
    const bits = [...((await value(258)) as Numbers as number[] | undefined ?? [1])];
    const formats = [...((await value(339)) as Numbers as number[] | undefined ?? [1])];
    scene.bandCount = image.getSamplesPerPixel();
    if (!(scene.bandCount >= 1 && scene.bandCount <= MAX_BANDS)) {
      throw new UserError(`${file.name} has ${scene.bandCount} bands; expected 1 to ${MAX_BANDS}.`);
    }
    const bytes = (bits[0] / 8) * scene.bandCount;
    const wide = image.getTileWidth();
    if (image.getTileHeight() * wide * bytes > MAX_BLOCK_BYTES || scene.blockRows * width * bytes > 4 * MAX_BLOCK_BYTES) {
      throw new UserError(
        `${file.name} is stored in blocks of ${wide} x ${image.getTileHeight()} pixels, too large for a browser. ` +
          "Store it in tiles: gdal_translate -co TILED=YES -co COMPRESS=DEFLATE IN OUT.",
      );
    }
    const compression = Number((await value(259)) ?? 1);
    if (!COMPRESSIONS.has(compression)) {
      throw new UserError(
        `${file.name} is compressed by a method that this page cannot read (${compression}). ` +
          "Store it with another: gdal_translate -co COMPRESS=DEFLATE IN OUT.",
      );
    }
    if (formats.some((format) => format > 3)) throw new UserError(`${file.name} has complex numbers; expected imagery.`);
    if (![8, 16, 32, 64].includes(bits[0])) {
      throw new UserError(`${file.name} has ${bits[0]} bits per band; expected imagery of 8 or 16 bits.`);
    }
    const photometric = Number((await value(262)) ?? 1);
    if (photometric === 3) throw new UserError(`${file.name} has a colour table: it is a map or a mask; expected imagery in RGB.`);
    if (photometric === 5) throw new UserError(`${file.name} is CMYK; expected RGB or grey. Convert it to RGB.`);
    if (photometric > 6 || (photometric === 6 && compression !== 7)) {
      throw new UserError(`${file.name} is stored in a colour space that this page cannot read. Convert it to RGB.`);
    }
    const extra = [...(((await value(338)) as number[] | undefined) ?? [])];
    const firstExtra = scene.bandCount - extra.length;
    const alpha = extra.findIndex((kind) => kind === 1 || kind === 2);
    if (alpha >= 0) scene.alpha = firstExtra + alpha;
    const meaning = colours(String((await value(42112)) ?? ""));
    for (const [band, name] of meaning) if (name === "alpha") scene.alpha = band;
    scene.needsScaling = !(bits[0] === 8 && formats[0] === 1);
    scene.chooseBands(meaning, photometric === 2 || photometric === 6);
    if (new Set(scene.chosen.map((band) => `${bits[band] ?? bits[0]} ${formats[band] ?? formats[0]}`)).size > 1) {
      throw new UserError(`${file.name} has bands of several types; expected imagery of one.`);
    }
    const nodata = image.getGDALNoData();
    scene.nodata = nodata === null || nodata === undefined ? null : nodata;
    await scene.readPlace(value);
    await scene.findPages(tiff);
    if (!scene.georeference) scene.ownNotes.push(`${file.name} is not georeferenced.`);
    if (scene.alpha >= 0 && (await scene.hasManyValues(scene.alpha))) {
      const band = scene.alpha + 1;
      scene.ownNotes.push(
        `${file.name} has many values in band ${band}, which is tagged alpha (near infrared?): it is not used as a mask. ` +
          `To use it, use landcover predict --alpha ${band}.`,
      );
      scene.alpha = -1;
    }
    await scene.findFill();
    return scene;
  }

  private chooseBands(meaning: Map<number, string>, isColour: boolean): void {
    const all = Array.from({ length: this.bandCount }, (_, i) => i);
    const plain = all.filter((band) => band !== this.alpha);
    const colour = (band: number): string => (isColour ? ["red", "green", "blue"][band] : "") ?? "";
    this.bandNames = all.map((band) => meaning.get(band) ?? (band === this.alpha ? "alpha" : colour(band)));
    const named = ["red", "green", "blue"].map((colour) => [...meaning].find(([, name]) => name === colour)?.[0]);
    if (!plain.length) throw new UserError(`${this.name} has nothing but an alpha band; expected RGB or grey.`);
    if (named.every((band) => band !== undefined)) this.chosen = named as number[];
    else if (plain.length >= 3) {
      this.chosen = plain.slice(0, 3);
      if (plain.length > 3 && !isColour) {
        this.ownNotes.push(
          `${this.name} does not name its ${this.bandCount} bands; bands ` +
            `${this.bands.join(", ")} are used as red, green and blue. If that is wrong, change the bands.`,
        );
      }
    } else {
      this.chosen = [plain[0], plain[0], plain[0]];
      if (plain.length === 2) this.ownNotes.push(`${this.name} has two bands; band ${plain[0] + 1} is used as grey.`);
    }
  }

  get bands(): number[] {
    return this.chosen.map((band) => band + 1);
  }

  get notes(): string[] {
    return [...this.ownNotes, ...(this.fill?.notes(this.name) ?? [])];
  }

  private async readPlace(value: (tag: number) => Promise<unknown>): Promise<void> {
    const kept: Georeference["tags"] = [];
    const found = new Map<number, number[]>();
    for (const [tag, type] of [[33550, 12], [33922, 12], [34264, 12], [34735, 3], [34736, 12], [34737, 2]]) {
      const raw = await value(tag);
      if (raw === undefined || raw === null) continue;
      if (type === 2) kept.push({ tag, type, values: String(raw) });
      else {
        const values = Array.from(raw as Numbers, Number);
        found.set(tag, values);
        kept.push({ tag, type, values });
      }
    }
    let keys: Record<string, unknown> | null = null;
    try {
      keys = this.image.getGeoKeys();
    } catch {
      // Damaged keys: the scene is treated as one without a position.
    }
    const { height, width } = this.source;
    this.georeference = parseGeoreference(keys, found.get(33922), found.get(33550), found.get(34264), kept);
    if (!this.georeference) return;
    this.scale = scaleOf(this.georeference, height, width);
    if (!this.scale && this.georeference.kind === "other") {
      const [a, b, , d, e] = this.georeference.transform;
      const unit = this.georeference.unit ?? 1;
      this.suggestedGsd = Math.sqrt(Math.hypot(a, d) * Math.hypot(b, e)) * unit;
    }
  }

  private async findPages(tiff: Awaited<ReturnType<typeof fromBlob>>): Promise<void> {
    const { height, width } = this.source;
    try {
      const count = Math.min(await tiff.getImageCount(), 32);
      for (let n = 1; n < count; n++) {
        const other = await tiff.getImage(n);
        const kind = Number((await other.fileDirectory.loadValue(254)) ?? 0);
        if (kind & 4) {
          if (!this.mask && other.getHeight() === height && other.getWidth() === width) this.mask = other;
        } else if (kind & 1) this.reduced.push(other);
      }
    } catch {
      // Damaged pages after the first: the scene itself can be read.
    }
  }

  /** Return whether most values of a band, in a smaller version or some blocks, are neither 0 nor the largest. */
  private async hasManyValues(band: number): Promise<boolean> {
    const image = this.version(ALPHA_PX);
    const [height, width] = [image.getHeight(), image.getWidth()];
    const isSmall = height * width <= ALPHA_PIXELS;
    const [high, wide] = isSmall ? [height, width] : [image.getTileHeight(), image.getTileWidth()];
    const [format, bits] = [image.getSampleFormat(band), image.getBitsPerSample(band)];
    const full = format === 3 ? 1 : 2 ** (format === 2 ? bits - 1 : bits) - 1;
    let [pixels, partly, largest, atLargest] = [0, 0, -Infinity, 0];
    for (const top of spread(height, high)) {
      for (const left of spread(width, wide)) {
        const box: Box = [left, top, Math.min(width, left + wide), Math.min(height, top + high)];
        let values: Numbers;
        try {
          [values] = await this.readBands(box, [band], image);
        } catch {
          return false; // reported when the rows are read
        }
        pixels += values.length;
        for (let i = 0; i < values.length; i++) {
          const value = values[i];
          if (value > largest) [largest, atLargest] = [value, 0];
          if (value === 0 || value === full) continue;
          partly++;
          if (value === largest) atLargest++;
        }
      }
    }
    return partly - atLargest > PARTLY * pixels;
  }

  private async findFill(): Promise<void> {
    this.fill = null;
    if (this.mask || this.alpha >= 0 || this.nodata !== null) return;
    const { image } = this;
    const bands = [...new Set(this.chosen)];
    const read = (box: Box): Promise<Numbers[]> => {
      const [left, top, right, bottom] = box;
      // Corners are read several times: their blocks are kept meanwhile.
      image.tiles = (right - left) * (bottom - top) > ALPHA_PX ? null : (image.tiles ?? []);
      return this.readBands(box, bands, image);
    };
    const { height, width } = this.source;
    try {
      this.fill = await findFill(read, { height, width }, this.blockRows);
    } finally {
      image.tiles = null;
    }
    this.fill.missing = await missingBlocks(image, bands, this.fill.inside);
  }

  async configure({ bands, scaling }: ReadOptions): Promise<void> {
    if (bands) {
      if (bands.length !== 3 || !bands.every((band) => Number.isInteger(band) && band >= 1 && band <= this.bandCount)) {
        throw new UserError(`${this.name} has ${this.bandCount} bands; expected three band numbers such as 3,2,1.`);
      }
      const isChange = bands.join() !== this.bands.join();
      this.chosen = bands.map((band) => band - 1);
      if (isChange) await this.findFill();
    }
    this.cache = null;
    this.range = null;
    if (scaling === "percentile") this.range = await this.percentiles();
    else if (scaling) {
      if (!(scaling[0] < scaling[1])) throw new UserError("The scaling must be two numbers in ascending order.");
      this.range = scaling;
    } else if (this.needsScaling) {
      throw new UserError(`${this.name} does not have 8 bits per band. State which values become black and white.`);
    }
  }

  private async percentiles(): Promise<[number, number]> {
    const { height, width } = this.source;
    const step = Math.max(1, Math.ceil(Math.max(height, width) / 1024));
    const values: number[] = [];
    for (let top = 0; top < height; top += this.blockRows) {
      const stop = Math.min(height, top + this.blockRows);
      const [planes, valid] = await this.readPlanes([0, top, width, stop]);
      for (let y = Math.ceil((top - step / 2) / step) * step + (step >> 1); y < stop; y += step) {
        if (y < top) continue;
        for (let x = step >> 1; x < width; x += step) {
          const at = (y - top) * width + x;
          if ((valid && !valid[at]) || this.fill?.hasCornerValue(planes, at)) continue;
          for (const plane of planes) values.push(plane[at]);
        }
      }
    }
    return percentilesOf(values);
  }

  /** Read a window of some bands, of all if none are given, as planes. */
  private async readBands(window: Box, samples: number[], image: GeoTIFFImage): Promise<Numbers[]> {
    try {
      return (await image.readRasters({ window, samples, interleave: false })) as unknown as Numbers[];
    } catch {
      throw new UserError(
        `${this.name} is damaged: its rows ${window[1]} to ${window[3]} cannot be read. Copy the file again.`,
      );
    }
  }

  /** Read a window of three bands as planes, and which pixels are imagery (null: all). */
  private async readPlanes(window: Box, image = this.image): Promise<[Numbers[], Uint8Array | null]> {
    const [left, top, right, bottom] = window;
    const pixels = (bottom - top) * (right - left);
    const { nodata, mask } = this;
    const isMasked = mask && image === this.image;
    const usesAlpha = this.alpha >= 0;
    const samples = [...new Set(usesAlpha ? [...this.chosen, this.alpha] : this.chosen)];
    const read = await this.readBands(window, samples, image);
    const masks = isMasked ? await this.readBands(window, [], mask) : [];
    const planes = this.chosen.map((band) => read[samples.indexOf(band)]);
    const valid = new Uint8Array(pixels).fill(1);
    // As in predict: no imagery is the union of mask, alpha band and nodata value.
    const shown = [isMasked ? masks[0] : null, usesAlpha ? read[samples.indexOf(this.alpha)] : null];
    for (const plane of shown) if (plane) for (let i = 0; i < pixels; i++) if (!plane[i]) valid[i] = 0;
    if (nodata !== null) {
      const value = planes[0] instanceof Float32Array ? Math.fround(nodata) : nodata;
      const isNodata = Number.isNaN(value) ? Number.isNaN : (other: number): boolean => other === value;
      for (let i = 0; i < pixels; i++) if (planes.every((plane) => isNodata(plane[i]))) valid[i] = 0;
    }
    if (planes[0] instanceof Float32Array || planes[0] instanceof Float64Array) {
      for (let i = 0; i < pixels; i++) if (!planes.every((plane) => Number.isFinite(plane[i]))) valid[i] = 0;
    }
    this.fill?.apply(valid, window, { height: image.getHeight(), width: image.getWidth() });
    return [planes, valid.includes(0) ? valid : null];
  }

  async readWindow(window: Box): Promise<Strip> {
    if (this.needsScaling && !this.range) {
      throw new UserError(`${this.name} does not have 8 bits per band. State which values become black and white.`);
    }
    const [planes, valid] = await this.readPlanes(window);
    return { image: toBytes(planes, this.range), valid };
  }

  /** Read rows; blocks that reach below them are kept for the next call. */
  private async readRows(start: number, stop: number): Promise<Strip> {
    const { height, width } = this.source;
    const image = new Uint8Array((stop - start) * width * 3);
    let valid: Uint8Array | null = null;
    for (let row = start; row < stop; ) {
      if (!this.cache || row < this.cache.start || row >= this.cache.stop) {
        const first = Math.floor(row / this.blockRows) * this.blockRows;
        const last = Math.min(height, first + this.blockRows);
        this.cache = { start: first, stop: last, strip: await this.readWindow([0, first, width, last]) };
      }
      const { start: first, stop: last, strip } = this.cache;
      const end = Math.min(stop, last);
      image.set(strip.image.subarray((row - first) * width * 3, (end - first) * width * 3), (row - start) * width * 3);
      if (strip.valid) {
        valid ??= new Uint8Array((stop - start) * width).fill(1);
        valid.set(strip.valid.subarray((row - first) * width, (end - first) * width), (row - start) * width);
      }
      row = end;
    }
    return { image, valid };
  }

  /** Return the smallest version of the scene in the file whose longer side has `side` pixels at least. */
  private version(side: number): GeoTIFFImage {
    const isLarge = (image: GeoTIFFImage): boolean => Math.max(image.getHeight(), image.getWidth()) >= side;
    return [...this.reduced].reverse().find(isLarge) ?? this.image;
  }

  async preview(side: number): Promise<Picture | null> {
    const image = this.version(side / 2);
    const [height, width] = [image.getHeight(), image.getWidth()];
    if (height * width > PREVIEW_PIXELS) return null;
    const [planes, valid] = await this.readPlanes([0, 0, width, height], image);
    const range = this.needsScaling ? (this.range ?? percentilesOf(sample(planes, valid, this.fill))) : null;
    const size = { height, width };
    const overview = new Overview(size, stepTo(side, size));
    overview.add(0, { image: toBytes(planes, range ?? this.range), valid }, width);
    return overview.picture;
  }
}

/** Return some of the valid values of planes, which percentiles are taken of. */
function sample(planes: Numbers[], valid: Uint8Array | null, fill: Fill | null): number[] {
  const values: number[] = [];
  const step = Math.max(1, Math.floor(planes[0].length / 300_000));
  for (let i = 0; i < planes[0].length; i += step) {
    if ((!valid || valid[i]) && !fill?.hasCornerValue(planes, i)) for (const plane of planes) values.push(plane[i]);
  }
  return values;
}

/** Return the first pixels of blocks that are spread over a side. */
function spread(length: number, block: number): number[] {
  const blocks = Math.ceil(length / block);
  const count = Math.min(blocks, ALPHA_BLOCKS);
  return Array.from({ length: count }, (_, i) => Math.floor(((i + 0.5) * blocks) / count) * block);
}

/** Return three planes as RGB bytes; the range's values become 0 and 255. */
function toBytes(planes: Numbers[], range: [number, number] | null): Uint8Array {
  const pixels = planes[0].length;
  const image = new Uint8Array(pixels * 3);
  planes.forEach((plane, band) => {
    if (!range) {
      for (let i = 0; i < pixels; i++) image[i * 3 + band] = plane[i];
      return;
    }
    const [low, high] = range;
    for (let i = 0; i < pixels; i++) {
      const value = Math.min(high, Math.max(low, plane[i]));
      image[i * 3 + band] = Number.isNaN(value) ? 0 : roundHalfEven((value - low) * (255 / (high - low)));
    }
  });
  return image;
}

/** Return the 2nd and 98th percentile of values. */
function percentilesOf(values: number[]): [number, number] {
  if (!values.length) return [0, 1];
  const sorted = Float64Array.from(values).sort();
  const quantile = (q: number): number => {
    const at = q * (sorted.length - 1);
    const low = Math.floor(at);
    return sorted[low] + (sorted[Math.min(low + 1, sorted.length - 1)] - sorted[low]) * (at - low);
  };
  const [low, high] = [quantile(0.02), quantile(0.98)];
  return [low, high > low ? high : low + 1];
}

/** Return the colours that GDAL's metadata names, by band from 0. */
function colours(metadata: string): Map<number, string> {
  const found = new Map<number, string>();
  for (const [item] of metadata.matchAll(/<Item [^>]*role="colorinterp"[^>]*>[^<]*/g)) {
    const band = /sample="(\d+)"/.exec(item);
    const name = />([^<]*)$/.exec(item);
    if (band && name) found.set(Number(band[1]), name[1].trim().toLowerCase());
  }
  return found;
}
