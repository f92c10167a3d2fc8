"""Text from others: plain values only, limits, and messages with file and line."""

import json
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from landcover._gdal import subdataset_file
from landcover.errors import ConfigError, DataError, LandcoverError, first_few, printable, shortened
from landcover.textfiles import (
    YAML_BYTES,
    parse_csv,
    parse_json,
    parse_number,
    parse_yaml,
    plain_cell,
    read_text,
    read_yaml,
)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        # The examples of YAML 1.2.2, section 10.3.2, and what YAML 1.1 reads otherwise.
        *[("~", None), ("null", None), ("", None), ("true", True), ("False", False), ("0", 0), ("-19", -19)],
        *[("0o7", 7), ("0x3A", 58), ("0.", 0.0), ("-0.0", 0.0), (".5", 0.5), ("+12e03", 12000.0)],
        *[("no", "no"), ("on", "on"), ("1:30", "1:30"), ("2024-13-45", "2024-13-45"), ("1_000", "1_000")],
        *[("010", 10), ("'1'", "1"), ('"null"', "null"), ("=", "="), ("0o8", "0o8"), ("0" * 16 + "1", 1)],
        *[("[1, {a: ~}]", [1, {"a": None}]), ("{1: a, true: b}", {"1": "a", "true": "b"})],
        ("| \n  a\n", "a\n"),
    ],
)
def test_yaml_is_read_by_the_core_schema(text: str, value: Any) -> None:
    found = parse_yaml(text, "x.yaml")
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    ("text", "line", "fact"),
    [
        ("a: 1\nb: &x 2\n", 2, "anchor"),
        ("a: 1\nb: *x\n", 2, "alias"),
        ("a: 1\n<<: {b: 2}\n", 2, "merge keys"),
        ("a: !!int many", 1, "tag"),
        ("a: ! many", 1, "tag"),
        ("a: 1\nb:\n  c: 1\n  c: 2\n", 4, "'c' is repeated"),
        ("a: 1\n? [1]\n: 2\n", 2, "key is a list"),
        ("a: 1\n---\nb: 2\n", 2, "second document"),
        ("a: [\n" + "9" * 5000 + "]", 2, "64 bits"),
        ("a: 9223372036854775808", 1, "64 bits"),
        ("a:\n  0x" + "F" * 5000, 2, "64 bits"),
        ("a: 1e999", 1, "not finite"),
        ("a: -.INF", 1, "not finite"),
        ("a: .nan", 1, "not finite"),
        ("[" * 5000, 1, "nested too deeply"),
        ("a: 1\nb: [", 3, "not readable YAML"),
        ("a: 1\n\tb: 1", 2, "not readable YAML"),
    ],
)
def test_yaml_beyond_plain_values_is_refused_with_its_line(text: str, line: int, fact: str) -> None:
    with pytest.raises(ConfigError, match=fact) as caught:
        parse_yaml(text, "x.yaml")
    assert str(caught.value).startswith(f"x.yaml, line {line}: ")
    assert len(str(caught.value)) < 200


@pytest.mark.parametrize("text", ["a: \x07", "a: \udcff", "k: 1\n" * YAML_BYTES])
def test_other_text_is_refused_by_name(text: str) -> None:
    with pytest.raises(ConfigError, match=r"^x\.yaml "):
        parse_yaml(text, "x.yaml")


_DATA = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63) + 1, 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)


@given(_DATA)
def test_json_is_read_as_the_standard_library_reads_it(data: Any) -> None:
    assert parse_json(json.dumps(data), "x", DataError) == data


@given(st.text() | st.binary().map(lambda raw: raw.decode("latin-1")))
def test_any_text_gives_data_or_our_error(text: str) -> None:
    for parse in (parse_yaml, lambda text, name: parse_json(text, name, DataError), _table):
        with suppress(LandcoverError):
            parse(text, "x")


def _table(text: str, name: str) -> Any:
    return parse_csv(text, name, DataError)


