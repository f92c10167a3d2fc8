"""Hostile files: they write, fetch and execute nothing, and each is refused in one line."""

import http.server
import json
import os
import shutil
import subprocess
import sys
import threading
import warnings

import numpy as np
import pytest
import rasterio
import yaml

from imagefiles import save_raster
from landcover._gdal import open_raster, unplaced
from landcover.errors import DataError, ImageError
from landcover.io import read_image
from landcover.io.vectors import read_features
from landcover.raster import Header, open_scene, read_header
from landcover.raster.classmap import open_class_map
from training_world import TINY, write_pairs

CANARY = "precious\n"
PLACE = "<GeoTransform>500000,0.5,0,5700000,0,-0.5</GeoTransform><SRS>EPSG:32631</SRS>"

MRF = (
    '<MRF_META><CachedSource><Source>thumb.dat</Source></CachedSource><Raster><Size x="64" y="64" c="1"/>'
    '<PageSize x="64" y="64" c="1"/><Compression>NONE</Compression><DataType>Byte</DataType>'
    "<DataFile>../target.txt</DataFile><IndexFile>../target.idx</IndexFile></Raster>"
    '<GeoTags><BoundingBox minx="500000" miny="5699744" maxx="500256" maxy="5700000"/>'
    "<Projection>EPSG:32631</Projection></GeoTags></MRF_META>"
)


def vrt(source, *, relative=1):
    return (
        f'<VRTDataset rasterXSize="64" rasterYSize="64">{PLACE}<VRTRasterBand dataType="Byte" band="1">'
        f'<SimpleSource><SourceFilename relativeToVRT="{relative}">{source}</SourceFilename>'
        "<SourceBand>1</SourceBand></SimpleSource></VRTRasterBand></VRTDataset>"
    )


def write_tif(path, **tags):
    image = np.random.default_rng(1).integers(0, 255, (64, 64, 3), np.uint8)
    save_raster(path, image, place=True)
    if tags:
        with rasterio.open(path, "r+") as target:
            target.update_tags(ns="OVERVIEWS", **tags)
    return path


class World:
    """A folder of files to work on, a canary outside it, and a server that counts who asks."""

    def __init__(self, folder, requests, url):
        self.folder, self.inbox, self.requests, self.url = folder, folder / "inbox", requests, url
        self.inbox.mkdir()
        (folder / "target.txt").write_text(CANARY)
        write_tif(self.inbox / "thumb.dat")
        self.good = write_tif(self.inbox / "good.tif")

    def check(self):
        assert (self.folder / "target.txt").read_text() == CANARY
        assert {path.name for path in self.folder.iterdir()} <= {"inbox", "out", "target.txt", "home"}
        assert self.requests == []


@pytest.fixture(scope="module")
def server():
    requests = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            requests.append(self.path)
            self.send_error(404)

        do_HEAD = do_POST = do_GET  # noqa: N815

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield requests, f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.fixture
def world(tmp_path, server):
    server[0].clear()
    return World(tmp_path, *server)


def hostile(kind, world):
    """Make a hostile raster in the inbox and return it."""
    inbox, url = world.inbox, world.url
    path = inbox / "bad.tif"
    remote = f"/vsicurl/{url}/a.tif"
    if kind.startswith("mrf."):
        path = inbox / f"bad{kind[3:]}"
        path.write_text(MRF)
    elif kind in SIDECARS:
        write_tif(path)
        (inbox / f"bad.tif.{kind.split()[0]}").write_text(SIDECARS[kind].format(remote=remote, mrf=MRF))
    elif kind == "overview tag":
        write_tif(path, OVERVIEW_FILE=remote)
    elif kind in PLANTED:
        PLANTED[kind](inbox, path)
    elif kind == "pipe":
        os.mkfifo(inbox / "pipe")
        path.write_text(vrt("pipe"))
    elif kind == "itself":
        path.write_text(vrt("bad.tif"))
    else:
        if kind.endswith("in vrt"):
            (inbox / "inner.jpg").write_text(MRF if kind == "mrf in vrt" else vrt(remote, relative=0))
        path.write_text(VRTS[kind].format(remote=remote, url=url))
    return path


def _aliases(inbox, path):
    (inbox / "alias").symlink_to("thumb.dat")
    (inbox / "alias.ovr").write_text(MRF)
    path.write_text(vrt("thumb.dat</SourceFilename><SourceFilename>inbox/alias").replace("inbox", str(inbox)))


