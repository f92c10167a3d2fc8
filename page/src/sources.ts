// An opened file, whatever its format.

import type { Source, Strip } from "./engine/reading";
import type { Georeference, Scale } from "./georeference";
import type { Picture, ReadOptions } from "./protocol";

export interface OpenedFile {
  name: string;
  source: Source;
  kind: "picture" | "scene";
  georeference: Georeference | null;
  scale: Scale | null;
  /** Metres per pixel that the file states but that cannot be checked here. */
  suggestedGsd: number | null;
  /** Values that become 0 and 255 are needed. */
  needsScaling: boolean;
  /** What the file names its bands, in their order; of pictures none. */
  bandNames: string[];
  /** Numbers of the red, green and blue band, from 1. */
  bands: number[];
  notes: string[];
  /** Read a small version of the scene; null where that would take long. */
  preview(side: number): Promise<Picture | null>;
  /** Read a part of the scene, for the view. */
  readWindow(window: Box): Promise<Strip>;
  configure(options: ReadOptions): Promise<void>;
}

/** Left, top, right and bottom in pixels. */
export type Box = [number, number, number, number];

/** Return the step by which a scene is reduced to at most `side` pixels. */
export const stepTo = (side: number, size: { height: number; width: number }): number =>
  Math.max(1, Math.ceil(Math.max(size.height, size.width) / side));

/** A scene reduced by taking one pixel of step x step. */
export class Overview {
  readonly picture: Picture;

  constructor(
    size: { height: number; width: number },
    readonly step: number,
  ) {
    const [height, width] = [Math.ceil(size.height / step), Math.ceil(size.width / step)];
    this.picture = { image: new Uint8ClampedArray(height * width * 4), height, width };
  }

  /** Add rows of the scene from `start` on. Pixels without imagery become transparent. */
  add(start: number, { image, valid }: Strip, width: number): void {
    const { step, picture } = this;
    const stop = start + image.length / 3 / width;
    for (let y = Math.ceil(start / step); y * step < stop; y++) {
      for (let x = 0, out = y * picture.width * 4; x < picture.width; x++, out += 4) {
        const at = (y * step - start) * width + x * step;
        if (valid && !valid[at]) continue;
        picture.image[out] = image[at * 3];
        picture.image[out + 1] = image[at * 3 + 1];
        picture.image[out + 2] = image[at * 3 + 2];
        picture.image[out + 3] = 255;
      }
    }
  }
}
