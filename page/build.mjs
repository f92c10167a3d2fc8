// Build the files that `landcover page` puts together: src/landcover/page/. They are the same for the same sources.

import { createHash } from "node:crypto";
import { readFileSync, writeFileSync, mkdirSync, existsSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { gunzipSync, gzipSync } from "node:zlib";
import { build } from "esbuild";

const here = dirname(fileURLToPath(import.meta.url));
const target = process.argv[2] ?? join(here, "..", "src", "landcover", "page");
mkdirSync(target, { recursive: true });

const sha256 = (bytes) => createHash("sha256").update(bytes).digest("hex");

async function bundle(entry, define = {}) {
  const result = await build({
    entryPoints: [join(here, "src", entry)],
    bundle: true,
    format: "iife",
    define,
    platform: "browser",
    target: ["chrome109", "firefox115", "safari16.4"],
    minify: true,
    charset: "ascii",
    legalComments: "none",
    write: false,
    logLevel: "warning",
  });
  // The code is put into a script element, which must not end early.
  return result.outputFiles[0].text.replaceAll("</script", "<\\/script").replaceAll("<!--", "<\\!--");
}

writeFileSync(join(target, "page.js"), await bundle("main.ts"));
// A classic worker: pages opened from a file cannot load module workers. Threads of onnxruntime load the same code.
writeFileSync(join(target, "worker.js"), await bundle("worker.ts", { "import.meta.url": "self.location.href" }));
for (const name of ["page.html", "page.css"]) writeFileSync(join(target, name), readFileSync(join(here, "src", name)));

const name = "ort-wasm-simd-threaded.wasm";
const wasm = readFileSync(join(here, "node_modules", "onnxruntime-web", "dist", name));
const { version } = JSON.parse(readFileSync(join(here, "node_modules", "onnxruntime-web", "package.json")));
const packed = join(target, `${name}.gz`);
// Versions of zlib compress differently: the packed file stays where its content is the same.
if (!existsSync(packed) || !gunzipSync(readFileSync(packed)).equals(wasm)) {
  writeFileSync(packed, gzipSync(wasm, { level: 9 }));
}
const runtime = {
  package: "onnxruntime-web",
  version,
  licence: "MIT",
  file: `dist/${name}`,
  sha256: sha256(wasm),
  gzip_sha256: sha256(readFileSync(packed)),
};
writeFileSync(join(target, "runtime.json"), `${JSON.stringify(runtime, null, 2)}\n`);
