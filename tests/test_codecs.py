"""Pictures and masks in and out: colours against a dictionary, every format, every way to be broken."""

import contextlib
import re
import struct
import tracemalloc
import warnings
from io import BytesIO

import numpy as np
import pytest
import rasterio
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image

from imagefiles import (
    class_index,
    cut,
    photo,
    png_16bit,
    png_bytes,
    save,
    save_lossless,
    save_palette,
    save_raster,
)
from landcover.errors import ImageError, LandcoverError, MaskError, OutputError, UsageError
from landcover.io import (
    encode_mask,
    image_size,
    index_to_colours,
    read_image,
    read_mask,
    write_mask,
)
from landcover.io.colours import find_classes, settle_off_palette
from landcover.io.images import exif_orientation
from landcover.legend import DEEPGLOBE, IGNORE, NODATA, LandClass, Legend

GLNET = Legend("glnet", (DEEPGLOBE.classes[6], *DEEPGLOBE.classes[:6]), 0)
"""The same classes with unknown first, as GLNet, MagNet and ISDNet number them."""

MUTED = Legend(
    "muted",
    (LandClass("roof", (200, 80, 60)), LandClass("field", (201, 80, 60)), LandClass("none", (0, 0, 0))),
    2,
)
PARTIAL = Legend("partial", DEEPGLOBE.classes[:3], None)
"""Corner colours without black, and no unknown class."""

RGB_FILES = ["a.png", "a.tif", "a.jp2", "a.webp"]


def one_by_one(rgb, legend):
    """The rule of the contract, a pixel at a time."""
    by_colour = {c.colour: i for i, c in enumerate(legend.classes)}
    threshold = all(v in (0, 255) for colour in by_colour for v in colour)
    none = IGNORE if legend.unknown is None else legend.unknown
    index, off_palette = np.empty(rgb.shape[:2], np.uint8), 0
    for position in np.ndindex(*rgb.shape[:2]):
        colour = tuple(int(v) for v in rgb[position])
        colour = tuple(255 if v >= 128 else 0 for v in colour) if threshold else colour
        index[position] = by_colour.get(colour, none)
        off_palette += colour not in by_colour
    return index, off_palette


def decoded_colours(rgb, legend):
    """Return the class indices as read_mask makes them, and the number of off-palette pixels."""
    index = find_classes(rgb, legend)
    return index, settle_off_palette(index, index == NODATA, legend)


@pytest.mark.parametrize(
    ("colours", "expected", "off_palette"),
    [  # colours that peers write, the undefined red, and channels in reverse order
        ([(1, 254, 255), (254, 254, 1), (0, 250, 3), (2, 1, 0), (255, 255, 0)], [0, 1, 3, 6, 1], 0),
        ([(255, 0, 0), (128, 127, 127), (127, 255, 255)], [6, 6, 0], 2),
        ([(0, 0, 255), (255, 0, 0), (0, 255, 255), (255, 255, 0)], [4, 6, 0, 1], 1),
    ],
)
def test_colours_are_decoded_by_threshold(colours, expected, off_palette):
    index, count = decoded_colours(np.array([colours], np.uint8), DEEPGLOBE)
    assert (index.tolist(), count) == ([expected], off_palette)


@pytest.mark.parametrize("legend", [DEEPGLOBE, GLNET, PARTIAL, MUTED], ids=lambda legend: legend.name)
@settings(max_examples=30)
@given(data=st.data())
def test_decoding_agrees_with_the_rule_a_pixel_at_a_time(legend, data):
    shape = data.draw(st.tuples(st.integers(1, 9), st.integers(1, 9), st.just(3)))
    channel = st.sampled_from([0, 1, 60, 80, 127, 128, 200, 201, 254, 255])
    rgb = data.draw(arrays(np.uint8, shape, elements=channel))
    index, off_palette = decoded_colours(rgb, legend)
    expected, expected_off = one_by_one(rgb, legend)
    np.testing.assert_array_equal(index, expected)
    assert off_palette == expected_off


