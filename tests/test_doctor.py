import json
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest
from typer.testing import CliRunner

from landcover import cli
from landcover.errors import OutputError


def findings() -> dict[str, str]:
    result = CliRunner().invoke(cli.build(), ["doctor", "--json", "-"])
    assert result.exit_code == 0
    return json.loads(result.stdout)


def test_the_findings_are_those_of_this_machine() -> None:
    import rasterio
    import torch

    found = findings()
    assert rasterio.__gdal_version__ in found["GeoTIFF, JP2"]
    assert metadata.version("simplejpeg") in found["JPEG"]
    assert found["torch"] == torch.__version__
    assert found["torch threads"] == str(torch.get_num_threads())
    assert found["torch device"].startswith("cpu:") == (not torch.cuda.is_available())


def test_a_missing_library_of_an_extra_is_named_with_the_cure(monkeypatch: pytest.MonkeyPatch) -> None:
    version = metadata.version

    def without_jinja(name: str) -> str:
        if name == "jinja2":
            raise metadata.PackageNotFoundError(name)
        return version(name)

    monkeypatch.setattr(metadata, "version", without_jinja)
    assert findings()["extra report"] == "lacks jinja2. Run: pip install 'landcover[report]'"


def test_without_torch_the_doctor_still_answers() -> None:
    code = """
import sys
sys.modules["torch"] = None
sys.argv = ["landcover", "doctor"]
from landcover.cli import main
main()
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "landcover[train]" in done.stdout
    assert "GDAL" in done.stdout


def test_an_existing_file_stays_without_force(tmp_path: Path) -> None:
    path = tmp_path / "doctor.json"
    path.write_text("precious")
    result = CliRunner().invoke(cli.build(), ["doctor", "--json", str(path)])
    assert isinstance(result.exception, OutputError)
    assert path.read_text() == "precious"
