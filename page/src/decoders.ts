// How blocks of a GeoTIFF are unpacked: never to more bytes than a block has, so that no file fills the memory.
// Deflate, JPEG and WebP are those of the browser, which are several times faster than JavaScript.

import { addDecoder, BaseDecoder, type ImageFileDirectory } from "geotiff";
import { ZSTDDecoder } from "zstddec";
import { UserError } from "./engine/grid";

const SLICE = 1 << 14;
export const COMPRESSIONS: ReadonlySet<number> = new Set([1, 5, 7, 8, 32946, 32773, 50000, 50001]);

/** Return height and width in the header of a JPEG, and its number of components; null where it has none. */
export function jpegHeader(bytes: Uint8Array): { height: number; width: number; components: number } | null {
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
      return height && width ? { height, width, components: bytes[i + 9] } : null;
    }
    if (length < 2) return null;
    i += 2 + length;
  }
  return null;
}

/** Return height and width in the header of a WebP file; null where it has none. */
export function webpSize(bytes: Uint8Array): [number, number] | null {
  if (bytes.length < 30) return null;
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const kind = String.fromCharCode(...bytes.subarray(12, 16));
  if (kind === "VP8 ") return [view.getUint16(28, true) & 0x3fff, view.getUint16(26, true) & 0x3fff];
  if (kind === "VP8L") {
    const bits = view.getUint32(21, true);
    return [((bits >> 14) & 0x3fff) + 1, (bits & 0x3fff) + 1];
  }
  if (kind !== "VP8X") return null;
  const side = (at: number): number => view.getUint16(at, true) + (bytes[at + 2] << 16) + 1;
  return [side(27), side(24)];
}

/** Return the pixels of a decoded picture in rows from one to another: RGBA bytes. */
export function pictureRows(bitmap: ImageBitmap, start: number, stop: number): Uint8ClampedArray {
  const canvas = new OffscreenCanvas(bitmap.width, stop - start);
  const context = canvas.getContext("2d", { willReadFrequently: true });
  if (!context) throw new UserError("The browser has no memory for this image. Close other pages or use a smaller image.");
  context.drawImage(bitmap, 0, -start);
  return context.getImageData(0, 0, bitmap.width, stop - start).data;
}

export const DECODING: ImageBitmapOptions = { colorSpaceConversion: "none", premultiplyAlpha: "none" };

interface Parameters {
  tileWidth: number;
  tileHeight: number;
  bitsPerSample: ArrayLike<number> | number;
  samplesPerPixel: number;
  planarConfiguration: number;
  JPEGTables?: Uint8Array;
  photometric: number;
}

abstract class Decoder extends BaseDecoder {
  protected get block(): Parameters {
    return this.parameters as unknown as Parameters;
  }

  /** The number of samples of a pixel in a block. */
  protected get samples(): number {
    const { samplesPerPixel, planarConfiguration } = this.block;
    return planarConfiguration === 2 ? 1 : samplesPerPixel;
  }

  protected get bytes(): number {
    const { bitsPerSample, tileWidth, tileHeight } = this.block;
    const bits = typeof bitsPerSample === "number" ? bitsPerSample : bitsPerSample[0];
    return tileHeight * Math.ceil((tileWidth * bits * this.samples) / 8);
  }
}

class Deflate extends Decoder {
  async decodeBlock(buffer: ArrayBuffer): Promise<ArrayBuffer> {
    const out = new Uint8Array(this.bytes);
    // In slices: what one unpacks to is in memory at once, at most a thousand times its size.
    let at = 0;
    const slices = new ReadableStream<BufferSource>({
      pull: (stream) => (at < buffer.byteLength ? stream.enqueue(new Uint8Array(buffer.slice(at, (at += SLICE)))) : stream.close()),
    });
    const reader = slices.pipeThrough(new DecompressionStream("deflate")).getReader();
    let size = 0;
    try {
      while (size < out.length) {
        const { done, value } = await reader.read();
        if (done) break;
        const part = value.subarray(0, out.length - size);
        out.set(part, size);
        size += part.length;
      }
    } finally {
      // Bytes after the end of a block are an error that concerns no pixel.
      await reader.cancel().catch(() => undefined);
    }
    return size === out.length ? out.buffer : out.buffer.slice(0, size);
  }
}

