"""Legends: the built-in one against the challenge's table, user legends in YAML, and what is refused."""

import json

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from landcover.errors import ConfigError, UsageError
from landcover.legend import DEEPGLOBE, IGNORE, NODATA, LandClass, Legend, load_legend

CHALLENGE = {
    "urban": (0, 255, 255),
    "agriculture": (255, 255, 0),
    "rangeland": (255, 0, 255),
    "forest": (0, 255, 0),
    "water": (0, 0, 255),
    "barren": (255, 255, 255),
    "unknown": (0, 0, 0),
}

PLAIN = st.characters(exclude_categories=("Cc", "Cs"))

GLNET = """
name: glnet
unknown: unknown
classes:
  - {name: unknown, colour: [0, 0, 0]}
  - {name: urban, colour: [0, 255, 255]}
  - {name: agriculture, colour: [255, 255, 0]}
"""


def test_color_is_accepted_for_colour():
    data = json.loads(json.dumps(DEEPGLOBE.to_dict()).replace("colour", "color"))
    assert Legend.from_dict(data) == DEEPGLOBE


def test_deepglobe_is_the_challenges_table_in_its_order():
    assert [(c.name, c.colour) for c in DEEPGLOBE.classes] == list(CHALLENGE.items())
    assert DEEPGLOBE.names[6] == "unknown"
    assert DEEPGLOBE.scored == (0, 1, 2, 3, 4, 5)
    assert DEEPGLOBE.scored_names == tuple(CHALLENGE)[:6]


def test_tables_give_colours_and_channels_and_nothing_where_there_is_no_class():
    assert [tuple(colour) for colour in DEEPGLOBE.colours[:7]] == list(CHALLENGE.values())
    assert not DEEPGLOBE.colours[7:].any()
    assert DEEPGLOBE.channels[:7].tolist() == [0, 1, 2, 3, 4, 5, IGNORE]
    assert set(DEEPGLOBE.channels[7:].tolist()) == {IGNORE}
    assert DEEPGLOBE.channels[NODATA] == IGNORE


def test_channels_skip_an_unknown_class_in_front(tmp_path):
    (tmp_path / "glnet.yaml").write_text(GLNET)
    legend = load_legend(tmp_path / "glnet.yaml")
    assert legend.scored == (1, 2)
    assert legend.scored_names == ("urban", "agriculture")
    assert legend.channels[:4].tolist() == [IGNORE, 0, 1, IGNORE]


def test_every_class_is_scored_where_none_is_unknown():
    legend = Legend("two", (LandClass("a", (0, 0, 0)), LandClass("b", (1, 2, 3))), None)
    assert legend.scored == (0, 1)


@settings(deadline=None, max_examples=50)
@given(
    names=st.lists(st.text(PLAIN, min_size=1, max_size=8), min_size=2, max_size=20, unique=True),
    first=st.integers(0, 1 << 23),
    pick=st.integers(-1, 100),
)
def test_plain_data_keeps_a_legend_through_json_and_yaml(names, first, pick):
    colours = range(first, first + 999 * len(names), 999)
    classes = tuple(
        LandClass(name, (c >> 16, c >> 8 & 255, c & 255)) for name, c in zip(names, colours, strict=True)
    )
    legend = Legend("user", classes, None if pick < 0 else pick % len(names))
    assert Legend.from_dict(json.loads(json.dumps(legend.to_dict()))) == legend
    assert Legend.from_dict(yaml.safe_load(yaml.safe_dump(legend.to_dict()))) == legend


def test_deepglobe_is_found_by_its_name_and_others_by_the_nearest():
    assert load_legend("deepglobe") is DEEPGLOBE
    with pytest.raises(UsageError, match="Did you mean 'deepglobe'"):
        load_legend("deepglob")


def plain(**changes):
    data = {
        "name": "test",
        "classes": [{"name": "a", "colour": [0, 0, 0]}, {"name": "b", "colour": [255, 0, 0]}],
        "unknown": None,
    }
    return data | changes


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (["a", "b"], "expected keys and values, found \\['a', 'b'\\]"),
        (plain(unknwon="a"), "unknown key 'unknwon'.*'unknown'"),
        (plain(classes=[{"name": "a"}]), "classes.0.colour is missing"),
        (plain(classes=[{"name": False, "colour": [0, 0, 0]}]), "classes.0.name: found False.*quotes"),
        (plain(classes=[{"name": "a", "colour": [0, 0, 0.5]}]), "classes.0.colour.2: found 0.5"),
        (plain(classes=[{"name": n, "colour": [0, 0, v]} for n, v in [("a", 0), ("b", 256)]]), "0..255"),
        (plain(classes=[{"name": n, "colour": [0] * 3} for n in "ab"]), r"colour \(0, 0, 0\) more than once"),
        (plain(classes=[{"name": "a", "colour": [0, 0, v]} for v in (1, 2)]), "name a more than once"),
        (plain(classes=[{"name": "a", "colour": [0, 0, 0]}]), "1 classes; expected 2 to 255"),
        (plain(unknown="c"), "unknown class 'c'.*Known: a, b"),
    ],
)
def test_invalid_legends_name_the_key_and_the_value(data, message):
    with pytest.raises(ConfigError, match=message):
        Legend.from_dict(data)


@pytest.mark.parametrize("name", ["\x1b[31mred", "two\nlines", "bell\x07", "half\ud800"])
def test_names_with_control_characters_are_refused(name):
    with pytest.raises(ConfigError, match="expected no control characters"):
        Legend("two", (LandClass("a", (0, 0, 0)), LandClass(name, (1, 1, 1))), None)
    with pytest.raises(ConfigError, match="expected no control characters"):
        Legend(name, DEEPGLOBE.classes, None)


def test_more_than_255_classes_and_an_unknown_out_of_range_are_refused():
    classes = tuple(LandClass(str(i), (0, i // 256, i % 256)) for i in range(256))
    with pytest.raises(ConfigError, match="256 classes"):
        Legend("many", classes, None)
    with pytest.raises(ConfigError, match="unknown=3; expected 0 to 2"):
        Legend("few", classes[:3], 3)


def test_a_key_that_stands_twice_is_refused(tmp_path):
    path = tmp_path / "legend.yaml"
    path.write_text("name: a\nclasses: []\nclasses: []\n")
    with pytest.raises(ConfigError, match=r"legend\.yaml.*'classes' is repeated"):
        load_legend(path)


@pytest.mark.parametrize("content", [b"classes: [", b"\xff\xfe\x00"])
def test_a_file_that_is_no_yaml_is_refused(tmp_path, content):
    path = tmp_path / "legend.yaml"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=r"legend\.yaml"):
        load_legend(path)
