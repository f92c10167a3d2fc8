"""Text files from others: read with limits, and parsed so that each problem names the file and the line.

One reader for each form. YAML is plain values only: no aliases, merge keys or tags, and scalars by the core
schema of YAML 1.2 (https://yaml.org/spec/1.2.2/#103-core-schema), in which ``no`` and ``2024-01-01`` are
text. JSON has no ``NaN``, no repeated keys, and numbers of 64 bits.
"""

import csv
import json
import math
import re
import stat
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from io import StringIO
from pathlib import Path
from typing import Any, NoReturn

import yaml

from landcover.errors import ConfigError, LandcoverError, first_few

STDIN = Path("-")
"""The name that stands for standard input, where a verb takes it."""

YAML_BYTES = 1 << 19
TEXT_BYTES = 1 << 28
NOT_REGULAR = "is a device or a pipe"
_DEPTH = 32
_LONGEST_INTEGER = 1 << 63

_WORDS = {word: value for value, words in {
    None: ("", "~", "null", "Null", "NULL"),
    True: ("true", "True", "TRUE"),
    False: ("false", "False", "FALSE"),
}.items() for word in words}  # fmt: skip
INTEGER = re.compile(r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+")
NUMBER = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
NOT_FINITE = re.compile(r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")

_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def file_problem(path: Path) -> str | None:
    """Return why a path is not a file that can be read to its end, as a clause; None if it is one.

    A pipe or a device would be waited for, or never end.
    """
    try:
        mode = path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return "does not exist"
    except OSError as error:
        return f"cannot be read: {error.strerror}"
    if stat.S_ISREG(mode):
        return None
    return "is a folder" if stat.S_ISDIR(mode) else NOT_REGULAR


def read_text(path: Path, error: type[LandcoverError], expected: str, *, max_bytes: int = TEXT_BYTES) -> str:
    """Return the text of a UTF-8 file, or of :data:`STDIN`; a byte-order mark is dropped.

    ``expected`` is what the file should be, such as ``a legend in YAML``, for messages.

    Raises:
        LandcoverError: As ``error``, if it is missing, a folder, a device or a pipe, has more than
            ``max_bytes``, or bytes that are not UTF-8 text.
    """
    is_large = False
    if path == STDIN:
        content = sys.stdin.buffer.read(max_bytes + 1) if sys.stdin is not None else b""
    else:
        problem = file_problem(path)
        if problem is not None:
            raise error(f"{path} {problem}; expected {expected}.")
        try:
            is_large = path.stat().st_size > max_bytes
            with path.open("rb") as file:
                content = b"" if is_large else file.read(max_bytes + 1)
        except OSError as cause:
            raise error(f"{path} cannot be read: {cause.strerror}; expected {expected}.") from cause
    if is_large or len(content) > max_bytes:
        raise error(f"{path} has more than {max_bytes:,} bytes; expected {expected}.")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as cause:
        line = content.count(b"\n", 0, cause.start) + 1
        raise error(f"{path}, line {line}: not UTF-8 text ({cause.reason}); expected {expected}.") from cause
    if (zero := text.find("\0")) >= 0:
        raise error(f"{path}, line {text.count(chr(10), 0, zero) + 1}: a zero byte; expected {expected}.")
    return text


def parse_yaml(text: str, source: str) -> Any:
    """Return the plain data in a YAML text, None if it is empty; keys are always text.

    Raises:
        ConfigError: If it is not readable YAML, is larger than half a mebibyte, repeats a key, is nested
            deeper than 32, or has an alias, an anchor, a merge key, a tag, a second document, or a number
            that is infinite or beyond 64 bits. The message names ``source``, a file or an option.
    """
    if len(text) > YAML_BYTES:
        raise ConfigError(f"{source} is too large: {len(text):,} characters; at most {YAML_BYTES:,}.")
    try:
        return _build(yaml.parse(text, Loader=_LOADER), source)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f", line {mark.line + 1}" if mark is not None else ""
        raise ConfigError(f"{source}{where}: not readable YAML: {error.problem or error.context}.") from error
    except (yaml.YAMLError, UnicodeError) as error:
        reason = str(error).splitlines()[0]
        raise ConfigError(f"{source} is not readable YAML: {reason}.") from error


def read_yaml(path: Path) -> Any:
    """Return the data in a YAML file; see :func:`parse_yaml`."""
    return parse_yaml(read_text(path, ConfigError, "a YAML file", max_bytes=YAML_BYTES), str(path))


def _build(events: Iterator[Any], source: str) -> Any:
    """Build plain data from the events of YAML's parser, without its recursive composer."""
    line, documents, result = 1, 0, None
    holders: list[list[Any] | dict[str, Any]] = []
    keys: list[str | None] = []  # of each holder the key that waits for its value

    def refuse(reason: str) -> NoReturn:
        raise ConfigError(f"{source}, line {line}: {reason}.")

    for event in events:
        line = event.start_mark.line + 1
        if isinstance(event, yaml.DocumentStartEvent):
            documents += 1
            if documents > 1:
                refuse("a second document begins; expected one")
        elif isinstance(event, yaml.CollectionEndEvent):
            holders.pop()
            keys.pop()
        if not isinstance(event, yaml.NodeEvent):
            continue
        if event.anchor is not None:  # of an alias its name
            refuse(f"an anchor or alias, {event.anchor[:40]!r}, is not allowed. Write the values out")
        if not isinstance(event, yaml.ScalarEvent | yaml.CollectionStartEvent):
            continue
        if event.tag is not None:
            refuse(f"the tag {event.tag[:60]!r} is not allowed. Write plain values")
        holder = holders[-1] if holders else None
        is_key = isinstance(holder, dict) and keys[-1] is None
        if not isinstance(event, yaml.ScalarEvent):
            if is_key:
                refuse("a key is a list or a mapping; expected text")
            if len(holders) >= _DEPTH:
                refuse(f"values are nested too deeply; at most {_DEPTH} levels")
            value: Any = [] if isinstance(event, yaml.SequenceStartEvent) else {}
        elif is_key or event.style:
            value = event.value
        else:
            value, problem = _scalar(event.value)
            if problem is not None:
                refuse(problem)
        if isinstance(holder, list):
            holder.append(value)
        elif is_key and isinstance(holder, dict):
            if value == "<<":
                refuse("merge keys (<<) are not allowed. Write the values out")
            if value in holder:
                refuse(f"the key {value[:60]!r} is repeated")
            keys[-1] = value
            holder[value] = None
        elif isinstance(holder, dict):
            holder[keys[-1] or ""] = value
            keys[-1] = None
        else:
            result = value
        if isinstance(value, list | dict):
            holders.append(value)
            keys.append(None)
    return result


def _scalar(text: str) -> tuple[Any, str | None]:
    """Return the value of a plain scalar by YAML 1.2's core schema, and why it is refused or None."""
    if text in _WORDS:
        return _WORDS[text], None
    if INTEGER.fullmatch(text):
        bare = text.lstrip("+-").lstrip("0") or "0"  # Python refuses leading zeros
        digits = text if text[:2] in ("0o", "0x") else f"{text[:1] if text[0] in '+-' else ''}{bare}"
        number = int(digits, 0) if len(digits) <= 24 else _LONGEST_INTEGER
        if abs(number) >= _LONGEST_INTEGER:
            return None, f"the number {text[:20]}... has more than 64 bits. Quote it if it is text"
        return number, None
    if NUMBER.fullmatch(text) and math.isfinite(value := float(text)):
        return value, None
    if NUMBER.fullmatch(text) or NOT_FINITE.fullmatch(text):
        return None, f"the number {text[:40]} is not finite. Quote it if it is text"
    return text, None


def parse_json(text: str, source: str, error: type[LandcoverError], *, undefined: bool = False) -> Any:
    """Return the data in a JSON text; ``source`` is its name in messages, a file or ``line 3 of FILE``.

    ``undefined``: read ``NaN`` and ``Infinity``, which Python writes for scores that are not defined.

    Raises:
        LandcoverError: As ``error``, if it is not JSON, repeats a key, is nested deeper than 32, or has a
            number that is not finite or beyond 64 bits.
    """

    def refuse(reason: str) -> NoReturn:
        raise error(f"{source}: {reason}.")

    def integer(digits: str) -> int:
        number = int(digits) if len(digits) <= 20 else _LONGEST_INTEGER
        return (
            number if abs(number) < _LONGEST_INTEGER else refuse(f"the number {digits[:20]}... is too large")
        )

    def number(digits: str) -> float:
        value = float(digits)
        return value if math.isfinite(value) else refuse(f"the number {digits[:40]} is too large")

    def mapping(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        made = dict(pairs)
        if len(made) < len(pairs):
            refuse(f"the key {_repeated(name for name, _ in pairs)[0][:60]!r} is repeated")
        return made

    try:
        data = json.loads(
            text,
            parse_int=integer,
            parse_float=number,
            parse_constant=float if undefined else lambda name: refuse(f"{name} is not a number of JSON"),
            object_pairs_hook=mapping,
        )
        level = [data]
        for _ in range(_DEPTH + 1):
            holders = [value for value in level if isinstance(value, list | dict)]
            level = [
                inner for each in holders for inner in (each.values() if isinstance(each, dict) else each)
            ]
    except json.JSONDecodeError as cause:
        raise error(f"{source} is not JSON: {cause.msg} in line {cause.lineno}.") from cause
    except RecursionError:
        level = [None]
    return refuse(f"values are nested too deeply; at most {_DEPTH} levels") if level else data


def parse_csv(
    text: str, source: str, error: type[LandcoverError]
) -> tuple[list[str], list[tuple[int, dict[str, str]]]]:
    """Return the header of a table and its rows by it, each with its line's number; empty ones are skipped.

    The delimiter is the comma, semicolon or tab that is most frequent in the first line.
    """
    first = text.partition("\n")[0]
    reader = csv.reader(StringIO(text, newline=""), delimiter=max(",;\t", key=first.count), strict=True)
    try:
        rows = [(reader.line_num, row) for row in reader if row]
    except csv.Error as cause:
        raise error(
            f"{source}, line {reader.line_num}: not CSV ({cause}). Look for a quote that is not closed."
        ) from cause
    header = [name.strip() for name in rows[0][1]] if rows else []
    if twice := _repeated(header):
        names = first_few(repr(name[:60]) for name in twice)
        raise error(f"{source} has several columns of the same name: {names}. Rename or delete some.")
    for line, row in rows[1:]:
        if len(row) != len(header):
            raise error(f"{source}, line {line}: {len(row)} cells; expected {len(header)}.")
    return header, [(line, dict(zip(header, row, strict=True))) for line, row in rows[1:]]


def parse_number(text: str) -> float | None:
    """Return the finite decimal number that a cell holds; None for any other text, such as ``1_000``."""
    value = float(text) if NUMBER.fullmatch(text.strip()) else math.nan
    return value if math.isfinite(value) else None


def _repeated(names: Iterable[str]) -> list[str]:
    return [name for name, count in Counter(names).items() if count > 1]


def csv_text(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Return a table as CSV, whose texts spreadsheets show as text, see :func:`plain_cell`."""
    out = StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(head)
    writer.writerows([plain_cell(cell) if isinstance(cell, str) else cell for cell in row] for row in rows)
    return out.getvalue()


def plain_cell(text: str) -> str:
    """Return a text that spreadsheets show as text: one that they would take for a formula gets a quote.

    A number stays one. See https://owasp.org/www-community/attacks/CSV_Injection.
    """
    is_formula = text.startswith(("=", "+", "-", "@", "\t", "\r")) and not NUMBER.fullmatch(text)
    return f"'{text}" if is_formula else text
