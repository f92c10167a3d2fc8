// Call functions that have a counterpart in Python: names and arguments as JSON on standard input, [[name, ...arguments], ...].
// Prints what they return, as JSON. tests/test_page.py compares it with the counterparts.

import { readFileSync } from "node:fs";
import { dirname } from "node:path";
import { fileURLToPath } from "node:url";
import { build } from "esbuild";

const contents = `
  export * from "./src/bands";
  export * from "./src/georeference";
  export * from "./src/engine/classmap";
  export * from "./src/engine/engine";
  export * from "./src/engine/filling";
  export * from "./src/engine/grid";
  export * from "./src/engine/ood";
  export * from "./src/engine/resample";
  export * from "./src/engine/sieve";
`;
const { outputFiles } = await build({
  stdin: { contents, resolveDir: dirname(fileURLToPath(import.meta.url)) },
  bundle: true,
  format: "esm",
  platform: "node",
  write: false,
});
const page = await import(`data:text/javascript;base64,${Buffer.from(outputFiles[0].contents).toString("base64")}`);

const twins = {
  spans: page.spans,
  axis: page.axis,
  resample: (image, source, target) => page.resampleRows(Uint8Array.from(image), 0, 0, target.height, source, target),
  mirrored: (image, valid, height, width) => page.mirrored(Uint8Array.from(image), Uint8Array.from(valid), height, width),
  whole: (valid, source, target) => page.wholePixels(Uint8Array.from(valid), 0, 0, target.height, source, target),
  ood: (profile, image, valid, height, width) => {
    const score = new page.OodScore(profile);
    score.add(Uint8Array.from(image), valid && Uint8Array.from(valid), width, 0, height, width);
    return score.report();
  },
  sieve: (index, height, width, pixels) => {
    const map = new page.ClassMap(height, width);
    map.addRows(Uint8Array.from(index));
    const clean = page.sieve(map, pixels);
    const out = new Uint8Array(height * width);
    for (let row = 0; row < height; row++) clean.readRow(row, out, row * width);
    return out;
  },
  bands: (metadata, count, isColour, alphas, model) => {
    const [bands, note] = page.chooseBands("a.tif", page.bandTexts(metadata, count, isColour, alphas), model);
    return { bands: bands.map((band) => band + 1), note };
  },
  percentiles: page.percentilesOf,
  views: (image, height, width, stride, number) => {
    // A network that answers with the first pixel of each cell.
    const network = async (planes, high, wide) => {
      const answer = [];
      for (let at = 0; at < planes.length; at += stride * wide) {
        for (let x = 0; x < wide; x += stride) answer.push(planes[at + x] / 256);
      }
      return Float32Array.from(answer);
    };
    return page.classify(network, Uint8Array.from(image), height, width, stride, number);
  },
  bytes: (values, isSingle, range) => page.toBytes([isSingle ? Float32Array.from(values) : values], range).filter((_, i) => i % 3 === 0),
  place: (keys, tiepoint, scale, height, width) => {
    const place = page.parseGeoreference(keys, tiepoint, scale, undefined, []);
    const { gsd, sides } = page.scaleOf(place, height, width);
    return { gsd, sides, areas: page.rowAreas(place, height, width, gsd), corner: page.toLonLat(place, 0, 0) };
  },
};

const results = [];
for (const [name, ...values] of JSON.parse(readFileSync(0, "utf8"))) results.push(await twins[name](...values));
console.log(JSON.stringify(results, (_, value) => (ArrayBuffer.isView(value) ? Array.from(value) : value)));
