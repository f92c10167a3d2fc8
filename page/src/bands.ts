// Which bands are red, green and blue, and how their values become 8 bits. Counterpart of landcover/raster/bands.py.

import { UserError } from "./engine/grid";
import { roundHalfEven } from "./engine/resample";
import type { ModelInfo } from "./protocol";

export type Numbers = ArrayLike<number>;

export const RGB: readonly string[] = ["red", "green", "blue"];
/** Shortest, middle and longest wavelength of red, green and blue, in nanometres. */
const WAVELENGTHS_NM = [
  [600, 660, 700],
  [500, 555, 600],
  [430, 485, 520],
];
const OTHER_COLOURS = /red[\s_-]*edge|coastal[\s_-]*blue|green[\s_-]*i\b/g;
const BAND_NUMBER = /(?<![a-z0-9])b0?([234])(?![a-z0-9])/i;
const FIRST_BAND = /(?<![a-z0-9])b1(?![a-z0-9])/i;
const LATER_BAND = /(?<![a-z0-9])b(?:8a|9|1[0-2])(?![a-z0-9])/i;
const NO_NAME = /^(?:band|layer)?[\s_-]*\d+$/i;
const MAX_SHOWN = 12;
const MAX_CHARACTERS = 40;

/** Return whether a model takes red, green and blue of 8 bits, which pictures have. */
export const isPlainModel = ({ bands, band_indices, scaling }: ModelInfo): boolean =>
  !scaling && (!band_indices || bands.join() === RGB.join());

/** What a GeoTIFF states about each of its bands. */
export interface BandTexts {
  descriptions: string[];
  /** Colour interpretation in lower case; empty: none. */
  kinds: string[];
  /** As the file has them; empty: none. */
  wavelengths: string[];
}