@pytest.mark.parametrize("legend", [DEEPGLOBE, MUTED], ids=lambda legend: legend.name)
def test_masks_longer_than_a_block_come_back(legend):
    index = class_index(401, 1003, legend)
    rgb = index_to_colours(index, legend)
    rgb[-1, -1] = rgb[0, 0] = rgb[200, 500] = (255, 0, 0)
    index[-1, -1] = index[0, 0] = index[200, 500] = legend.unknown
    decoded, off_palette = decoded_colours(rgb, legend)
    np.testing.assert_array_equal(decoded, index)
    assert off_palette == 3


def test_views_that_are_not_contiguous_are_decoded_and_inputs_stay_as_they_are():
    index = class_index(40, 50)
    rgb = index_to_colours(index, DEEPGLOBE)
    rgb.flags.writeable = False
    window = rgb[3:37:2, 5:41:3]
    np.testing.assert_array_equal(decoded_colours(window, DEEPGLOBE)[0], index[3:37:2, 5:41:3])


@pytest.mark.parametrize(
    "array",
    [np.zeros((4, 4), np.uint8), np.zeros((4, 4, 4), np.uint8), np.zeros((4, 4, 3), np.int64)],
    ids=["indices", "four bands", "int64"],
)
def test_arrays_that_are_no_colours_are_refused(array):
    with pytest.raises(MaskError, match="height, width, 3"):
        decoded_colours(array, DEEPGLOBE)


@pytest.mark.parametrize("name", RGB_FILES)
def test_lossless_images_come_back_as_they_were(tmp_path, name):
    rgb = photo(37, 53)
    path = save_lossless(tmp_path / name, rgb)
    image = read_image(path)
    np.testing.assert_array_equal(image, rgb)
    assert image.flags.c_contiguous
    assert image.flags.writeable
    assert image_size(path) == (37, 53)


def test_jpeg_agrees_with_another_decoder(tmp_path):
    path = save(tmp_path / "a.jpg", photo(), quality=95)
    ours, pillows = read_image(path), np.asarray(Image.open(path))
    assert np.abs(ours.astype(int) - pillows).max() <= 4
    assert image_size(path) == (48, 64)


@pytest.mark.parametrize("name", RGB_FILES)
def test_the_content_decides_and_not_the_suffix(tmp_path, name):
    rgb = photo()
    path = save_lossless(tmp_path / name, rgb).rename(tmp_path / "picture.jpg")
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # not even "not georeferenced"
        np.testing.assert_array_equal(read_image(path), rgb)
        assert image_size(path) == (48, 64)


@pytest.mark.parametrize("name", ["a.png", "a.tif", "a.webp"])
def test_alpha_is_dropped_and_colours_under_it_stay(tmp_path, name):
    rgba = np.dstack([photo(), np.full((48, 64), 255, np.uint8)])
    rgba[:10, :, 3] = 0
    path = tmp_path / name
    save(path, rgba, **({"lossless": True, "exact": True} if path.suffix == ".webp" else {}))
    np.testing.assert_array_equal(read_image(path), rgba[..., :3])


@pytest.mark.parametrize("name", ["a.png", "a.tif", "a.jpg"])
def test_grey_is_repeated_in_three_bands(tmp_path, name):
    grey = photo()[..., 0]
    image = read_image(save(tmp_path / name, grey, **({"quality": 100} if name == "a.jpg" else {})))
    assert image.shape == (48, 64, 3)
    assert np.abs(image.astype(int) - grey[..., None]).max() <= 2 * (name == "a.jpg")


@pytest.mark.parametrize("name", ["a.png", "a.tif"])
def test_palettes_are_expanded(tmp_path, name):
    index = class_index()
    path = save_palette(tmp_path / name, index, DEEPGLOBE.colours[:7])
    np.testing.assert_array_equal(read_image(path), DEEPGLOBE.colours[index])


