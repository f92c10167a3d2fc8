// The canvas: the map over its image, with zoom, pan, opacity and swipe.

import { select } from "d3-selection";
import { zoom, zoomIdentity, type ZoomBehavior, type ZoomTransform } from "d3-zoom";
import type { Picture } from "./protocol";

const MAX_ZOOM = 32;

export interface Point {
  /** Position in the scene's own pixels. */
  x: number;
  y: number;
}

export class View {
  opacity = 0.6;
  /** Share of the width, from the left, that shows the image alone. */
  swipe = 0;
  marks: Point[] = [];
  private readonly context: CanvasRenderingContext2D;
  private readonly behavior: ZoomBehavior<HTMLCanvasElement, unknown>;
  private transform: ZoomTransform = zoomIdentity;
  private image: HTMLCanvasElement | null = null;
  private map: HTMLCanvasElement | null = null;
  private step = 1;
  private size = { height: 1, width: 1 };
  private queued = false;

  constructor(
    readonly canvas: HTMLCanvasElement,
    private readonly onMove: () => void,
  ) {
    this.context = canvas.getContext("2d")!;
    this.behavior = zoom<HTMLCanvasElement, unknown>()
      .scaleExtent([0.01, MAX_ZOOM])
      .on("zoom", ({ transform }: { transform: ZoomTransform }) => {
        this.transform = transform;
        this.draw();
        this.onMove();
      });
    select(canvas).call(this.behavior).on("dblclick.zoom", null);
    new ResizeObserver(() => this.resize()).observe(canvas);
  }

  /** Show an image of a scene; one of its pixels stands for step x step pixels. */
  setImage(picture: Picture | null, step: number, size: { height: number; width: number }): void {
    this.image = picture && toCanvas(picture);
    this.map = null;
    this.step = step;
    this.size = size;
    this.marks = [];
    this.fit();
  }

  /** Show a map over the image, in the colours of its values (alpha 0: nothing). */
  setMap(classes: Uint8Array | null, height: number, width: number, colours: Uint8ClampedArray): void {
    if (!classes) this.map = null;
    else {
      if (this.map?.width !== width || this.map.height !== height) this.map = blank(height, width);
      const pixels = new ImageData(width, height);
      const words = new Uint32Array(pixels.data.buffer);
      const table = new Uint32Array(colours.buffer);
      for (let i = 0; i < classes.length; i++) words[i] = table[classes[i]];
      this.map.getContext("2d")!.putImageData(pixels, 0, 0);
    }
    this.draw();
  }

  get metresAcross(): number {
    return 1 / this.transform.k;
  }

  /** Return the scene's position under a point of the screen; null outside of the scene. */
  at(clientX: number, clientY: number): Point | null {
    const box = this.canvas.getBoundingClientRect();
    const [x, y] = this.transform.invert([clientX - box.left, clientY - box.top]);
    return x >= 0 && y >= 0 && x < this.size.width && y < this.size.height ? { x, y } : null;
  }

  fit(): void {
    const { clientWidth, clientHeight } = this.canvas;
    if (!clientWidth || !clientHeight) return;
    const k = Math.min(clientWidth / this.size.width, clientHeight / this.size.height) * 0.96;
    this.behavior.scaleExtent([k / 2, MAX_ZOOM]).translateExtent([
      [-this.size.width / 2, -this.size.height / 2],
      [this.size.width * 1.5, this.size.height * 1.5],
    ]);
    const x = (clientWidth - this.size.width * k) / 2;
    const y = (clientHeight - this.size.height * k) / 2;
    select(this.canvas).call(this.behavior.transform, zoomIdentity.translate(x, y).scale(k));
  }

  zoomBy(factor: number): void {
    select(this.canvas).call(this.behavior.scaleBy, factor);
  }

  pan(x: number, y: number): void {
    select(this.canvas).call(this.behavior.translateBy, x / this.transform.k, y / this.transform.k);
  }

  draw(): void {
    if (this.queued) return;
    this.queued = true;
    requestAnimationFrame(() => {
      this.queued = false;
      this.paint();
    });
  }

  private resize(): void {
    const ratio = window.devicePixelRatio || 1;
    this.canvas.width = Math.max(1, Math.round(this.canvas.clientWidth * ratio));
    this.canvas.height = Math.max(1, Math.round(this.canvas.clientHeight * ratio));
    this.fit();
    this.paint();
  }

  private paint(): void {
    const { context, canvas } = this;
    const ratio = canvas.width / Math.max(1, canvas.clientWidth);
    context.setTransform(1, 0, 0, 1, 0, 0);
    context.clearRect(0, 0, canvas.width, canvas.height);
    const { k, x, y } = this.transform;
    const place = (): void => context.setTransform(k * ratio, 0, 0, k * ratio, x * ratio, y * ratio);
    const layer = (picture: HTMLCanvasElement): void => {
      context.imageSmoothingEnabled = k * this.step < 1;
      context.drawImage(picture, 0, 0, picture.width * this.step, picture.height * this.step);
    };
    place();
    if (this.image) layer(this.image);
    if (this.map) {
      context.save();
      context.setTransform(ratio, 0, 0, ratio, 0, 0);
      context.beginPath();
      context.rect(canvas.clientWidth * this.swipe, 0, canvas.clientWidth, canvas.clientHeight);
      context.clip();
      place();
      context.globalAlpha = this.opacity;
      layer(this.map);
      context.restore();
    }
    context.setTransform(ratio, 0, 0, ratio, 0, 0);
    const points = this.marks.map((mark) => this.transform.apply([mark.x, mark.y]));
    context.lineWidth = 2;
    for (const colour of ["#000", "#fff"]) {
      context.strokeStyle = colour;
      context.setLineDash(colour === "#fff" ? [4, 4] : []);
      if (points.length === 2) {
        context.beginPath();
        context.moveTo(...points[0]);
        context.lineTo(...points[1]);
        context.stroke();
      }
      for (const [px, py] of points) {
        context.beginPath();
        context.arc(px, py, 6, 0, 2 * Math.PI);
        context.stroke();
      }
    }
    context.setLineDash([]);
  }

  /** Return image and map of the whole scene as one picture. */
  compose(): HTMLCanvasElement | null {
    const { image, map } = this;
    if (!image) return null;
    const result = blank(image.height, image.width);
    const context = result.getContext("2d")!;
    context.drawImage(image, 0, 0);
    context.globalAlpha = this.opacity;
    if (map) context.drawImage(map, 0, 0, image.width, image.height);
    return result;
  }
}

function blank(height: number, width: number): HTMLCanvasElement {
  const canvas = document.createElement("canvas");
  canvas.width = width;
  canvas.height = height;
  return canvas;
}

/** Return RGB bytes as a canvas. */
export function toCanvas({ image, height, width }: Picture): HTMLCanvasElement {
  const canvas = blank(height, width);
  const pixels = new ImageData(width, height);
  for (let i = 0; i < height * width; i++) {
    pixels.data[i * 4] = image[i * 3];
    pixels.data[i * 4 + 1] = image[i * 3 + 1];
    pixels.data[i * 4 + 2] = image[i * 3 + 2];
    pixels.data[i * 4 + 3] = 255;
  }
  canvas.getContext("2d")!.putImageData(pixels, 0, 0);
  return canvas;
}
