"""Typed configuration and values written as text: what is read, and what is refused with which message."""

from pathlib import Path
from typing import Annotated, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field

from landcover import PredictOptions
from landcover.config import Config, dump_yaml, from_mapping, load_config, with_overrides
from landcover.errors import ConfigError, UsageError
from landcover.scale import find_scale, unknown_gsd
from landcover.textfiles import parse_yaml
from landcover.values import BandSelection, BoundingBox, RegionSize, parse_scaling


@pytest.mark.parametrize(
    ("text", "gsd", "pixels"),
    [
        ("8000px", None, 8000),
        ("8000PX", 0.5, 8000),
        (" 12 px ", None, 12),
        ("2000m2", 0.5, 8000),
        ("1ha", 0.5, 40_000),
        ("0.5 KM2", 10, 5000),
        ("2000m2", 0.1, 200_000),
        ("490m2", 0.7, 1000),  # 490 / 0.7**2 is 1000.0000000000001 in floating point
        ("2000 m2", 1.195, 1401),  # 1400.5
        ("1.5m2", 1.0, 2),
        ("0m2", 1.0, 1),
    ],
)
def test_min_region(text, gsd, pixels):
    assert RegionSize.parse(text).pixels(gsd) == pixels


@pytest.mark.parametrize(
    ("parse", "message", "texts"),
    [
        (
            lambda text: RegionSize.parse(text).pixels(0.5),
            r"8000px.*2000m2",  # a size without a unit names both forms
            ["8000", "", "px", "-5px", "8000 pixels", "1e3px", "2000m", "2000 acres"],
        ),
        (BandSelection.parse, "3,2,1", ["", "1,2", "1,2,3,0", "0,1,2", "1.5,2,3", "a,b,c"]),
        (BoundingBox.parse, "LEFT < RIGHT", ["1,2,3", "2,0,1,1", "0,2,1,1", "0,0,nan,1", "0,0,inf,1", "x"]),
        (
            parse_scaling,
            "MINIMUM < MAXIMUM",
            ["1", "1,1", "2,1", "0,nan", "0,inf", "0,1e-320", "-1e308,1e308", "0,1,2", "percent"],
        ),
    ],
    ids=["region", "bands", "box", "scaling"],
)
def test_values_that_cannot_be_are_refused_with_their_form(parse, message, texts):
    for text in texts:
        with pytest.raises(UsageError, match=message):
            parse(text)


def test_area_needs_a_gsd_that_can_be():
    with pytest.raises(UsageError, match="--gsd"):
        RegionSize.parse("2000m2").pixels()
    for gsd in (0.0, -1.0, float("nan")):
        with pytest.raises(UsageError, match="metres per pixel"):
            RegionSize.parse("2000m2").pixels(gsd)


def test_lists_of_numbers_are_parsed_once_into_their_type():
    assert BandSelection.parse("3,2,1") == (3, 2, 1)
    assert BandSelection.parse([3, 2, 1, 4]) == (3, 2, 1, 4)
    assert BoundingBox.parse("5.1,52.0,5.2,52.1") == (5.1, 52.0, 5.2, 52.1)
    assert parse_scaling("0,3000") == (0.0, 3000.0)
    assert parse_scaling("percentile") == "percentile"
    assert PredictOptions(nodata=float("nan")).nodata is None  # NaN is never imagery, and no value of JSON
    assert PredictOptions(nodata=-9999).nodata == -9999


def test_a_scale_is_found_in_one_order():
    sources = {"raster": 2.0, "settings": 3.0, "layout": 4.0}
    asked = []

    def find(option):
        def of(name):
            asked.append(name)
            return sources[name]

        return find_scale(
            option, raster=lambda: of("raster"), settings=lambda: of("settings"), layout=lambda: of("layout")
        )

    assert find(1.0) == (1.0, "option")
    assert asked == []
    assert find(None) == (2.0, "raster")
    sources["raster"] = None
    assert find(None) == (3.0, "data folder")
    sources["settings"] = None
    assert find(None) == (4.0, "data folder")
    sources["layout"] = None
    assert find(None) is None
    with pytest.raises(UsageError):
        find(0.0)


def test_an_unknown_scale_names_the_option_and_the_image():
    message = str(unknown_gsd("a.png"))
    assert "a.png" in message
    assert "--gsd 0.5" in message
    assert "landcover.yaml" in message


class Optimiser(Config):
    name: Literal["adamw", "sgd"] = "adamw"
    learning_rate: Annotated[float, Field(gt=0)] = 1e-3
    betas: tuple[float, float] = (0.9, 0.999)


class Loss(Config):
    kind: str
    weight: float = 1.0


class Experiment(Config):
    name: str = "run"
    steps: Annotated[int, Field(ge=1)] = 10
    minutes: float | None = None
    mirror: bool = True
    folder: Path = Path("out")
    optimiser: Optimiser = Optimiser()
    second: Optimiser | None = None
    losses: tuple[Loss, ...] = ()


def refusal(data):
    with pytest.raises(ConfigError) as caught:
        from_mapping(Experiment, data, "run.yaml")
    return str(caught.value)


def write(folder, text):
    path = folder / "config.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_reads_nested_values_of_every_kind(tmp_path):
    path = write(
        tmp_path,
        "steps: 5\nminutes: 2\nfolder: a/b\noptimiser: {learning_rate: 3e-4, betas: [0.8, 0.9]}\n"
        "losses:\n- {kind: ce}\n- {kind: dice, weight: .5e0}\n",
    )
    assert load_config(Experiment, path) == Experiment(
        steps=5,
        minutes=2.0,
        folder=Path("a/b"),
        optimiser=Optimiser(learning_rate=3e-4, betas=(0.8, 0.9)),
        losses=(Loss(kind="ce"), Loss(kind="dice", weight=0.5)),
    )
    assert load_config(Experiment, write(tmp_path, "# nothing\n")) == Experiment()


