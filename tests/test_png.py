"""The PNG writer against two readers that know nothing of it: Pillow and GDAL."""

from io import BytesIO

import numpy as np
import pytest
import rasterio
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from landcover.io.png import encode_png
from landcover.legend import DEEPGLOBE

RNG = np.random.default_rng(4)
sizes = st.tuples(st.integers(1, 150), st.integers(1, 40))  # rows are stored in blocks of 64


def by_pillow(content):
    Image.open(BytesIO(content)).verify()  # the sums of all chunks
    image = Image.open(BytesIO(content))
    image.load()
    return image


def by_gdal(content):
    with rasterio.MemoryFile(content) as file, file.open() as raster:
        return np.moveaxis(raster.read(), 0, 2), raster.tags()


@settings(max_examples=50)
@given(sizes, st.integers(1, 256), st.integers(0, 9))
def test_a_palette_of_any_length_comes_back(size, colours, seed):
    rng = np.random.default_rng(seed)
    palette = rng.integers(0, 256, (colours, 3), dtype=np.uint8)
    index = rng.integers(0, colours, size, dtype=np.uint8)
    content = encode_png(index, palette=palette, texts={})
    image = by_pillow(content)
    assert image.mode == "P"
    assert content[24] == (4 if colours <= 16 else 8)
    np.testing.assert_array_equal(np.asarray(image), index)
    np.testing.assert_array_equal(np.asarray(image.convert("RGB")), palette[index])
    np.testing.assert_array_equal(by_gdal(content)[0][..., 0], index)


@settings(max_examples=20)
@given(sizes, st.sampled_from([(), (3,)]), st.integers(0, 9))
def test_grey_and_colours_come_back(size, bands, seed):
    pixels = np.random.default_rng(seed).integers(0, 256, (*size, *bands), dtype=np.uint8)
    content = encode_png(pixels, texts={})
    assert by_pillow(content).mode == ("RGB" if bands else "L")
    np.testing.assert_array_equal(np.asarray(by_pillow(content)), pixels)
    np.testing.assert_array_equal(by_gdal(content)[0].reshape(pixels.shape), pixels)


def test_a_view_is_stored_as_it_looks_and_stays_as_it_is():
    whole = RNG.integers(0, 7, (200, 90), dtype=np.uint8)
    before = whole.copy()
    for view in (whole[::-1, ::2], whole[3:, 1:], whole.T):
        image = by_pillow(encode_png(view, palette=DEEPGLOBE.colours[:7], texts={}))
        np.testing.assert_array_equal(np.asarray(image), view)
    np.testing.assert_array_equal(whole, before)


@pytest.mark.parametrize(("entry", "colours"), [(0, 7), (6, 7), (255, 256)])
def test_one_entry_is_transparent(entry, colours):
    index = RNG.choice(np.array([entry, 1, 2], np.uint8), (70, 33))
    content = encode_png(index, palette=DEEPGLOBE.colours[:colours], transparent=entry, texts={})
    alpha = np.asarray(by_pillow(content).convert("RGBA"))[..., 3]
    np.testing.assert_array_equal(alpha, np.where(index == entry, 0, 255))


def test_texts_are_read_in_any_language():
    texts = {"CLASS_NAMES": "0=urban,1=water", "PLACE": "Zürich, 東京", "EMPTY": ""}
    content = encode_png(np.zeros((2, 2), np.uint8), texts=texts)
    assert dict(by_pillow(content).text) == texts
    tags = by_gdal(content)[1]
    assert {name: tags.get(name, "") for name in texts} == texts
