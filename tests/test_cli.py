"""How the command line ends: statuses and messages that no single verb owns."""

import errno
import importlib.util
import io
import json
import logging
import os
import re
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import typer

from commands import invoke, refusal
from landcover import cli
from landcover.errors import DataError, OutputError, UsageError


def end(monkeypatch, verb):
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
def test_errors_are_one_message_and_a_status(error, status, message, monkeypatch, capsys):
    def verb():
        raise error

    assert end(monkeypatch, verb) == status
    assert capsys.readouterr().err == message


def test_a_terminal_without_a_character_shows_the_rest(monkeypatch):
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr("sys.stdout", stream)
    assert end(monkeypatch, lambda: print("12 ± 3 forêt")) == 0
    stream.flush()
    assert stream.buffer.getvalue() == b"12 ? 3 for?t\n"


def test_an_error_that_is_a_bug_is_one_line_that_names_debug(monkeypatch, capsys):
    def verb():
        raise OSError("from a\nlibrary")

    assert end(monkeypatch, verb) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert all(part in line for part in (cli.BUG, "OSError", "from a\\nlibrary", "--debug"))


def test_debug_shows_where_the_error_comes_from(tmp_path):
    (tmp_path / "x.yaml").write_text("a: [")
    command = ["convert", str(tmp_path), "--to", "index", "--legend", str(tmp_path / "x.yaml"), "--out", "o"]
    plain, debug = run_main(*command), run_main(*command, "--debug")
    assert plain.returncode == debug.returncode == 2
    assert len(plain.stderr.splitlines()) == 1
    assert "yaml.parser.ParserError" in debug.stderr
    assert debug.stderr.splitlines()[-1] == plain.stderr.strip()


@pytest.mark.parametrize(
    "redirection", [">&-", "2>&-", ">/dev/full", "2>/dev/full", ">&- 2>&- <&-", "| true"]
)
@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is always full")
def test_a_stream_that_is_closed_or_full_does_not_end_the_work(redirection, tmp_path):
    run = "import time; from landcover.cli import main; time.sleep(0.2); main()"
    script = f'"$0" -c "$1" info starter --json "$2" -v {redirection}; echo "${{PIPESTATUS[0]}}" >"$3"'
    subprocess.run(
        ["bash", "-c", script, sys.executable, run, tmp_path / "out.json", tmp_path / "status"],
        capture_output=True,
        check=True,
    )
    assert json.loads((tmp_path / "out.json").read_text())
    assert int((tmp_path / "status").read_text()) == int(not redirection.startswith("2"))


def test_ctrl_c_ends_every_verb_with_130_and_a_line(monkeypatch):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("landcover.data.open_dataset", interrupted)
    done = invoke("prepare", "data", "--out", "cache", status=130)
    assert "Interrupted." in done.stderr
    assert "--force" not in done.stderr


