"""File names with every kind of character: mapped or refused in one line, and nothing is overwritten."""

import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parent))
sys.path.append(str(Path(__file__).parents[1]))

from table import NAMES

from imagefiles import class_index, photo, save, save_palette
from landcover.data.conversion import convert
from landcover.errors import LandcoverError, OutputError, is_plain, printable
from landcover.inference.options import PredictOptions
from landcover.inference.plan import plan
from landcover.legend import DEEPGLOBE


@pytest.mark.parametrize("name", NAMES, ids=ascii)
def test_a_name_is_converted_or_refused_in_one_plain_line(name: str, tmp_path: Path) -> None:
    mask = save_palette(tmp_path / "mask.png", class_index(), DEEPGLOBE.colours)
    (tmp_path / "in").mkdir()
    given = mask.rename(tmp_path / "in" / f"{name}.png")
    before = given.read_bytes()
    try:
        result = convert([given], tmp_path / "out", to="index")
    except (LandcoverError, OSError) as error:
        assert not (tmp_path / "out").exists()
        line = printable(str(error))
        assert is_plain(line)
    else:
        assert [path.name for path in (tmp_path / "out").iterdir()] == [given.name] * len(result.written)
        assert len(result.written) + len(result.failed) == 1
    assert given.read_bytes() == before


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("a.png", "A.png"),
        ("a.jpg", "a.png"),
        ("\u00e9.png", "e\u0301.png"),
        ("\u00df.png", "SS.png"),
    ],
)
def test_inputs_that_would_share_an_output_are_refused(one: str, other: str, tmp_path: Path) -> None:
    for name in (one, other):
        save(tmp_path / "in" / name, photo())
    with pytest.raises(OutputError) as caught:
        plan([tmp_path / "in"], tmp_path / "out", PredictOptions(gsd=1.0), model_gsd=1.0)
    assert one in str(caught.value)
    assert other in str(caught.value)
