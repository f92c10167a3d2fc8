// Results as files: palette PNG, GeoTIFF, CSV, GeoJSON, QGIS style.

import { NODATA, type ClassMap } from "./engine/classmap";
import { UserError } from "./engine/grid";
import type { OodReport } from "./engine/ood";
import { toLonLat, toMap, type Georeference } from "./georeference";
import { regions } from "./polygons";
import type { ClassCount, ModelInfo } from "./protocol";

const TEXT_CHARACTERS = 1 << 20;
const STRIP_ROWS = 64;

export interface FinishedMap {
  name: string;
  classes: ClassMap;
  georeference: Georeference | null;
  counts: ClassCount[];
  areaOfRow: Float64Array;
  minPixels: number;
  gsd: number;
  /** Origin of the scale, in the words of `predict`. */
  gsdSource: "option" | "raster";
  ood: OodReport | null;
}

type Colours = [number, number, number][];

async function deflate(parts: Iterable<Uint8Array>): Promise<Uint8Array> {
  const stream = new CompressionStream("deflate");
  const writer = stream.writable.getWriter();
  const result = new Response(stream.readable).arrayBuffer();
  for (const part of parts) await writer.write(part as Uint8Array<ArrayBuffer>);
  await writer.close();
  return new Uint8Array(await result);
}

const CRC = Uint32Array.from({ length: 256 }, (_, n) => {
  for (let k = 0; k < 8; k++) n = n & 1 ? 0xedb88320 ^ (n >>> 1) : n >>> 1;
  return n;
});

function chunk(kind: string, data: Uint8Array): Uint8Array {
  const out = new Uint8Array(data.length + 12);
  const view = new DataView(out.buffer);
  view.setUint32(0, data.length);
  out.set([...kind].map((letter) => letter.charCodeAt(0)), 4);
  out.set(data, 8);
  let crc = ~0;
  for (let i = 4; i < data.length + 8; i++) crc = CRC[(crc ^ out[i]) & 255] ^ (crc >>> 8);
  view.setUint32(data.length + 8, ~crc >>> 0);
  return out;
}

/** Return a palette PNG; pixels without imagery are transparent. */
export async function toPng(map: FinishedMap, colours: Colours): Promise<Blob> {
  const { classes } = map;
  const { height, width } = classes;
  const none = colours.length;
  function* lines(): Generator<Uint8Array> {
    for (let top = 0; top < height; top += STRIP_ROWS) {
      const rows = Math.min(STRIP_ROWS, height - top);
      const out = new Uint8Array(rows * (width + 1));
      for (let row = 0; row < rows; row++) {
        const line = out.subarray(row * (width + 1) + 1, (row + 1) * (width + 1));
        classes.readRow(top + row, line);
        for (let col = 0; col < width; col++) if (line[col] === NODATA) line[col] = none;
      }
      yield out;
    }
  }
  const header = new Uint8Array(13);
  const view = new DataView(header.buffer);
  view.setUint32(0, width);
  view.setUint32(4, height);
  header.set([8, 3, 0, 0, 0], 8);
  const parts = [
    Uint8Array.of(0x89, 0x50, 0x4e, 0x47, 0x0d, 0x0a, 0x1a, 0x0a),
    chunk("IHDR", header),
    chunk("PLTE", Uint8Array.from([...colours.flat(), 0, 0, 0])),
    chunk("tRNS", Uint8Array.from([...colours.map(() => 255), 0])),
    chunk("IDAT", await deflate(lines())),
    chunk("IEND", new Uint8Array()),
  ];
  return new Blob(parts as BlobPart[], { type: "image/png" });
}

/** Return the world file beside a PNG: the position of its pixels in the scene's coordinate system. */
export function toWorldFile(place: Georeference): Blob {
  const [a, b, , d, e] = place.transform;
  const [x, y] = toMap(place, 0.5, 0.5);
  return new Blob([[a, d, b, e, x, y].map((value) => `${value}\n`).join("")], { type: "text/plain" });
}

