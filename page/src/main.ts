// The page: scenes, legend, view and results.

import { Client, WorkerError } from "./client";
import type { ExportFormat, MapResult, ModelInfo, SceneInfo, SieveResult } from "./protocol";
import { toCanvas, View, type Point } from "./view";

const NODATA = 255;
const SAMPLE_GSD = 0.5;
const MAX_FILES = 100;
/** Okabe and Ito's colours, told apart with any common colour vision. */
const SAFE: [number, number, number][] = [
  [213, 94, 0],
  [240, 228, 66],
  [204, 121, 167],
  [0, 158, 115],
  [0, 114, 178],
  [230, 159, 0],
  [0, 0, 0],
  [86, 180, 233],
];

interface Scene {
  number: number;
  name: string;
  file: File;
  state: "opening" | "setup" | "waiting" | "mapping" | "mapped" | "failed";
  message: string;
  info: SceneInfo | null;
  enteredGsd: number | null;
  result: MapResult | null;
  minPixels: number;
  thumbnail: HTMLCanvasElement | null;
}

const byId = <T extends HTMLElement>(id: string): T => document.getElementById(id) as T;
const text = (id: string): string => byId(id).textContent ?? "";
const model = JSON.parse(text("model-info")) as ModelInfo;
const body = document.body;
const scenes: Scene[] = [];
let current: Scene | null = null;
let nextNumber = 1;
let isMeasuring = false;
let length = 0;
const hiddenClasses = new Set<number>();

function element<K extends keyof HTMLElementTagNameMap>(
  tag: K,
  properties: Partial<HTMLElementTagNameMap[K]> = {},
  ...children: (Node | string)[]
): HTMLElementTagNameMap[K] {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children);
  return made;
}

function decode(id: string): Uint8Array<ArrayBuffer> {
  const node = byId(id);
  const binary = atob(node.textContent ?? "");
  node.textContent = "";
  const bytes = new Uint8Array(binary.length);
  for (let i = 0; i < binary.length; i++) bytes[i] = binary.charCodeAt(i);
  return bytes;
}

const unzip = (bytes: Uint8Array<ArrayBuffer>): Promise<ArrayBuffer> =>
  new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"))).arrayBuffer();

const client = new Client(text("worker-code"));
const view = new View(byId<HTMLCanvasElement>("canvas"), () => hideTip());
const sample = decode("sample-data");
const ready = begin();

async function begin(): Promise<void> {
  byId("fit").textContent =
    `Made for imagery of 0.3 to 3 m per pixel. The model sees ${model.gsd} m per pixel and knows ` +
    `${model.scored.length} classes.`;
  fillCard();
  try {
    const threads = crossOriginIsolated ? Math.min(4, navigator.hardwareConcurrency || 1) : 1;
    const wasm = await unzip(decode("runtime-data"));
    const network = await unzip(decode("model-data"));
    await client.call({ do: "start", wasm, model: network, info: model, threads }, [wasm, network]);
    for (const id of ["choose", "sample"]) byId<HTMLButtonElement>(id).disabled = false;
    if (body.dataset.state === "starting") body.dataset.state = "empty";
    body.dataset.ready = "true";
  } catch (error) {
    say(`The model cannot be started in this browser: ${(error as Error).message} A browser of 2023 or later is needed.`);
    body.dataset.state = "empty";
    throw error;
  }
}

const say = (message: string): void => {
  byId("messages").textContent = message;
};

// Scenes

function addFiles(files: Iterable<File>): void {
  const list = [...files].slice(0, MAX_FILES);
  if (!list.length) return;
  say("");
  for (const file of list) void addScene(file, null);
}

async function addScene(file: File, gsd: number | null): Promise<void> {
  const scene: Scene = {
    number: nextNumber++,
    name: file.name || "pasted image",
    file,
    state: "opening",
    message: "",
    info: null,
    enteredGsd: null,
    result: null,
    minPixels: 1,
    thumbnail: null,
  };
  scenes.push(scene);
  if (!current) pick(scene);
  refresh();
  try {
    await ready;
    scene.info = await client.call<SceneInfo>({ do: "open", scene: scene.number, file, gsd });
    if (scene.info.preview) scene.thumbnail = toCanvas(scene.info.preview);
    const isComplete = scene.info.gsd !== null && !scene.info.needsScaling;
    scene.state = isComplete ? "waiting" : "setup";
    if (current === scene || !current?.info) pick(scene);
    refresh();
    if (isComplete) await mapScene(scene);
  } catch (error) {
    fail(scene, error);
  }
}