def test_the_overview_lists_each_verb_with_its_whole_summary_and_imports_none():
    page = invoke("--help").stdout
    assert "..." not in page.partition("Commands:")[2]
    assert {"predict", "train", "vectorize"} <= set(cli.verbs())
    for verb in cli.verbs():
        assert cli.summary(verb) == cli.command(verb).help.splitlines()[0] != ""
        assert f"{verb} {cli.summary(verb)}" in " ".join(page.split())
    code = (
        "import sys\nfrom typer.testing import CliRunner\nfrom landcover.cli import build\n"
        "CliRunner().invoke(build(), ['--help'])\n"
        "print([name for name in sys.modules if name.startswith('landcover.cli.')])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_module_that_others_import_is_loaded_when_it_is_used(tmp_path):
    (tmp_path / "boto3").mkdir()
    (tmp_path / "boto3/__init__.py").write_text("print('loaded')\nfrom boto3.session import Session\n")
    (tmp_path / "boto3/session.py").write_text("class Session:\n    name = 'session'\n")
    code = (
        "from landcover.extras import load_on_use\nload_on_use('boto3')\nload_on_use('boto4')\n"
        "from rasterio import session\nprint('imported')\nprint(session.boto3.Session.name)\n"
        "import boto3, boto3.session\nprint(boto3.Session is boto3.session.Session)\nimport boto4"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert done.stdout.split() == ["imported", "loaded", "session", "True"]
    assert "ModuleNotFoundError: No module named 'boto4'" in done.stderr


@pytest.mark.parametrize(
    ("words", "hint"),
    [(["predikt"], "Did you mean 'predict'?"), (["help", "cleen"], "'clean'"), (["bench"], "doctor --speed")],
)
def test_an_unknown_or_removed_verb_names_what_to_use(words, hint):
    with pytest.raises(UsageError, match=re.escape(hint)):
        invoke(*words)


@pytest.mark.parametrize(
    "words",
    [
        ["info", "m.safetensors"],
        ["evaluate", "--model", "run", "--data", "data", "--split", "all:all"],
        ["predict", "data", "--model", "run", "--out", "o"],
        ["vectorize", "map.tif", "--out", "o.gpkg"],
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
def test_no_verb_writes_its_json_over_what_it_works_on(words, victim, why, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    precious = Path(victim)
    precious.parent.mkdir(exist_ok=True)
    precious.write_text("precious")
    assert why in refusal(*words, "--json", victim, "--force", error=UsageError)
    assert precious.read_text() == "precious"


@pytest.mark.parametrize("given", ["zones.json", "./zones.json", "link.json"])
def test_a_report_does_not_overwrite_a_file_that_the_command_names_elsewhere(given, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    zones = Path("zones.json")
    zones.write_text("precious")
    Path("link.json").symlink_to(zones)
    words = ["predict", "a.tif", "--model", "m.onnx", "--out", "o", "--zones", given]
    with pytest.raises(UsageError, match="names a second time"):
        invoke(*words, "--json", "zones.json", "--force")
    with pytest.raises(OutputError, match=r"zones\.json"):
        invoke("doctor", "--json", "zones.json")
    with pytest.raises(UsageError, match=r"--stac-mlm.*run\.tif"):
        invoke("export", "run", "--out", "m.onnx", "--stac-mlm", "run.tif")
    assert zones.read_text() == "precious"


def test_the_version_and_the_help_of_a_verb():
    from landcover import __version__

    assert invoke("--version").stdout == f"{__version__}\n"
    assert invoke("help", "clean").stdout == invoke("clean", "--help").stdout != ""
    assert invoke("help").stdout == invoke("--help").stdout


@pytest.mark.parametrize("verb", cli.verbs())
def test_every_verb_has_a_help_that_fits_80_columns(verb):
    page = invoke(verb, "--help", terminal_width=80).stdout
    assert max(map(len, page.splitlines())) <= 80
    assert "--log-file" in page


def run_main(*words, code="", **variables):
    code = f"{code}\nfrom landcover.cli import main\nmain()"
    environment = {**os.environ, **variables}
    return subprocess.run(
        [sys.executable, "-c", code, *words], capture_output=True, text=True, env=environment
    )


def test_the_reference_page_is_current():
    tool = Path(__file__).parents[1] / "tools" / "command_line.py"
    spec = importlib.util.spec_from_file_location("command_line", tool)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert module.PAGE.read_text() == module.page(), "run: python tools/command_line.py"


@pytest.mark.parametrize("words", [["info", "starter"], ["doctor"], ["models"], ["presets"]])
def test_what_verbs_list_fits_80_columns_and_is_there_as_json(words):
    assert max(map(len, invoke(*words, terminal_width=80).stdout.splitlines())) <= 80
    assert json.loads(invoke(*words, "--json", "-").stdout)


def test_a_preset_and_a_configuration_are_printed_as_yaml_that_can_be_read_again(tmp_path):
    from landcover.training import load_preset

    printed = tmp_path / "config.yaml"
    printed.write_text(invoke("presets", "demo").stdout)
    assert load_preset(str(printed)) == load_preset("demo")
    words = ("train", "--preset", "demo", "--set", "batch_size=3", "--steps", "7", "--show-config")
    printed.write_text(invoke(*words).stdout)
    assert (load_preset(str(printed)).batch_size, load_preset(str(printed)).steps) == (3, 7)
    with pytest.raises(UsageError, match="--data and --out"):
        invoke("train")


@pytest.fixture
def talk(monkeypatch):
    """A verb, ``prepare data --out cache``, that logs a line of each level and a warning."""

    def prepare(*_, **__):
        logger = logging.getLogger("landcover.data")
        for level in (logging.DEBUG, logging.INFO, logging.WARNING):
            logger.log(level, "%s line\x1b[2J", logging.getLevelName(level).lower())
        warnings.warn("look out", UserWarning, stacklevel=1)
        raise KeyboardInterrupt

    monkeypatch.setattr("landcover.data.open_dataset", prepare)
    return ["prepare", "data", "--out", "cache"]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--quiet"], ["warning", "look out", "Interrupted"]),
        ([], ["info", "warning", "look out", "Interrupted"]),
        (["--verbose"], ["debug", "info", "warning", "look out", "Interrupted"]),
    ],
)
def test_lines_have_their_time_when_piped_and_their_level_is_chosen(talk, options, expected):
    result = invoke(*talk, *options, status=130)
    assert result.stdout == ""
    lines = result.stderr.splitlines()
    assert [word in line for word, line in zip(expected, lines, strict=True)] == [True] * len(expected)
    assert all(re.match(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d ", line) for line in lines)
    assert "\x1b" not in result.stderr
    assert logging.getLogger("landcover").handlers == []


def test_log_lines_can_be_json_and_go_to_a_file(talk, tmp_path):
    file = tmp_path / "run.log"
    result = invoke(*talk, "--log-format", "json", "--log-file", file, status=130)
    lines = [json.loads(line) for line in result.stderr.splitlines()]
    assert lines == [json.loads(line) for line in file.read_text().splitlines()]
    assert [line["level"] for line in lines] == ["info", "warning", "warning", "warning"]
    assert lines[0]["message"].startswith("info line")
    assert lines[0]["logger"] == "landcover.data"
    failed = invoke("clean", "absent", "--out", "o", "--min-region", "8", "--log-format", "json", status=2)
    assert json.loads(failed.stderr)["level"] == "error"
    with pytest.raises(UsageError, match="--log-file"):
        invoke(*talk, "--log-file", str(tmp_path))
    with pytest.raises(UsageError, match="--quiet and --verbose"):
        invoke(*talk, "--quiet", "--verbose")


def test_sigterm_ends_a_prediction_with_130_and_names_resume(tmp_path):
    code = (
        "import os, signal\nimport landcover.inference.maps as maps\n"
        "maps.predict = lambda *_, **__: os.kill(os.getpid(), signal.SIGTERM)"
    )
    done = run_main("predict", "a.png", "--model", "m.onnx", "--out", str(tmp_path), code=code)
    assert done.returncode == 130
    assert "--resume" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_piped_prediction_logs_a_timed_line_for_each_scene_and_prints_no_table_without_a_map(tmp_path):
    for name in ("a", "b"):
        (tmp_path / f"{name}.png").write_text("no image")
    result = invoke("predict", tmp_path, "--model", "starter", "--out", tmp_path / "out", status=1)
    assert result.stdout == ""
    lines = [line for line in result.stderr.splitlines() if re.match(r"\S+ \S+ Warning: \d of 2: ", line)]
    assert [name in line for name, line in zip(("a.png", "b.png"), lines, strict=True)] == [True, True]
    assert "0 of 2 maps" in result.stderr


def test_models_lists_what_is_bundled_and_can_be_trained():
    listed = json.loads(invoke("models", "test_resnet", "--json", "-").stdout)
    assert {model["name"] for model in listed["shipped"]} >= {"starter", "best"}
    assert {"starter", "best", "demo"} <= set(listed["presets"])
    assert [encoder["name"] for encoder in listed["encoders"]] == ["test_resnet"]


@pytest.mark.parametrize(
    ("words", "expected"), [("landcover vec", "vectorize"), ("landcover predict --conf", "--confidence")]
)
def test_the_shell_completes_verbs_and_options(words, expected):
    environment = {
        "_LANDCOVER_COMPLETE": "complete_bash",
        "COMP_WORDS": words,
        "COMP_CWORD": str(words.count(" ")),
    }
    completed = invoke(env=environment, prog_name="landcover")
    assert completed.stdout.split() == [expected]
