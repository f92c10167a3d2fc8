"""The card of an exported model: read without the onnx package, and checked against it."""

import hashlib
import json
import os
import pickle
import subprocess
import sys
from contextlib import suppress

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from safetensors.numpy import save_file

from fake_runtime import make_card
from landcover.errors import ModelError
from landcover.model.card import CARD_KEY, model_digest, read_card
from landcover.model.files import read_onnx_metadata
from onnx_models import save_exported

CARD = make_card().model_copy(
    update={"precision": "int8", "export": {"parity": {"agreement": 0.9999}, "miou_loss": 0.001}}
)

QUICK = settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
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
    return save_exported(tmp_path / "M.onnx", CARD)


def test_the_card_comes_back_equal(exported):
    assert read_card(exported) == CARD
    assert read_card(str(exported)) == CARD
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


def test_a_file_cut_short_anywhere_is_an_error(tmp_path):
    path = tmp_path / "cut.onnx"
    weights = numpy_helper.from_array(np.arange(50, dtype=np.float32), "w")
    onnx.save(minimal({"author": "someone", CARD_KEY: CARD.model_dump_json()}, weights), path)
    assert read_card(path) == CARD
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
    model = minimal({CARD_KEY: CARD.model_dump_json()})
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


def with_metadata(path, metadata):
    onnx.save(minimal(metadata), path)


BAD_FILES = [
    (lambda path: path.write_bytes(b""), "it is empty"),
    (lambda path: path.write_bytes(b"GIF89a, a picture"), "not an ONNX file"),
    (lambda path: path.write_bytes(b"\xff" * 40), "not an ONNX file"),
    (lambda path: path.write_bytes(pickle.dumps({"w": 1})), "not an ONNX file"),
    (lambda path: save_file({"w": np.zeros(3, np.float32)}, path), "not an ONNX file"),
    (lambda path: path.mkdir(), "contains no model"),
    (lambda path: with_metadata(path, {}), r"no entry 'landcover' \(found: nothing\).*landcover export"),
    (lambda path: with_metadata(path, {"model_type": "Segmentor"}), "found: 'model_type'"),
    (lambda path: with_metadata(path, {"\n" * 9 + "a" * 90: ""}), r"found: '(\\n)*a*'"),
    (lambda path: with_metadata(path, {CARD_KEY: "{not json"}), "card of .* is not JSON"),
    (lambda path: with_metadata(path, {CARD_KEY: "[" * 100_000}), "card of .* nested too deeply"),
    (lambda path: with_metadata(path, {CARD_KEY: '{"schema_version": 99}'}), "newer landcover .*Upgrade"),
    (lambda path: with_metadata(path, {CARD_KEY: "{}"}), "legend is missing"),
]


@pytest.mark.parametrize(("make", "message"), BAD_FILES)
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
    for name in ("views", "class_scale", "class_offset", "licence_id", "licence_url", "used_images"):
        del old[name]
    for name in ("bands", "band_indices", "scaling"):
        del old["preprocessing"][name]
    if version == 1:
        del old["precision"], old["export"]
    save_file({}, tmp_path / "old.safetensors", metadata={CARD_KEY: json.dumps(old)})
    assert read_card(tmp_path / "old.safetensors") == make_card()
