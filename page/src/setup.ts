// The settings of a scene: scale, bands and values, where its file does not state them, and what marks nodata.

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
    for (const id of ["band-0", "band-1", "band-2", "low", "high", "nodata", "alpha", "keep"]) byId(id).onchange = onValues;
    byId("scaling").onchange = () => {
      byId("range").hidden = byId<HTMLSelectElement>("scaling").value !== "range";
      onValues();
    };
  }

  /** Offer to use the scale for other scenes too, of which so many lack one. */
  offerAll(count: number): void {
    byId("alike").hidden = !count;
    byId("alike").lastChild!.textContent = ` Also for the ${count > 1 ? `${count} other images` : "other image"} of unknown scale`;
  }

  /** Show what is known of a scene, and ask for the rest. */
  fill({ info, enteredGsd, options }: Scene): void {
    if (!info) return;
    this.stopMeasuring();
    const isScene = info.bands.length > 0;
    byId("length-label").hidden = true;
    byId("scale-fields").hidden = info.gsd !== null;
    byId("value-fields").hidden = !info.needsScaling && info.bandNames.length <= 3;
    byId("scaling-fields").hidden = !info.needsScaling;
    byId("range").hidden = !info.needsScaling || byId<HTMLSelectElement>("scaling").value !== "range";
    byId("scale-note").textContent = info.suggestedGsd
      ? `The file states ${significant(info.suggestedGsd, 4)} units per pixel in a coordinate system that this page ` +
        "cannot check. If they are metres on the ground, keep that."
      : "The file does not state its scale, and the map depends on it.";
    const gsd = enteredGsd ?? info.suggestedGsd;
    byId<HTMLInputElement>("gsd").value = gsd ? significant(gsd, 6) : "";
    byId("measure").hidden = !info.preview;
    const bandOptions = (chosen: number | null): HTMLOptionElement[] =>
      info.bandNames.map((name, n) =>
        element("option", { value: String(n + 1), selected: n + 1 === chosen }, name ? `${n + 1} (${name})` : `${n + 1}`),
      );
    info.bands.forEach((chosen, i) => byId(`band-${i}`).replaceChildren(...bandOptions(chosen)));
    const { nodata, alpha, fill } = options;
    byId("mask-fields").hidden = !isScene;
    byId<HTMLInputElement>("nodata").value = nodata === null ? "" : String(nodata);
    byId("alpha").replaceChildren(
      element("option", { value: "" }, "As in the file"),
      element("option", { value: "none", selected: alpha === "none" }, "None"),
      ...bandOptions(typeof alpha === "number" ? alpha : null),
    );
    byId<HTMLInputElement>("keep").checked = fill === "keep";
    byId<HTMLDetailsElement>("advanced").open = nodata !== null || alpha !== null || fill === "keep";
  }

  /** Return the scale that was entered; null, with a message, if it is not valid. */
  gsd(): number | null {
    const gsd = Number(byId<HTMLInputElement>("gsd").value);
    if (gsd > 0 && gsd <= MAX_GSD) return gsd;
    say(`Enter the scale: metres per pixel, a number above 0 and at most ${MAX_GSD}.`);
    byId("gsd").focus();
    return null;
  }

  /** Return how the scene is to be read. */
  values({ info }: Scene): ReadOptions {
    const value = (id: string): string => byId<HTMLInputElement>(id).value;
    const isScene = info!.bands.length > 0;
    const alpha = isScene ? value("alpha") : "";
    const scaling = value("scaling") === "percentile" ? "percentile" : ([Number(value("low")), Number(value("high"))] as const);
    return {
      bands: isScene ? ["band-0", "band-1", "band-2"].map((id) => Number(value(id))) : null,
      scaling: info!.needsScaling ? (scaling as ReadOptions["scaling"]) : null,
      nodata: isScene && value("nodata") ? Number(value("nodata")) : null,
      alpha: alpha === "none" ? "none" : alpha ? Number(alpha) : null,
      fill: byId<HTMLInputElement>("keep").checked ? "keep" : "nodata",
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
    byId("hint").textContent = "Select the two ends of something whose length you know, such as a sports field.";
    byId("canvas").focus();
    this.view.draw();
  }
}
