"""The card in model files and exported models: what was stored comes back, other files are recognised."""

import hashlib
import json
import math
import os
import pickle
import struct
import subprocess
import sys
import zipfile
from contextlib import suppress

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from onnx import TensorProto, helper, numpy_helper
from safetensors.numpy import save_file

from commands import invoke
from fake_runtime import make_card
from landcover.errors import ConfigError, ModelError, OutputError, is_plain
from landcover.legend import LandClass, Legend
from landcover.model import ModelConfig
from landcover.model.card import (
    CARD_KEY,
    SCHEMA_VERSION,
    ModelCard,
    model_digest,
    read_card,
    read_model,
    resolve_model,
    save_model,
)
from landcover.model.files import read_onnx_metadata
from landcover.model.preprocessing import Preprocessing
from onnx_models import save_exported

CARD = ModelCard(
    model=ModelConfig(encoder="resnet18", aspp_rates=(2, 4, 6)),
    legend=Legend("two", (LandClass("soil", (1, 2, 3)), LandClass("Wälder", (0, 255, 0))), None),
    preprocessing=Preprocessing(gsd=1.195, mean=(0.1, 0.2, 0.3)),
    window_px=320,
    overlap_px=32,
    temperature=1.3,
    recipe={"steps": 10, "loss": ["ce", {"weight": 1e-9}]},
    scores=({"metric": "challenge", "split": "kfold-3@0:validation", "miou": 0.5, "iou": {"soil": None}},),
    licence="research only",
    provenance={"version": "0.1", "date": "2026-11-22"},
)
TENSORS = {"weight": np.arange(6, dtype=np.float32).reshape(2, 3), "count": np.array(7)}


@pytest.fixture
def model(tmp_path):
    path = tmp_path / "model.safetensors"
    save_model(path, TENSORS, CARD)
    return path


def with_metadata(path, metadata):
    save_file({"weight": np.zeros(3, np.float32)}, path, metadata=metadata)
    return path


def test_card_and_tensors_come_back_equal(model):
    card, tensors = read_model(model)
    assert card == CARD == read_card(model)
    assert tensors.keys() == TENSORS.keys()
    for name, value in TENSORS.items():
        np.testing.assert_array_equal(tensors[name], value, strict=True)


@settings(max_examples=30)
@given(
    tensors=st.dictionaries(
        st.text(min_size=1).filter(lambda name: name != "__metadata__"),
        hnp.arrays(
            st.sampled_from([np.float32, np.float16, np.int64, np.uint8]),
            hnp.array_shapes(min_dims=0, min_side=0),
        ),
        max_size=4,
    ),
    temperature=st.floats(1e-3, 1e3),
    licence=st.text(),
)
def test_any_tensors_and_texts_come_back(tmp_path, tensors, temperature, licence):
    path = tmp_path / "any.safetensors"
    card = CARD.model_copy(update={"temperature": temperature, "licence": licence})
    save_model(path, tensors, card, force=True)
    again, read = read_model(path)
    assert again == card
    assert read.keys() == tensors.keys()
    for name, value in tensors.items():
        assert read[name].dtype == value.dtype
        assert read[name].shape == value.shape
        assert read[name].tobytes() == value.tobytes()


def test_the_same_model_is_the_same_file(model, tmp_path):
    printed = subprocess.run(["sha256sum", model], capture_output=True, text=True, check=True).stdout
    assert printed.split()[0] == model_digest(model)
    other = tmp_path / "other.safetensors"
    save_model(other, dict(reversed(TENSORS.items())), CARD)
    assert other.read_bytes() == model.read_bytes()
    assert model_digest(other) == model_digest(model)
    with pytest.raises(OutputError, match="--force"):
        save_model(other, {}, CARD)
    assert other.read_bytes() == model.read_bytes()
    save_model(other, TENSORS, CARD.model_copy(update={"temperature": 2.0}), force=True)
    assert model_digest(other) != model_digest(model)


def test_the_card_is_json_in_the_header_that_any_reader_finds(model):
    content = model.read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    card = json.loads(json.loads(content[8 : 8 + length])["__metadata__"]["landcover"])
    assert card["legend"] == CARD.legend.to_dict()
    assert card["preprocessing"]["gsd"] == 1.195
    assert card["schema_version"] == SCHEMA_VERSION