/** Return what GDAL's metadata and the TIFF's own tags state about bands. */
export function bandTexts(metadata: string, count: number, isColour: boolean, alphas: readonly number[]): BandTexts {
  const texts: BandTexts = {
    descriptions: new Array<string>(count).fill(""),
    kinds: Array.from({ length: count }, (_, i) => (alphas.includes(i) ? "alpha" : ((isColour && RGB[i]) || ""))),
    wavelengths: new Array<string>(count).fill(""),
  };
  for (const [, head, escaped] of metadata.matchAll(/<Item\s([^>]*)>([^<]*)</g)) {
    const attributes = Object.fromEntries([...head.matchAll(/(\w+)="([^"]*)"/g)].map(([, key, value]) => [key, value]));
    const band = Number(attributes.sample);
    if (attributes.sample === undefined || !(band >= 0 && band < count)) continue;
    const text = unescapeXml(escaped);
    if (attributes.role === "description") texts.descriptions[band] = text;
    else if (attributes.role === "colorinterp") texts.kinds[band] = text.trim().toLowerCase();
    else if (/wavelength/i.test(attributes.name ?? "") && [undefined, "IMAGERY"].includes(attributes.domain)) {
      texts.wavelengths[band] ||= text;
    }
  }
  return texts;
}

const ENTITIES: Record<string, string> = { lt: "<", gt: ">", quot: '"', apos: "'", amp: "&" };
const unescapeXml = (text: string): string => text.replace(/&(lt|gt|quot|apos|amp);/g, (_, name: string) => ENTITIES[name]);

/**
 * Return red, green and blue (or the model's bands) from 0, and a warning about the choice or null.
 *
 * In this order: the bands of these names by description, wavelength or colour interpretation; those where the
 * model's bands usually are; the first three but alpha; the first as grey.
 */
export function chooseBands(
  name: string,
  texts: BandTexts,
  model: Pick<ModelInfo, "bands" | "band_indices">,
): [number[], string | null] {
  const { descriptions, kinds } = texts;
  const count = kinds.length;
  const listed = (bands: number[]): string => `bands ${bands.map((band) => band + 1).join(", ")}`;
  const own = descriptions.filter((text) => text && !NO_NAME.test(text.trim()));
  const described = own.length ? own : texts.wavelengths.filter((text) => text);
  const shown = described.slice(0, MAX_SHOWN).map((text) => text.slice(0, MAX_CHARACTERS)).join(", ");
  const [named, byInterpretation] = namedBands(texts, model.bands);
  if (named) {
    const red = descriptions[named[0]].toLowerCase();
    const isNumbered = BAND_NUMBER.test(red) && !red.includes("red");
    const all = descriptions.join(" ");
    if (byInterpretation && described.length) {
      const how = `by its colour interpretation ${listed(named)} are used as red, green and blue`;
      return [named, `${name} has bands named ${shown}; ${how}. If that is wrong, change the bands.`];
    }
    if (!isNumbered || !FIRST_BAND.test(all) || LATER_BAND.test(all)) return [named, null];
    const note =
      `${name} numbers its bands; ${listed(named)} are used as red, green and blue, as of Landsat 8 and 9 and ` +
      "Sentinel-2. If that is wrong (Landsat 4 to 7), change the bands.";
    return [named, note];
  }
  if (model.band_indices) {
    const usual = model.band_indices.map((band) => band - 1);
    const names = model.bands.join(", ");
    if (!usual.every((band) => band < count)) {
      throw new UserError(`${name} has ${count} bands; the model expects ${names} in ${listed(usual)}.`);
    }
    const isOther = described.length && !model.bands.some((band) => NO_NAME.test(band));
    const note = `${name} has bands named ${shown}, not ${names} as the model; ${listed(usual)} are used by number. `;
    return [usual, isOther ? `${note}If that is wrong, change the bands.` : null];
  }
  const plain = kinds.flatMap((kind, band) => (kind === "alpha" ? [] : [band]));
  if (!plain.length) throw new UserError(`${name} has nothing but an alpha band; expected RGB or grey.`);
  if (plain.length < 3) {
    const note = `${name} has two bands; band ${plain[0] + 1} is used as grey. If that is wrong, change the bands.`;
    return [[plain[0], plain[0], plain[0]], plain.length === 2 ? note : null];
  }
  const chosen = plain.slice(0, 3);
  const used = `${listed(chosen)} are used as red, green and blue. If that is wrong, change the bands.`;
  if (described.length) {
    return [chosen, `${name} does not state which of its bands ${shown} are red, green and blue; ${used}`];
  }
  return [chosen, plain.length > 3 ? `${name} does not name its ${count} bands; ${used}` : null];
}

/**
 * Return the bands of these names, if there is one of each; colours also by other signs of a file. The second value is
 * true for colours by their interpretation alone.
 */
function namedBands({ descriptions, kinds, wavelengths }: BandTexts, names: readonly string[]): [number[] | null, boolean] {
  const texts = descriptions.map((text) => text.trim().toLowerCase());
  const exact = oneEach(names.map((name) => indices(texts, (text) => text === name.toLowerCase())));
  if (exact || [...names].sort().join() !== [...RGB].sort().join()) return [exact, false];
  const stated = byDescription(texts) ?? byWavelength(wavelengths);
  const colours = stated ?? oneEach(RGB.map((colour) => indices(kinds, (kind) => kind === colour)));
  return [colours && names.map((name) => colours[RGB.indexOf(name)]), !stated];
}

/** Return the bands described as red, green and blue, or numbered as bands 4, 3 and 2 of Sentinel-2. */
function byDescription(texts: string[]): number[] | null {
  const words = texts.map((text): string[] => text.replace(OTHER_COLOURS, "").match(/[a-z]+/g) ?? []);
  const found = RGB.map((colour) => {
    const exact = indices(texts, (text) => text === colour || text === colour[0]);
    return exact.length ? exact : indices(words, (have) => have.includes(colour));
  });
  if (found.some((bands) => bands.length)) return oneEach(found);
  return oneEach(["4", "3", "2"].map((number) => indices(texts, (text) => BAND_NUMBER.exec(text)?.[1] === number)));
}

/** Return the bands nearest to the middle of red, green and blue, if they are within the colours. */
function byWavelength(texts: readonly string[]): number[] | null {
  const lengths = texts.map((text) => {
    const number = Number(/^\s*(\d+(?:[.,]\d+)?)/.exec(text)?.[1].replace(",", ".") ?? NaN);
    return number < 20 ? number * 1000 : number; // micrometres
  });
  return oneEach(
    WAVELENGTHS_NM.map(([low, middle, high]) => {
      const within = indices(lengths, (nm) => nm >= low && nm <= high);
      return within.sort((a, b) => Math.abs(lengths[a] - middle) - Math.abs(lengths[b] - middle)).slice(0, 1);
    }),
  );
}

const indices = <T>(values: readonly T[], isFound: (value: T) => boolean): number[] =>
  values.flatMap((value, i) => (isFound(value) ? [i] : []));

const oneEach = (found: number[][]): number[] | null =>
  found.every((bands) => bands.length === 1) ? found.map(([band]) => band) : null;

/** Return three planes as RGB bytes; the range's values become 0 and 255. */
export function toBytes(planes: Numbers[], range: [number, number] | null): Uint8Array {
  const pixels = planes[0].length;
  const image = new Uint8Array(pixels * 3);
  planes.forEach((plane, band) => {
    if (!range) {
      for (let i = 0; i < pixels; i++) image[i * 3 + band] = plane[i];
      return;
    }
    // In the precision of the values, as numpy computes.
    const precise = plane instanceof Float32Array ? Math.fround : (value: number): number => value;
    const [low, high, factor] = [range[0], range[1], 255 / (range[1] - range[0])].map(precise);
    for (let i = 0; i < pixels; i++) {
      const value = precise(precise(Math.min(high, Math.max(low, plane[i])) - low) * factor);
      image[i * 3 + band] = Number.isNaN(value) ? 0 : roundHalfEven(value);
    }
  });
  return image;
}

/** Return the 2nd and 98th percentile of values, which become 0 and 255. */
export function percentilesOf(values: number[]): [number, number] {
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
