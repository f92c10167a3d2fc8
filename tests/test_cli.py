"""How the command line ends: statuses and messages that no single verb owns."""

import errno
import io
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from landcover import cli
from landcover.errors import DataError, UsageError


def end(monkeypatch: pytest.MonkeyPatch, verb: Callable[[], None]) -> object:
    """Run the command line with one verb and return the status it ends with."""
    app = typer.Typer(pretty_exceptions_enable=False)
    app.command()(verb)
    monkeypatch.setattr(cli, "build", lambda: app)
    monkeypatch.setattr("sys.argv", ["landcover"])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    return ended.value.code


FULL = (errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize(
    ("error", "status", "message"),
    [
        (UsageError("wrong option"), 2, "Error: wrong option\n"),
        (DataError("bad file"), 1, "Error: bad file\n"),
        (OSError(*FULL, "maps/1.png"), 1, "Error: maps/1.png: No space left on device.\n"),
        (OSError(*FULL), 1, "Error: No space left on device.\n"),  # as of standard output
    ],
)
def test_errors_are_one_message_and_a_status(
    error: Exception,
    status: int,
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def verb() -> None:
        raise error

    assert end(monkeypatch, verb) == status
    assert capsys.readouterr().err == message


def test_a_terminal_without_a_character_shows_the_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr("sys.stdout", stream)
    assert end(monkeypatch, lambda: print("12 ± 3 forêt")) == 0
    stream.flush()
    assert stream.buffer.getvalue() == b"12 ? 3 for?t\n"


def test_an_error_that_is_a_bug_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def verb() -> None:
        raise OSError("from a library")

    with pytest.raises(OSError, match="from a library"):
        end(monkeypatch, verb)


def test_ctrl_c_ends_every_verb_with_130_and_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("landcover.data.prepare", interrupted)
    done = CliRunner().invoke(cli.build(), ["prepare", "data", "--out", "cache"])
    assert done.exit_code == 130
    assert "Interrupted." in done.stderr
    assert "--force" not in done.stderr


def test_the_overview_tells_of_each_verb_what_its_docstring_does() -> None:
    from importlib import import_module

    from landcover.cli import build, summary, verbs

    page = " ".join(CliRunner().invoke(build(), ["--help"], terminal_width=100).stdout.split())
    assert {"predict", "train", "vectorize"} <= set(verbs())
    for verb in verbs():
        function = getattr(import_module(f"landcover.cli.{verb}"), verb)
        assert summary(verb) == (function.__doc__ or "").splitlines()[0] != ""
        assert f"{verb} {summary(verb)}" in page


def test_the_overview_imports_no_verb() -> None:
    code = (
        "import sys\nfrom typer.testing import CliRunner\nfrom landcover.cli import build\n"
        "CliRunner().invoke(build(), ['--help'])\n"
        "print([name for name in sys.modules if name.startswith('landcover.cli.')])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_verb_that_does_not_exist_is_answered_with_the_nearest() -> None:
    result = CliRunner().invoke(cli.build(), ["predikt"])
    assert isinstance(result.exception, UsageError)
    assert "Did you mean 'predict'?" in str(result.exception)


@pytest.mark.parametrize(
    "words",
    [
        ["info", "m.safetensors"],
        ["calibrate", "run", "--data", "data", "--split", "all:all"],
        ["evaluate", "--model", "run", "--data", "data", "--split", "all:all"],
        ["predict", "data", "--model", "run", "--out", "o"],
        ["export", "run", "--out", "m.onnx"],
        ["verify", "data"],
        ["splits", "--data", "data", "--split", "all"],
        ["vectorize", "map.tif", "--out", "o.gpkg"],
        ["models"],
        ["doctor"],
    ],
    ids=lambda words: words[0],
)
@pytest.mark.parametrize(
    ("victim", "why"),
    [
        ("m.safetensors", "ends with .json"),
        ("run/best.safetensors", "ends with .json"),
        ("map.tif", "ends with .json"),
        ("data/index.json", "a file of a data set"),
    ],
)
def test_no_verb_writes_its_json_over_what_it_works_on(
    words: list[str], victim: str, why: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    precious = Path(victim)
    precious.parent.mkdir(exist_ok=True)
    precious.write_text("precious")
    done = CliRunner().invoke(cli.build(), [*words, "--json", victim, "--force"])
    assert isinstance(done.exception, UsageError)
    assert why in str(done.exception)
    assert precious.read_text() == "precious"


@pytest.mark.parametrize("given", ["zones.json", "./zones.json", "link.json"])
def test_a_report_is_no_file_that_the_command_names_otherwise(
    given: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    zones = Path("zones.json")
    zones.write_text("precious")
    Path("link.json").symlink_to(zones)
    words = ["predict", "a.tif", "--model", "m.onnx", "--out", "o", "--zones", given]
    done = CliRunner().invoke(cli.build(), [*words, "--json", "zones.json", "--force"])
    assert isinstance(done.exception, UsageError)
    assert "names a second time" in str(done.exception)
    done = CliRunner().invoke(cli.build(), ["export", "run", "--out", "m.onnx", "--stac-mlm", "run.tif"])
    assert "--stac-mlm would write run.tif" in str(done.exception)
    assert zones.read_text() == "precious"