async function mapScene(scene: Scene): Promise<void> {
  scene.state = "mapping";
  refresh();
  const began = performance.now();
  try {
    const result = await client.call<MapResult>(
      { do: "map", scene: scene.number, gsd: scene.enteredGsd },
      [],
      (share) => {
        if (current !== scene) return;
        const left = ((performance.now() - began) / 1000 / share) * (1 - share);
        byId<HTMLProgressElement>("busy-bar").value = share;
        const time = left > 3 ? `, ${left > 90 ? `${Math.round(left / 60)} min` : `${Math.round(left)} s`} left` : "";
        byId("busy-text").textContent = `Mapping ${scene.name}: ${Math.round(100 * share)} %${time}`;
      },
    );
    scene.result = result;
    scene.thumbnail ??= toCanvas(result.overview);
    scene.minPixels = 1;
    scene.state = "mapped";
    if (current === scene) {
      pick(scene);
    }
    refresh();
  } catch (error) {
    if (error instanceof WorkerError && error.cancelled) {
      scene.state = "setup";
      scene.message = "Cancelled";
      refresh();
    } else fail(scene, error);
  }
}

function fail(scene: Scene, error: unknown): void {
  if (!scenes.includes(scene)) return;
  scene.message = error instanceof Error ? error.message : String(error);
  if (scene.info && !scene.result) scene.state = "setup";
  else scene.state = "failed";
  // Several files can fail at the same time.
  say([...new Set([...text("messages").split("\n"), scene.message])].filter(Boolean).slice(-8).join("\n"));
  if (scene.state === "failed" && !scene.info) {
    scenes.splice(scenes.indexOf(scene), 1);
    void client.call({ do: "close", scene: scene.number });
    if (current === scene) pick(scenes[0] ?? null);
  }
  refresh();
}

function remove(scene: Scene): void {
  scenes.splice(scenes.indexOf(scene), 1);
  client.cancel(scene.number);
  void client.call({ do: "close", scene: scene.number });
  if (current === scene) pick(scenes[0] ?? null);
  refresh();
}

function pick(scene: Scene | null): void {
  current = scene;
  isMeasuring = false;
  view.marks = [];
  byId("length-label").hidden = true;
  const { info, result } = scene ?? { info: null, result: null };
  if (info && result) {
    view.setImage(result.overview, result.step, info);
    paintMap();
  } else if (info?.preview) view.setImage(info.preview, Math.ceil(info.width / info.preview.width), info);
  else view.setImage(null, 1, { height: 1, width: 1 });
  if (scene?.state === "setup") fillSetup(scene);
  byId<HTMLInputElement>("region").value = String(regionStep(scene?.minPixels ?? 1));
  refresh();
}

// What is shown

function refresh(): void {
  const state = current?.state ?? null;
  body.dataset.state = !scenes.length ? (body.dataset.ready ? "empty" : "starting") : (state ?? "empty");
  byId("welcome").hidden = scenes.length > 0;
  byId("scenes").hidden = scenes.length === 0;
  byId("zoom").hidden = !current?.info;
  byId("setup").hidden = state !== "setup";
  byId("result").hidden = state !== "mapped";
  const isBusy = state === "opening" || state === "waiting" || state === "mapping";
  byId("busy").hidden = !isBusy;
  if (isBusy && byId("busy-text").dataset.scene !== `${current!.number}${state}`) {
    byId("busy-text").dataset.scene = `${current!.number}${state}`;
    byId("busy-text").textContent = `${state === "opening" ? "Opening" : "Mapping"} ${current!.name}`;
    byId<HTMLProgressElement>("busy-bar").removeAttribute("value");
  }
  if (!isBusy) delete byId("busy-text").dataset.scene;
  byId("cancel").hidden = state !== "mapping";
  showSwipe();
  byId("scene-list").replaceChildren(...scenes.map(sceneItem));
  if (current?.result) fillResult(current, current.result);
  const canvas = byId("canvas");
  canvas.setAttribute("aria-label", current ? describe(current) : "No image yet");
}

