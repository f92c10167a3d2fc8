// The worker: reads scenes, runs the network, keeps the maps.

import * as ort from "onnxruntime-web/wasm";
import { Cancelled, rowBlocks, type Network } from "./engine/engine";
import { makeGrid, UserError, type Grid } from "./engine/grid";
import { OodScore } from "./engine/ood";
import { sieve } from "./engine/sieve";
import * as exporting from "./exporting";
import { rowAreas, toLonLat, type Scale } from "./georeference";
import type { ClassCount, MapResult, Message, ModelInfo, Picture, SceneInfo, SieveResult } from "./protocol";
import { openFile, type OpenedFile } from "./sources";

const OVERVIEW_PX = 4096;
const PREVIEW_PX = 2048;
const MAX_CELL_BYTES = 1 << 27;

interface Scene {
  opened: OpenedFile;
  raw: Uint8Array | null;
  shown: Uint8Array | null;
  counts: ClassCount[];
  areas: Float64Array;
  gsd: number;
  minPixels: number;
  step: number;
}

let model: ModelInfo;
let network: Network;
let stride = 0;
const scenes = new Map<number, Scene>();
const cancelled = new Set<number>();

async function start(message: Extract<Message, { do: "start" }>): Promise<{ stride: number }> {
  ort.env.wasm.wasmBinary = message.wasm;
  ort.env.wasm.numThreads = message.threads;
  ort.env.logLevel = "error";
  model = message.info;
  const session = await ort.InferenceSession.create(new Uint8Array(message.model), {
    executionProviders: ["wasm"],
    graphOptimizationLevel: "all",
    enableMemPattern: false,
  });
  const run = async (image: Float32Array, height: number, width: number): Promise<ort.Tensor> => {
    const input = new ort.Tensor("float32", image, [1, 3, height, width]);
    return (await session.run({ image: input }, ["coarse"])).coarse;
  };
  network = async (image, height, width) => (await run(image, height, width)).data as Float32Array;
  const probe = await run(new Float32Array(3 * 64 * 64), 64, 64);
  stride = 64 / probe.dims[3];
  if (probe.dims[1] !== model.scored.length || !Number.isInteger(stride)) {
    throw new UserError("The model in this page does not fit its card. Write the page again.");
  }
  return { stride };
}

function describe({ opened }: Scene, preview: Picture | null): SceneInfo {
  const { source, georeference } = opened;
  return {
    name: opened.name,
    height: source.height,
    width: source.width,
    bands: opened.bands,
    gsd: opened.scale?.gsd ?? null,
    suggestedGsd: opened.suggestedGsd,
    needsScaling: opened.needsScaling,
    isGeoreferenced: georeference !== null,
    canMakePolygons: georeference !== null && toLonLat(georeference, 0, 0) !== null,
    notes: opened.notes,
    preview,
  };
}

async function open(message: Extract<Message, { do: "open" }>): Promise<SceneInfo> {
  const opened = await openFile(message.file);
  if (message.gsd !== null) opened.scale = { gsd: message.gsd, sides: [message.gsd, message.gsd] };
  const scene: Scene = {
    opened,
    raw: null,
    shown: null,
    counts: [],
    areas: new Float64Array(),
    gsd: 0,
    minPixels: 1,
    step: 1,
  };
  scenes.set(message.scene, scene);
  // A scene that is mapped at once is read only once.
  const isComplete = opened.kind === "scene" && opened.scale !== null && !opened.needsScaling;
  return describe(scene, isComplete ? null : await opened.preview(PREVIEW_PX));
}

async function configure(message: Extract<Message, { do: "configure" }>): Promise<SceneInfo> {
  const scene = get(message.scene);
  await scene.opened.configure({ bands: message.bands, scaling: message.scaling });
  return describe(scene, await scene.opened.preview(PREVIEW_PX));
}

function get(number: number): Scene {
  const scene = scenes.get(number);
  if (!scene) throw new UserError("The scene was removed.");
  return scene;
}

