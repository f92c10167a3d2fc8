"""Every hostile input ends every command that reads it in one plain line: no traceback, no hang, no trace."""

import hashlib
import os
import re
import signal
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parent))

from forks import RESIDENT, Ending, Forks
from table import KINDS, Case, World, cases, output_verbs

from landcover.cli import BUG
from landcover.errors import printable

pytestmark = pytest.mark.skipif(not hasattr(os, "fork") or sys.platform == "darwin", reason="needs Linux")

ALL = [*KINDS, "plan", "special", "output", "name", "mutated"]

LONGEST_LINE = 1200
"""Characters of a line about an input at most."""


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def temporary(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("temporary")


@pytest.fixture(scope="module")
def forks(tmp_path_factory: pytest.TempPathFactory, home: Path, temporary: Path) -> Iterator[Forks]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOME", str(home))
        patch.setenv("TMPDIR", str(temporary))
        with Forks(tmp_path_factory.mktemp("scratch")) as running:
            yield running


def problems(case: Case, ending: Ending) -> list[str]:
    """Return what is wrong with the end of a command."""
    text = ending.stdout + ending.stderr
    found = []
    if ending.status == -signal.SIGSYS:
        found.append("a connection")
    elif ending.status < 0:
        found.append(f"killed by signal {-ending.status} after {ending.seconds:.1f} s")
    elif ending.status not in (0, 1, 2):
        found.append(f"exit status {ending.status}")
    if "Traceback" in text or BUG in text:
        found.append("a traceback or a bug")
    if case.refused and ending.status == 0:
        found.append("accepted")
    if ending.resident > RESIDENT:
        found.append(f"{ending.resident >> 20} MiB of memory")
    printed = ending.stderr.splitlines()
    lines = [line for line in printed if re.search(r"Error: |[Ss]kipped[.:] ", line)]
    if not lines:  # a map that has only a part of the scene
        lines = [line for line in printed if "Warning: " in line and " damaged blocks " in line]
    is_result = case.words[:2] == ["fleet", "verify"] and ending.stdout  # it lists what is wrong
    if ending.status and len(lines) != 1 and not is_result:
        found.append(f"{len(lines)} lines of errors")
    if ending.status and case.file not in "".join(lines) + ending.stdout:  # verify lists files as its result
        found.append("the file is not named")
    if any(len(line) > LONGEST_LINE or printable(line) != line for line in ending.stderr.split("\n")):
        found.append("a line is long or not plain")
    if case.out.exists() and any(".landcover-tmp" in str(path) for path in case.out.rglob("*")):
        found.append("unfinished work is left")
    return found


def contents(folder: Path, besides: set[Path]) -> dict[str, str]:
    """Return the digest of every file and the target of every link below a folder."""
    found = {}
    for root, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if Path(root, name) not in besides]
        for name in names:
            path = Path(root, name)
            if path.is_symlink() or not path.is_file() or path.stat().st_size > 1 << 24:
                found[str(path)] = str(path.readlink()) if path.is_symlink() else "special"
            else:
                found[str(path)] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found


@pytest.mark.parametrize("kind", ALL)
def test_every_command_ends_in_one_line_and_writes_nothing_elsewhere(
    kind: str, forks: Forks, home: Path, temporary: Path, tmp_path: Path
) -> None:
    world = World(tmp_path / "world")
    table = list(cases(world, kind))
    besides = {world.folder / "maps", *(case.out for case in table)}
    before = contents(tmp_path, besides)
    failures = []
    shared = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=shared if shared.is_dir() else None) as memory:
        canaries = [Path(memory) / "canary", temporary / "canary"]
        for canary in canaries:
            canary.write_text("canary")
        for case in table:
            ending = forks.run(case.words, tmp_path)
            if found := problems(case, ending):
                failures.append(f"{case.name}: {'; '.join(found)}\n    {ending.stderr[-600:]!r}")
        assert [canary.read_text() for canary in canaries] == ["canary"] * 2
        assert list(Path(memory).iterdir()) == canaries[:1]
    assert not failures, f"{len(failures)} of {len(table)} (input, command) pairs:\n" + "\n".join(failures)
    assert contents(tmp_path, besides) == before
    assert [*home.iterdir()] == []
    assert [path for path in temporary.rglob("*") if path.is_file()] == [temporary / "canary"]


def test_a_connection_is_found(forks: Forks, tmp_path: Path) -> None:
    ending = forks.run(["fleet", "status", "http://127.0.0.1:9/fleet"], tmp_path)
    assert ending.status == -signal.SIGSYS


def test_a_full_standard_output_costs_no_result(forks: Forks, tmp_path: Path) -> None:
    world, failures = World(tmp_path / "world"), []
    for verb, (suffix, command) in output_verbs(world).items():
        made = []
        for full in (False, True):
            out = tmp_path / str(full) / verb / f"out{suffix}"
            out.parent.mkdir(parents=True)
            ending = forks.run(command(out), tmp_path, full=full)
            written = (path.relative_to(out.parent) for path in out.parent.rglob("*") if path.is_file())
            files = {path for path in written if "tensorboard" not in path.parts}  # whose names are times
            made.append((ending, files))
        (usual, files), (ending, kept) = made
        text = "stdout is incomplete: No space left on device" if usual.stdout else ""
        if (
            usual.status
            or (ending.status, kept) != (int(bool(usual.stdout)), files)
            or text not in ending.stderr
        ):
            failures.append(
                f"{verb}: {usual.status}, {ending.status}\n{usual.stderr[-400:]}\n{ending.stderr[-400:]}"
            )
    assert not failures, "\n".join(failures)