const STATES = {
  opening: "opening",
  setup: "needs input",
  waiting: "waiting",
  mapping: "mapping",
  mapped: "mapped",
  failed: "failed",
};

function sceneItem(scene: Scene): HTMLLIElement {
  const thumbnail = element("canvas", { width: 44, height: 44 });
  thumbnail.setAttribute("aria-hidden", "true");
  if (scene.thumbnail) {
    const side = Math.min(scene.thumbnail.width, scene.thumbnail.height);
    const context = thumbnail.getContext("2d")!;
    context.imageSmoothingQuality = "high";
    context.drawImage(scene.thumbnail, 0, 0, side, side, 0, 0, 44, 44);
  }
  const size = scene.info ? `${scene.info.width} × ${scene.info.height} px, ` : "";
  const button = element(
    "button",
    { type: "button", className: "pick", title: scene.name, onclick: () => (say(""), pick(scene)) },
    thumbnail,
    element("span", { className: "name" }, scene.name),
    element("span", { className: "state" }, `${size}${STATES[scene.state]}`),
  );
  button.setAttribute("aria-current", String(scene === current));
  const close = element("button", { type: "button", className: "drop", onclick: () => remove(scene) }, "×");
  close.setAttribute("aria-label", `Remove ${scene.name}`);
  return element("li", {}, button, close);
}

function describe(scene: Scene): string {
  if (!scene.result) return `Image ${scene.name}, not mapped`;
  const total = scene.result.counts.reduce((sum, { pixels }) => sum + pixels, 0);
  const parts = model.classes
    .map((entry, i) => ({ name: entry.name, share: scene.result!.counts[i].pixels / Math.max(1, total) }))
    .filter(({ share }) => share >= 0.005)
    .sort((a, b) => b.share - a.share)
    .map(({ name, share }) => `${name} ${Math.round(100 * share)} %`);
  return `Land-cover map of ${scene.name}: ${parts.join(", ")}`;
}

const colours = (): [number, number, number][] =>
  model.classes.map((entry, i) => (byId<HTMLInputElement>("safe").checked ? SAFE[i % SAFE.length] : entry.colour));

function paintMap(): void {
  const result = current?.result;
  if (!result) return;
  const table = new Uint8ClampedArray(1024);
  colours().forEach((colour, i) => {
    if (!hiddenClasses.has(i)) table.set([...colour, 255], i * 4);
  });
  table.fill(0, NODATA * 4);
  view.setMap(result.classes, result.overview.height, result.overview.width, table);
}

function swatch(colour: [number, number, number]): HTMLCanvasElement {
  const canvas = element("canvas", { width: 20, height: 20 });
  const context = canvas.getContext("2d")!;
  context.fillStyle = `rgb(${colour.join(" ")})`;
  context.fillRect(0, 0, 20, 20);
  canvas.setAttribute("aria-hidden", "true");
  return canvas;
}

const percent = (share: number): string => `${(100 * share).toFixed(share && share < 0.001 ? 2 : 1)} %`;
const hectares = (area: number): string =>
  (area / 10_000).toLocaleString("en", { maximumFractionDigits: area < 1e6 ? 2 : 0, minimumFractionDigits: area < 1e6 ? 2 : 0 });

