// A scene in the list, and what the legend and the canvas show of it.

import { text } from "./dom";
import { NODATA } from "./engine/classmap";
import type { Detail, MapResult, MapRows, ModelInfo, Picture, ReadOptions, SceneInfo } from "./protocol";
import { blank, toCanvas, type Layer, type Point } from "./view";

/** Okabe and Ito's colours, told apart with any common colour vision. */
const SAFE: Colour[] = [
  [213, 94, 0],
  [240, 228, 66],
  [204, 121, 167],
  [0, 158, 115],
  [0, 114, 178],
  [230, 159, 0],
  [0, 0, 0],
  [86, 180, 233],
];

export type Colour = [number, number, number];

export interface Scene {
  number: number;
  name: string;
  file: File;
  state: "opening" | "setup" | "waiting" | "mapping" | "mapped";
  info: SceneInfo | null;
  enteredGsd: number | null;
  options: ReadOptions;
  /** Drawn by a program. */
  isSample: boolean;
  layer: Layer | null;
  result: MapResult | null;
  minPixels: number;
}

export const model = JSON.parse(text("model-info")) as ModelInfo;

export function newScene(number: number, file: File, isSample: boolean): Scene {
  return {
    number,
    name: file.name || "pasted image",
    file,
    state: "opening",
    info: null,
    enteredGsd: null,
    options: { bands: null, scaling: null, nodata: null, alpha: null, fill: "nodata" },
    isSample,
    layer: null,
    result: null,
    minPixels: 1,
  };
}

/** Return the colours of the classes; beyond eight the safe ones come again, lighter. */
export const coloursOf = (isSafe: boolean): Colour[] =>
  model.classes.map(({ colour }, i) => {
    if (!isSafe) return colour;
    const safe = SAFE[i % SAFE.length];
    return i < SAFE.length ? safe : (safe.map((value) => Math.round((value + 255) / 2)) as Colour);
  });

export function layerOf(picture: Picture, size: { height: number; width: number }): Layer {
  const step = Math.ceil(Math.max(size.height, size.width) / Math.max(picture.height, picture.width));
  return { image: toCanvas(picture), classes: null, left: 0, top: 0, step };
}

export const detailLayer = ({ picture, classes, left, top, step }: Detail): Layer => ({
  image: toCanvas(picture),
  classes,
  left,
  top,
  step,
});

/** Add rows of the map that is being made to a scene's picture. */
export function addRows(scene: Scene, { step, size, top, image, classes }: MapRows): void {
  if (scene.layer?.classes?.length !== size.height * size.width) {
    const canvas = blank(size.height, size.width);
    // What was shown before stays below the rows that are still missing.
    if (scene.layer) canvas.getContext("2d")!.drawImage(scene.layer.image, 0, 0, size.width, size.height);
    const empty = new Uint8Array(size.height * size.width).fill(NODATA);
    scene.layer = { image: canvas, classes: empty, left: 0, top: 0, step };
  }
  const rows = classes.length / size.width;
  if (!rows) return;
  scene.layer.classes!.set(classes, top * size.width);
  scene.layer.image.getContext("2d")!.putImageData(new ImageData(image, size.width, rows), 0, top);
}

/** Return the text alternative of a scene's canvas. */
export function describe(scene: Scene): string {
  if (!scene.result) return `Image ${scene.name}, not mapped`;
  const { counts } = scene.result;
  const total = counts.reduce((sum, { pixels }) => sum + pixels, 0);
  const shares = model.classes
    .map(({ name }, i) => ({ name, share: counts[i].pixels / Math.max(1, total) }))
    .filter(({ share }) => share >= 0.005)
    .sort((a, b) => b.share - a.share)
    .map(({ name, share }) => `${name} ${Math.round(100 * share)} %`);
  return `Land-cover map of ${scene.name}: ${shares.join(", ")}`;
}

/** Return the name of a class and its confidence at a position. */
export function classText(scene: Scene, value: number | undefined, point: Point): string | null {
  if (!scene.result || value === undefined) return null;
  if (value === NODATA) return "no imagery";
  const { name } = model.classes[value];
  const channel = model.scored.indexOf(value);
  const { cells } = scene.result;
  if (!cells || channel < 0) return name;
  const y = Math.min(cells.rows - 1, Math.max(0, (Math.floor(point.y) + 0.5) * cells.perRow - 0.5));
  const x = Math.min(cells.columns - 1, Math.max(0, (Math.floor(point.x) + 0.5) * cells.perColumn - 0.5));
  const [top, left] = [Math.floor(y), Math.floor(x)];
  const [bottom, right] = [Math.min(top + 1, cells.rows - 1), Math.min(left + 1, cells.columns - 1)];
  const mixed = (k: number): number => {
    const at = (row: number, col: number): number => cells.values[(k * cells.rows + row) * cells.columns + col];
    const upper = at(top, left) + (at(top, right) - at(top, left)) * (x - left);
    const lower = at(bottom, left) + (at(bottom, right) - at(bottom, left)) * (x - left);
    return upper + (lower - upper) * (y - top);
  };
  const total = model.scored.reduce((sum, _, k) => sum + mixed(k), 0);
  return total ? `${name}, ${Math.round((100 * mixed(channel)) / total)} % confidence` : name;
}