class TestRunFolder:
    def test_stands_for_its_best_model(self, tmp_path):
        (tmp_path / "last.safetensors").write_bytes(b"weights, optimiser, counters; no card")
        save_model(tmp_path / "best.safetensors", {}, CARD.model_copy(update={"licence": "best"}))
        assert read_card(tmp_path).licence == "best"
        assert "best.safetensors" in invoke("info", tmp_path).stdout
        assert model_digest(tmp_path) == model_digest(tmp_path / "best.safetensors")

    def test_without_a_best_model_is_an_error(self, tmp_path):
        """The checkpoint is none: it has no card, and its weights are not those that are scored."""
        with pytest.raises(ModelError, match=r"contains no model.*best\.safetensors"):
            read_model(tmp_path)
        save_model(tmp_path / "last.safetensors", {}, CARD)
        with pytest.raises(ModelError, match="no best model yet"):
            resolve_model(tmp_path)
        with pytest.raises(ModelError, match="There is no model"):
            read_model(tmp_path / "nowhere")


def zipped(path):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps({}))


BAD_FILES = [
    (lambda path: path.write_bytes(b""), "not a model file: it has 0 bytes"),
    (lambda path: path.write_bytes(b"GIF89a, a picture"), "not in the safetensors format"),
    (lambda path: path.write_bytes(b"\xff" * 40), "not in the safetensors format"),
    (lambda path: path.write_bytes(pickle.dumps({"w": 1}, protocol=2)), "pickled checkpoint"),
    (lambda path: path.write_bytes(pickle.dumps({"w": 1}, protocol=5)), "pickled checkpoint"),
    (zipped, "never loaded"),
    (lambda path: path.write_bytes(struct.pack("<Q", 50) + b"{" + b"\0" * 10), "cut short or damaged"),
    (lambda path: with_metadata(path, {}), "no model card"),
    (lambda path: with_metadata(path, {"landcover": "{not json"}), "card of .* is not JSON"),
    *[
        (lambda path, text=text: with_metadata(path, {"landcover": text}), "is damaged: found .*expected")
        for text in ("[1, 2]", "null", '"card"', "7")
    ],
    (lambda path: with_metadata(path, {"landcover": '{"schema_version": 99}'}), "newer landcover .*Upgrade"),
    (lambda path: with_metadata(path, {"landcover": "{}"}), "legend is missing"),
]


@pytest.mark.parametrize(("make", "message"), BAD_FILES)
def test_a_file_that_is_not_a_model_is_recognised(tmp_path, make, message):
    path = tmp_path / "bad.safetensors"
    make(path)
    with pytest.raises(ModelError, match=message) as caught:
        read_model(path)
    assert "bad.safetensors" in str(caught.value)


def test_a_file_cut_short_anywhere_is_an_error(model):
    content = model.read_bytes()
    for length in range(0, len(content), 37):
        model.write_bytes(content[:length])
        with pytest.raises(ModelError, match=r"cut short|not a model file"):
            read_card(model)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"window": 3}, "unknown key 'window'.*'window_px'"),
        ({"window_px": 0}, "window_px: found 0"),
        ({"temperature": -1.0}, "temperature: found -1.0"),
        ({"temperature": math.inf}, "Infinity is not a number"),
        ({"preprocessing": {"gsd": -1.0}}, r"preprocessing: .*-1\.0"),
        ({"preprocessing": {"gsd": 1.0, "band": 3}}, "unknown key 'preprocessing.band'.*bands"),
        ({"used_images": {"training": {"pixels": "AAAA"}}}, "used_images.training.pixels.*8 bytes"),
        # The schema has them; a map that ignored them would be wrong.
        ({"class_scale": [1.0] * 6}, "class_scale.* cannot apply.*Upgrade"),
        ({"class_offset": [0.5] * 6}, "class_offset.* cannot apply.*Upgrade"),
        # Red, green and blue would be read in their place.
        (
            {"preprocessing": {"gsd": 1.0, "bands": ["nir", "red", "green"], "band_indices": []}},
            "band_indices",
        ),
    ],
)
def test_a_card_that_does_not_fit_names_the_key(tmp_path, change, message):
    data = CARD.model_dump(mode="json") | change
    path = with_metadata(tmp_path / "bad.safetensors", {"landcover": json.dumps(data)})
    with pytest.raises(ModelError, match=message) as caught:
        read_card(path)
    assert "bad.safetensors" in str(caught.value)


def test_the_licence_may_be_spelled_license(tmp_path):
    data = CARD.model_dump(mode="json")
    data["license"], data["license_id"] = data.pop("licence"), "CC-BY-4.0"
    del data["licence_id"]
    card = read_card(with_metadata(tmp_path / "m.safetensors", {"landcover": json.dumps(data)}))
    assert (card.licence, card.license, card.licence_id) == (CARD.licence, CARD.licence, "CC-BY-4.0")


