"""Label images of annotation tools are read as class ids: grey, palette of any depth, and the colours of a table."""

from __future__ import annotations

import io

import cv2
import numpy as np
import pytest
from PIL import Image

from transkd_ros.bags.label_image import LabelImageError, mask_of
from transkd_ros.model.labels import LabelTable

TABLE = LabelTable(("road", "car", "sky"), ((128, 64, 128), (0, 0, 142), (70, 130, 180)))
IDS = np.array([[0, 1, 2], [2, 1, 0]], np.uint8)


def png(pixels: np.ndarray) -> bytes:
    """The pixels, (H, W) or RGB, as the bytes of a PNG file."""
    return cv2.imencode(".png", pixels if pixels.ndim == 2 else pixels[..., ::-1])[1].tobytes()


def palette_png(indices: np.ndarray, colors: list[tuple[int, ...]], **options: object) -> bytes:
    image = Image.fromarray(indices)
    image.putpalette([value for color in colors for value in color])
    file = io.BytesIO()
    image.save(file, "png", **options)
    return file.getvalue()


@pytest.mark.parametrize("table", [None, TABLE])
def test_grey_values_are_ids(table):
    assert np.array_equal(mask_of(png(IDS), table), IDS)


@pytest.mark.parametrize("colors", [2, 3, 9, 40, 256])  # stored with 1, 2, 4, 8, 8 bits
@pytest.mark.parametrize("options", [{}, {"transparency": 0}])
def test_a_palette_of_any_depth_gives_its_indices(colors, options):
    indices = (np.arange(77) % colors).astype(np.uint8).reshape(7, 11)
    data = palette_png(indices, [(i, 255 - i, 7) for i in range(colors)], **options)
    assert np.array_equal(mask_of(data), indices)
    assert np.array_equal(mask_of(data, TABLE), indices)  # none of its colours is a class's


def test_a_palette_with_the_colours_of_the_classes_is_read_by_them():
    colors = [(0, 0, 0), TABLE.colors[2], TABLE.colors[0], TABLE.colors[1]]
    indices = np.array([[0, 1, 2, 3]], np.uint8)
    assert mask_of(palette_png(indices, colors), TABLE).tolist() == [[255, 2, 0, 1]]
    assert mask_of(palette_png(indices * 0, colors), TABLE).tolist() == [[255] * 4]


def test_a_palette_in_which_only_black_occurs_holds_ids_unless_it_has_all_classes():
    assert mask_of(palette_png(IDS * 0, [(0, 0, 0), (9, 9, 9)]), TABLE).tolist() == (IDS * 0).tolist()


def test_colours_are_read_by_the_table_and_black_is_no_class():
    rgb = TABLE.colorize(np.array([[0, 1, 2, 255]], np.uint8))
    assert mask_of(png(rgb), TABLE).tolist() == [[0, 1, 2, 255]]
    with_alpha = np.dstack([rgb[..., ::-1], np.full((1, 4), 255, np.uint8)])
    assert mask_of(cv2.imencode(".png", with_alpha)[1].tobytes(), TABLE).tolist() == [[0, 1, 2, 255]]


def test_ids_that_were_saved_in_three_channels_are_ids():
    assert np.array_equal(mask_of(png(np.dstack([IDS] * 3)), TABLE), IDS)


@pytest.mark.parametrize(
    ("data", "table", "words"),
    [
        (b"", None, "OpenCV can decode"),
        (b"no image", TABLE, "OpenCV can decode"),
        (png(IDS.astype(np.uint16)), TABLE, "8-bit"),
        (png(np.dstack([IDS, IDS, IDS + 9])), None, "class table"),
        (png(np.dstack([IDS, IDS, IDS + 9])), TABLE, r"colours of no class: \(0, 0, 9\), .*road \(128, 64, 128\)"),
        (palette_png(IDS, [(1, 2, 3)] * 9)[:60], TABLE, "palette PNG"),
    ],
)
def test_what_cannot_be_read_is_said(data, table, words):
    with pytest.raises(LabelImageError, match=words):
        mask_of(data, table)


def test_every_cut_off_palette_png_ends_in_a_label_image_error():
    data = palette_png(IDS, [(i, i, 9) for i in range(3)])
    for length in range(len(data) - 20):
        with pytest.raises(LabelImageError):
            mask_of(data[:length], TABLE)
