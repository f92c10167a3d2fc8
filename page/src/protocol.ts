// What the page and its worker say to each other.

import type { OodReport, Profile } from "./engine/ood";

export interface ModelInfo {
  name: string;
  sha256: string;
  version: string;
  gsd: number;
  mean: number[];
  window_px: number;
  overlap_px: number;
  classes: { name: string; colour: [number, number, number] }[];
  /** Class index of each channel of the network. */
  scored: number[];
  licence: string;
  licence_url: string;
  terms: string;
  about: string;
  scores: { text: string; value: string }[];
  profile: Profile | null;
}

export interface SceneInfo {
  name: string;
  height: number;
  width: number;
  bands: number;
  gsd: number | null;
  suggestedGsd: number | null;
  needsScaling: boolean;
  isGeoreferenced: boolean;
  canMakePolygons: boolean;
  notes: string[];
  preview: Picture | null;
}

/** RGB bytes. */
export interface Picture {
  image: Uint8Array;
  height: number;
  width: number;
}

export interface MapResult {
  /** One pixel of the overview stands for step x step pixels of the scene. */
  step: number;
  overview: Picture;
  classes: Uint8Array;
  counts: ClassCount[];
  seconds: number;
  gsd: number;
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

export type ExportFormat = "png" | "tif" | "csv" | "geojson" | "qml";

export type Request =
  | { do: "start"; wasm: ArrayBuffer; model: ArrayBuffer; info: ModelInfo; threads: number }
  | { do: "open"; scene: number; file: File; gsd: number | null }
  | { do: "configure"; scene: number; bands: number[] | null; scaling: [number, number] | "percentile" | null }
  | { do: "map"; scene: number; gsd: number | null }
  | { do: "sieve"; scene: number; minPixels: number }
  | { do: "export"; scene: number; format: ExportFormat; colours: [number, number, number][] }
  | { do: "close"; scene: number };

export type Message = { id: number } & Request;

export type Answer =
  | { id: number; ok: true; value: unknown }
  | { id: number; ok: false; error: string; cancelled: boolean }
  | { id: number; progress: number };
