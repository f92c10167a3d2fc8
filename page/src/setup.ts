// Scale, bands and values of a scene, where its file does not state them.

import { byId, element, say, significant } from "./dom";
import type { ReadOptions } from "./protocol";
import type { Scene } from "./scene";
import type { Point, View } from "./view";

const MAX_GSD = 100;

export class Setup {
  private isMeasuring = false;
  /** Length of the measured line in pixels. */
  private length = 0;

  /**
   * @param view Shows the line that is measured.
   * @param onValues Called when bands or values change.
   */
  constructor(
    private readonly view: View,
    onValues: () => void,
  ) {
    byId("measure").onclick = () => this.measure();
    byId("length").oninput = () => {
      const metres = Number(byId<HTMLInputElement>("length").value);
      if (metres > 0 && this.length > 0) {
        byId<HTMLInputElement>("gsd").value = significant(metres / this.length, 4);
      }
    };
    for (const id of ["band-0", "band-1", "band-2", "low", "high"]) byId(id).onchange = onValues;
    byId("scaling").onchange = () => {
      byId("range").hidden = byId<HTMLSelectElement>("scaling").value !== "range";
      onValues();
    };
  }

  fill({ info, enteredGsd }: Scene): void {
    if (!info) return;
    this.stopMeasuring();
    byId("length-label").hidden = true;
    byId("scale-fields").hidden = info.gsd !== null;
    byId("value-fields").hidden = !info.needsScaling && info.bandNames.length <= 3;
    byId("scaling-fields").hidden = !info.needsScaling;
    byId("range").hidden = !info.needsScaling || byId<HTMLSelectElement>("scaling").value !== "range";
    byId("scale-note").textContent = info.suggestedGsd
      ? `The file states ${significant(info.suggestedGsd, 4)} units per pixel in a coordinate system that this page ` +
        "cannot check. If they are metres on the ground, keep that."
      : "The image does not state its scale. The map depends on it.";
    const gsd = enteredGsd ?? info.suggestedGsd;
    byId<HTMLInputElement>("gsd").value = gsd ? significant(gsd, 6) : "";
    byId("measure").hidden = !info.preview;
    info.bands.forEach((chosen, i) => {
      const options = info.bandNames.map((name, n) =>
        element("option", { value: String(n + 1), selected: n + 1 === chosen }, name ? `${n + 1} (${name})` : `${n + 1}`),
      );
      byId(`band-${i}`).replaceChildren(...options);
    });
  }

  /** Return the scale that was entered; null, with a message, if it is not valid. */
  gsd(): number | null {
    const gsd = Number(byId<HTMLInputElement>("gsd").value);
    if (gsd > 0 && gsd <= MAX_GSD) return gsd;
    say(`Enter the scale: metres per pixel, a number above 0 and at most ${MAX_GSD}.`);
    byId("gsd").focus();
    return null;
  }

  /** Return the bands and values that were chosen. */
  values({ info }: Scene): ReadOptions {
    const number = (id: string): number => Number(byId<HTMLInputElement>(id).value);
    const isPercentile = byId<HTMLSelectElement>("scaling").value === "percentile";
    return {
      bands: info!.bands.length ? ["band-0", "band-1", "band-2"].map(number) : null,
      scaling: !info!.needsScaling ? null : isPercentile ? "percentile" : [number("low"), number("high")],
    };
  }

  /** Take a click on the image; returns whether it belongs to a measured line. */
  click(point: Point | null): boolean {
    if (!this.isMeasuring || !point) return this.isMeasuring;
    const { marks } = this.view;
    marks.push(point);
    this.view.draw();
    if (marks.length < 2) return true;
    this.stopMeasuring();
    this.length = Math.hypot(marks[0].x - marks[1].x, marks[0].y - marks[1].y);
    byId("hint").textContent = `The line is ${Math.round(this.length)} pixels long. Enter its length in metres.`;
    byId("length-label").hidden = false;
    byId<HTMLInputElement>("length").value = "";
    byId("length").focus();
    return true;
  }

  stopMeasuring(): void {
    this.isMeasuring = false;
    byId("canvas").classList.remove("measuring");
    byId("hint").textContent = "";
  }

  private measure(): void {
    this.isMeasuring = true;
    this.view.marks = [];
    byId("canvas").classList.add("measuring");
    byId("hint").textContent = "Click the two ends of something whose length you know, such as a sports field.";
    byId("canvas").focus();
    this.view.draw();
  }
}
