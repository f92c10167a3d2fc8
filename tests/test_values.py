"""Values that users write as text become typed values, or an error that shows how to write them."""

import pytest

from landcover.errors import UsageError
from landcover.scale import find_scale, unknown_gsd
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


@pytest.mark.parametrize("text", ["8000", "", "px", "-5px", "8000 pixels", "1e3px", "2000m", "2000 acres"])
def test_min_region_without_a_unit_names_both_forms(text):
    with pytest.raises(UsageError, match=r"8000px.*2000m2"):
        RegionSize.parse(text).pixels(0.5)


def test_area_needs_a_gsd_that_can_be():
    with pytest.raises(UsageError, match="--gsd"):
        RegionSize.parse("2000m2").pixels()
    for gsd in (0.0, -1.0, float("nan")):
        with pytest.raises(UsageError, match="metres per pixel"):
            RegionSize.parse("2000m2").pixels(gsd)


def test_lists_of_numbers_are_parsed_once_into_their_type():
    assert BandSelection.parse("3,2,1") == (3, 2, 1)
    assert BandSelection.parse([3, 2, 1]).red == 3
    assert BoundingBox.parse("5.1,52.0,5.2,52.1") == (5.1, 52.0, 5.2, 52.1)
    assert parse_scaling("0,3000") == (0.0, 3000.0)
    assert parse_scaling("percentile") == "percentile"


@pytest.mark.parametrize("text", ["", "1,2", "1,2,3,4", "0,1,2", "1.5,2,3", "a,b,c"])
def test_bands_that_cannot_be(text):
    with pytest.raises(UsageError, match="3,2,1"):
        BandSelection.parse(text)


@pytest.mark.parametrize("text", ["1,2,3", "2,0,1,1", "0,2,1,1", "0,0,nan,1", "0,0,inf,1", "x"])
def test_boxes_that_cannot_be(text):
    with pytest.raises(UsageError, match="LEFT < RIGHT"):
        BoundingBox.parse(text)


@pytest.mark.parametrize(
    "text", ["1", "1,1", "2,1", "0,nan", "0,inf", "0,1e-320", "-1e308,1e308", "0,1,2", "percent"]
)
def test_scalings_that_cannot_be(text):
    with pytest.raises(UsageError, match="MINIMUM < MAXIMUM"):
        parse_scaling(text)


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