function fillResult(scene: Scene, result: MapResult): void {
  const total = result.counts.reduce((sum, { pixels }) => sum + pixels, 0);
  const focused = document.activeElement?.id;
  const rows = model.classes.flatMap((entry, i) => {
    const { pixels, squareMetres } = result.counts[i];
    if (!model.scored.includes(i) && !pixels) return [];
    const box = element("input", {
      type: "checkbox",
      id: `class-${i}`,
      checked: !hiddenClasses.has(i),
      onchange: () => {
        if (box.checked) hiddenClasses.delete(i);
        else hiddenClasses.add(i);
        paintMap();
      },
    });
    return [
      element(
        "tr",
        {},
        element("td", {}, element("label", {}, box, swatch(colours()[i]), entry.name)),
        element("td", { className: "number" }, percent(total ? pixels / total : 0)),
        element("td", { className: "number" }, hectares(squareMetres)),
      ),
    ];
  });
  byId("legend").querySelector("tbody")!.replaceChildren(...rows);
  if (focused?.startsWith("class-")) byId(focused).focus();
  const warning = byId("warning");
  warning.hidden = !result.ood;
  if (result.ood) {
    const how = result.ood.reasons.length ? `; ${result.ood.reasons.join(", ")}` : "";
    warning.textContent =
      `${scene.name} is out of distribution for this model (${Math.round(100 * result.ood.share)} % of its area${how}). ` +
      "Check the map before use.";
  }
  const missing = scene.info!.height * scene.info!.width - total;
  byId("facts").textContent = [
    `${Number(result.gsd.toPrecision(4))} m per pixel. Mapped in ${result.seconds.toFixed(1)} s by ${model.name}.`,
    missing ? `${missing.toLocaleString("en")} pixels without imagery are not mapped.` : "",
    ...scene.info!.notes,
  ]
    .filter(Boolean)
    .join(" ");
  for (const button of document.querySelectorAll<HTMLButtonElement>("[data-export=geojson]")) {
    button.disabled = !scene.info!.canMakePolygons;
    button.title = button.disabled ? "Needs a scene georeferenced in WGS 84, UTM or web Mercator" : "";
  }
  showRegion();
}

// Scale and values

function fillSetup(scene: Scene): void {
  const info = scene.info!;
  byId("scale-fields").hidden = info.gsd !== null;
  byId("value-fields").hidden = !info.needsScaling;
  byId("scale-note").textContent = info.suggestedGsd
    ? `The file states ${Number(info.suggestedGsd.toPrecision(4))} units per pixel in a coordinate system that this page ` +
      "cannot check. If they are metres on the ground, enter that."
    : "The image does not state its scale. The map depends on it.";
  const entered = scene.enteredGsd ?? info.suggestedGsd;
  byId<HTMLInputElement>("gsd").value = entered ? String(Number(entered.toPrecision(6))) : "";
  byId("measure").hidden = !info.preview;
}

async function submitSetup(): Promise<void> {
  const scene = current;
  if (scene?.state !== "setup" || !scene.info) return;
  say("");
  if (scene.info.gsd === null) {
    const gsd = Number(byId<HTMLInputElement>("gsd").value);
    if (!(gsd > 0 && gsd <= 100)) {
      say("Enter the scale: metres per pixel, a number above 0 and at most 100.");
      byId("gsd").focus();
      return;
    }
    scene.enteredGsd = gsd;
  }
  try {
    if (scene.info.needsScaling) {
      const value = byId<HTMLSelectElement>("scaling").value;
      const number = (id: string): number => Number(byId<HTMLInputElement>(id).value);
      const bands = byId<HTMLInputElement>("bands").value.trim();
      const info = await client.call<SceneInfo>({
        do: "configure",
        scene: scene.number,
        bands: bands ? bands.split(",").map(Number) : null,
        scaling: value === "percentile" ? "percentile" : [number("low"), number("high")],
      });
      scene.info.preview = info.preview;
      if (info.preview) scene.thumbnail = toCanvas(info.preview);
    }
    view.marks = [];
    view.draw();
    await mapScene(scene);
  } catch (error) {
    fail(scene, error);
  }
}

function measure(): void {
  isMeasuring = true;
  view.marks = [];
  byId("canvas").classList.add("measuring");
  say("Click the two ends of something whose length you know, such as a road or a sports field.");
  view.draw();
}

function addMark(point: Point): void {
  view.marks.push(point);
  view.draw();
  if (view.marks.length < 2) return;
  isMeasuring = false;
  byId("canvas").classList.remove("measuring");
  const [a, b] = view.marks;
  length = Math.hypot(a.x - b.x, a.y - b.y);
  say(`The line is ${Math.round(length)} pixels long. Enter its length in metres.`);
  byId("length-label").hidden = false;
  byId("length").focus();
}