def _linked_vrt(inbox, path):
    (inbox / "sub").mkdir()
    (inbox / "sub" / "inner.jpg").write_text(MRF)
    (inbox / "sub" / "real.vrt").write_text(vrt("inner.jpg"))
    path.symlink_to("sub/real.vrt")


def _overviews_of_overviews(inbox, path):
    for name in (path.name, "bad.tif.ovr"):
        write_tif(inbox / name)
    (inbox / "bad.tif.ovr.ovr").write_text(MRF)


def _tag_in_source(inbox, path):
    (inbox / "inner.jpg").write_text(MRF)
    write_tif(inbox / "thumb.dat", OVERVIEW_FILE=str(inbox / "inner.jpg"))
    path.write_text(vrt("thumb.dat"))


def _world_file(inbox, path):
    write_tif(path)
    os.mkfifo(inbox / "bad.tfw")


PLANTED = {
    "sidecar of a link": _aliases,
    "linked vrt": _linked_vrt,
    "ovr of ovr": _overviews_of_overviews,
    "overview tag in a source": _tag_in_source,
    "world file is a pipe": _world_file,
}
SIDECARS = {
    "ovr of mrf": "{mrf}",
    "Ovr of vrt": vrt("{remote}", relative=0),
    "msk of vrt": vrt("{remote}", relative=0),
    "aux.xml": '<PAMDataset><Metadata domain="OVERVIEWS"><MDI key="OVERVIEW_FILE">{remote}</MDI></Metadata>'
    "</PAMDataset>",
}
ENTITY = '<!DOCTYPE a [<!ENTITY b "/vsicurl/">]>'
VRTS = {
    "mrf in vrt": vrt("inner.jpg"),
    "vrt in vrt": vrt("inner.jpg"),
    "vsicurl": vrt("{remote}", relative=0),
    "escaped vsicurl": vrt("&#47;vsi{remote}", relative=0),
    "vsizip": vrt("/vsizip/{remote}", relative=0),
    "url": vrt("{url}/a.tif", relative=0),
    "vrt address": vrt("vrt://thumb.dat", relative=0),
    "service": vrt("WMS:{url}/wms?", relative=0),
    "inline": vrt("&lt;GDAL_WMS&gt;&lt;/GDAL_WMS&gt;", relative=0),
    "entity": ENTITY + vrt("{remote}", relative=0),
    "python": vrt("thumb.dat").replace(
        '<VRTRasterBand dataType="Byte" band="1">',
        '<VRTRasterBand dataType="Byte" band="1" subClass="VRTDerivedRasterBand"><PixelFunctionType>f.g'
        "</PixelFunctionType><PixelFunctionLanguage>Python</PixelFunctionLanguage>",
    ),
    "raw": vrt("../target.txt").replace('band="1">', 'band="1" subClass="VRTRawRasterBand">'),
}
VRTS |= {
    "attribute": vrt("").replace("<SimpleSource>", '<SimpleSource SourceFilename="inbox/bad.tif">'),
    "space": vrt("thumb.dat "),
    "space in cdata": vrt("<![CDATA[ thumb.dat]]>"),
    "relative 01": vrt("thumb.dat").replace('"1">thumb', '"01">thumb'),
    "relative twice": vrt("thumb.dat").replace('"1">thumb', '"1" relativetovrt="0">thumb'),
    "root path": vrt(
        'thumb.dat</SourceFilename><OpenOptions><OOI key="ROOT_PATH">/</OOI></OpenOptions><a>'
    ).replace("</SourceFilename><SourceBand>", "</a><SourceBand>"),
    "comment": '<VRTDataset><Metadata domain="GEOLOCATION"><MDI k="X_DATASET"><!--a-->b</MDI></Metadata>'
    "</VRTDataset>",
    "dem": f"<VRTDataset><DEMPath>{__file__}</DEMPath></VRTDataset>",
    "grid": vrt("thumb.dat").replace("EPSG:32631", "+proj=utm +zone=31 +nadgrids=@null,/dev/stdin"),
    "deep": "<VRTDataset>" + "<a>" * 5000,
}
VRTS["entity"] = "<!-- <VRTDataset -->" + VRTS["entity"]
KINDS = ["mrf.jpg", "mrf.tif", "mrf.png", *SIDECARS, *VRTS, *PLANTED, "overview tag", "pipe", "itself"]


@pytest.mark.parametrize("kind", KINDS)
def test_hostile_rasters_are_refused_by_every_function_that_opens_one(kind, world):
    path = hostile(kind, world)
    for opened in (open_raster, open_scene):
        with pytest.raises(ImageError, match=r"bad\.|inner|pipe") as raised:
            opened(path)
        assert "\n" not in str(raised.value)
    with pytest.raises(DataError), open_class_map(path):
        pass
    assert read_header(path) == Header()
    world.check()


