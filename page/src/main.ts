// The page: the list of scenes, what is shown of the current one, and events.

import { Client, WorkerError } from "./client";
import { byId, download, element, hectares, lengthText, percent, roundLength, say, significant, stem, text } from "./dom";
import { NODATA } from "./engine/classmap";
import { WARN_FRACTION } from "./engine/ood";
import { fillCard, fillSheet, mapPicture } from "./picture";
import { isPlainModel } from "./bands";
import type { Detail, ExportFormat, MapResult, SceneInfo, SieveResult } from "./protocol";
import {
  addRows,
  classText,
  coloursOf,
  describe,
  detailLayer,
  layerOf,
  model,
  newScene,
  type Colour,
  type Scene,
} from "./scene";
import { Setup } from "./setup";
import { View, type Point } from "./view";

const SAMPLE_GSD = 0.5;
const MAX_FILES = 100;
const MAX_DETAIL_PIXELS = 24_000_000;
const THUMBNAIL_PX = 92;
const STATES: Record<Scene["state"], string> = {
  opening: "opening",
  setup: "needs input",
  waiting: "waiting",
  mapping: "mapping",
  mapped: "mapped",
};

const body = document.body;
const scenes: Scene[] = [];
let current: Scene | null = null;
let nextNumber = 1;
const hiddenClasses = new Set<number>();

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
const view = new View(byId<HTMLCanvasElement>("canvas"), onMove, () => void showDetail());
const setup = new Setup(view, () => void previewValues());
const sample = new File([decode("sample-data")], "sample.jpg", { type: "image/jpeg" });
const ready = begin();

async function begin(): Promise<void> {
  byId("fit").textContent = `Classes of the model ${model.name}: ${model.scored.map((i) => model.classes[i].name).join(", ")}.`;
  model.bands.forEach((name, i) => (byId(`band-name-${i}`).textContent = name[0].toUpperCase() + name.slice(1)));
  byId("sample").hidden = !isPlainModel(model);
  fillCard();
  void showSample();
  try {
    const threads = crossOriginIsolated ? Math.min(4, navigator.hardwareConcurrency || 1) : 1;
    const wasm = await unzip(decode("runtime-data"));
    const network = await unzip(decode("model-data"));
    await client.call({ do: "start", wasm, model: network, info: model, threads }, [wasm, network]);
    for (const id of ["choose", "sample"]) byId<HTMLButtonElement>(id).disabled = false;
    byId("starting").textContent = "";
    if (body.dataset.state === "starting") body.dataset.state = "empty";
    body.dataset.ready = "true";
  } catch (error) {
    byId("starting").textContent = "";
    say(`The model cannot be started in this browser: ${(error as Error).message} A browser of 2023 or later is needed.`);
    body.dataset.state = "empty";
    throw error;
  }
}

async function showSample(): Promise<void> {
  const canvas = byId("sample").querySelector("canvas")!;
  const bitmap = await createImageBitmap(sample);
  canvas.getContext("2d")!.drawImage(bitmap, 0, 0, 900, 600, 0, 0, canvas.width, canvas.height);
  bitmap.close();
}

// Scenes

function addFiles(files: Iterable<File>): void {
  const list = [...files].slice(0, MAX_FILES);
  if (!list.length) return;
  say("");
  for (const file of list) void addScene(file);
}

