// Elements of the page, and numbers as text.

export const byId = <T extends HTMLElement>(id: string): T => document.getElementById(id) as T;

export const text = (id: string): string => byId(id).textContent ?? "";

export function element<K extends keyof HTMLElementTagNameMap>(
  tag: K,
  properties: Partial<HTMLElementTagNameMap[K]> = {},
  ...children: (Node | string)[]
): HTMLElementTagNameMap[K] {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children);
  return made;
}

/** Show a message; an empty one hides the last. */
export function say(message: string): void {
  byId("messages").textContent = message;
  byId("notice").hidden = !message;
}

export const percent = (share: number): string => `${(100 * share).toFixed(share && share < 0.001 ? 2 : 1)} %`;

export function hectares(squareMetres: number): string {
  const digits = squareMetres < 1e6 ? 2 : 0;
  const format = { maximumFractionDigits: digits, minimumFractionDigits: digits };
  return (squareMetres / 10_000).toLocaleString("en", format);
}

export const significant = (value: number, digits: number): string => String(Number(value.toPrecision(digits)));

/** Return a round length for a scale bar of at most so many metres. */
export function roundLength(most: number): number {
  const power = 10 ** Math.floor(Math.log10(most));
  return [5, 2, 1].map((n) => n * power).find((n) => n <= most) ?? power;
}

export const lengthText = (metres: number): string =>
  metres >= 1000 ? `${metres / 1000} km` : `${significant(metres, 3)} m`;

export function download(blob: Blob, name: string): void {
  const address = URL.createObjectURL(blob);
  element("a", { href: address, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(address), 60_000);
}

/** Return the name of a file without its end and without characters that other systems refuse. */
export const stem = (name: string): string =>
  name.replace(/\.[^.]*$/, "").replace(/[\\/:*?"<>|\u0000-\u001f]/g, "_") || "scene";