// Small regions

/** Steps of the slider in pixels: 1, then about 26 % more each. */
const regionPixels = (step: number): number => (step ? Math.round(10 ** (step / 10 + 0.6)) : 1);
const regionStep = (pixels: number): number => (pixels <= 1 ? 0 : Math.round((Math.log10(pixels) - 0.6) * 10));

function showRegion(): void {
  const pixels = regionPixels(Number(byId<HTMLInputElement>("region").value));
  const area = pixels * (current?.result?.gsd ?? 0) ** 2;
  const size = area >= 10_000 ? `${(area / 10_000).toFixed(1)} ha` : `${Number(area.toPrecision(3))} m²`;
  byId("region-value").textContent = pixels <= 1 ? "all" : `${pixels} px (${size})`;
}

let isSieving = false;
async function applyRegion(): Promise<void> {
  const scene = current;
  if (!scene?.result || isSieving) return;
  const wanted = regionPixels(Number(byId<HTMLInputElement>("region").value));
  if (wanted === scene.minPixels) return;
  isSieving = true;
  try {
    const { classes, counts } = await client.call<SieveResult>({ do: "sieve", scene: scene.number, minPixels: wanted });
    scene.minPixels = wanted;
    scene.result.classes = classes;
    scene.result.counts = counts;
    if (scene === current) {
      paintMap();
      refresh();
    }
  } catch (error) {
    say((error as Error).message);
  } finally {
    isSieving = false;
  }
  if (scene === current) await applyRegion();
}

// Looking closer

const hideTip = (): void => {
  byId("tip").hidden = true;
};