async function map(message: Extract<Message, { do: "map" }>): Promise<MapResult> {
  const scene = get(message.scene);
  const { source } = scene.opened;
  const { height, width } = source;
  const own = message.gsd;
  if (own !== null && !(own > 0 && own <= 1000)) {
    throw new UserError(`The scale is ${own} m per pixel; expected a number above 0 and at most 1000.`);
  }
  const scale: Scale | null = own === null ? scene.opened.scale : { gsd: own, sides: [own, own] };
  if (!scale) throw new UserError("The scale is unknown. Enter metres per pixel, or measure a known length.");
  const began = performance.now();
  const grid = makeGrid(source, scale.sides, model, stride);
  const step = Math.ceil(Math.max(height, width) / OVERVIEW_PX);
  const [high, wide] = [Math.ceil(height / step), Math.ceil(width / step)];
  const overview = new Uint8Array(high * wide * 3);
  const ood = model.profile && new OodScore(model.profile);
  const cells = makeCells(grid);
  const classes = allocate(height * width);
  const { stride: perCell } = grid;
  cancelled.delete(message.scene);
  for await (const block of rowBlocks(network, source, grid, model, {
    onStrip: (from, to, strip) => {
      for (let y = Math.ceil(from / step); y * step < to; y++) {
        for (let x = 0; x < wide; x++) {
          const at = ((y * step - from) * width + x * step) * 3;
          const target = (y * wide + x) * 3;
          overview[target] = strip.image[at];
          overview[target + 1] = strip.image[at + 1];
          overview[target + 2] = strip.image[at + 2];
        }
      }
    },
    onWindowRow: (row, number) => {
      if (!ood) return;
      const top = grid.rows[number].start;
      const above = number ? grid.rows[number - 1].start + grid.rows[number - 1].length : 0;
      const first = (above - top) * perCell;
      const last = Math.min(grid.modelSize.height - top * perCell, row.height);
      ood.add(row.image, row.whole, row.width, first, last - first, grid.modelSize.width);
    },
    onCells: (first, rows, values) => cells?.add(first, rows, values),
    onProgress: async (done, total) => {
      post({ id: message.id, progress: done / total });
      await new Promise((resume) => setTimeout(resume)); // lets a cancel message in
    },
    isCancelled: () => cancelled.has(message.scene) || !scenes.has(message.scene),
  })) {
    classes.set(block.classes, block.start * width);
  }
  scene.raw = scene.shown = classes;
  scene.gsd = scale.gsd;
  scene.minPixels = 1;
  scene.step = step;
  scene.areas = rowAreas(own === null ? scene.opened.georeference : null, height, width, scale.gsd);
  scene.counts = count(scene);
  return {
    step,
    overview: { image: overview, height: high, width: wide },
    classes: decimate(scene),
    counts: scene.counts,
    seconds: (performance.now() - began) / 1000,
    gsd: scale.gsd,
    ood: ood ? ood.warning() : null,
    cells: cells && {
      ...cells.result,
      perRow: grid.modelSize.height / height / perCell,
      perColumn: grid.modelSize.width / width / perCell,
    },
  };
}

function allocate(bytes: number): Uint8Array {
  try {
    return new Uint8Array(bytes);
  } catch {
    throw new UserError(`The browser has no ${Math.round(bytes / 1e6)} MB of memory for this map. Close other pages.`);
  }
}

/** Keeps probabilities on the logit grid in 8 bits; null where they would take too much memory. */
function makeCells(grid: Grid): { add(first: number, rows: number, values: Float32Array): void; result: { values: Uint8Array; rows: number; columns: number } } | null {
  const end = (spans: Grid["rows"]): number => spans[spans.length - 1].start + spans[spans.length - 1].length;
  const [rows, columns, classes] = [end(grid.rows), end(grid.cols), model.scored.length];
  if (rows * columns * classes > MAX_CELL_BYTES) return null;
  const values = new Uint8Array(rows * columns * classes);
  return {
    result: { values, rows, columns },
    add(first, count, part) {
      for (let k = 0; k < classes; k++) {
        for (let i = 0; i < count * columns; i++) {
          values[(k * rows + first) * columns + i] = Math.round(255 * part[k * count * columns + i]);
        }
      }
    },
  };
}

