import json
from importlib import import_module, metadata

from commands import invoke
from fake_runtime import ColourRuntime


def findings(*options):
    return json.loads(invoke("doctor", "--json", "-", *options).stdout)


def test_the_findings_are_those_of_this_machine():
    import onnxruntime
    import rasterio
    import torch

    found = findings()
    assert rasterio.__gdal_version__ in found["GeoTIFF, JP2"]
    assert metadata.version("simplejpeg") in found["JPEG"]
    assert (found["torch"], found["torch threads"]) == (torch.__version__, str(torch.get_num_threads()))
    assert found["torch device"].startswith("cpu:") == (not torch.cuda.is_available())
    assert metadata.version("openvino").startswith(found["OpenVINO"])
    assert found["OpenVINO device"]
    assert found["OpenVINO instructions"].startswith("FP32")
    assert found["onnxruntime"] == onnxruntime.__version__
    has_cuda = "CUDAExecutionProvider" in onnxruntime.get_available_providers()
    assert found["onnxruntime device"].startswith("cuda" if has_cuda else "cpu")
    assert found["predict with MODEL.onnx"].startswith("openvino: ")
    assert found["predict with a checkpoint"].startswith("torch: ")
    extras = metadata.metadata("landcover").get_all("Provides-Extra")
    rows = {name.removeprefix("extra ") for name in found if name.startswith("extra ")}
    assert rows == set(extras) - {"dev"}


def test_speed_compares_int8_with_float32(monkeypatch):
    opened = []
    import_module("landcover.inference.maps")  # keeps the real open_model
    monkeypatch.setattr(
        "landcover.model.runtimes.open_model", lambda name: opened.append(name) or ColourRuntime()
    )
    monkeypatch.setattr("landcover.cli.doctor._IMAGE_PX", 200)
    found = findings("--speed")
    assert sorted(opened) == ["starter", "starter-fp32"]
    assert found["speed INT8"].endswith("ms for a window of 512 x 512 px on fake")
    assert "times as fast; use the model starter" in found["INT8 against float32"]
    assert "megapixels per second" in found["speed of a scene"]
    assert "speed INT8" not in findings()