def test_pipes_and_devices_in_place_of_files_do_not_block(tmp_path):
    os.mkfifo(tmp_path / "a.dbf")
    (tmp_path / "a.shp").write_bytes(b"\0\0\x27\x0a")
    (tmp_path / "zero_sat.jpg").symlink_to("/dev/zero")
    with pytest.raises(DataError, match=r"a\.dbf"):
        read_features(tmp_path / "a.shp", rasterio.crs.CRS.from_epsg(32631))
    with pytest.raises(DataError, match="zero_sat"):
        read_image(tmp_path / "zero_sat.jpg")


def run_python(world, *arguments, strace=None):
    home = world.folder / "home"
    home.mkdir(exist_ok=True)
    temporary = home / "temporary"
    temporary.mkdir(exist_ok=True)
    folders = {"HOME": home, "XDG_CACHE_HOME": home / ".cache", "TMPDIR": temporary}
    environment = os.environ | {name: str(folder) for name, folder in folders.items()}
    for name in ("CI", "ORT_DISABLE_TELEMETRY", "MPLCONFIGDIR"):  # with CI onnxruntime is silent by itself
        environment.pop(name, None)
    traced = (
        ["strace", "-f", "--seccomp-bpf", "-qq", "-o", str(strace), "-e", "trace=%network,openat,mkdir"]
        if strace
        else []
    )
    return subprocess.run(
        [*traced, sys.executable, *arguments],
        capture_output=True,
        text=True,
        cwd=world.folder,
        env=environment,
        timeout=600,
    )


def test_predict_maps_the_other_files(world):
    for number, kind in enumerate(("mrf.jpg", "mrf.png", "vsicurl")):
        path = hostile(kind, world)
        path.rename(path.with_stem(f"bad{number}"))
    words = ["predict", "inbox", "--model", "starter", "--gsd", "0.5", "--out", "out"]
    done = run_python(world, "-m", "landcover", *words)
    assert done.returncode == 1
    lines = [line for line in done.stderr.splitlines() if "skipped" in line]
    for line, name in zip(lines, ("bad0.jpg", "bad1.png", "bad2.tif"), strict=True):
        assert f"inbox/{name} " in line
    names = ["good_mask.qml", "good_mask.tif", "good_mask.tif.aux.xml"]
    assert sorted(path.name for path in (world.folder / "out").iterdir()) == names
    world.check()