function count(scene: Scene): ClassCount[] {
  const { height, width } = scene.opened.source;
  const counts = model.classes.map(() => ({ pixels: 0, squareMetres: 0 }));
  const row = new Float64Array(256);
  for (let y = 0; y < height; y++) {
    row.fill(0);
    for (let i = y * width; i < (y + 1) * width; i++) row[scene.shown![i]]++;
    counts.forEach((entry, k) => {
      entry.pixels += row[k];
      entry.squareMetres += row[k] * scene.areas[y];
    });
  }
  return counts;
}

function decimate(scene: Scene): Uint8Array {
  const { step } = scene;
  const { height, width } = scene.opened.source;
  if (step === 1) return scene.shown!.slice();
  const [high, wide] = [Math.ceil(height / step), Math.ceil(width / step)];
  const small = new Uint8Array(high * wide);
  for (let y = 0; y < high; y++) {
    for (let x = 0; x < wide; x++) small[y * wide + x] = scene.shown![y * step * width + x * step];
  }
  return small;
}

function sieveScene(message: Extract<Message, { do: "sieve" }>): SieveResult {
  const scene = get(message.scene);
  if (!scene.raw) throw new UserError("The scene is not mapped yet.");
  const { height, width } = scene.opened.source;
  scene.shown = sieve(scene.raw, height, width, message.minPixels);
  scene.minPixels = message.minPixels;
  scene.counts = count(scene);
  return { classes: decimate(scene), counts: scene.counts };
}

async function write(message: Extract<Message, { do: "export" }>): Promise<{ suffix: string; blob: Blob }[]> {
  const scene = get(message.scene);
  if (!scene.shown) throw new UserError("The scene is not mapped yet.");
  const { source, georeference, name } = scene.opened;
  const finished: exporting.FinishedMap = {
    name,
    classes: scene.shown,
    height: source.height,
    width: source.width,
    georeference,
    counts: scene.counts,
    areaOfRow: scene.areas,
    minPixels: scene.minPixels,
    gsd: scene.gsd,
  };
  switch (message.format) {
    case "png": {
      const files = [{ suffix: "_map.png", blob: await exporting.toPng(finished, message.colours) }];
      if (georeference) files.push({ suffix: "_map.pgw", blob: exporting.toWorldFile(georeference) });
      return files;
    }
    case "tif":
      return [{ suffix: "_map.tif", blob: await exporting.toGeoTiff(finished, message.colours, model) }];
    case "csv":
      return [{ suffix: "_areas.csv", blob: exporting.toCsv(finished, model) }];
    case "geojson":
      return [{ suffix: "_map.geojson", blob: exporting.toGeoJson(finished, model) }];
    case "qml":
      return [{ suffix: "_map.qml", blob: exporting.toQml(message.colours, model) }];
  }
}

function post(message: unknown, transfer: Transferable[] = []): void {
  (self as unknown as { postMessage(message: unknown, transfer: Transferable[]): void }).postMessage(message, transfer);
}

async function answer(message: Message): Promise<unknown> {
  switch (message.do) {
    case "start":
      return start(message);
    case "open":
      return open(message);
    case "configure":
      return configure(message);
    case "map":
      return map(message);
    case "sieve":
      return sieveScene(message);
    case "export":
      return write(message);
    case "close":
      scenes.delete(message.scene);
      return null;
  }
}

// Threads of onnxruntime load this file, too.
if (!self.name.startsWith("em-pthread")) {
  let queue: Promise<void> = Promise.resolve();
  self.onmessage = ({ data }: MessageEvent<Message | { cancel: number }>) => {
    if ("cancel" in data) {
      cancelled.add(data.cancel);
      return;
    }
    if (data.do === "close") cancelled.add(data.scene);
    // One thing after another: the network and the memory are shared.
    queue = queue.then(async () => {
      try {
        post({ id: data.id, ok: true, value: await answer(data) });
      } catch (error) {
        const known = error instanceof UserError;
        if (!known && !(error instanceof Cancelled)) console.warn(error);
        const text = known ? error.message : "This file cannot be read: it is damaged, or too large for this browser.";
        post({ id: data.id, ok: false, error: text, cancelled: error instanceof Cancelled });
      }
    });
  };
}