/** TIFF 6.0, section 13: codes of 9 to 12 bits, most significant bit first. */
class Lzw extends Decoder {
  decodeBlock(buffer: ArrayBuffer): ArrayBuffer {
    const input = new Uint8Array(buffer);
    const out = new Uint8Array(this.bytes);
    // A code above 257 is a text that has been written already: where it begins, and its length.
    const begins = new Int32Array(4097);
    const lengths = new Int32Array(4097);
    let [next, bits, at, hold, held, size] = [258, 9, 0, 0, 0, 0];
    let previous = -1;
    let previousAt = 0;
    let previousLength = 0;
    while (size < out.length) {
      while (held < bits && at < input.length) {
        hold = ((hold << 8) | input[at++]) & 0xffffff;
        held += 8;
      }
      if (held < bits) break;
      held -= bits;
      const code = (hold >> held) & ((1 << bits) - 1);
      if (code === 257) break;
      if (code === 256) {
        [next, bits, previous] = [258, 9, -1];
        continue;
      }
      if (code > next || (code === next && previous < 0)) throw new Error("damaged LZW data");
      const begin = size;
      let length = 1;
      if (code < 256) out[size++] = code;
      else {
        const [from, count] = code === next ? [previousAt, previousLength + 1] : [begins[code], lengths[code]];
        length = Math.min(count, out.length - size);
        for (let i = 0; i < length; i++) out[size++] = out[from + i];
      }
      if (previous >= 0 && next < 4096) {
        [begins[next], lengths[next]] = [previousAt, previousLength + 1];
        next++;
        if (next + 1 >= 1 << bits && bits < 12) bits++;
      }
      [previous, previousAt, previousLength] = [code, begin, length];
    }
    return size === out.length ? out.buffer : out.buffer.slice(0, size);
  }
}

const zstd = new ZSTDDecoder();

class Zstd extends Decoder {
  async decodeBlock(buffer: ArrayBuffer): Promise<ArrayBuffer> {
    await zstd.init();
    const out = zstd.decode(new Uint8Array(buffer), this.bytes);
    if (!out.length) throw new Error("damaged Zstandard data");
    return out.buffer as ArrayBuffer;
  }
}

class BrowserPicture extends Decoder {
  async decodeBlock(buffer: ArrayBuffer): Promise<ArrayBuffer> {
    const { tileWidth, tileHeight, JPEGTables, photometric } = this.block;
    const bytes = new Uint8Array(buffer);
    const parts: Uint8Array[] = [bytes];
    let size: [number, number] | null;
    if (bytes[0] === 0xff) {
      const header = jpegHeader(bytes);
      size = header && [header.height, header.width];
      if (header && header.components !== 1 && header.components !== 3) throw new Error("JPEG of four bands");
      // Tables that all blocks share, and whether the three components are RGB or YCbCr.
      const adobe = [0xff, 0xee, 0, 14, 0x41, 0x64, 0x6f, 0x62, 0x65, 0, 100, 0, 0, 0, 0, photometric === 2 ? 0 : 1];
      const tables = JPEGTables ? Uint8Array.from(JPEGTables).subarray(2, -2) : new Uint8Array();
      parts.splice(0, 1, bytes.subarray(0, 2), Uint8Array.from(adobe), tables, bytes.subarray(2));
    } else size = webpSize(bytes);
    if (!size || size[0] > tileHeight || size[1] !== tileWidth) throw new Error("a block has another size");
    const bitmap = await createImageBitmap(new Blob(parts as BlobPart[]), DECODING);
    const rgba = pictureRows(bitmap, 0, bitmap.height);
    bitmap.close();
    const { samples } = this;
    const out = new Uint8Array((rgba.length / 4) * samples);
    for (let i = 0, o = 0; i < rgba.length; i += 4) for (let k = 0; k < samples; k++) out[o++] = rgba[i + k];
    return out.buffer;
  }
}

async function parameters(directory: ImageFileDirectory): Promise<never> {
  const value = async (name: string): Promise<unknown> =>
    directory.hasTag(name as never) ? await directory.loadValue(name as never) : undefined;
  const isTiled = !directory.hasTag("StripOffsets");
  return {
    tileWidth: await value(isTiled ? "TileWidth" : "ImageWidth"),
    tileHeight: (await value(isTiled ? "TileLength" : "RowsPerStrip")) ?? (await value("ImageLength")),
    planarConfiguration: (await value("PlanarConfiguration")) ?? 1,
    bitsPerSample: await value("BitsPerSample"),
    samplesPerPixel: (await value("SamplesPerPixel")) ?? 1,
    predictor: (await value("Predictor")) ?? 1,
    JPEGTables: await value("JPEGTables"),
    photometric: await value("PhotometricInterpretation"),
  } as never;
}

for (const [codes, decoder] of [
  [[8, 32946], Deflate],
  [[5], Lzw],
  [[50000], Zstd],
  [[7, 50001], BrowserPicture],
] as [number[], typeof BaseDecoder][]) {
  addDecoder(codes, async () => decoder, parameters, false);
}

// The decoder of Zstandard fetches itself from a data address, which the page's policy refuses like any address.
self.fetch = async (address) => {
  const data = /^data:[^,]*;base64,(.*)$/s.exec(String(address));
  if (!data) throw new TypeError("The page makes no requests.");
  return new Response(Uint8Array.from(atob(data[1]), (letter) => letter.charCodeAt(0)));
};