const escapeXml = (text: string): string =>
  text.replace(/[&<>"']/g, (letter) => `&#${letter.charCodeAt(0)};`);

/** Return a GeoTIFF of class indices with colours, class names and provenance. */
export async function toGeoTiff(map: FinishedMap, colours: Colours, model: ModelInfo): Promise<Blob> {
  const { classes } = map;
  const { height, width } = classes;
  const strips: Uint8Array[] = [];
  for (let top = 0; top < height; top += STRIP_ROWS) {
    const strip = new Uint8Array(Math.min(STRIP_ROWS, height - top) * width);
    for (let row = 0; row < strip.length / width; row++) classes.readRow(top + row, strip, row * width);
    strips.push(await deflate([strip]));
  }
  const colourMap = new Array<number>(768).fill(0);
  colours.forEach((colour, i) => colour.forEach((value, band) => (colourMap[band * 256 + i] = value * 257)));
  const tags: Record<string, string> = {
    ...model.legend_tags,
    LANDCOVER_GSD: `${Number(map.gsd.toPrecision(6))} (${map.gsdSource})`,
    LANDCOVER_VERSION: model.version,
    LANDCOVER_MODEL_SHA256: model.sha256,
    LANDCOVER_MODEL_GSD: String(model.gsd),
    LANDCOVER_RUNTIME: "onnxruntime-web",
    LANDCOVER_VIEWS: String(model.views),
  };
  if (model.licence) tags.LANDCOVER_MODEL_LICENCE = model.licence;
  if (map.ood) tags.LANDCOVER_UNLIKE = JSON.stringify(map.ood);
  if (map.minPixels > 1) tags.LANDCOVER_MIN_REGION = `${map.minPixels}px`;
  const metadata = Object.entries(tags)
    .map(([name, value]) => `<Item name="${escapeXml(name)}">${escapeXml(value)}</Item>`)
    .join("");
  const offsets = strips.map(() => 0);
  const entries: { tag: number; type: number; values: number[] | string }[] = [
    { tag: 256, type: 4, values: [width] },
    { tag: 257, type: 4, values: [height] },
    { tag: 258, type: 3, values: [8] },
    { tag: 259, type: 3, values: [8] },
    { tag: 262, type: 3, values: [3] },
    { tag: 273, type: 4, values: offsets },
    { tag: 277, type: 3, values: [1] },
    { tag: 278, type: 4, values: [STRIP_ROWS] },
    { tag: 279, type: 4, values: strips.map((strip) => strip.length) },
    { tag: 320, type: 3, values: colourMap },
    ...(map.georeference?.tags ?? []),
    { tag: 42112, type: 2, values: `<GDALMetadata>${metadata}</GDALMetadata>` },
    { tag: 42113, type: 2, values: String(NODATA) },
  ];
  const sizes: Record<number, number> = { 2: 1, 3: 2, 4: 4, 12: 8 };
  const encoder = new TextEncoder();
  const encoded = entries.map(({ tag, type, values }) => {
    const text = typeof values === "string" ? encoder.encode(values.endsWith("\0") ? values : `${values}\0`) : null;
    const count = text ? text.length : values.length;
    return { tag, type, values, text, count, bytes: count * sizes[type] };
  });
  const directory = 8;
  let end = directory + 2 + encoded.length * 12 + 4;
  const place = encoded.map(({ bytes }) => {
    if (bytes <= 4) return 0;
    const start = end;
    end += bytes + (bytes & 1);
    return start;
  });
  let at = end;
  strips.forEach((strip, n) => {
    offsets[n] = at;
    at += strip.length;
  });
  if (at >= 2 ** 32) throw new UserError("The map is larger than 4 GB. Map this scene with landcover predict.");
  const head = new DataView(new ArrayBuffer(end));
  head.setUint16(0, 0x4949);
  head.setUint16(2, 42, true);
  head.setUint32(4, directory, true);
  head.setUint16(directory, encoded.length, true);
  encoded.forEach(({ tag, type, values, text, count, bytes }, n) => {
    const entry = directory + 2 + n * 12;
    head.setUint16(entry, tag, true);
    head.setUint16(entry + 2, type, true);
    head.setUint32(entry + 4, count, true);
    if (bytes > 4) head.setUint32(entry + 8, place[n], true);
    const start = bytes > 4 ? place[n] : entry + 8;
    for (let i = 0; i < count; i++) {
      if (text) head.setUint8(start + i, text[i]);
      else if (type === 3) head.setUint16(start + 2 * i, values[i] as number, true);
      else if (type === 4) head.setUint32(start + 4 * i, values[i] as number, true);
      else head.setFloat64(start + 8 * i, values[i] as number, true);
    }
  });
  return new Blob([head.buffer, ...(strips as BlobPart[])], { type: "image/tiff" });
}

/** Return the areas of the classes as CSV. */
export function toCsv(map: FinishedMap, model: ModelInfo): Blob {
  const total = map.counts.reduce((sum, { pixels }) => sum + pixels, 0);
  const quote = (text: string): string => (/[",\n\r]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text);
  // A cell that begins with one of these would be a formula in a spreadsheet.
  const cell = (text: string): string => quote(/^[=+\-@\t\r]/.test(text) ? `'${text}` : text);
  const lines = ["image,class,pixels,share,hectares"];
  model.classes.forEach((entry, i) => {
    const { pixels, squareMetres } = map.counts[i];
    const share = total ? pixels / total : 0;
    lines.push(
      [cell(map.name), cell(entry.name), pixels, share.toFixed(6), (squareMetres / 10_000).toFixed(4)].join(","),
    );
  });
  return new Blob([`${lines.join("\n")}\n`], { type: "text/csv" });
}

/** Return the regions of the map as polygons in longitude and latitude (RFC 7946). */
export function toGeoJson(map: FinishedMap, model: ModelInfo): Blob {
  const place = map.georeference;
  if (!place || !toLonLat(place, 0, 0)) {
    throw new UserError(
      "GeoJSON is in longitude and latitude: the scene must be georeferenced in WGS 84, UTM or web Mercator. " +
        "For other systems use landcover predict --vector gpkg.",
    );
  }
  const parts: Blob[] = [];
  let text = '{"type":"FeatureCollection","features":[\n';
  const [a, b, , d, e] = place.transform;
  const isMirrored = a * e - b * d > 0;
  let first = true;
  for (const region of regions(map.classes, map.areaOfRow)) {
    const rings = region.rings.map((ring) => {
      const points: number[][] = [];
      for (let i = 0; i < ring.length; i += 2) {
        points.push(toLonLat(place, ring[i], ring[i + 1])!.map((value) => Number(value.toFixed(8))));
      }
      return isMirrored ? points : points.reverse();
    });
    const { value, pixels, squareMetres } = region;
    text += `${first ? "" : ",\n"}${JSON.stringify({
      type: "Feature",
      properties: { class: model.classes[value].name, value, pixels, hectares: squareMetres / 10_000 },
      geometry: { type: "Polygon", coordinates: rings },
    })}`;
    first = false;
    if (text.length > TEXT_CHARACTERS) {
      parts.push(new Blob([text]));
      text = "";
    }
  }
  return new Blob([...parts, text, "\n]}\n"], { type: "application/geo+json" });
}

/** Return names and colours of the classes as a QGIS layer style. */
export function toQml(colours: Colours, model: ModelInfo): Blob {
  const hex = (colour: number[]): string => `#${colour.map((value) => value.toString(16).padStart(2, "0")).join("")}`;
  const items = model.classes.map(
    (entry, i) =>
      `<paletteEntry value="${i}" color="${hex(colours[i])}" alpha="255" label="${escapeXml(entry.name)}"/>`,
  );
  return new Blob(
    [
      "<!DOCTYPE qgis PUBLIC 'http://mrcc.com/qgis.dtd' 'SYSTEM'>\n",
      '<qgis version="3.0" styleCategories="Symbology"><pipe><rasterrenderer type="paletted" band="1" opacity="1" ',
      `alphaBand="-1"><colorPalette>${items.join("")}</colorPalette></rasterrenderer></pipe></qgis>\n`,
    ],
    { type: "application/xml" },
  );
}
