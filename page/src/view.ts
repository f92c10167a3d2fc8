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

/** A picture of a scene or of a part of it; a pixel stands for step x step pixels of the scene. */
export interface Layer {
  image: HTMLCanvasElement;
  /** The class of each pixel; null before the scene is mapped. */
  classes: Uint8Array | null;
  left: number;
  top: number;
  step: number;
}

interface Painted extends Layer {
  map: HTMLCanvasElement | null;
}

export class View {
  opacity = 0.6;
  /** Share of the width, from the left, that shows the image alone. */
  swipe = 0;
  marks: Point[] = [];
  private readonly context: CanvasRenderingContext2D;
  private readonly behavior: ZoomBehavior<HTMLCanvasElement, unknown>;
  private transform: ZoomTransform = zoomIdentity;
  private whole: Painted | null = null;
  private detail: Painted | null = null;
  private colours = new Uint32Array(256);
  private size = { height: 1, width: 1 };
  private scene: unknown = null;
  private isFitted = true;
  private queued = false;
  private timer = 0;

  /**
   * @param onMove Called when the view moves.
   * @param onRest Called a moment after it moved.
   */
  constructor(
    readonly canvas: HTMLCanvasElement,
    private readonly onMove: () => void,
    private readonly onRest: () => void,
  ) {
    this.context = canvas.getContext("2d")!;
    this.behavior = zoom<HTMLCanvasElement, unknown>()
      .scaleExtent([0.01, MAX_ZOOM])
      .on("zoom", ({ transform, sourceEvent }: { transform: ZoomTransform; sourceEvent: Event | null }) => {
        this.transform = transform;
        if (sourceEvent) this.isFitted = false;
        this.draw();
        this.onMove();
        this.rest();
      });
    select(canvas).call(this.behavior).on("dblclick.zoom", null);
    new ResizeObserver(() => this.resize()).observe(canvas);
  }

  /** Show a picture of a scene. The view stays where it is while the scene is the same. */
  show(scene: unknown, layer: Layer | null, size: { height: number; width: number }): void {
    this.whole = layer && { ...layer, map: null };
    this.detail = null;
    if (this.whole) this.colour(this.whole);
    if (scene !== this.scene || size.height !== this.size.height || size.width !== this.size.width) {
      this.scene = scene;
      this.size = { height: size.height, width: size.width };
      this.marks = [];
      this.fit();
    }
    this.rest();
    this.draw();
  }

  /** Show a part of the scene over the picture of the whole. */
  showDetail(layer: Layer): void {
    this.detail = { ...layer, map: null };
    this.colour(this.detail);
    this.draw();
  }

  /** Colour the map again after some of its rows, or all, have changed. */
  repaint(top = 0, rows?: number): void {
    if (this.whole) this.colour(this.whole, top, rows);
    if (this.detail) this.colour(this.detail);
    this.draw();
  }

  /** Set the colour of each class value as RGBA bytes (alpha 0: nothing). */
  setColours(table: Uint8ClampedArray<ArrayBuffer>): void {
    this.colours = new Uint32Array(table.buffer);
    this.repaint();
  }

  private colour(layer: Painted, top = 0, rows = layer.image.height - top): void {
    const { classes, image } = layer;
    if (!classes || !rows) return;
    layer.map ??= blank(image.height, image.width);
    const pixels = new ImageData(image.width, rows);
    const words = new Uint32Array(pixels.data.buffer);
    for (let i = 0, at = top * image.width; i < words.length; i++, at++) words[i] = this.colours[classes[at]];
    layer.map.getContext("2d")!.putImageData(pixels, 0, top);
  }

  /** Return the scene's position under a point of the screen; null outside of the scene. */
  at(clientX: number, clientY: number): Point | null {
    const box = this.canvas.getBoundingClientRect();
    const [x, y] = this.transform.invert([clientX - box.left, clientY - box.top]);
    return x >= 0 && y >= 0 && x < this.size.width && y < this.size.height ? { x, y } : null;
  }

  /** Return the class value at a position. */
  classAt({ x, y }: Point): number | undefined {
    for (const layer of [this.detail, this.whole]) {
      if (!layer?.classes) continue;
      const [col, row] = [Math.floor((x - layer.left) / layer.step), Math.floor((y - layer.top) / layer.step)];
      const { height, width } = layer.image;
      if (col >= 0 && row >= 0 && col < width && row < height) return layer.classes[row * width + col];
    }
    return undefined;
  }