def test_class_values_come_back(tmp_path):
    classes = (LandClass("a", (0, 0, 0), (11, 12)), LandClass("b", (1, 1, 1), (3,)))
    save_model(tmp_path / "m.safetensors", {}, CARD.model_copy(update={"legend": Legend("x", classes, None)}))
    assert read_card(tmp_path / "m.safetensors").legend.classes == classes
    other = {"name": "b", "colour": [1, 1, 1]}

    def legend(**entries):
        first = {"name": "a", "colour": [0, 0, 0], **entries}
        return Legend.from_dict({"name": "x", "classes": [first, {**other, "value": 3}]})

    assert [c.values for c in legend(value=7).classes] == [(7,), (3,)]  # as version 0.1 wrote them
    with pytest.raises(ConfigError, match=f"values.*{2**40}"):
        legend(values=[2**40])


class TestInfo:
    def test_prints_what_the_card_says(self, model):
        lines = [" ".join(line.split()) for line in invoke("info", model).stdout.splitlines()]
        assert f"sha256 {model_digest(model)}" in lines
        assert "encoder resnet18" in lines
        assert "ground sample distance 1.195 m" in lines
        assert "windows 320 px, 32 px overlap" in lines
        assert "split kfold-3@0:validation" in lines
        assert "miou 0.5" in lines
        assert "soil -" in lines
        assert "1 Wälder" in lines
        assert "terms research only" in lines

    def test_text_from_a_card_gives_no_orders_to_the_terminal(self, tmp_path):
        recipe = {"a\x1b[2J": {"b\r": "c\x07\nd"}}
        save_model(tmp_path / "m.safetensors", {}, CARD.model_copy(update={"recipe": recipe}))
        printed = invoke("info", tmp_path / "m.safetensors").stdout
        assert is_plain(printed.replace("\n", ""))
        assert "a\\x1b[2J" in printed
        assert "c\\x07" in printed

    def test_json_holds_the_whole_card(self, model, tmp_path):
        printed = json.loads(invoke("info", model, "--json", "-").stdout)
        assert printed.pop("sha256") == model_digest(model)
        assert printed.pop("file") == str(model)
        assert ModelCard.model_validate_json(json.dumps(printed)) == CARD
        invoke("info", model, "--json", tmp_path / "card.json")
        assert json.loads((tmp_path / "card.json").read_text())["licence"] == "research only"
        with pytest.raises(OutputError, match="--force"):
            invoke("info", model, "--json", tmp_path / "card.json")


INT8_CARD = make_card().model_copy(
    update={"precision": "int8", "export": {"parity": {"agreement": 0.9999}, "miou_loss": 0.001}}
)

QUICK = settings(max_examples=40)
TEXTS = st.text(st.characters(exclude_categories=("Cs",)))


def minimal(metadata, *tensors, **texts):
    """Return a model of one node."""
    graph = helper.make_graph(
        [helper.make_node("Identity", ["x"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1])],
        list(tensors),
    )
    model = helper.make_model(graph, **texts)
    helper.set_model_props(model, metadata)
    return model


@pytest.fixture
def exported(tmp_path):
    return save_exported(tmp_path / "M.onnx", INT8_CARD)


def test_the_card_comes_back_equal(exported):
    assert read_card(exported) == INT8_CARD
    assert read_card(str(exported)) == INT8_CARD
    assert model_digest(exported) == hashlib.sha256(exported.read_bytes()).hexdigest()


def test_a_card_is_read_without_onnx_torch_or_a_runtime(exported):
    heavy = ["onnx", "torch", "openvino", "onnxruntime", "google.protobuf"]
    code = (
        "import sys; from landcover.model.card import read_card; "
        f"print(read_card({str(exported)!r}).precision); "
        f"print([name for name in {heavy} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split("\n")[:2] == ["int8", "[]"]


@QUICK
@given(
    metadata=st.dictionaries(TEXTS, TEXTS, max_size=5),
    producer=TEXTS,
    doc=TEXTS,
    numbers=st.lists(st.floats(width=32, allow_nan=False), max_size=40),
    raw=st.booleans(),
)
def test_any_texts_come_back(tmp_path, metadata, producer, doc, numbers, raw):
    weights = (
        numpy_helper.from_array(np.array(numbers, np.float32), "w")
        if raw
        else helper.make_tensor("w", TensorProto.FLOAT, [len(numbers)], numbers)
    )
    path = tmp_path / "any.onnx"
    onnx.save(minimal(metadata, weights, producer_name=producer, doc_string=doc), path)
    assert read_onnx_metadata(path) == metadata


@QUICK
@given(position=st.integers(0), value=st.integers(0, 255))
def test_a_damaged_byte_does_not_matter_or_is_an_error(exported, position, value):
    content = bytearray(exported.read_bytes())
    content[position % len(content)] = value
    damaged = exported.with_name("damaged.ONNX")
    damaged.write_bytes(content)
    with suppress(ModelError):
        read_card(damaged)


def test_an_exported_file_cut_short_anywhere_is_an_error(tmp_path):
    path = tmp_path / "cut.onnx"
    weights = numpy_helper.from_array(np.arange(50, dtype=np.float32), "w")
    onnx.save(minimal({"author": "someone", CARD_KEY: INT8_CARD.model_dump_json()}, weights), path)
    assert read_card(path) == INT8_CARD
    for length in reversed(range(path.stat().st_size)):
        os.truncate(path, length)
        with pytest.raises(ModelError, match=r"cut short|not an ONNX file|no model card"):
            read_card(path)


def test_graphs_nested_without_end_are_an_error(tmp_path):
    def field(number, content):
        length, size = len(content), b""
        while length >= 0x80:
            size, length = size + bytes([length & 0x7F | 0x80]), length >> 7
        return bytes([number << 3 | 2]) + size + bytes([length]) + content

    graph = b""
    for _ in range(2000):
        graph = field(1, field(5, field(6, graph)))  # a graph with a node with an attribute: a graph
    (tmp_path / "deep.onnx").write_bytes(field(7, graph))
    with pytest.raises(ModelError, match="nested"):
        read_card(tmp_path / "deep.onnx")


def outside():
    tensor = numpy_helper.from_array(np.arange(4, dtype=np.float32), "w")
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="../../etc/passwd")
    return tensor


