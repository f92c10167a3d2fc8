// GeoTIFF, read by rows of blocks.

import { fromBlob, type GeoTIFFImage } from "geotiff";
import { bandTexts, chooseBands, percentilesOf, toBytes, type Numbers } from "./bands";
import { COMPRESSIONS } from "./decoders";
import { UserError } from "./engine/grid";
import type { Source, Strip } from "./engine/reading";
import { findFill, missingBlocks, type Fill } from "./fill";
import { parseGeoreference, scaleOf, type Georeference, type Scale } from "./georeference";
import type { ModelInfo, Picture, ReadOptions } from "./protocol";
import { Overview, stepTo, type Box, type OpenedFile } from "./sources";

const MAX_SCENE_PIXELS = 1_000_000_000;
const MAX_BLOCK_BYTES = 1 << 28;
const MAX_BANDS = 1000;
const CACHE_ROWS = 256;
const PREVIEW_PIXELS = 36_000_000;
const ALPHA_PX = 256;
/** Above this share of partly transparent pixels a band is not a mask. */
const PARTLY = 0.5;
const ALPHA_PIXELS = 1 << 20;
const ALPHA_BLOCKS = 8;

/** Return whether a file begins as a TIFF. */
export const isTiff = async (file: File): Promise<boolean> =>
  ["II*\0", "MM\0*", "II+\0", "MM\0+"].includes(await file.slice(0, 4).text());

