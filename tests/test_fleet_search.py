"""Scenes of a STAC API or of a file of STAC items."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from fleet_world import MODEL, OPTIONS, run
from imagefiles import photo, save_raster
from landcover.errors import DataError
from landcover.fleet import stac
from landcover.fleet.planning import make_plan
from landcover.fleet.stac import is_search, read_items
from landcover.fleet.units import read_units
from landcover.storage.store import open_store


def item(name, href, **more):
    assets = {"thumb": {"href": "t.png"}, "B": {"href": href, "type": "image/tiff; application=geotiff"}}
    return {"id": name, "properties": {"datetime": "2024-05-01T00:00:00Z"}, "assets": assets, **more}


def page(*items, **link):
    links = [{"rel": "self", "href": "x"}, *([{"rel": "next", **link}] if link else [])]
    return {"type": "FeatureCollection", "features": [*items], "links": links}


@pytest.fixture
def api(monkeypatch):
    """A server whose ``answers`` are lists of (status, data) by "METHOD path?query body" of a request."""
    monkeypatch.setattr(stac, "_PAUSES_S", (0.0, 0.0, None))

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_):
            pass

        def do_GET(self):
            body = self.rfile.read(int(self.headers.get("Content-Length", 0))).decode()
            key = f"{self.command} {self.path} {body}".strip()
            server.requests.append(key)
            answers = server.answers[key]
            status, data = answers.pop(0) if len(answers) > 1 else answers[0]
            content = data if isinstance(data, bytes) else json.dumps(data).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_POST = do_GET  # noqa: N815

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.requests, server.answers = [], {}
    server.address = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def test_all_pages_of_a_search_are_read(api):
    one, two, three = (item(name, f"s3://b/{name}.tif") for name in ("a", "b/1", "c"))
    two["assets"]["rgb"] = {"href": "rgb.tif", "roles": ["visual"]}
    two["links"] = [{"rel": "self", "href": "https://host/items/two"}]
    body = {"collections": ["s2"], "token": "t"}
    api.answers = {
        "GET /v1/search?collections=s2&limit=1": [
            (503, {}),
            (200, page(one, href="/v1/search?token=n")),
        ],
        "GET /v1/search?token=n": [(200, page(two, href="/v1/search", method="POST", body=body))],
        f"POST /v1/search {json.dumps(body)}": [(200, page(three))],
    }
    found = [*read_items(f"{api.address}/v1/search?collections=s2&limit=1")]
    time = {"datetime": "2024-05-01T00:00:00Z"}
    assert found == [
        ("a", "s3://b/a.tif", time),
        ("b_1", "https://host/items/rgb.tif", time | {"item": "https://host/items/two"}),
        ("c", "s3://b/c.tif", time),
    ]
    assert len(api.requests) == 4


BAD = [
    ((400, {"detail": "no such collection"}), "answered 400"),
    ((200, b"<html>"), "JSON"),
    ((200, b"\xff\xfe"), "JSON"),
    ((200, {"type": "Catalog"}), "ItemCollection"),
    ((200, page({"id": "a"})), "item 0"),
    ((200, page(href="http://169.254.169.254/latest")), "next page"),
    ((200, page(href="file:///etc/passwd")), "next page"),
    ((200, page(href="/search?key=hidden")), "next page"),
    ((200, page(no_href="")), "next page"),
    ((200, page() | {"links": 5}), "next page"),
]


@pytest.mark.parametrize(("answer", "message"), BAD, ids=[message for _, message in BAD])
def test_a_search_that_fails_is_one_plain_line(api, answer, message, tmp_path):
    api.answers = {"GET /search?key=hidden": [answer]}
    with pytest.raises(DataError, match=message) as caught:
        make_plan([f"{api.address}/search?key=hidden"], MODEL, str(tmp_path / "out"), OPTIONS)
    assert "\n" not in str(caught.value)
    assert f"{api.address}/search" in str(caught.value)
    assert "hidden" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_no_server(tmp_path, monkeypatch):
    monkeypatch.setattr(stac, "_PAUSES_S", (None,))
    with pytest.raises(DataError, match="no complete answer"):
        make_plan(["http://127.0.0.1:9/search"], MODEL, str(tmp_path / "out"), OPTIONS)


def test_addresses_of_searches():
    searches = [
        "https://h/search",
        "http://h/v1/search?bbox=1,2,3,4",
        "https://h/collections/c/items?limit=9",
    ]
    assert all(map(is_search, searches))
    others = ["https://h/search.tif", "s3://b/search", "search", "https://h/a.tif?x=/search", "items/items"]
    assert not any(map(is_search, others))


def test_a_file_of_items_becomes_maps_named_by_their_ids(tmp_path):
    for name in "ab":
        save_raster(tmp_path / f"scenes/{name}.tif", photo(50, 40, 1), place=True)
    data = page(item("one", "scenes/a.tif"), item("two/x", str(tmp_path / "scenes/b.tif")))
    (tmp_path / "items.json").write_text(json.dumps(data))
    store = open_store(tmp_path / "out")
    planned = make_plan([tmp_path / "items.json"], MODEL, store.root, OPTIONS)
    outputs = [unit.output for _, unit, _ in read_units(store, planned)]
    assert outputs == ["maps/one_mask.tif", "maps/two_x_mask.tif"]
    assert run(tmp_path / "out").complete
    receipt = json.loads(store.read("maps/one_mask.tif.json"))
    assert receipt["properties"]["datetime"] == "2024-05-01T00:00:00Z"
