"""How the command line ends: statuses and messages that no single verb owns."""

import errno
import os
from collections.abc import Callable

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
    assert done.stderr.startswith("Interrupted.")
    assert "Run the same command" in done.stderr