export async function openScene(file: File, model: ModelInfo): Promise<OpenedFile> {
  try {
    return await Scene.open(file, model);
  } catch (error) {
    if (error instanceof UserError) throw error;
    throw new UserError(`${file.name} is damaged, cut short or not a GeoTIFF that this page can read. Copy the file again.`);
  }
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
  private ownBands = "";
  private range: [number, number] | null = null;
  /** Value of pixels without imagery, and the band that masks (-1: none): what the file states, and what counts. */
  private ownNodata: number | null = null;
  private nodata: number | null = null;
  private ownAlpha = -1;
  private alpha = -1;
  private keepsFill = false;
  private mask: GeoTIFFImage | null = null;
  /** Undeclared fill; null in files that declare nodata in any way. */
  private fill: Fill | null = null;
  private bandNote: string | null = null;
  private alphaNote: string | null = null;
  /** Smaller versions of the scene in the file. */
  private readonly reduced: GeoTIFFImage[] = [];
  private values: "8-bit" | "whole" | "float" = "8-bit";
  private cache: { start: number; stop: number; strip: Strip } | null = null;
  private blockRows: number;

  private constructor(
    readonly name: string,
    private readonly image: GeoTIFFImage,
    private readonly modelScaling: ModelInfo["scaling"],
  ) {
    const [height, width] = [image.getHeight(), image.getWidth()];
    this.source = { height, width, readRows: (start, stop) => this.readRows(start, stop) };
    const high = Math.min(image.getTileHeight(), height);
    this.blockRows = high * Math.ceil(CACHE_ROWS / high);
  }

  static async open(file: File, model: ModelInfo): Promise<Scene> {
    const tiff = await fromBlob(file);
    const image = await tiff.getImage(0);
    const scene = new Scene(file.name, image, model.scaling);
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
    const alphas = extra.flatMap((kind, i) => (kind === 1 || kind === 2 ? [scene.bandCount - extra.length + i] : []));
    const isColour = photometric === 2 || photometric === 6;
    const texts = bandTexts(String((await value(42112)) ?? ""), scene.bandCount, isColour, alphas);
    scene.bandNames = texts.kinds.map((kind, i) => texts.descriptions[i] || kind);
    scene.alpha = scene.ownAlpha = texts.kinds.indexOf("alpha");
    [scene.chosen, scene.bandNote] = chooseBands(file.name, texts, model);
    scene.ownBands = scene.bands.join();
    if (new Set(scene.chosen.map((band) => `${bits[band] ?? bits[0]} ${formats[band] ?? formats[0]}`)).size > 1) {
      throw new UserError(`${file.name} has bands of several types; expected imagery of one.`);
    }
    const isByte = bits[0] === 8 && formats[0] === 1;
    scene.values = isByte ? "8-bit" : formats[0] === 3 ? "float" : "whole";
    scene.needsScaling = !isByte && !model.scaling;
    if (Array.isArray(model.scaling)) scene.checkScaling(model.scaling);
    scene.nodata = scene.ownNodata = image.getGDALNoData() ?? null;
    await scene.readPlace(value);
    await scene.findPages(tiff);
    if (scene.alpha >= 0 && (await scene.hasManyValues(scene.alpha))) {
      const band = scene.alpha + 1;
      scene.alphaNote =
        `${file.name} has many values in band ${band}, which is tagged alpha (near infrared?): it is not used as a mask. ` +
        "To use it, change the settings: Advanced.";
      scene.alpha = scene.ownAlpha = -1;
    }
    await scene.findFill();
    if (model.scaling) scene.range = model.scaling === "percentile" ? await scene.percentiles() : model.scaling;
    return scene;
  }

  get bands(): number[] {
    return this.chosen.map((band) => band + 1);
  }

  get notes(): string[] {
    return [
      this.georeference ? null : `${this.name} is not georeferenced.`,
      this.bands.join() === this.ownBands ? this.bandNote : null,
      this.alpha === this.ownAlpha ? this.alphaNote : null,
      ...(this.fill?.notes(this.name) ?? []),
    ].filter((note) => note !== null);
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

  /** Return whether most values of a band but 0 are not the largest. */
  private async hasManyValues(band: number): Promise<boolean> {
    const { image } = this;
    const [format, bits] = [image.getSampleFormat(band), image.getBitsPerSample(band)];
    const full = format === 3 ? 1 : 2 ** (format === 2 ? bits - 1 : bits) - 1;
    let [opaque, partly, largest, atLargest] = [0, 0, 0, 0];
    for (const values of await this.decimated(band)) {
      for (let i = 0; i < values.length; i++) {
        const value = values[i];
        if (value === 0) continue;
        opaque++;
        if (value > largest) [largest, atLargest] = [value, 0];
        if (value === full) continue;
        partly++;
        if (value === largest) atLargest++;
      }
    }
    return partly - atLargest > PARTLY * opaque;
  }

  /** Return whether a band has one value, not 0: an alpha band that masks nothing. */
  private async isOpaque(band: number): Promise<boolean> {
    const parts = await this.decimated(band);
    const first = parts.length ? parts[0][0] : 0;
    for (const values of parts) {
      for (let i = 0; i < values.length; i++) if (values[i] !== first) return false;
    }
    return first !== 0;
  }

  /** Read a smaller version of a band, or some of its blocks; nothing if they are damaged. */
  private async decimated(band: number): Promise<Numbers[]> {
    const image = this.version(ALPHA_PX);
    const [height, width] = [image.getHeight(), image.getWidth()];
    const isSmall = height * width <= ALPHA_PIXELS;
    const [high, wide] = isSmall ? [height, width] : [image.getTileHeight(), image.getTileWidth()];
    const parts: Numbers[] = [];
    for (const top of spread(height, high)) {
      for (const left of spread(width, wide)) {
        const box: Box = [left, top, Math.min(width, left + wide), Math.min(height, top + high)];
        try {
          parts.push(...(await this.readBands(box, [band], image)));
        } catch {
          return []; // reported when the rows are read
        }
      }
    }
    return parts;
  }

  private async findFill(): Promise<void> {
    this.fill = null;
    if (this.keepsFill || this.mask || this.nodata !== null) return;
    if (this.alpha >= 0 && !(await this.isOpaque(this.alpha))) return;
    const { image } = this;
    const bands = [...new Set(this.chosen)];
    const read = async (box: Box): Promise<Numbers[]> => {
      const [left, top, right, bottom] = box;
      // Corners are read several times: their blocks are kept meanwhile.
      image.tiles = (right - left) * (bottom - top) > ALPHA_PX ? null : (image.tiles ?? []);
      const planes = await this.readBands(box, bands, image);
      return this.chosen.map((band) => planes[bands.indexOf(band)]);
    };
    const { height, width } = this.source;
    try {
      this.fill = await findFill(read, { height, width }, this.blockRows);
    } finally {
      image.tiles = null;
    }
    this.fill.missing = await missingBlocks(image, bands, this.fill.inside);
  }

  async configure({ bands, scaling, nodata, alpha, fill }: ReadOptions): Promise<void> {
    const isBand = (band: number): boolean => Number.isInteger(band) && band >= 1 && band <= this.bandCount;
    if (bands && !(bands.length === 3 && bands.every(isBand))) {
      throw new UserError(`${this.name} has ${this.bandCount} bands; expected three band numbers such as 3,2,1.`);
    }
    if (typeof alpha === "number" && !isBand(alpha)) {
      throw new UserError(`${this.name} has ${this.bandCount} bands; expected its alpha in one of them, not in ${alpha}.`);
    }
    const state = (): string => [this.chosen, this.alpha, this.nodata, this.keepsFill].join(" ");
    const before = state();
    if (bands) this.chosen = bands.map((band) => band - 1);
    this.alpha = alpha === null ? this.ownAlpha : alpha === "none" ? -1 : alpha - 1;
    this.nodata = nodata ?? this.ownNodata;
    this.keepsFill = fill === "keep";
    if (state() !== before) await this.findFill();
    this.cache = null;
    this.range = null;
    const wanted = this.modelScaling ?? scaling;
    if (wanted === "percentile") this.range = await this.percentiles();
    else if (wanted) {
      this.checkScaling(wanted);
      this.range = wanted;
    } else if (this.needsScaling) {
      throw new UserError(`${this.name} does not have 8 bits per band. State which values become black and white.`);
    }
  }

  /** Refuse two values that cannot be a scaling of the pixels, as check_scaling in landcover/raster/bands.py. */
  private checkScaling([low, high]: readonly [number, number]): void {
    if (!(low < high)) throw new UserError("The scaling must be two numbers in ascending order.");
    if (this.values === "8-bit" && high > 255) {
      throw new UserError(
        `${this.name} has 8-bit pixels, which never reach the ${high} of the model's scaling; expected imagery of more ` +
          "bits. Add the original file.",
      );
    }
    if (this.values !== "float" && high - low < 1) {
      throw new UserError(
        `${this.name} has whole numbers, of which no two are within the scaling ${low},${high}; expected the stored ` +
          "values that become black and white.",
      );
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