def test_a_hardened_process_fetches_the_address_that_was_typed_and_nothing_else(world):
    """The command line's second line of defence, without the checks of the first; it prints nothing."""
    path = hostile("mrf.jpg", world)
    outer = world.inbox / "outer.vrt"
    outer.write_text(vrt("bad.jpg"))
    remote = world.inbox / "remote.vrt"
    remote.write_text(vrt(f"/vsicurl/{world.url}/a.tif", relative=0))
    code = f"""
from landcover.hardening import harden
harden()
import os, rasterio
from landcover._gdal import import_pyogrio
from landcover.errors import ImageError
from landcover.raster import open_scene
assert os.environ["GDAL_SKIP"].startswith("PNG,GIF,")
drivers = set(import_pyogrio().list_drivers())
assert {{"GPKG", "GeoJSON", "FlatGeobuf"}} <= drivers and not {{"OGR_VRT", "WFS", "GDALG"}} & drivers
with rasterio.Env() as env:
    assert not {{"MRF", "WMS", "HTTP", "PNG", "GIF"}} & set(env.drivers())
    for path in {[str(path), str(outer), str(remote), world.url + "/a.tif"]}:
        try:
            rasterio.open(path).read()
        except rasterio.errors.RasterioError:
            continue
        raise AssertionError(path)
try:
    open_scene({world.url + "/typed.tif?key=1"!r})
except ImageError:
    pass
"""
    environment = os.environ | {"GDAL_SKIP": "PNG GIF"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert {path.partition("?")[0] for path in world.requests} == {"/typed.tif"}
    world.requests.clear()
    world.check()


@pytest.mark.parametrize(
    "typed", ["ftp://h/a.tif", "file:///etc/passwd", "/vsistdin/", "/vsizip//vsis3/b/a.zip"]
)
def test_other_schemes_are_refused(typed):
    with pytest.raises(ImageError, match=r"expected a file or an address that begins with http"):
        open_scene(typed)


VECTORS = {
    "vrt": '<OGRVRTDataSource><OGRVRTLayer name="a"><SrcDataSource>{url}/a.json</SrcDataSource></OGRVRTLayer>'
    "</OGRVRTDataSource>",
    "wfs": "<OGRWFSDataSource><URL>{url}/wfs</URL></OGRWFSDataSource>",
    "gml": '<?xml version="1.0"?><ogr:FeatureCollection xmlns:gml="http://www.opengis.net/gml" '
    'xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance" xsi:schemaLocation="http://a {url}/a.xsd"/>',
    "pipeline": '{{"type": "gdal_streamed_alg", "command_line": "gdal vector pipeline ! read {url}/a.json"}}',
    "url": "{url}/a.geojson",
    "crs link": '{{"type": "Feature", "crs": {{"type": "link", "properties": {{"href": "{url}/a"}}}}}}',
    "crs escaped": '{{"type": "FeatureCollection", "\\u0063rs": {{"type": "link"}}}}',
    "kml around": "<kml><!-- <OGRVRTDataSource> --></kml>",
}


@pytest.mark.parametrize("suffix", [".geojson", ".gpkg", ".kml"])
@pytest.mark.parametrize("kind", VECTORS)
def test_hostile_vectors_are_refused(kind, suffix, world):
    path = world.inbox / f"bad{suffix}"
    path.write_text(VECTORS[kind].format(url=world.url))
    with pytest.raises(DataError, match="bad") as raised:
        read_features(path, rasterio.crs.CRS.from_epsg(32631))
    assert "\n" not in str(raised.value)
    world.check()


ALL_IN_ONE = """
import json, sys
from landcover.cli import main
for words in json.loads(sys.argv[1]):
    sys.argv = ["landcover", *words]
    try:
        main()
    except SystemExit as end:
        if end.code:
            raise
"""


@pytest.mark.slow
def test_commands_report_nothing_and_leave_nothing(world):
    """Under strace where there is one: no network, no file but outputs and temporary ones."""
    write_pairs(world.inbox / "data")
    model = TINY["model"] | {"encoder": "test_resnet"}  # of which torch's exporter makes a graph sooner
    (world.inbox / "tiny.yaml").write_text(yaml.safe_dump(dict(TINY) | {"steps": 2, "model": model}))
    predict = ["predict", "inbox/good.tif", "--model", "starter", "--out"]
    train = ["train", "--data", "inbox/data", "--preset", "inbox/tiny.yaml", "--weights", "none"]
    commands = [
        ["doctor"],
        [*predict, "out"],
        [*predict, "out/2", "--runtime", "onnxruntime"],
        [*train, "--out", "out/run"],
        ["export", "out/run", "--out", "out/m.onnx"],
        ["evaluate", "--model", "out/m.onnx", "--data", "inbox/data", "--split", "folders:validation"],
    ]
    trace = world.folder / "home.trace" if shutil.which("strace") else None
    done = run_python(world, "-c", ALL_IN_ONE, json.dumps(commands), strace=trace)
    assert done.returncode == 0, done.stderr
    cache = world.folder / "home" / ".cache" / "landcover"  # of compiled models, see SECURITY.md
    assert [p for p in (world.folder / "home").rglob("*") if p.is_file() and cache not in p.parents] == []
    if trace is None:
        return
    lines = trace.read_text(errors="replace").splitlines()
    network = ("connect(", "sendto(", "sendmsg(", "sendmmsg(", "bind(")
    spoken = [line for line in lines if any(call in line for call in network) and "AF_" in line]
    # rasterio imports boto3 where it is installed, and that tries once whether this machine has IPv6.
    spoken = [line for line in spoken if "bind(" not in line or '"::1"' not in line]
    assert [line for line in spoken if "AF_UNIX" not in line and "AF_NETLINK" not in line] == []
    folders = (world.folder / "out", world.folder / "home" / "temporary", cache)
    own = ("out", *map(str, folders), "/dev/shm/", "/dev/null")
    created = [line for line in lines if "AT_FDCWD" in line and "O_CREAT" in line and " = -1 " not in line]
    written = [line.split('"')[1] for line in created if "__pycache__" not in line]
    assert written
    assert [path for path in written if not path.startswith(own)] == []


def test_warning_filters_survive_files_that_are_opened_at_the_same_time():
    before, entered, left = list(warnings.filters), threading.Event(), threading.Event()

    def second():
        with unplaced():
            entered.set()
            left.wait(10)

    thread = threading.Thread(target=second)
    with unplaced():
        thread.start()
        entered.wait(0.2)
    left.set()
    thread.join()
    assert warnings.filters == before
