"""The floors of docs/design.md: imports go down only, and importing landcover stays light."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import landcover

SOURCE = Path(__file__).parents[1] / "src" / "landcover"

ORDER = [
    *["errors", "_typing", "machine", "hardening", "extras", "_gdal", "progress", "textfiles", "config"],
    *["scale", "values", "legend", "metrics", "windows", "__init__"],
    *["io", "raster", "storage", "ood", "model", "data", "postprocess", "inference", "evaluation"],
    *["training", "exporting", "fleet", "reporting", "page", "cli", "__main__"],
]
FLOORS = {room: number for number, room in enumerate(ORDER)}
"""A module imports only from packages above it in this list."""

MODULES = sorted(SOURCE.rglob("*.py"))


def room_of(path):
    return path.relative_to(SOURCE).parts[0].removesuffix(".py")


def imported_rooms(path):
    rooms = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names = []
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        for name in names:
            parts = name.split(".")
            if parts[0] == "landcover":
                rooms.add(parts[1] if len(parts) > 1 and parts[1] in FLOORS else "__init__")
    return rooms


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(SOURCE)))
def test_imports_go_down_only(path):
    room = room_of(path)
    assert room in FLOORS, f"{room} has no floor: add it here and to docs/design.md"
    upward = sorted(other for other in imported_rooms(path) - {room} if FLOORS[other] > FLOORS[room])
    assert not upward, f"{room} (floor {FLOORS[room]}) imports from {upward}"


def test_torch_is_imported_only_where_allowed():
    allowed = {"model", "training", "exporting"}
    for path in MODULES:
        imports = [
            node.module if isinstance(node, ast.ImportFrom) else alias.name
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
            if isinstance(node, ast.Import | ast.ImportFrom)
            for alias in node.names
        ]
        if any((name or "").split(".")[0] == "torch" for name in imports):
            assert room_of(path) in allowed, f"{path} imports torch"


@pytest.mark.parametrize("statement", ["import landcover", "import landcover.cli; landcover.cli.build()"])
def test_importing_is_light(statement):
    heavy = ["torch", "timm", "rasterio", "openvino", "matplotlib", "numpy", "PIL", "pydantic", "rich"]
    code = f"{statement}; import sys; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_no_public_name_is_a_module():
    """Importing a module sets it as an attribute of its package: it would hide a function of its name."""
    assert set(landcover.__all__).isdisjoint(room_of(path) for path in MODULES)
