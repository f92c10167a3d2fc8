// Files in: pictures decoded by the browser, GeoTIFF read by rows of blocks.

import { fromBlob, type GeoTIFFImage } from "geotiff";
import { UserError } from "./engine/grid";
import type { Source, Strip } from "./engine/reading";
import { roundHalfEven } from "./engine/resample";
import { parseGeoreference, scaleOf, type Georeference, type Scale } from "./georeference";

const MAX_PICTURE_PIXELS = 100_000_000;
const MAX_SCENE_PIXELS = 1_000_000_000;
const MAX_BLOCK_BYTES = 1 << 28;
const MAX_SIDE = 16_384;
const CACHE_ROWS = 256;

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
  bands: number;
  notes: string[];
  /** Read a small version of the scene: RGB bytes. */
  preview(side: number): Promise<{ image: Uint8Array; height: number; width: number } | null>;
  configure(options: ReadOptions): Promise<void>;
}

export interface ReadOptions {
  bands?: number[] | null;
  scaling?: [number, number] | "percentile" | null;
}

/** Open a file by its content. */
export async function openFile(file: File): Promise<OpenedFile> {
  if (file.size === 0) throw new UserError(`${file.name} is empty.`);
  const head = new Uint8Array(await file.slice(0, 64 * 1024).arrayBuffer());
  const text = (from: number, to: number): string => String.fromCharCode(...head.subarray(from, to));
  if (["II*\0", "MM\0*", "II+\0", "MM\0+"].includes(text(0, 4))) return openScene(file);
  let size: [number, number] | null = null;
  if (text(1, 4) === "PNG") size = pngSize(file.name, head);
  else if (head[0] === 0xff && head[1] === 0xd8) size = await jpegSize(file);
  else if (text(0, 4) === "RIFF" && text(8, 12) === "WEBP") size = [0, 0];
  else {
    throw new UserError(`${file.name} is not an image that this page can read. Expected JPEG, PNG, WebP or GeoTIFF.`);
  }
  if (!size) throw new UserError(`${file.name} is damaged: its header gives no size. Copy the file again.`);
  await checkEnd(file, head);
  return openPicture(file, size);
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
  if (depth === 16) throw new UserError(`${name} has 16 bits per band; expected 8. Store it as GeoTIFF, or convert it.`);
  if (depth < 8 && kind === 0) throw new UserError(`${name} has ${depth} bits per pixel; expected imagery of 8 bits.`);
  return width && height ? [height, width] : null;
}

async function jpegSize(file: File): Promise<[number, number] | null> {
  const bytes = new Uint8Array(await file.slice(0, 1 << 20).arrayBuffer());
  for (let i = 2; i + 9 < bytes.length; ) {
    if (bytes[i] !== 0xff) return null;
    const marker = bytes[i + 1];
    if (marker === 0xff) {
      i++;
      continue;
    }
    const length = (bytes[i + 2] << 8) | bytes[i + 3];
    if (marker >= 0xc0 && marker <= 0xcf && ![0xc4, 0xc8, 0xcc].includes(marker)) {
      const height = (bytes[i + 5] << 8) | bytes[i + 6];
      const width = (bytes[i + 7] << 8) | bytes[i + 8];
      if (bytes[i + 9] === 4) throw new UserError(`${file.name} is CMYK; expected RGB or grey. Convert it to RGB.`);
      return height && width ? [height, width] : null;
    }
    if (length < 2) return null;
    i += 2 + length;
  }
  return null;
}

