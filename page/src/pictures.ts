// Pictures: JPEG, PNG and WebP, decoded by the browser. They are in memory as a whole.

import { isPlainModel, type Numbers } from "./bands";
import { DECODING, jpegHeader, pictureRows, webpSize } from "./decoders";
import { UserError } from "./engine/grid";
import type { Source } from "./engine/reading";
import { findFill, type Fill } from "./fill";
import type { ModelInfo, ReadOptions } from "./protocol";
import { Overview, stepTo, type Box, type OpenedFile } from "./sources";

const MAX_PICTURE_PIXELS = 100_000_000;
/** Longest side of an image that a canvas of any browser takes. */
const MAX_SIDE = 32_768;
const ROWS = 256;

/** Open a JPEG, PNG or WebP file, by its content. */
export async function openPicture(file: File, model: ModelInfo): Promise<OpenedFile> {
  const head = new Uint8Array(await file.slice(0, 64 * 1024).arrayBuffer());
  const text = (from: number, to?: number): string => new TextDecoder("latin1").decode(head.subarray(from, to));
  let size: [number, number] | null = null;
  if (text(1, 4) === "PNG") size = pngSize(file.name, head);
  else if (head[0] === 0xff && head[1] === 0xd8) size = await jpegSize(file);
  else if (text(0, 4) === "RIFF" && text(8, 12) === "WEBP") {
    size = webpSize(head);
    if (text(12, 16) === "VP8X" && head[20] & 2) throw animated(file.name);
  } else {
    throw new UserError(`${file.name} is not an image that this page can read. Expected JPEG, PNG, WebP or GeoTIFF.`);
  }
  if (!size) throw new UserError(`${file.name} is damaged: its header gives no size. Copy the file again.`);
  await checkEnd(file, head);
  if (!isPlainModel(model)) {
    const input = [model.bands.join(", "), ...(model.scaling ? [`scaled by ${String(model.scaling)}`] : [])].join(" ");
    throw new UserError(`${file.name} is a picture of 8 bits in RGB; the model expects ${input}. Add a GeoTIFF.`);
  }
  return Picture.decode(file, size);
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

function checkPicture(name: string, height: number, width: number): void {
  if (height * width > MAX_PICTURE_PIXELS) {
    throw new UserError(
      `${name} has ${width} x ${height} pixels; at most ${MAX_PICTURE_PIXELS / 1e6} million can be decoded here. ` +
        "Store it as a tiled GeoTIFF, which is read in parts.",
    );
  }
  if (Math.max(height, width) > MAX_SIDE) {
    throw new UserError(`${name} has ${width} x ${height} pixels; a side may have ${MAX_SIDE} at most here.`);
  }
}

class Picture implements OpenedFile {
  readonly kind = "picture";
  readonly source: Source;
  readonly georeference = null;
  scale: OpenedFile["scale"] = null;
  readonly suggestedGsd = null;
  readonly needsScaling = false;
  readonly bandNames = [];
  readonly bands = [];
  notes: string[] = [];

  private constructor(
    readonly name: string,
    private readonly image: Uint8Array,
    private valid: Uint8Array | null,
    size: { height: number; width: number },
    /** Undeclared fill; null in pictures with transparent pixels. */
    private readonly fill: Fill | null,
  ) {
    const { width } = size;
    this.source = {
      ...size,
      readRows: async (start, stop) => ({
        image: image.subarray(start * width * 3, stop * width * 3),
        valid: this.valid && this.valid.subarray(start * width, stop * width),
      }),
    };
  }

  static async decode(file: File, size: [number, number]): Promise<Picture> {
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
    for (let top = 0; top < height; top += ROWS) {
      const data = pictureRows(bitmap, top, Math.min(height, top + ROWS));
      for (let i = 0, at = top * width; i < data.length; i += 4, at++) {
        image[at * 3] = data[i];
        image[at * 3 + 1] = data[i + 1];
        image[at * 3 + 2] = data[i + 2];
        if (!data[i + 3]) (valid ??= new Uint8Array(height * width).fill(1))[at] = 0;
      }
    }
    bitmap.close();
    const plane = (band: number, [left, top, right, bottom]: Box): Numbers => {
      const values = new Uint8Array((bottom - top) * (right - left));
      for (let y = top, out = 0; y < bottom; y++) {
        for (let x = left; x < right; x++) values[out++] = image[(y * width + x) * 3 + band];
      }
      return values;
    };
    const read = async (box: Box): Promise<Numbers[]> => [0, 1, 2].map((band) => plane(band, box));
    const fill = valid ? null : await findFill(read, { height, width }, ROWS);
    const picture = new Picture(file.name, image, valid, { height, width }, fill);
    await picture.configure({ fill: "nodata" });
    return picture;
  }

  async preview(side: number): Promise<Overview["picture"]> {
    const overview = new Overview(this.source, stepTo(side, this.source));
    overview.add(0, { image: this.image, valid: this.valid }, this.source.width);
    return overview.picture;
  }

  async readWindow([left, top, right, bottom]: Box): ReturnType<OpenedFile["readWindow"]> {
    const { width } = this.source;
    const { image, valid } = await this.source.readRows(top, bottom);
    return {
      image: columns(image, 3 * width, 3 * left, 3 * right),
      valid: valid && columns(valid, width, left, right),
    };
  }

  async configure({ fill: wanted }: Pick<ReadOptions, "fill">): Promise<void> {
    const { fill, source } = this;
    if (!fill) return;
    const isUsed = wanted === "nodata";
    this.notes = isUsed ? fill.notes(this.name) : [];
    this.valid = isUsed && !fill.isEmpty ? new Uint8Array(source.height * source.width).fill(1) : null;
    if (this.valid) fill.apply(this.valid, [0, 0, source.width, source.height], source);
  }
}

/** Return part of the columns of rows. */
function columns(rows: Uint8Array, width: number, left: number, right: number): Uint8Array {
  const part = new Uint8Array((rows.length / width) * (right - left));
  for (let i = left, out = 0; i < rows.length; i += width, out += right - left) {
    part.set(rows.subarray(i, i + right - left), out);
  }
  return part;
}