function classAt(point: Point): string | null {
  const result = current?.result;
  if (!result) return null;
  const { step, overview, cells } = result;
  const value = result.classes[Math.floor(point.y / step) * overview.width + Math.floor(point.x / step)];
  if (value === NODATA || value === undefined) return "no imagery";
  const name = model.classes[value].name;
  const channel = model.scored.indexOf(value);
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

function showTip(event: PointerEvent): void {
  const tip = byId("tip");
  const point = view.at(event.clientX, event.clientY);
  const words = point && classAt(point);
  tip.hidden = !words;
  if (!words) return;
  tip.textContent = words;
  const box = byId("stage").getBoundingClientRect();
  const x = Math.min(event.clientX - box.left + 16, box.width - tip.offsetWidth - 8);
  const y = Math.max(8, event.clientY - box.top - tip.offsetHeight - 10);
  tip.style.left = `${x}px`;
  tip.style.top = `${y}px`;
}

function showSwipe(): void {
  const isOn = byId<HTMLInputElement>("swiping").checked && current?.state === "mapped";
  const handle = byId("swipe");
  handle.hidden = !isOn;
  if (isOn && view.swipe === 0) view.swipe = 0.5;
  if (!isOn) view.swipe = 0;
  handle.style.left = `${100 * view.swipe}%`;
  handle.setAttribute("aria-valuenow", String(Math.round(100 * view.swipe)));
  view.draw();
}

function moveSwipe(share: number): void {
  view.swipe = Math.min(0.98, Math.max(0.02, share));
  showSwipe();
}

// Saving

function download(blob: Blob, name: string): void {
  const address = URL.createObjectURL(blob);
  element("a", { href: address, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(address), 60_000);
}

const stem = (name: string): string => name.replace(/\.[^.]*$/, "").replace(/[\\/:*?"<>|\u0000-\u001f]/g, "_") || "scene";

async function save(format: ExportFormat): Promise<void> {
  const scene = current;
  if (!scene?.result) return;
  try {
    const files = await client.call<{ suffix: string; blob: Blob }[]>({
      do: "export",
      scene: scene.number,
      format,
      colours: colours(),
    });
    for (const { suffix, blob } of files) download(blob, `${stem(scene.name)}${suffix}`);
    say("");
  } catch (error) {
    say((error as Error).message);
  }
}

/** Return a round length for a scale bar of at most so many metres. */
function roundLength(most: number): number {
  const power = 10 ** Math.floor(Math.log10(most));
  return [5, 2, 1].map((n) => n * power).find((n) => n <= most) ?? power;
}

function picture(): HTMLCanvasElement | null {
  const scene = current;
  const whole = view.compose();
  if (!scene?.result || !whole) return null;
  const { result } = scene;
  const total = result.counts.reduce((sum, { pixels }) => sum + pixels, 0);
  const entries = model.classes.map((entry, i) => ({ ...entry, i })).filter(({ i }) => result.counts[i].pixels && !hiddenClasses.has(i));
  const width = Math.max(900, Math.min(2400, whole.width));
  const high = Math.round((whole.height / whole.width) * width);
  const size = Math.round(width / 46);
  const rows = Math.ceil(entries.length / 3);
  const canvas = element("canvas", { width, height: high + Math.round(size * (rows * 1.9 + 5.4)) });
  const context = canvas.getContext("2d")!;
  context.fillStyle = "#fff";
  context.fillRect(0, 0, canvas.width, canvas.height);
  context.drawImage(whole, 0, 0, width, high);
  context.textBaseline = "middle";
  const metres = (scene.info!.width * result.gsd) / width;
  const bar = roundLength((metres * width) / 4);
  const label = bar >= 1000 ? `${bar / 1000} km` : `${bar} m`;
  context.font = `${size}px system-ui, sans-serif`;
  context.fillStyle = "#000";
  const top = high + size * 1.3;
  context.fillRect(size, top, bar / metres, size / 4);
  context.fillText(label, size + bar / metres + size / 2, top);
  entries.forEach(({ name, i }, n) => {
    const x = size + (n % 3) * ((width - size) / 3);
    const y = top + size * (1.8 + Math.floor(n / 3) * 1.9);
    context.fillStyle = `rgb(${colours()[i].join(" ")})`;
    context.fillRect(x, y - size / 2, size * 1.4, size);
    context.strokeStyle = "#0008";
    context.strokeRect(x, y - size / 2, size * 1.4, size);
    context.fillStyle = "#000";
    context.fillText(`${name} ${percent(result.counts[i].pixels / total)}`, x + size * 2, y, (width - size) / 3 - size * 2.4);
  });
  context.font = `${Math.round(size * 0.72)}px system-ui, sans-serif`;
  context.fillStyle = "#444";
  context.fillText(`${scene.name}. Model ${model.name}, ${model.licence}.`, size, canvas.height - size, width - 2 * size);
  return canvas;
}

function fillSheet(): void {
  const drawn = picture();
  if (!current?.result || !drawn) return;
  const table = byId("legend").cloneNode(true) as HTMLElement;
  table.removeAttribute("id");
  table.querySelectorAll("[id]").forEach((node) => node.removeAttribute("id"));
  table.querySelectorAll("input, canvas").forEach((node) => node.remove());
  byId("sheet").replaceChildren(
    element("h2", {}, `Land cover of ${current.name}`),
    drawn,
    table,
    element("p", {}, byId("facts").textContent ?? ""),
    element("p", {}, `Model ${model.name} (SHA-256 ${model.sha256}), landcover ${model.version}. ${model.licence}`),
  );
}

function fillCard(): void {
  const list = element("dl");
  const entry = (name: string, value: string): void => {
    if (value) list.append(element("dt", {}, name), element("dd", {}, value));
  };
  entry("Model", model.name);
  entry("About", model.about);
  entry("Classes", model.scored.map((i) => model.classes[i].name).join(", "));
  entry("Scale", `${model.gsd} m per pixel; other imagery is resampled`);
  for (const score of model.scores) entry(score.text, score.value);
  entry("Licence", model.licence);
  entry("Licence text", model.licence_url);
  entry("SHA-256", model.sha256);
  entry("Written by", `landcover ${model.version}`);
  const terms = element("pre", { tabIndex: 0 }, model.terms);
  terms.setAttribute("aria-label", "Terms of model and software");
  byId("card-text").append(list, terms);
}

// Events

const files = byId<HTMLInputElement>("files");
for (const id of ["add", "choose"]) byId(id).onclick = () => files.click();
files.onchange = () => {
  addFiles(files.files ?? []);
  files.value = "";
};
byId("sample").onclick = () =>
  void addScene(new File([sample], "sample.jpg", { type: "image/jpeg" }), SAMPLE_GSD);
byId("about").onclick = () => byId<HTMLDialogElement>("card").showModal();
byId("cancel").onclick = () => current && client.cancel(current.number);
byId("setup-form").onsubmit = (event) => {
  event.preventDefault();
  void submitSetup();
};
byId("measure").onclick = measure;
byId("length").oninput = () => {
  const metres = Number(byId<HTMLInputElement>("length").value);
  if (metres > 0 && length > 0) byId<HTMLInputElement>("gsd").value = String(Number((metres / length).toPrecision(4)));
};
byId("scaling").onchange = () => {
  byId("range").hidden = byId<HTMLSelectElement>("scaling").value !== "range";
};
byId("opacity").oninput = () => {
  const value = byId<HTMLInputElement>("opacity").value;
  view.opacity = Number(value) / 100;
  byId("opacity-value").textContent = `${value} %`;
  view.draw();
};
byId("region").oninput = () => {
  showRegion();
  void applyRegion();
};
byId("swiping").onchange = showSwipe;
byId("safe").onchange = () => {
  paintMap();
  refresh();
};
for (const button of document.querySelectorAll<HTMLButtonElement>("[data-export]")) {
  button.onclick = () => void save(button.dataset.export as ExportFormat);
}
byId("picture").onclick = () => {
  const name = stem(current?.name ?? "");
  picture()?.toBlob((blob) => blob && download(blob, `${name}_picture.png`));
};
byId("print").onclick = () => window.print();
window.onbeforeprint = fillSheet;
byId("zoom-in").onclick = () => view.zoomBy(1.5);
byId("zoom-out").onclick = () => view.zoomBy(1 / 1.5);
byId("zoom-fit").onclick = () => view.fit();

const canvas = view.canvas;
canvas.addEventListener("pointermove", showTip);
canvas.addEventListener("pointerleave", hideTip);
canvas.addEventListener("click", (event) => {
  const point = view.at(event.clientX, event.clientY);
  if (isMeasuring && point) addMark(point);
  else showTip(event as PointerEvent);
});
canvas.addEventListener("keydown", (event) => {
  const moves: Record<string, [number, number]> = {
    ArrowLeft: [60, 0],
    ArrowRight: [-60, 0],
    ArrowUp: [0, 60],
    ArrowDown: [0, -60],
  };
  if (moves[event.key]) view.pan(...moves[event.key]);
  else if (event.key === "+" || event.key === "=") view.zoomBy(1.5);
  else if (event.key === "-") view.zoomBy(1 / 1.5);
  else if (event.key === "0") view.fit();
  else return;
  event.preventDefault();
});
const handle = byId("swipe");
handle.addEventListener("pointerdown", (event) => handle.setPointerCapture(event.pointerId));
handle.addEventListener("pointermove", (event) => {
  if (!handle.hasPointerCapture(event.pointerId)) return;
  const box = byId("stage").getBoundingClientRect();
  moveSwipe((event.clientX - box.left) / box.width);
});
handle.addEventListener("keydown", (event) => {
  const by = { ArrowLeft: -0.02, ArrowRight: 0.02, ArrowDown: -0.02, ArrowUp: 0.02 }[event.key];
  if (by === undefined) return;
  moveSwipe(view.swipe + by);
  event.preventDefault();
});
document.addEventListener("paste", (event) => addFiles(event.clipboardData?.files ?? []));
let depth = 0;
document.addEventListener("dragenter", () => {
  depth++;
  body.classList.add("dropping");
});
document.addEventListener("dragleave", () => {
  if (--depth <= 0) body.classList.remove("dropping");
});
document.addEventListener("dragover", (event) => event.preventDefault());
document.addEventListener("drop", (event) => {
  event.preventDefault();
  depth = 0;
  body.classList.remove("dropping");
  addFiles(event.dataTransfer?.files ?? []);
});
