"""One HTML file that maps land cover in a browser, without an installation or uploads.

The files beside this module are built from the TypeScript in ``page/`` of the repository (``npm run build``);
:data:`RUNTIME` records the origin and digest of the compressed runtime among them.
"""

import base64
import gzip
import hashlib
import io
import json
import re
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from PIL import Image

from landcover import __version__
from landcover.data.synthetic import make_scene
from landcover.errors import DataError, ModelError
from landcover.io.files import atomic_path
from landcover.model.bundled import SHIPPED
from landcover.model.card import ModelCard, is_exported, resolve_model
from landcover.model.runtimes import open_model

FOLDER = Path(__file__).parent
RUNTIME = FOLDER / "runtime.json"
"""Package, version, licence and SHA-256 of the runtime (``ort-wasm-simd-threaded.wasm.gz``)."""

_SAMPLE_SEED, _SAMPLE_PX = 7, 1536
_HEADERS = {
    "Content-Type": "text/html; charset=utf-8",
    "Cross-Origin-Opener-Policy": "same-origin",  # with the next one, threads are allowed
    "Cross-Origin-Embedder-Policy": "require-corp",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-store",
}


def build_page(model: str | Path = "starter") -> str:
    """Return the page: model, runtime, code, styles, sample, card and terms in one HTML file.

    Args:
        model: An exported model (``.onnx``) or the name of a bundled one.

    Returns:
        HTML of about 9 MB with ``starter``. Its Content-Security-Policy allows no request.

    Raises:
        ModelError: If the model does not exist, is not exported, has other than three bands, or
            cannot be run.
        DataError: If the built files are missing, as in a checkout where ``page/`` was not built.

    Example:
        >>> from landcover.page import build_page
        >>> "Content-Security-Policy" in build_page()
        True
    """
    file = resolve_model(model)
    if not is_exported(file):
        raise ModelError(
            f"{file} is not an exported model. The page needs .onnx: run landcover export first."
        )
    card = open_model(file).card  # refuses what would fail in the browser
    if card.preprocessing.channels != 3:
        raise ModelError(
            f"{file} takes {card.preprocessing.channels} bands ({', '.join(card.preprocessing.bands)}); the "
            "page maps RGB imagery. Pass a model of three bands, or use landcover predict."
        )
    weights = file.read_bytes()
    script, style, worker = (_built(name) for name in ("page.js", "page.css", "worker.js"))
    policy = {
        "default-src": "'none'",
        "script-src": f"{_hash(script)} 'wasm-unsafe-eval'",
        "style-src": _hash(style),
        "img-src": "blob: data:",
        "worker-src": "blob:",
        "base-uri": "'none'",
        "form-action": "'none'",
    }
    sample = io.BytesIO()
    image = make_scene(_SAMPLE_SEED, _SAMPLE_PX, _SAMPLE_PX).image
    Image.fromarray(image).save(sample, "JPEG", quality=85)
    info = json.dumps(_model_info(file, card, weights)).replace("<", "\\u003c")
    parts = {
        "CSP": "; ".join(f"{name} {value}" for name, value in policy.items()),
        "STYLE": style,
        "INFO": info,
        "WORKER": worker,
        "RUNTIME": _text((FOLDER / "ort-wasm-simd-threaded.wasm.gz").read_bytes()),
        "MODEL": _text(gzip.compress(weights, 9, mtime=0)),
        "SAMPLE": _text(sample.getvalue()),
        "SCRIPT": script,
    }
    return re.sub(r"\{\{([A-Z]+)\}\}", lambda match: parts[match[1]], _built("page.html"))


def write_page(out: str | Path, model: str | Path = "starter", *, force: bool = False) -> Path:
    """Write the page of :func:`build_page`, whole or not at all, and return its file."""
    out = Path(out)
    with atomic_path(out, force=force) as temporary:
        temporary.write_text(build_page(model), encoding="utf-8", newline="\n")
    return out


def serve_page(page: str, ready: Callable[[str], object]) -> None:
    """Serve a page, HTML, on 127.0.0.1, with the headers that allow threads, until interrupted.

    ``ready`` is called with the address once it can be opened.
    """
    content = page.encode()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.path != "/":
                self.send_error(404)
                return
            self.send_response(200)
            for name, value in {**_HEADERS, "Content-Length": str(len(content))}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        ready(f"http://127.0.0.1:{server.server_port}/")
        server.serve_forever()


def _built(name: str) -> str:
    try:
        return (FOLDER / name).read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise DataError(
            f"The page's file {FOLDER / name} is missing. Install a released wheel, or build it in a "
            "checkout: cd page; npm ci; npm run build."
        ) from error


def _hash(text: str) -> str:
    """Return the source expression of a Content-Security-Policy that allows an inline text."""
    return f"'sha256-{_text(hashlib.sha256(text.encode()).digest())}'"


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _model_info(file: Path, card: ModelCard, weights: bytes) -> dict[str, Any]:
    """Return what the page needs to know of a model; the type ``ModelInfo`` in page/src/protocol.ts."""
    bundled = next((model for model in SHIPPED if model.path == file), None)
    preprocessing = card.preprocessing
    bands, scaling = preprocessing.reading
    runtime = json.loads(_built("runtime.json"))
    terms = "The model has the terms that its card states."
    if bundled:
        terms = (
            "The bundled models are for research use only: they were trained on imagery of the DeepGlobe "
            "challenge. Maps are estimates: check them before decisions depend on them."
        )
    return {
        "name": bundled.name if bundled else file.stem,
        "sha256": hashlib.sha256(weights).hexdigest(),
        "version": __version__,
        "gsd": preprocessing.gsd,
        "mean": preprocessing.mean,
        "bands": preprocessing.bands,
        "band_indices": bands,
        "scaling": scaling,
        "views": card.views,
        "window_px": card.window_px,
        "overlap_px": card.overlap_px,
        "classes": [{"name": entry.name, "colour": entry.colour} for entry in card.legend.classes],
        "legend_tags": card.legend.tags,
        "scored": card.legend.scored,
        "licence": card.licence or "not stated",
        "licence_url": card.licence_url,
        "terms": f"Software: landcover {__version__} (Apache-2.0); {runtime['package']} {runtime['version']} "
        f"({runtime['licence']}), geotiff (MIT), d3-zoom (ISC). Full texts: NOTICE of landcover.\n\n{terms}",
        "about": bundled.about if bundled else "",
        "scores": [
            f"{100 * score['miou']:.1f} % on {score.get('split', 'an unknown split')}"
            + (f" ({score['note'].split(';')[0]})" if score.get("note") else "")
            for score in card.scores
            if isinstance(score.get("miou"), int | float)
        ],
        "profile": None if card.imagery is None else card.imagery.model_dump(mode="json"),
    }