@pytest.mark.parametrize(("text", "value"), [("1e-3", 1e-3), ("1.e2", 100.0), (".5", 0.5)])
def test_numbers_with_exponents_are_numbers(text, value):
    assert with_overrides(Experiment(), [f"minutes={text}"]).minutes == value


@pytest.mark.parametrize(
    ("data", "parts"),
    [
        ({"stepz": 5}, ["run.yaml: unknown key", "stepz", "'steps'"]),
        ({"optimiser": {"learning_rat": 1}}, ["unknown key 'optimiser.learning_rat'", "'learning_rate'"]),
        ({"second": {"beta": [0.1, 0.2]}}, ["unknown key 'second.beta'", "'betas'"]),
        ({"steps": "many"}, ["steps: found 'many'", "expected a valid integer"]),
        ({"steps": "5"}, ["steps: found '5'", "integer"]),
        ({"steps": 0}, ["steps: found 0", "expected greater than or equal to 1"]),
        ({"mirror": "yes"}, ["mirror: found 'yes'", "boolean"]),
        ({"optimiser": {"name": "adam"}}, ["optimiser.name: found 'adam'", "'adamw' or 'sgd'"]),
        ({"losses": [{"weight": 1.0}]}, ["losses.0.kind is missing"]),
        (["steps"], ["expected keys and values", "['steps']"]),
    ],
)
def test_a_wrong_value_is_named_with_what_was_found_and_expected_and_a_key_with_the_nearest(data, parts):
    message = refusal(data)
    assert message.startswith("run.yaml")
    assert all(part in message for part in parts), message
    assert "pydantic" not in message


def test_all_faults_are_told_at_once():
    message = refusal({"steps": "x" * 1000, "minute": 1, "optimiser": {"learning_rate": -1}})
    assert all(part in message for part in ("steps: found 'xxx", "'minute'", "learning_rate: found -1"))
    assert len(message.splitlines()) == 1
    assert len(message) < 500
    assert issubclass(ConfigError, UsageError)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"steps: [1", "not readable YAML"),
        (b"steps: 1\nsteps: 2\n", "'steps' is repeated"),
        (b"optimiser: {name: sgd, name: adamw}", "'name' is repeated"),
        (b"- 1\n- 2\n", "expected keys and values"),
        (b"[" * 5000, "nested too deeply"),
        (b"just text", "expected keys and values"),
        (b"name: \xff\xfe", "line 1: not UTF-8"),
        (b"name: !!python/object/apply:os.getcwd []", "line 1: the tag"),
        (b"0", "expected keys and values"),
    ],
)
def test_a_file_that_is_no_configuration_is_refused_by_name(tmp_path, content, message):
    path = tmp_path / "bad.yaml"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=message) as caught:
        load_config(Experiment, path)
    assert "bad.yaml" in str(caught.value)


def test_a_missing_file_is_an_error(tmp_path):
    with pytest.raises(ConfigError, match=r"none\.yaml"):
        load_config(Experiment, tmp_path / "none.yaml")
    with pytest.raises(ConfigError, match="is a folder"):
        load_config(Experiment, tmp_path)


def test_overrides_apply_in_order_and_leave_the_rest():
    start = Experiment(steps=7, optimiser=Optimiser(name="sgd"))
    changed = with_overrides(
        start,
        ["optimiser.learning_rate=1e-2", "name=a=b", "second.name=sgd", "optimiser.learning_rate = 2e-2"],
    )
    assert changed == Experiment(
        steps=7, name="a=b", optimiser=Optimiser(name="sgd", learning_rate=2e-2), second=Optimiser(name="sgd")
    )
    assert start == Experiment(steps=7, optimiser=Optimiser(name="sgd"))
    assert with_overrides(start, []) == start


def test_overrides_can_set_nothing_and_lists():
    changed = with_overrides(Experiment(minutes=3), ["minutes=null", "losses=[{kind: ce}]"])
    assert changed.minutes is None
    assert changed.losses == (Loss(kind="ce"),)


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("steps", "expected KEY=VALUE"),
        ("=3", "expected KEY=VALUE"),
        ("steps.x=3", "steps.x .*steps is 10"),
        ("optimizer.name=sgd", "unknown key 'optimizer'.*'optimiser'"),
        ("optimiser.nam=sgd", "unknown key 'optimiser.nam'.*'name'"),
        ("steps=[", "not readable YAML"),
        ("steps=no", "found 'no'"),
        ("steps=false", "found False"),
    ],
)
def test_a_bad_override_is_explained(assignment, message):
    with pytest.raises(ConfigError, match=message):
        with_overrides(Experiment(), [assignment])


@given(
    steps=st.integers(1, 10**9),
    rate=st.floats(1e-12, 1e12, allow_nan=False),
    name=st.text()
    | st.sampled_from(["1e3", "yes", "null", "0x1", "1:30", "2020-01-01", "~", "08", "0o17", ".inf"]),
    minutes=st.none() | st.floats(allow_nan=False, allow_infinity=False),
)
def test_what_is_written_reads_back_equal(steps, rate, name, minutes):
    config = Experiment(steps=steps, name=name, minutes=minutes, optimiser=Optimiser(learning_rate=rate))
    again = from_mapping(Experiment, parse_yaml(dump_yaml(config), "text"), "text")
    assert again == config