@pytest.mark.parametrize(
    ("text", "fact"),
    [
        ('{"a": NaN}', "NaN"),
        ('{"a": -Infinity}', "Infinity"),
        ('{"a": 1e999}', "too large"),
        ('{"a": ' + "9" * 5000 + "}", "too large"),
        ('{"a": 1, "a": 2}', "'a' is repeated"),
        ("[" * 40 + "]" * 40, "too deeply"),
        ("[" * 100_000, "too deeply"),
        ('{"a":\n', "line 2"),
    ],
)
def test_json_beyond_the_standard_is_refused(text: str, fact: str) -> None:
    with pytest.raises(DataError, match=fact) as caught:
        parse_json(text, "x.json", DataError)
    assert str(caught.value).startswith("x.json")


def test_a_table_has_its_lines() -> None:
    assert parse_csv('a;b\r\n\r\n1;"x\ny"\r\n2;3\r\n', "t", DataError) == (
        ["a", "b"],
        [(4, {"a": "1", "b": "x\ny"}), (5, {"a": "2", "b": "3"})],
    )
    assert parse_csv("", "t", DataError) == ([], [])


@pytest.mark.parametrize(
    ("text", "fact"),
    [
        ("a,a\n1,2\n", "'a'"),
        ("a,b\n1,2\n1\n", "line 3: 1 cells"),
        ('a\n"x', "line 2: not CSV"),
        ("a\n" + "x" * 200_000, "line 2: not CSV"),
        (",".join("ab" * 100_000), "same name: 'a', 'b'"),
    ],
)
def test_a_table_that_is_none_is_refused_with_its_line(text: str, fact: str) -> None:
    with pytest.raises(DataError, match=fact):
        parse_csv(text, "t", DataError)


@pytest.mark.parametrize(
    ("content", "fact"), [(b"a\nb\xff", "line 2: not UTF-8"), (b"a\n\0", "line 2: a zero byte")]
)
def test_a_file_that_is_no_text_is_refused_with_its_line(tmp_path: Path, content: bytes, fact: str) -> None:
    path = tmp_path / "x"
    path.write_bytes(content)
    with pytest.raises(DataError, match=fact):
        read_text(path, DataError, "text")


def test_a_pipe_a_device_and_a_large_file_are_not_read(tmp_path: Path) -> None:
    large = tmp_path / "large.yaml"
    with large.open("wb") as file:
        file.truncate(1 << 40)
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", Path("/dev/zero"), large, tmp_path, tmp_path / "none"):
        with pytest.raises(ConfigError, match=f"^{path} .*expected a YAML file"):
            read_yaml(path)


@pytest.mark.parametrize(
    ("text", "cell"),
    [("=1+1", "'=1+1"), ("@x", "'@x"), ("\tx", "'\tx"), ("+x", "'+x"), ("-2.5e3", "-2.5e3"), ("a-b", "a-b")],
)
def test_a_cell_is_no_formula(text: str, cell: str) -> None:
    assert plain_cell(text) == cell


def test_texts_of_messages_are_short_and_of_one_line() -> None:
    assert printable("a\x1b[31m\nb\u202ec\u2028é") == "a\\x1b[31m\\nb\\u202ec\\u2028é"
    assert [first_few("abcd", shown) for shown in (2, 3, 4)] == [
        "a, b, and 2 more",
        "a, b, c, and 1 more",
        "a, b, c, d",
    ]
    assert [shortened("a" * length) for length in (40, 41)] == [f"'{'a' * 40}'", f"'{'a' * 40}'..."]


def test_a_cell_is_a_finite_decimal_number_or_none() -> None:
    cells = {
        " -1.5e2 ": -150.0,
        ".5": 0.5,
        "1_000": None,
        "1e999": None,
        "nan": None,
        "inf": None,
        "": None,
        "0x1": None,
    }
    assert {cell: parse_number(cell) for cell in cells} == cells


def test_the_name_of_an_image_in_a_file_contains_the_file() -> None:
    names = ('NETCDF:"a b.nc":rgb', "hdf5:a.h5://x", "GTIFF_DIR:2:a.tif", "a.tif", "GTIFF_DIR:x:a.tif")
    assert [subdataset_file(name) for name in names] == ["a b.nc", "a.h5", "a.tif", None, None]