@pytest.mark.parametrize("place", ["initializer", "attribute", "subgraph", "sparse", "function"])
def test_weights_in_other_files_are_refused(tmp_path, place):
    model = minimal({CARD_KEY: INT8_CARD.model_dump_json()})
    constant = helper.make_node("Constant", [], ["c"])
    constant.attribute.append(helper.make_attribute("value", outside()))
    if place == "initializer":
        model.graph.initializer.append(outside())
    elif place == "attribute":
        model.graph.node.append(constant)
    elif place == "subgraph":
        branch = helper.make_graph([constant], "branch", [], [])
        model.graph.node.append(helper.make_node("If", ["x"], ["z"], then_branch=branch, else_branch=branch))
    elif place == "sparse":
        model.graph.sparse_initializer.add().values.CopyFrom(outside())
    else:
        model.functions.add(name="f", domain="d").node.append(constant)
    (tmp_path / "M.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(ModelError, match=r"weights in other files.*export the model again"):
        read_card(tmp_path / "M.onnx")


def with_entries(path, metadata):
    onnx.save(minimal(metadata), path)


BAD_EXPORTS = [
    (lambda path: path.write_bytes(b""), "it is empty"),
    (lambda path: path.write_bytes(b"GIF89a, a picture"), "not an ONNX file"),
    (lambda path: path.write_bytes(b"\xff" * 40), "not an ONNX file"),
    (lambda path: path.write_bytes(pickle.dumps({"w": 1})), "not an ONNX file"),
    (lambda path: save_file({"w": np.zeros(3, np.float32)}, path), "not an ONNX file"),
    (lambda path: path.mkdir(), "contains no model"),
    (lambda path: with_entries(path, {}), r"no entry 'landcover' \(found: nothing\).*landcover export"),
    (lambda path: with_entries(path, {"model_type": "Segmentor"}), "found: 'model_type'"),
    (lambda path: with_entries(path, {"\n" * 9 + "a" * 90: ""}), r"found: '(\\n)*a*'"),
    (lambda path: with_entries(path, {CARD_KEY: "{not json"}), "card of .* is not JSON"),
    (lambda path: with_entries(path, {CARD_KEY: "[" * 100_000}), "card of .* nested too deeply"),
    (lambda path: with_entries(path, {CARD_KEY: '{"schema_version": 99}'}), "newer landcover .*Upgrade"),
    (lambda path: with_entries(path, {CARD_KEY: "{}"}), "legend is missing"),
]


@pytest.mark.parametrize(("make", "message"), BAD_EXPORTS)
def test_a_file_that_is_not_an_exported_model_is_recognised(tmp_path, make, message):
    path = tmp_path / "bad.onnx"
    make(path)
    with pytest.raises(ModelError, match=message) as caught:
        read_card(path)
    assert "bad.onnx" in str(caught.value)


@pytest.mark.parametrize("version", [1, 2, 3])
def test_cards_of_0_1_are_read(tmp_path, version):
    """Without the fields that have been added since."""
    old = make_card().model_dump(mode="json") | {"schema_version": version}
    for name in ("views", "licence_id", "licence_url", "used_images"):
        del old[name]
    for name in ("bands", "band_indices", "scaling"):
        del old["preprocessing"][name]
    if version == 1:
        del old["precision"], old["export"]
    save_file({}, tmp_path / "old.safetensors", metadata={CARD_KEY: json.dumps(old)})
    assert read_card(tmp_path / "old.safetensors") == make_card()
