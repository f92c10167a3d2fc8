"""The command line, run in this process."""

from typing import Any

from click.testing import Result
from typer.testing import CliRunner

from landcover.cli import build
from landcover.errors import LandcoverError


def invoke(*words: object, status: int | None = 0, **options: Any) -> Result:
    """Run ``landcover WORDS``; it must end with this status, if any, and raise no error of Python."""
    done = CliRunner().invoke(build(), [*map(str, words)], catch_exceptions=False, **options)
    assert status in (None, done.exit_code), done.output
    return done


def refusal(*words: object, error: type[LandcoverError] = LandcoverError) -> str:
    """Return the message of the error of this kind with which ``landcover WORDS`` ends."""
    found = CliRunner().invoke(build(), [*map(str, words)]).exception
    assert isinstance(found, error), repr(found)
    return str(found)
