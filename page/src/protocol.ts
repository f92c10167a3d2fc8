// Messages between the page and its worker.

import type { OodReport, Profile } from "./engine/ood";
import type { Box } from "./sources";

export interface ModelInfo {
  name: string;
  sha256: string;
  version: string;
  gsd: number;
  mean: number[];
  /** Names of the input's bands, and where they usually are in a file, from 1; null: red, green and blue. */
  bands: string[];
  band_indices: number[] | null;
  /** Values that become 0 and 255; null: imagery of 8 bits. */
  scaling: [number, number] | "percentile" | null;
  /** Views of each window whose probabilities are averaged. */
  views: number;
  window_px: number;
  overlap_px: number;
  classes: { name: string; colour: [number, number, number] }[];
  /** Tags by which a map file carries its legend. */
  legend_tags: Record<string, string>;
  /** Class index of each channel of the network. */
  scored: number[];
  licence: string;
  licence_url: string;
  terms: string;
  about: string;
  scores: string[];
  profile: Profile | null;
}

export interface SceneInfo {
  name: string;
  height: number;
  width: number;
  bandNames: string[];
  bands: number[];
  gsd: number | null;
  suggestedGsd: number | null;
  needsScaling: boolean;
  isGeoreferenced: boolean;
  canMakePolygons: boolean;
  notes: string[];
  preview: Picture | null;
}

/** RGBA bytes; transparent where there is no imagery. */
export interface Picture {
  image: Uint8ClampedArray<ArrayBuffer>;
  height: number;
  width: number;
}

/** Some rows of the map and its image while it is made, reduced by taking one pixel of step x step. */
export interface MapRows {
  step: number;
  size: { height: number; width: number };
  top: number;
  image: Uint8ClampedArray<ArrayBuffer>;
  classes: Uint8Array;
}

/** A part of a scene, from a pixel on, of which one pixel of step x step is taken. */
export interface Detail {
  picture: Picture;
  classes: Uint8Array;
  left: number;
  top: number;
  step: number;
}

export interface MapResult {
  counts: ClassCount[];
  seconds: number;
  gsd: number;
  notes: string[];
  ood: OodReport | null;
  /** Probabilities in steps of 1/255 on the logit grid, (classes, rows, columns). */
  cells: { values: Uint8Array; rows: number; columns: number; perRow: number; perColumn: number } | null;
}

export interface ClassCount {
  pixels: number;
  squareMetres: number;
}

export interface SieveResult {
  classes: Uint8Array;
  counts: ClassCount[];
}

/** How a file is read, as by the options of `predict`; null: as the file states. */
export interface ReadOptions {
  /** Numbers of three bands, from 1. */
  bands: number[] | null;
  /** Values that become 0 and 255. */
  scaling: [number, number] | "percentile" | null;
  /** Value of pixels without imagery. */
  nodata: number | null;
  alpha: number | "none" | null;
  fill: "nodata" | "keep";
}

export type ExportFormat = "png" | "tif" | "csv" | "geojson" | "qml";

export type Request =
  | { do: "start"; wasm: ArrayBuffer; model: ArrayBuffer; info: ModelInfo; threads: number }
  | { do: "open"; scene: number; file: File; gsd: number | null }
  | { do: "configure"; scene: number; options: ReadOptions }
  | { do: "map"; scene: number; gsd: number | null }
  | { do: "detail"; scene: number; box: Box; step: number }
  | { do: "sieve"; scene: number; minPixels: number }
  | { do: "export"; scene: number; format: ExportFormat; colours: [number, number, number][] }
  | { do: "close"; scene: number };

export type Message = { id: number } & Request;

export type Answer =
  | { id: number; ok: true; value: unknown }
  | { id: number; ok: false; error: string; cancelled: boolean }
  | { id: number; progress: number; rows?: MapRows };
