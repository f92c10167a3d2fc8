// The worker: reads scenes, runs the network, keeps the maps.

import * as ort from "onnxruntime-web/wasm";
import { Cancelled, rowBlocks, type Network } from "./engine/engine";
import { ClassMap } from "./engine/classmap";
import { makeGrid, UserError, type Grid } from "./engine/grid";
import { OodScore, type OodReport } from "./engine/ood";
import { sieve } from "./engine/sieve";
import * as exporting from "./exporting";
import { rowAreas, toLonLat, type Scale } from "./georeference";
import type {
  ClassCount,
  Detail,
  MapResult,
  MapRows,
  Message,
  ModelInfo,
  Picture,
  SceneInfo,
  SieveResult,
} from "./protocol";
import { isTiff, openScene } from "./geotiff";
import { openPicture } from "./pictures";
import { Overview, stepTo, type OpenedFile } from "./sources";

const OVERVIEW_PX = 2560;
const PREVIEW_PX = 2048;
const MAX_CELL_BYTES = 1 << 27;

interface Scene {
  opened: OpenedFile;
  raw: ClassMap | null;
  shown: ClassMap | null;
  counts: ClassCount[];
  areas: Float64Array;
  gsd: number;
  /** Whether the person stated it, not the file. */
  isGsdEntered: boolean;
  ood: OodReport | null;
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
    bandNames: opened.bandNames,
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
  const { file } = message;
  if (file.size === 0) throw new UserError(`${file.name} is empty.`);
  const opened = await ((await isTiff(file)) ? openScene(file, model) : openPicture(file, model));
  if (message.gsd !== null) opened.scale = { gsd: message.gsd, sides: [message.gsd, message.gsd] };
  const scene: Scene = {
    opened,
    raw: null,
    shown: null,
    counts: [],
    areas: new Float64Array(),
    gsd: 0,
    isGsdEntered: false,
    ood: null,
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
  await scene.opened.configure(message.options);
  return describe(scene, await scene.opened.preview(PREVIEW_PX));
}

function get(number: number): Scene {
  const scene = scenes.get(number);
  if (!scene) throw new UserError("The scene was removed.");
  return scene;
}

async function map(message: Extract<Message, { do: "map" }>): Promise<MapResult> {
  const scene = get(message.scene);
  if (cancelled.has(message.scene)) throw new Cancelled();
  post({ id: message.id, progress: 0 });
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
  const overview = new Overview(source, stepTo(OVERVIEW_PX, source));
  const { step, picture } = overview;
  const ood = model.profile && new OodScore(model.profile);
  const cells = makeCells(grid);
  const classes = new ClassMap(height, width);
  const { stride: perCell } = grid;
  let progress = 0;
  for await (const block of rowBlocks(network, source, grid, model, {
    onStrip: (from, _, strip) => overview.add(from, strip, width),
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
      progress = done / total;
      post({ id: message.id, progress });
      await new Promise((resume) => setTimeout(resume)); // lets a cancel message in
    },
    isCancelled: () => cancelled.has(message.scene) || !scenes.has(message.scene),
  })) {
    classes.addRows(block.classes);
    const [top, end] = [Math.ceil(block.start / step), Math.ceil(block.stop / step)];
    const line = picture.width * 4;
    const rows: MapRows = {
      step,
      size: { height: picture.height, width: picture.width },
      top,
      image: picture.image.slice(top * line, end * line),
      classes: decimated(classes, step, top, end),
    };
    post({ id: message.id, progress, rows }, [rows.image.buffer, rows.classes.buffer]);
  }
  scene.raw = scene.shown = classes;
  scene.gsd = scale.gsd;
  scene.isGsdEntered = own !== null;
  scene.ood = ood ? ood.report() : null;
  scene.minPixels = 1;
  scene.step = step;
  scene.areas = rowAreas(own === null ? scene.opened.georeference : null, height, width, scale.gsd);
  scene.counts = count(scene);
  return {
    counts: scene.counts,
    seconds: (performance.now() - began) / 1000,
    gsd: scale.gsd,
    notes: scene.opened.notes,
    ood: scene.ood,
    cells: cells && {
      ...cells.result,
      perRow: grid.modelSize.height / height / perCell,
      perColumn: grid.modelSize.width / width / perCell,
    },
  };
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

function count({ shown, areas }: Scene): ClassCount[] {
  const counts = Array.from({ length: 256 }, () => ({ pixels: 0, squareMetres: 0 }));
  const { height, rowFirst, starts, values } = shown!;
  for (let row = 0; row < height; row++) {
    for (let run = rowFirst[row]; run < rowFirst[row + 1]; run++) {
      const entry = counts[values[run]];
      const pixels = starts[run + 1] - starts[run];
      entry.pixels += pixels;
      entry.squareMetres += pixels * areas[row];
    }
  }
  return counts.slice(0, model.classes.length);
}

/** Return some rows of a map of which one pixel of step x step is taken. */
function decimated(map: ClassMap, step: number, top: number, end: number): Uint8Array {
  const width = Math.ceil(map.width / step);
  const line = new Uint8Array(map.width);
  const small = new Uint8Array((end - top) * width);
  for (let y = top; y < end; y++) {
    map.readRow(y * step, line);
    for (let x = 0; x < width; x++) small[(y - top) * width + x] = line[x * step];
  }
  return small;
}

async function detail({ scene: number, box, step }: Extract<Message, { do: "detail" }>): Promise<Detail> {
  const { opened, shown } = get(number);
  if (!shown) throw new UserError("The scene is not mapped yet.");
  const [left, top, right, bottom] = box;
  const [height, width] = [bottom - top, right - left];
  const overview = new Overview({ height, width }, step);
  overview.add(0, await opened.readWindow(box), width);
  const { picture } = overview;
  const line = new Uint8Array(width);
  const classes = new Uint8Array(picture.height * picture.width);
  for (let y = 0; y < picture.height; y++) {
    shown.readRow(top + y * step, line, 0, left, right);
    for (let x = 0; x < picture.width; x++) classes[y * picture.width + x] = line[x * step];
  }
  return { picture, classes, left, top, step };
}

function sieveScene(message: Extract<Message, { do: "sieve" }>): SieveResult {
  const scene = get(message.scene);
  if (!scene.raw) throw new UserError("The scene is not mapped yet.");
  scene.shown = sieve(scene.raw, message.minPixels);
  scene.minPixels = message.minPixels;
  scene.counts = count(scene);
  const classes = decimated(scene.shown, scene.step, 0, Math.ceil(scene.shown.height / scene.step));
  return { classes, counts: scene.counts };
}

async function write(message: Extract<Message, { do: "export" }>): Promise<{ suffix: string; blob: Blob }[]> {
  const scene = get(message.scene);
  if (!scene.shown) throw new UserError("The scene is not mapped yet.");
  const { georeference, name } = scene.opened;
  const finished: exporting.FinishedMap = {
    name,
    classes: scene.shown,
    georeference,
    counts: scene.counts,
    areaOfRow: scene.areas,
    minPixels: scene.minPixels,
    gsd: scene.gsd,
    gsdSource: scene.isGsdEntered || !georeference ? "option" : "raster",
    ood: scene.ood,
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
    case "detail":
      return detail(message);
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
    if (data.do === "map") cancelled.delete(data.scene);
    const run = async (): Promise<void> => {
      try {
        post({ id: data.id, ok: true, value: await answer(data) });
      } catch (error) {
        const known = error instanceof UserError;
        if (!known && !(error instanceof Cancelled)) console.warn(error);
        const text = known ? error.message : "This file cannot be read: it is damaged, or too large for this browser.";
        post({ id: data.id, ok: false, error: text, cancelled: error instanceof Cancelled });
      }
    };
    // One thing after another, as network and memory are shared; but the view does not wait for a map.
    if (data.do === "detail") void run();
    else queue = queue.then(run);
  };
}
