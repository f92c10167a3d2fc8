// The map as a picture with legend and scale bar, and as a page to print.

import { byId, element, hectares, lengthText, percent, roundLength } from "./dom";
import { model, type Colour, type Scene } from "./scene";

/** Return a canvas of image and map with legend, scale bar, model and terms. */
export function mapPicture(
  scene: Scene,
  whole: HTMLCanvasElement,
  colours: Colour[],
  hidden: ReadonlySet<number>,
): HTMLCanvasElement {
  const { counts, gsd } = scene.result!;
  const total = counts.reduce((sum, { pixels }) => sum + pixels, 0);
  const entries = model.classes.map(({ name }, i) => ({ name, i })).filter(({ i }) => counts[i].pixels && !hidden.has(i));
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
  const metresPerPixel = (scene.info!.width * gsd) / width;
  const bar = roundLength((metresPerPixel * width) / 4);
  context.font = `${size}px system-ui, sans-serif`;
  context.fillStyle = "#000";
  const top = high + size * 1.3;
  context.fillRect(size, top - size / 8, bar / metresPerPixel, size / 4);
  context.fillText(lengthText(bar), size + bar / metresPerPixel + size / 2, top);
  const column = (width - size) / 3;
  entries.forEach(({ name, i }, n) => {
    const x = size + (n % 3) * column;
    const y = top + size * (1.8 + Math.floor(n / 3) * 1.9);
    context.fillStyle = `rgb(${colours[i].join(" ")})`;
    context.fillRect(x, y - size / 2, size * 1.4, size);
    context.strokeStyle = "#0008";
    context.strokeRect(x, y - size / 2, size * 1.4, size);
    context.fillStyle = "#000";
    const share = percent(counts[i].pixels / total);
    context.fillText(`${name} ${share}`, x + size * 2, y, column - size * 2.4);
  });
  context.font = `${Math.round(size * 0.72)}px system-ui, sans-serif`;
  context.fillStyle = "#444";
  const source = `${scene.name}. Model ${model.name}, landcover ${model.version}. ${model.licence}`;
  context.fillText(source, size, canvas.height - size, width - 2 * size);
  return canvas;
}

/** Fill the page that is printed: map, legend, areas, model and terms. */
export function fillSheet(scene: Scene, picture: HTMLCanvasElement): void {
  const { counts } = scene.result!;
  const total = counts.reduce((sum, { pixels }) => sum + pixels, 0);
  const cell = (content: string): HTMLElement => element("td", { className: "number" }, content);
  const rows = model.classes.flatMap(({ name }, i) => {
    const { pixels, squareMetres } = counts[i];
    if (!pixels) return [];
    return [element("tr", {}, element("td", {}, name), cell(percent(pixels / total)), cell(hectares(squareMetres)))];
  });
  const heads = ["Class", "Share", "Hectares"].map((head) => element("th", {}, head));
  byId("sheet").replaceChildren(
    element("h2", {}, `Land cover of ${scene.name}`),
    picture,
    element("table", {}, element("tbody", {}, element("tr", {}, ...heads), ...rows)),
    element("p", {}, byId("facts").textContent ?? ""),
    element("p", {}, byId("warning").hidden ? "" : (byId("warning").textContent ?? "")),
    element("p", {}, `Model ${model.name} (SHA-256 ${model.sha256}), landcover ${model.version}. Licence: ${model.licence}.`),
    element("p", {}, model.terms),
  );
}

/** Fill the dialog with the model's card and terms. */
export function fillCard(): void {
  const list = element("dl");
  const entry = (name: string, value: string | Node): void => {
    if (value) list.append(element("dt", {}, name), element("dd", {}, value));
  };
  entry("Model", model.name);
  entry("About", model.about);
  entry("Classes", model.scored.map((i) => model.classes[i].name).join(", "));
  entry("Scale", `${model.gsd} m per pixel; other imagery is resampled`);
  for (const score of model.scores) entry("Mean IoU", score);
  entry("Licence", model.licence);
  entry("Licence text", model.licence_url);
  entry("SHA-256", element("code", {}, model.sha256));
  entry("Written by", `landcover ${model.version}`);
  const terms = element("pre", { tabIndex: 0 }, model.terms);
  terms.setAttribute("aria-label", "Terms of model and software");
  byId("card-text").append(list, terms);
}