async function openPicture(file: File, [height, width]: [number, number]): Promise<OpenedFile> {
  checkPicture(file.name, height, width);
  let bitmap: ImageBitmap;
  try {
    bitmap = await createImageBitmap(file, {
      colorSpaceConversion: "none",
      premultiplyAlpha: "none",
      imageOrientation: "none" as ImageOrientation,
    });
  } catch {
    throw new UserError(`${file.name} is damaged or cut short: the browser cannot decode it. Copy the file again.`);
  }
  checkPicture(file.name, bitmap.height, bitmap.width);
  const canvas = new OffscreenCanvas(bitmap.width, bitmap.height);
  const context = canvas.getContext("2d", { willReadFrequently: true });
  if (!context) throw new UserError(`The browser has no memory for ${file.name}. Close other pages or use a smaller image.`);
  context.drawImage(bitmap, 0, 0);
  const { data } = context.getImageData(0, 0, bitmap.width, bitmap.height);
  const pixels = bitmap.width * bitmap.height;
  const image = new Uint8Array(pixels * 3);
  const valid = new Uint8Array(pixels);
  let hasHoles = false;
  for (let i = 0; i < pixels; i++) {
    image[i * 3] = data[i * 4];
    image[i * 3 + 1] = data[i * 4 + 1];
    image[i * 3 + 2] = data[i * 4 + 2];
    valid[i] = data[i * 4 + 3] ? 1 : 0;
    if (!valid[i]) hasHoles = true;
  }
  const source = memorySource(image, hasHoles ? valid : null, bitmap.height, bitmap.width);
  bitmap.close();
  return asOpened(file.name, source);
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

/** Return pixels in memory as an opened file. */
export function asOpened(name: string, source: Source, scale: Scale | null = null): OpenedFile {
  return {
    name,
    source,
    kind: "picture",
    georeference: null,
    scale,
    suggestedGsd: null,
    needsScaling: false,
    bands: 3,
    notes: [],
    preview: async (side) => {
      const { image } = await source.readRows(0, source.height);
      const step = Math.max(1, Math.ceil(Math.max(source.height, source.width) / side));
      const [height, width] = [Math.ceil(source.height / step), Math.ceil(source.width / step)];
      const small = new Uint8Array(height * width * 3);
      for (let y = 0; y < height; y++) {
        for (let x = 0; x < width; x++) {
          const at = (y * step * source.width + x * step) * 3;
          small.set(image.subarray(at, at + 3), (y * width + x) * 3);
        }
      }
      return { image: small, height, width };
    },
    configure: async () => {},
  };
}

export const memorySource = (
  image: Uint8Array,
  valid: Uint8Array | null,
  height: number,
  width: number,
): Source => ({
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

type Numbers = ArrayLike<number>;

/** A GeoTIFF that is read by rows of blocks. */
class Scene implements OpenedFile {
  readonly kind = "scene";
  readonly source: Source;
  readonly notes: string[] = [];
  georeference: Georeference | null = null;
  scale: Scale | null = null;
  suggestedGsd: number | null = null;
  needsScaling = false;
  bands = 0;
  private chosen: number[] = [];
  private range: [number, number] | null = null;
  private nodata: number | null = null;
  private alpha = -1;
  private isYCbCr = false;
  private mask: GeoTIFFImage | null = null;
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
        `${file.name} has ${width} x ${height} pixels; expected at most ${MAX_SCENE_PIXELS / 1e6} million. ` +
          "Map larger scenes with landcover predict.",
      );
    }
    const bits = [...((await value(258)) as Numbers as number[] | undefined ?? [1])];
    const formats = [...((await value(339)) as Numbers as number[] | undefined ?? [1])];
    scene.bands = image.getSamplesPerPixel();
    const bytes = (bits[0] / 8) * scene.bands;
    const wide = image.getTileWidth();
    if (image.getTileHeight() * wide * bytes > MAX_BLOCK_BYTES || scene.blockRows * width * bytes > 4 * MAX_BLOCK_BYTES) {
      throw new UserError(
        `${file.name} is stored in blocks of ${wide} x ${image.getTileHeight()} pixels, too large for a browser. ` +
          "Store it in tiles: gdal_translate -co TILED=YES -co COMPRESS=DEFLATE IN OUT.",
      );
    }
    if (formats.some((format) => format > 3)) throw new UserError(`${file.name} has complex numbers; expected imagery.`);
    if (![8, 16, 32, 64].includes(bits[0])) {
      throw new UserError(`${file.name} has ${bits[0]} bits per band; expected imagery of 8 or 16 bits.`);
    }
    const photometric = Number((await value(262)) ?? 1);
    if (photometric === 3) throw new UserError(`${file.name} has a colour table: it is a map or a mask; expected imagery in RGB.`);
    if (photometric === 5) throw new UserError(`${file.name} is CMYK; expected RGB or grey. Convert it to RGB.`);
    scene.isYCbCr = photometric === 6;
    const extra = [...(((await value(338)) as number[] | undefined) ?? [])];
    const firstExtra = scene.bands - extra.length;
    const alpha = extra.findIndex((kind) => kind === 1 || kind === 2);
    if (alpha >= 0) scene.alpha = firstExtra + alpha;
    const meaning = colours(String((await value(42112)) ?? ""));
    for (const [band, name] of meaning) if (name === "alpha") scene.alpha = band;
    scene.needsScaling = !(bits[0] === 8 && formats[0] === 1);
    scene.chooseBands(meaning, photometric);
    const nodata = image.getGDALNoData();
    scene.nodata = nodata === null || nodata === undefined ? null : nodata;
    await scene.readPlace(value);
    await scene.findMask(tiff);
    if (!scene.georeference) scene.notes.push(`${file.name} is not georeferenced.`);
    return scene;
  }

  private chooseBands(meaning: Map<number, string>, photometric: number): void {
    const plain = Array.from({ length: this.bands }, (_, i) => i).filter((band) => band !== this.alpha);
    const named = ["red", "green", "blue"].map((colour) => [...meaning].find(([, name]) => name === colour)?.[0]);
    if (!plain.length) throw new UserError(`${this.name} has nothing but an alpha band; expected RGB or grey.`);
    if (named.every((band) => band !== undefined)) this.chosen = named as number[];
    else if (plain.length >= 3) {
      this.chosen = plain.slice(0, 3);
      if (plain.length > 3 && photometric !== 2) {
        this.notes.push(
          `${this.name} does not state which of its ${this.bands} bands are red, green and blue; ` +
            "bands 1, 2, 3 are used. If that is wrong, change the bands.",
        );
      }
    } else {
      this.chosen = [plain[0], plain[0], plain[0]];
      if (plain.length === 2) this.notes.push(`${this.name} has two bands; band ${plain[0] + 1} is used as grey.`);
    }
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

  private async findMask(tiff: Awaited<ReturnType<typeof fromBlob>>): Promise<void> {
    const count = Math.min(await tiff.getImageCount(), 32);
    for (let n = 1; n < count; n++) {
      const other = await tiff.getImage(n);
      const kind = Number((await other.fileDirectory.loadValue(254)) ?? 0);
      if (kind & 4 && other.getHeight() === this.source.height && other.getWidth() === this.source.width) {
        this.mask = other;
        return;
      }
    }
  }

  async configure({ bands, scaling }: ReadOptions): Promise<void> {
    if (bands) {
      if (bands.length !== 3 || !bands.every((band) => Number.isInteger(band) && band >= 1 && band <= this.bands)) {
        throw new UserError(`${this.name} has ${this.bands} bands; expected three band numbers such as 3,2,1.`);
      }
      this.chosen = bands.map((band) => band - 1);
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
      const [planes, valid] = await this.readPlanes(top, stop);
      for (let y = Math.ceil((top - step / 2) / step) * step + (step >> 1); y < stop; y += step) {
        if (y < top) continue;
        for (let x = step >> 1; x < width; x += step) {
          const at = (y - top) * width + x;
          if (valid && !valid[at]) continue;
          for (const plane of planes) values.push(plane[at]);
        }
      }
    }
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

  /** Read three bands as planes, and which pixels are imagery (null: all). */
  private async readPlanes(start: number, stop: number): Promise<[Numbers[], Uint8Array | null]> {
    const { width } = this.source;
    const window = [0, start, width, stop];
    const pixels = (stop - start) * width;
    const unique = [...new Set(this.chosen)];
    let planes: Numbers[];
    let alpha: Numbers | null = null;
    try {
      if (this.isYCbCr) {
        const rgb = (await this.image.readRGB({ window, interleave: false })) as unknown as Numbers[];
        planes = [rgb[0], rgb[1], rgb[2]];
      } else {
        const samples = this.alpha >= 0 ? [...unique, this.alpha] : unique;
        const read = (await this.image.readRasters({ window, samples, interleave: false })) as unknown as Numbers[];
        planes = this.chosen.map((band) => read[unique.indexOf(band)]);
        if (this.alpha >= 0) alpha = read[samples.length - 1];
      }
    } catch {
      throw new UserError(`${this.name} is damaged: its rows ${start} to ${stop} cannot be read. Copy the file again.`);
    }
    const valid = new Uint8Array(pixels).fill(1);
    const { nodata } = this;
    if (alpha) for (let i = 0; i < pixels; i++) valid[i] = alpha[i] ? 1 : 0;
    else if (this.mask) {
      const [mask] = (await this.mask.readRasters({ window, interleave: false })) as unknown as Numbers[];
      for (let i = 0; i < pixels; i++) valid[i] = mask[i] ? 1 : 0;
    } else if (nodata !== null) {
      const isNodata = Number.isNaN(nodata) ? Number.isNaN : (value: number): boolean => value === nodata;
      for (let i = 0; i < pixels; i++) if (planes.every((plane) => isNodata(plane[i]))) valid[i] = 0;
    }
    if (planes[0] instanceof Float32Array || planes[0] instanceof Float64Array) {
      for (let i = 0; i < pixels; i++) if (!planes.every((plane) => Number.isFinite(plane[i]))) valid[i] = 0;
    }
    return [planes, valid.includes(0) ? valid : null];
  }

  private async readBlock(start: number, stop: number): Promise<Strip> {
    if (this.needsScaling && !this.range) {
      throw new UserError(`${this.name} does not have 8 bits per band. State which values become black and white.`);
    }
    const [planes, valid] = await this.readPlanes(start, stop);
    const pixels = (stop - start) * this.source.width;
    const image = new Uint8Array(pixels * 3);
    for (let band = 0; band < 3; band++) {
      const plane = planes[band];
      if (!this.range) {
        for (let i = 0; i < pixels; i++) image[i * 3 + band] = plane[i];
        continue;
      }
      const [low, high] = this.range;
      for (let i = 0; i < pixels; i++) {
        const value = Math.min(high, Math.max(low, plane[i]));
        image[i * 3 + band] = Number.isNaN(value) ? 0 : roundHalfEven((value - low) * (255 / (high - low)));
      }
    }
    return { image, valid };
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
        this.cache = { start: first, stop: last, strip: await this.readBlock(first, last) };
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

  async preview(side: number): Promise<{ image: Uint8Array; height: number; width: number } | null> {
    const { height, width } = this.source;
    if (height * width > 36_000_000 || (this.needsScaling && !this.range)) return null;
    const step = Math.max(1, Math.ceil(Math.max(height, width) / side));
    const [high, wide] = [Math.ceil(height / step), Math.ceil(width / step)];
    const small = new Uint8Array(high * wide * 3);
    for (let top = 0; top < height; top += this.blockRows) {
      const stop = Math.min(height, top + this.blockRows);
      const { image } = await this.readRows(top, stop);
      for (let y = Math.ceil(top / step); y * step < stop; y++) {
        for (let x = 0; x < wide; x++) {
          const at = ((y * step - top) * width + x * step) * 3;
          small.set(image.subarray(at, at + 3), (y * wide + x) * 3);
        }
      }
    }
    return { image: small, height: high, width: wide };
  }
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