def test_exif_orientation_is_ignored(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    path = save(tmp_path / "a.jpg", photo(), exif=exif)
    assert read_image(path).shape == (48, 64, 3)
    assert image_size(path) == (48, 64)


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("is_big", [False, True])
def test_the_exif_orientation_of_a_tiff_is_read_without_its_other_tags(tmp_path, order, is_big):
    """All but the orientation refer to one region of 1 MiB, 400 times."""
    region = 1 << 20
    start, entry, count = ("HHHQ", "HHQQ", "Q") if is_big else ("HI", "HHII", "H")
    magic = (43, 8, 0) if is_big else (42,)
    number = struct.calcsize(order + entry[2:]) // 2
    tags = [struct.pack(order + entry, tag, 1, region, 64) for tag in range(200, 600) if tag != 0x0112]
    turned = struct.pack(order + entry[:3], 0x0112, 3, 1) + struct.pack(f"{order}H", 6).ljust(number, b"\0")
    head = {"<": b"II", ">": b"MM"}[order] + struct.pack(order + start, *magic, 64 + region)
    path = tmp_path / "a.tif"
    path.write_bytes(
        head.ljust(64 + region, b"\0")
        + struct.pack(order + count, 400)
        + b"".join([*tags[:99], turned, *tags[99:]])
    )
    tracemalloc.start()
    assert exif_orientation(path) == 6
    assert tracemalloc.get_traced_memory()[1] < region
    tracemalloc.stop()
    path.write_bytes(path.read_bytes()[: 64 + region + 9])
    assert exif_orientation(path) == 1


def test_the_exif_orientation_of_a_png_is_found_behind_its_pixels(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    rng = np.random.default_rng(0)
    path = save(tmp_path / "a.png", rng.integers(0, 256, (200, 200, 3), np.uint8), exif=exif)
    content = path.read_bytes()
    start = content.index(b"eXIf") - 4
    end = start + 12 + int.from_bytes(content[start : start + 4], "big")
    rest = content[:start] + content[end:]
    path.write_bytes(rest[:-12] + content[start:end] + rest[-12:])
    assert path.read_bytes().index(b"eXIf") > 1 << 16
    assert exif_orientation(path) == 6


def broken_files(folder):
    """File and expected words of the message for every form that is refused."""
    rgb, deep = photo(), np.full((8, 9), 1000, np.uint16)
    files = {
        "missing": (folder / "missing.jpg", "No such file"),
        "folder": (folder, "folder"),
        "empty": (folder / "empty.jpg", r"empty \(0 bytes\)"),
        "text": (folder / "text.png", "none of JPEG, PNG, TIFF, JP2, WebP"),
        "png 16-bit": (folder / "deep.png", "16-bit.*; expected 8-bit"),
        "png 16-bit grey": (folder / "deepgrey.png", "16-bit"),
        "png 1-bit": (save(folder / "bits.png", rgb, mode="1"), "1-bit"),
        "tiff 16-bit": (save_raster(folder / "deep.tif", deep), "uint16 samples"),
        "tiff float": (save_raster(folder / "float.tif", deep.astype(np.float32)), "float32"),
        "tiff 1-bit": (save(folder / "bits.tif", rgb, mode="1"), "1-bit"),
        "jp2 16-bit": (save_raster(folder / "deep.jp2", deep, driver="JP2OpenJPEG"), "uint16"),
        "jpeg CMYK": (save(folder / "cmyk.jpg", rgb, mode="CMYK"), "CMYK.*Convert it to RGB"),
        "tiff CMYK": (save(folder / "cmyk.tif", rgb, mode="CMYK"), "CMYK"),
        "tiff 2 bands": (save_raster(folder / "two.tif", rgb[..., :2]), "2 bands"),
        "tiff 5 bands": (save_raster(folder / "five.tif", np.repeat(rgb[..., :1], 5, 2)), "gdal_translate"),
        "animation": (folder / "moving.png", "animation"),
    }
    files["empty"][0].touch()
    files["text"][0].write_text("hello, I am no picture")
    files["png 16-bit"][0].write_bytes(png_16bit())
    files["png 16-bit grey"][0].write_bytes(png_16bit(channels=1))
    frames = [Image.fromarray(rgb), Image.fromarray(rgb[::-1])]
    frames[0].save(files["animation"][0], save_all=True, append_images=frames[1:])
    for name in ("a.jpg", "a.png", "a.tif", "a.jp2", "a.webp"):
        for keep in ("half", "head", "all but 3"):
            path = folder / f"{keep} {name}"
            if name == "a.jpg":
                save(path, rgb, quality=95)
            else:
                save_lossless(path, rgb)
            cut(path, {"half": path.stat().st_size // 2, "head": 20, "all but 3": -3}[keep])
            files[f"{keep} of {name}"] = (path, "cannot be decoded as .*damaged or cut short")
    return files


def read_deepglobe_mask(path, **options):
    return read_mask(path, DEEPGLOBE, **options)


def test_every_broken_or_unfit_file_is_refused_with_its_path_and_the_reason(tmp_path):
    """One test for all, so that what it finds wrong is seen at once."""
    wrong = []
    readers = ((read_image, ImageError), (read_deepglobe_mask, MaskError))
    one_band = ("png 16-bit grey", "png 1-bit", "tiff 16-bit", "tiff float", "tiff 1-bit", "jp2 16-bit")
    for what, (path, words) in broken_files(tmp_path).items():
        for reader, error_type in readers[:1] if what in one_band else readers:  # masks may be of any depth
            try:
                reader(path)
                wrong.append(f"{what}: no error")
            except error_type as error:
                if not re.search(f"^{re.escape(str(path))} .*{words}", str(error)):
                    wrong.append(f"{what}: {error}")
    assert not wrong


@settings(max_examples=150)
@given(name=st.sampled_from([*RGB_FILES, "a.jpg"]), data=st.data())
def test_damaged_bytes_give_pixels_or_an_error_of_ours(tmp_path_factory, name, data):
    path = tmp_path_factory.getbasetemp() / f"damaged {name}"
    if name == "a.jpg":
        save(path, photo(16, 16))
    else:
        save_lossless(path, photo(16, 16))
    content = bytearray(path.read_bytes())
    for position, value in data.draw(
        st.lists(st.tuples(st.integers(0, 400), st.integers(0, 255)), max_size=5)
    ):
        content[min(position, len(content) - 1)] = value
    path.write_bytes(content)
    with contextlib.suppress(ImageError):
        assert read_image(path, max_pixels=10_000).shape[2] == 3


def test_a_jpeg_2000_file_in_which_gdal_would_search_without_end_is_read(tmp_path):
    path = tmp_path / "a.jp2"
    save_lossless(path, photo(16, 16))
    content = bytearray(path.read_bytes())
    content[content.index(b"colr") - 1] = 0  # a box without a length
    path.write_bytes(content)
    assert read_image(path).shape == (16, 16, 3)


@pytest.mark.parametrize("reader", [read_image, read_deepglobe_mask])
def test_a_bomb_is_refused_before_it_is_decoded_and_the_option_is_named(tmp_path, reader):
    path = tmp_path / "bomb.png"
    path.write_bytes(png_bytes(100_000, 90_000))
    with pytest.raises(LandcoverError, match=r"100000 x 90000 = 9,000,000,000 .*--max-pixels 9000000000"):
        reader(path)
    assert image_size(path) == (100_000, 90_000)


@pytest.mark.parametrize("name", [*RGB_FILES, "a.jpg"])
def test_the_limit_on_pixels_is_the_largest_size_that_passes(tmp_path, name):
    path = tmp_path / name
    save(path, photo(10, 20)) if name == "a.jpg" else save_lossless(path, photo(10, 20))
    assert read_image(path, max_pixels=200).shape == (10, 20, 3)
    with pytest.raises(ImageError, match="at most 199 are decoded"):
        read_image(path, max_pixels=199)


@pytest.mark.parametrize("name", [*RGB_FILES, "a.jpg"])
def test_masks_of_colours_are_read_in_every_format(tmp_path, name):
    index = class_index()
    rgb = index_to_colours(index, DEEPGLOBE)
    path = tmp_path / name
    save(path, rgb, quality=95, subsampling=0) if name == "a.jpg" else save_lossless(path, rgb)
    mask = read_mask(path, DEEPGLOBE)
    np.testing.assert_array_equal(mask.index, index)
    assert mask.off_palette == 0


@pytest.mark.parametrize("name", ["a.png", "a.tif", "a.jp2"])
def test_one_band_is_indices_in_the_legends_order(tmp_path, name):
    index = class_index(legend=GLNET)
    index[0, :5] = NODATA
    driver = {"driver": "JP2OpenJPEG"} if name == "a.jp2" else {}
    path = save(tmp_path / name, index) if name == "a.png" else save_raster(tmp_path / name, index, **driver)
    mask = read_mask(path, GLNET)
    np.testing.assert_array_equal(mask.index, index)
    assert mask.off_palette == 0
    mask.index[0, 0] = 1  # callers may write into it
    np.testing.assert_array_equal(index_to_colours(mask.index, GLNET)[9:], GLNET.colours[index][9:])


@pytest.mark.parametrize("name", ["a.png", "a.tif"])
def test_a_palette_is_its_colours_whatever_the_order_of_its_entries(tmp_path, name):
    index = class_index()
    path = save_palette(tmp_path / name, 6 - index, DEEPGLOBE.colours[:7][::-1])
    np.testing.assert_array_equal(read_mask(path, DEEPGLOBE).index, index)


def test_palette_entries_without_class_are_counted_where_they_are_used(tmp_path):
    colours = np.array([(0, 255, 255), (255, 0, 0), (200, 10, 10)], np.uint8)
    entries = np.zeros((5, 6), np.uint8)
    entries[2, 1:4] = 1
    mask = read_mask(save_palette(tmp_path / "a.png", entries, colours), DEEPGLOBE)
    assert mask.off_palette == 3
    np.testing.assert_array_equal(mask.index, np.where(entries == 1, 6, 0))


def test_off_palette_pixels_are_ignored_where_nothing_is_unknown(tmp_path):
    rgb = np.full((4, 4, 3), 0, np.uint8)
    rgb[1:] = (0, 255, 255)
    mask = read_mask(save(tmp_path / "a.png", rgb), PARTIAL)
    assert mask.off_palette == 4
    assert mask.index.tolist() == [[IGNORE] * 4] + [[0] * 4] * 3


def test_pixels_of_alpha_0_are_nodata_and_other_alpha_means_nothing(tmp_path):
    index = class_index()
    alpha = np.full(index.shape, 128, np.uint8)
    rgba = np.dstack([index_to_colours(index, DEEPGLOBE), alpha])
    np.testing.assert_array_equal(read_mask(save(tmp_path / "even.png", rgba), DEEPGLOBE).index, index)
    rgba[:8] = (255, 0, 0, 0)
    expected = index.copy()
    expected[:8] = NODATA
    for name in ("a.png", "a.tif"):
        mask = read_mask(save(tmp_path / name, rgba), DEEPGLOBE)
        np.testing.assert_array_equal(mask.index, expected)
        assert mask.off_palette == 0


def test_the_nodata_value_of_a_raster_is_nodata(tmp_path):
    index = class_index()
    path = save_raster(tmp_path / "a.tif", index, nodata=2)
    np.testing.assert_array_equal(read_mask(path, DEEPGLOBE).index, np.where(index == 2, NODATA, index))


@pytest.mark.parametrize(
    ("name", "pixels", "message"),
    [
        ("a.png", photo()[..., 0], r"values that are not in the legend.*, and \d+ more.*greyscale picture"),
        (
            "a.png",
            np.array([[0, 6, 7, 200, 255]], np.uint8),
            r"'deepglobe': 7, 200\. .*Expected indices 0 to 6, and 255.*--legend",
        ),
        ("a.jpg", class_index(), r"JPEG.*PNG"),
    ],
    ids=["greyscale picture", "indices of another legend", "indices in a JPEG"],
)
def test_one_band_that_is_not_indices_of_the_legend_is_refused(tmp_path, name, pixels, message):
    with pytest.raises(MaskError, match=message):
        read_mask(save(tmp_path / name, pixels), DEEPGLOBE)


def test_greys_in_three_bands_are_indices_where_they_fit_and_else_no_mask(tmp_path):
    """By thresholds, indices would all be black, and a grey picture black and white."""
    grey = (np.arange(48 * 64, dtype=np.uint16).reshape(48, 64) % 200).astype(np.uint8)
    mask = read_mask(save(tmp_path / "i.png", np.repeat(grey[..., None] % 7, 3, 2)), DEEPGLOBE)
    np.testing.assert_array_equal(mask.index, grey % 7)
    assert mask.form == "grey indices"
    path = save(tmp_path / "a.png", np.repeat(grey[..., None], 3, 2))
    with pytest.raises(MaskError, match="three equal bands with the greys 1, 2"):
        read_mask(path, DEEPGLOBE)


def test_a_mask_of_black_and_white_classes_is_read(tmp_path):
    rgb = np.zeros((20, 20, 3), np.uint8)
    rgb[5:] = 255
    rgb[7:9] = 250
    index = read_mask(save(tmp_path / "a.png", rgb), DEEPGLOBE).index
    assert index[:, 0].tolist() == [6] * 5 + [5] * 15


@pytest.mark.parametrize("legend", [DEEPGLOBE, GLNET, MUTED, PARTIAL], ids=lambda legend: legend.name)
@settings(max_examples=25)
@given(data=st.data(), mask_format=st.sampled_from(["palette", "index", "rgb"]))
def test_masks_come_back_from_every_form(tmp_path_factory, legend, data, mask_format):
    values = [*range(len(legend)), *([] if mask_format == "rgb" else [NODATA])]
    shape = st.tuples(st.integers(1, 20), st.integers(1, 20))
    index = data.draw(arrays(np.uint8, shape, elements=st.sampled_from(values)))
    path = tmp_path_factory.getbasetemp() / f"{legend.name}.png"
    write_mask(path, index, legend, mask_format=mask_format, force=True)
    mask = read_mask(path, legend)
    np.testing.assert_array_equal(mask.index, index)
    assert mask.off_palette == 0


def test_the_three_forms_are_what_other_programs_expect(tmp_path):
    index = class_index()
    for mask_format, mode in (("palette", "P"), ("rgb", "RGB"), ("index", "L")):
        path = tmp_path / f"{mask_format}.png"
        write_mask(path, index, DEEPGLOBE, mask_format=mask_format)
        with Image.open(path) as image:
            assert (image.format, image.mode) == ("PNG", mode)
            assert "transparency" not in image.info
            expected = DEEPGLOBE.colours[index]
            if mask_format != "index":
                np.testing.assert_array_equal(np.asarray(image.convert("RGB")), expected)
        if mask_format != "rgb":
            with rasterio.open(path) as raster:
                np.testing.assert_array_equal(raster.read(1), index)


def test_nodata_is_transparent_black_in_a_palette_and_black_in_rgb():
    index = class_index()
    index[:4] = NODATA
    rgba = np.asarray(Image.open(BytesIO(encode_mask(index, DEEPGLOBE))).convert("RGBA"))
    assert not rgba[:4].any()
    assert (rgba[4:, :, 3] == 255).all()
    assert not np.asarray(Image.open(BytesIO(encode_mask(index, DEEPGLOBE, "rgb"))))[:4].any()


@pytest.mark.parametrize(
    ("index", "message"),
    [
        (np.full((3, 3), 7, np.uint8), "values 7 are not in"),
        (np.zeros((3, 3), np.int64), "uint8"),
        (np.zeros((3, 3, 3), np.uint8), r"\(3, 3, 3\)"),
        (np.zeros((0, 3), np.uint8), r"\(0, 3\)"),
    ],
)
def test_what_is_no_mask_is_not_written(tmp_path, index, message):
    with pytest.raises(MaskError, match=message):
        write_mask(tmp_path / "a.png", index, DEEPGLOBE)
    assert not list(tmp_path.iterdir())


def test_other_suffixes_and_forms_are_refused(tmp_path):
    with pytest.raises(OutputError, match=r"a\.png"):
        write_mask(tmp_path / "a.tif", class_index(), DEEPGLOBE)
    with pytest.raises(UsageError, match="Did you mean 'palette'"):
        write_mask(tmp_path / "a.png", class_index(), DEEPGLOBE, mask_format="pallete")
    assert not list(tmp_path.iterdir())