async function addScene(file: File, sampleGsd: number | null = null): Promise<void> {
  const scene = newScene(nextNumber++, file, sampleGsd !== null);
  scenes.push(scene);
  if (!current) pick(scene);
  refresh();
  try {
    await ready;
    scene.info = await client.call<SceneInfo>({ do: "open", scene: scene.number, file, gsd: sampleGsd });
    if (!scenes.includes(scene)) return; // removed meanwhile
    if (scene.info.preview) scene.layer = layerOf(scene.info.preview, scene.info);
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
  scene.state = "waiting";
  scene.result = null;
  refresh();
  let began = performance.now();
  let isFirst = true;
  try {
    const request = { do: "map", scene: scene.number, gsd: scene.enteredGsd } as const;
    scene.result = await client.call<MapResult>(request, [], (share, rows) => {
      if (scene.state === "waiting") {
        scene.state = "mapping";
        began = performance.now();
        refresh();
      }
      if (rows) {
        addRows(scene, rows);
        if (current === scene && isFirst) show(scene);
        else if (current === scene) view.repaint(rows.top, rows.classes.length / rows.size.width);
        isFirst = false;
      }
      if (current === scene) showProgress(scene, share, (performance.now() - began) / 1000);
    });
    scene.minPixels = 1;
    scene.state = "mapped";
    if (current === scene) pick(scene);
    refresh();
  } catch (error) {
    if (error instanceof WorkerError && error.cancelled) {
      if (!scenes.includes(scene)) return;
      scene.state = "setup";
      if (scene.layer) scene.layer.classes = null;
      if (current === scene) pick(scene);
      refresh();
    } else fail(scene, error);
  }
}

function showProgress(scene: Scene, share: number, seconds: number): void {
  if (!share || byId<HTMLButtonElement>("cancel").disabled) return;
  const left = (seconds / share) * (1 - share);
  byId<HTMLProgressElement>("busy-bar").value = share;
  const time = left > 90 ? `, ${Math.round(left / 60)} min left` : left > 3 ? `, ${Math.round(left)} s left` : "";
  byId("busy-text").textContent = `Mapping: ${Math.round(100 * share)} %${time}`;
  byId("busy-text").title = scene.name;
}

function fail(scene: Scene, error: unknown): void {
  if (!scenes.includes(scene)) return;
  const message = error instanceof Error ? error.message : String(error);
  // Several files can fail at the same time.
  say([...new Set([...text("messages").split("\n"), message])].filter(Boolean).slice(-8).join("\n"));
  if (scene.info) {
    scene.state = "setup";
    if (current === scene) pick(scene);
  } else remove(scene);
  refresh();
}

/** Return the other scenes that lack nothing but a scale. */
const ofUnknownScale = (scene: Scene): Scene[] =>
  scenes.filter((other) => other !== scene && other.state === "setup" && other.info?.gsd === null && !other.info.needsScaling);

function remove(scene: Scene): void {
  scenes.splice(scenes.indexOf(scene), 1);
  client.cancel(scene.number);
  void client.call({ do: "close", scene: scene.number });
  if (current === scene) pick(scenes[0] ?? null);
  refresh();
  if (document.activeElement === body) byId(scenes.length ? "panel" : "choose").focus();
}

function pick(scene: Scene | null): void {
  current = scene;
  view.marks = [];
  setup.stopMeasuring();
  show(scene);
  if (scene?.state === "setup") setup.fill(scene);
  byId<HTMLInputElement>("region").value = String(regionStep(scene?.minPixels ?? 1));
  refresh();
}

function show(scene: Scene | null): void {
  view.show(scene, scene?.layer ?? null, scene?.info ?? { height: 1, width: 1 });
}

// What is shown

function refresh(): void {
  const state = current?.state ?? null;
  body.dataset.state = state ?? (body.dataset.ready ? "empty" : "starting");
  byId("welcome").hidden = scenes.length > 0;
  byId("scenes").hidden = scenes.length === 0;
  byId("zoom").hidden = !current?.info;
  byId("setup").hidden = state !== "setup";
  setup.offerAll(current?.info?.gsd === null ? ofUnknownScale(current).length : 0);
  byId("result").hidden = state !== "mapped";
  const isBusy = state === "opening" || state === "waiting" || state === "mapping";
  byId("busy").hidden = !isBusy;
  const busy = byId("busy-text");
  if (isBusy && busy.dataset.scene !== `${current!.number}${state}`) {
    busy.dataset.scene = `${current!.number}${state}`;
    busy.textContent = { opening: "Opening…", waiting: "Waiting for other scenes…", mapping: "Mapping…" }[state];
    byId<HTMLProgressElement>("busy-bar").removeAttribute("value");
    byId<HTMLButtonElement>("cancel").disabled = false;
  }
  if (!isBusy) delete busy.dataset.scene;
  byId("cancel").hidden = state === "opening";
  byId("stage-note").hidden = !current?.info || current.layer !== null;
  showSwipe();
  showList();
  if (current?.result) fillResult(current, current.result);
  byId("canvas").setAttribute("aria-label", current ? describe(current) : "No image yet");
  showScaleBar();
}

function showList(): void {
  const focused = document.activeElement;
  const id = focused && byId("scene-list").contains(focused) ? focused.id : "";
  byId("scene-list").replaceChildren(...scenes.map(sceneItem));
  if (id) document.getElementById(id)?.focus();
}

function sceneItem(scene: Scene): HTMLLIElement {
  const thumbnail = element("canvas", { width: THUMBNAIL_PX, height: THUMBNAIL_PX });
  thumbnail.setAttribute("aria-hidden", "true");
  if (scene.layer) {
    const { image } = scene.layer;
    const side = Math.min(image.width, image.height);
    const context = thumbnail.getContext("2d")!;
    context.imageSmoothingQuality = "high";
    const [left, top] = [(image.width - side) / 2, (image.height - side) / 2];
    context.drawImage(image, left, top, side, side, 0, 0, THUMBNAIL_PX, THUMBNAIL_PX);
  }
  const size = scene.info ? `${scene.info.width} × ${scene.info.height} px, ` : "";
  const button = element(
    "button",
    {
      type: "button",
      id: `pick-${scene.number}`,
      className: "pick",
      title: scene.name,
      onclick: () => (say(""), pick(scene)),
    },
    thumbnail,
    element("span", { className: "name" }, scene.name),
    element("span", { className: "state" }, `${size}${STATES[scene.state]}`),
  );
  button.setAttribute("aria-current", String(scene === current));
  const close = element("button", { type: "button", className: "drop", onclick: () => remove(scene) }, "×");
  close.setAttribute("aria-label", `Remove ${scene.name}`);
  return element("li", {}, button, close);
}

const colours = (): Colour[] => coloursOf(byId<HTMLInputElement>("safe").checked);

function paintMap(): void {
  const table = new Uint8ClampedArray(1024);
  colours().forEach((colour, i) => {
    if (!hiddenClasses.has(i)) table.set([...colour, 255], i * 4);
  });
  table.fill(0, NODATA * 4);
  view.setColours(table);
}

function swatch(colour: Colour): HTMLCanvasElement {
  const canvas = element("canvas", { width: 20, height: 20 });
  const context = canvas.getContext("2d")!;
  context.fillStyle = `rgb(${colour.join(" ")})`;
  context.fillRect(0, 0, 20, 20);
  canvas.setAttribute("aria-hidden", "true");
  return canvas;
}

function legendRow(result: MapResult, i: number, total: number): HTMLTableRowElement[] {
  const { pixels, squareMetres } = result.counts[i];
  if (!model.scored.includes(i) && !pixels) return [];
  const share = total ? pixels / total : 0;
  const row = element("tr", { className: hiddenClasses.has(i) ? "off" : "" });
  const box = element("input", {
    type: "checkbox",
    id: `class-${i}`,
    checked: !hiddenClasses.has(i),
    onchange: () => {
      if (box.checked) hiddenClasses.delete(i);
      else hiddenClasses.add(i);
      row.className = box.checked ? "" : "off";
      paintMap();
    },
  });
  const meter = element("meter", { value: share });
  meter.setAttribute("aria-hidden", "true");
  row.append(
    element("td", {}, element("label", {}, box, swatch(colours()[i]), model.classes[i].name)),
    element("td", { className: "number share" }, percent(share), meter),
    element("td", { className: "number" }, hectares(squareMetres)),
  );
  return [row];
}

function fillResult(scene: Scene, result: MapResult): void {
  const info = scene.info!;
  const total = result.counts.reduce((sum, { pixels }) => sum + pixels, 0);
  const focused = document.activeElement?.id;
  const rows = model.classes.flatMap((_, i) => legendRow(result, i, total));
  byId("legend").querySelector("tbody")!.replaceChildren(...rows);
  if (focused?.startsWith("class-")) byId(focused).focus();
  const warning = byId("warning");
  warning.hidden = !result.ood || result.ood.share < WARN_FRACTION;
  if (result.ood) {
    const how = result.ood.reasons.length ? ` (${result.ood.reasons.join(", ")})` : "";
    const share = Math.round(100 * result.ood.share);
    warning.replaceChildren(
      element("b", {}, "Check the map before use. "),
      `${scene.name} is out of distribution for this model: ${share} % of it differs from the training imagery${how}.`,
    );
  }
  const missing = info.height * info.width - total;
  byId("facts").textContent = [
    `${significant(result.gsd, 4)} m per pixel. Mapped in ${result.seconds.toFixed(1)} s with ${model.name}.`,
    missing ? `${missing.toLocaleString("en")} pixels without imagery are not mapped.` : "",
    scene.isSample ? "The sample is drawn by a program: it shows how the page works, not how good the model is." : "",
    ...result.notes,
  ]
    .filter(Boolean)
    .join(" ");
  document.querySelector<HTMLButtonElement>("[data-export=geojson]")!.disabled = !info.canMakePolygons;
  byId("polygon-note").hidden = info.canMakePolygons;
  showRegion();
}

// Scale and values

async function submitSetup(): Promise<void> {
  const scene = current;
  if (scene?.state !== "setup" || !scene.info) return;
  say("");
  const alike = !byId("alike").hidden && byId<HTMLInputElement>("all").checked ? ofUnknownScale(scene) : [];
  if (scene.info.gsd === null) {
    const gsd = setup.gsd();
    if (gsd === null) return;
    for (const one of [scene, ...alike]) one.enteredGsd = gsd;
  }
  view.marks = [];
  setup.stopMeasuring();
  try {
    await configure(scene);
    for (const other of alike) void mapScene(other);
    await mapScene(scene);
  } catch (error) {
    fail(scene, error);
  }
}

/** Read the scene as the settings state, if they have changed. */
async function configure(scene: Scene): Promise<void> {
  const options = setup.values(scene);
  if (JSON.stringify(options) === JSON.stringify(scene.options)) return;
  const info = await client.call<SceneInfo>({ do: "configure", scene: scene.number, options });
  scene.options = options;
  scene.info = info;
  if (info.preview) scene.layer = layerOf(info.preview, info);
}

/** Show the image in the bands and values that were chosen. */
async function previewValues(): Promise<void> {
  const scene = current;
  if (scene?.state !== "setup" || !scene.info?.preview) return;
  try {
    await configure(scene);
    say("");
    if (scene === current) show(scene);
    showList();
  } catch (error) {
    say((error as Error).message);
  }
}

// Small regions

/** Steps of the slider in pixels: 1, then about 26 % more each. */
const regionPixels = (step: number): number => (step ? Math.round(10 ** (step / 10 + 0.6)) : 1);
const regionStep = (pixels: number): number => (pixels <= 1 ? 0 : Math.round((Math.log10(pixels) - 0.6) * 10));

function showRegion(): void {
  const slider = byId<HTMLInputElement>("region");
  const pixels = regionPixels(Number(slider.value));
  const area = pixels * (current?.result?.gsd ?? 0) ** 2;
  const size = area >= 10_000 ? `${(area / 10_000).toFixed(1)} ha` : `${significant(area, 3)} m²`;
  byId("region-value").textContent = pixels <= 1 ? "off" : `under ${pixels} px (${size})`;
  slider.setAttribute("aria-valuetext", pixels <= 1 ? "off" : `under ${pixels} pixels, ${size}`);
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
    scene.layer!.classes = classes;
    scene.result.counts = counts;
    if (scene === current) {
      show(scene);
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

/** Fetch the visible part in full resolution, where the picture of the whole scene is coarser than the screen. */
async function showDetail(): Promise<void> {
  const scene = current;
  if (scene?.state !== "mapped" || !scene.layer || scene.layer.step === 1) return;
  const { box, step } = view.visible();
  const [left, top, right, bottom] = box;
  const pixels = (right - left) * (bottom - top);
  if (step >= scene.layer.step || pixels <= 0 || pixels > MAX_DETAIL_PIXELS) return;
  try {
    const detail = await client.call<Detail>({ do: "detail", scene: scene.number, box, step });
    if (scene === current && scene.state === "mapped") view.showDetail(detailLayer(detail));
  } catch {
    // The picture of the whole scene stays.
  }
}

function onMove(): void {
  byId("tip").hidden = true;
  showScaleBar();
}

function showScaleBar(): void {
  const gsd = current?.result?.gsd ?? current?.info?.gsd ?? null;
  byId("scale").hidden = gsd === null || !current?.layer;
  if (gsd === null) return;
  const metres = roundLength((110 * gsd) / view.zoom);
  byId("scale").querySelector("i")!.style.width = `${(metres / gsd) * view.zoom}px`;
  byId("scale").querySelector("span")!.textContent = lengthText(metres);
}

const classAt = (point: Point | null): string | null =>
  point && current ? classText(current, view.classAt(point), point) : null;

function showTip(clientX: number, clientY: number): void {
  const tip = byId("tip");
  const words = classAt(view.at(clientX, clientY));
  tip.hidden = !words;
  if (!words) return;
  tip.textContent = words;
  const box = byId("stage").getBoundingClientRect();
  tip.style.left = `${Math.max(8, Math.min(clientX - box.left + 16, box.width - tip.offsetWidth - 8))}px`;
  tip.style.top = `${Math.max(8, clientY - box.top - tip.offsetHeight - 10)}px`;
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

async function save(format: ExportFormat): Promise<void> {
  const scene = current;
  if (!scene?.result) return;
  try {
    const request = { do: "export", scene: scene.number, format, colours: colours() } as const;
    const files = await client.call<{ suffix: string; blob: Blob }[]>(request);
    for (const { suffix, blob } of files) download(blob, `${stem(scene.name)}${suffix}`);
    say("");
  } catch (error) {
    say((error as Error).message);
  }
}

function picture(): HTMLCanvasElement | null {
  const whole = view.compose();
  return current?.result && whole ? mapPicture(current, whole, colours(), hiddenClasses) : null;
}

// Events

const files = byId<HTMLInputElement>("files");
for (const id of ["add", "choose"]) byId(id).onclick = () => files.click();
files.onchange = () => {
  addFiles(files.files ?? []);
  files.value = "";
};
byId("sample").onclick = () => void addScene(sample, SAMPLE_GSD);
for (const id of ["about", "terms"]) byId(id).onclick = () => byId<HTMLDialogElement>("card").showModal();
byId("dismiss").onclick = () => say("");
byId("cancel").onclick = () => {
  if (!current) return;
  client.cancel(current.number);
  byId("busy-text").textContent = "Cancelling…";
  byId<HTMLButtonElement>("cancel").disabled = true;
};
byId("setup-form").onsubmit = (event) => {
  event.preventDefault();
  void submitSetup();
};
byId("change").onclick = () => {
  if (!current) return;
  current.state = "setup";
  pick(current);
  byId("setup").scrollIntoView({ block: "nearest" });
  byId("setup").focus();
};
byId("opacity").oninput = () => {
  const { value } = byId<HTMLInputElement>("opacity");
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
window.onbeforeprint = () => {
  const drawn = picture();
  if (current && drawn) fillSheet(current, drawn);
};
byId("zoom-in").onclick = () => view.zoomBy(1.5);
byId("zoom-out").onclick = () => view.zoomBy(1 / 1.5);
byId("zoom-fit").onclick = () => view.fit();

const { canvas } = view;
canvas.addEventListener("pointermove", ({ clientX, clientY }) => showTip(clientX, clientY));
canvas.addEventListener("pointerleave", () => {
  byId("tip").hidden = true;
});
canvas.addEventListener("click", ({ clientX, clientY }) => {
  if (!setup.click(view.at(clientX, clientY))) showTip(clientX, clientY);
});
canvas.addEventListener("keydown", (event) => {
  const moves: Record<string, [number, number]> = {
    ArrowLeft: [60, 0],
    ArrowRight: [-60, 0],
    ArrowUp: [0, 60],
    ArrowDown: [0, -60],
  };
  const box = canvas.getBoundingClientRect();
  const [x, y] = [box.left + box.width / 2, box.top + box.height / 2];
  if (moves[event.key]) view.pan(...moves[event.key]);
  else if (event.key === "+" || event.key === "=") view.zoomBy(1.5);
  else if (event.key === "-") view.zoomBy(1 / 1.5);
  else if (event.key === "0") view.fit();
  else if (event.key === "Enter" || event.key === " ") setup.click(view.at(x, y));
  else return;
  event.preventDefault();
  showTip(x, y);
  byId("spoken").textContent = classAt(view.at(x, y)) ?? "";
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
paintMap();