  /** Return the visible part of the scene, and the step at which its pixels are those of the screen. */
  visible(): { box: [number, number, number, number]; step: number } {
    const [left, top] = this.transform.invert([0, 0]);
    const [right, bottom] = this.transform.invert([this.canvas.clientWidth, this.canvas.clientHeight]);
    const { width, height } = this.size;
    const within = (value: number, limit: number): number => Math.min(limit, Math.max(0, value));
    const ratio = window.devicePixelRatio || 1;
    return {
      box: [
        within(Math.floor(left), width),
        within(Math.floor(top), height),
        within(Math.ceil(right), width),
        within(Math.ceil(bottom), height),
      ],
      step: Math.max(1, Math.floor(1 / (this.transform.k * ratio))),
    };
  }

  /** Pixels of the screen per pixel of the scene. */
  get zoom(): number {
    return this.transform.k;
  }

  fit(): void {
    const { clientWidth, clientHeight } = this.canvas;
    if (!clientWidth || !clientHeight) return;
    const k = Math.min(clientWidth / this.size.width, clientHeight / this.size.height) * 0.94;
    this.behavior.scaleExtent([k / 2, Math.max(MAX_ZOOM, k)]).translateExtent([
      [-this.size.width / 2, -this.size.height / 2],
      [this.size.width * 1.5, this.size.height * 1.5],
    ]);
    const x = (clientWidth - this.size.width * k) / 2;
    const y = (clientHeight - this.size.height * k) / 2;
    select(this.canvas).call(this.behavior.transform, zoomIdentity.translate(x, y).scale(k));
    this.isFitted = true;
  }

  zoomBy(factor: number): void {
    this.isFitted = false;
    select(this.canvas).call(this.behavior.scaleBy, factor);
  }

  pan(x: number, y: number): void {
    this.isFitted = false;
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

  private rest(): void {
    clearTimeout(this.timer);
    this.timer = window.setTimeout(this.onRest, 180);
  }

  private resize(): void {
    const ratio = window.devicePixelRatio || 1;
    this.canvas.width = Math.max(1, Math.round(this.canvas.clientWidth * ratio));
    this.canvas.height = Math.max(1, Math.round(this.canvas.clientHeight * ratio));
    if (this.isFitted) this.fit();
    this.rest();
    this.paint();
  }

  private paint(): void {
    const { context, canvas, detail } = this;
    const ratio = canvas.width / Math.max(1, canvas.clientWidth);
    context.setTransform(1, 0, 0, 1, 0, 0);
    context.clearRect(0, 0, canvas.width, canvas.height);
    const { k, x, y } = this.transform;
    const place = (): void => context.setTransform(k * ratio, 0, 0, k * ratio, x * ratio, y * ratio);
    const draw = (layer: Painted, picture: HTMLCanvasElement | null): void => {
      if (!picture) return;
      const { left, top, step } = layer;
      context.imageSmoothingEnabled = k * step * ratio < 1;
      context.drawImage(picture, left, top, picture.width * step, picture.height * step);
    };
    place();
    const layers = [this.whole, detail].filter((layer) => layer !== null);
    for (const layer of layers) draw(layer, layer.image);
    context.globalAlpha = this.opacity;
    for (const layer of layers) {
      context.save();
      context.setTransform(ratio, 0, 0, ratio, 0, 0);
      context.beginPath();
      context.rect(canvas.clientWidth * this.swipe, 0, canvas.clientWidth, canvas.clientHeight);
      context.clip();
      place();
      if (layer !== detail && detail?.map) {
        // The map is translucent: nowhere twice.
        const { left, top, step, image } = detail;
        context.beginPath();
        context.rect(0, 0, this.size.width, this.size.height);
        context.rect(left, top, image.width * step, image.height * step);
        context.clip("evenodd");
      }
      draw(layer, layer.map);
      context.restore();
    }
    context.globalAlpha = 1;
    context.setTransform(ratio, 0, 0, ratio, 0, 0);
    this.paintMarks();
  }

  private paintMarks(): void {
    const { context } = this;
    const points = this.marks.map((mark) => this.transform.apply([mark.x, mark.y]));
    for (const [colour, width] of [["#000", 5], ["#fff", 2.5]] as [string, number][]) {
      context.strokeStyle = colour;
      context.lineWidth = width;
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
  }

  /** Return image and map of the whole scene as one picture. */
  compose(): HTMLCanvasElement | null {
    if (!this.whole) return null;
    const { image, map } = this.whole;
    const result = blank(image.height, image.width);
    const context = result.getContext("2d")!;
    context.drawImage(image, 0, 0);
    context.globalAlpha = this.opacity;
    if (map) context.drawImage(map, 0, 0);
    return result;
  }
}

export function blank(height: number, width: number): HTMLCanvasElement {
  const canvas = document.createElement("canvas");
  canvas.width = width;
  canvas.height = height;
  return canvas;
}

export function toCanvas({ image, height, width }: Picture): HTMLCanvasElement {
  const canvas = blank(height, width);
  canvas.getContext("2d")!.putImageData(new ImageData(image, width, height), 0, 0);
  return canvas;
}
