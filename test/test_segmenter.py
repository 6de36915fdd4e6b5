"""A frame of any size gets a mask of its size, with every stage timed."""

from __future__ import annotations

import numpy as np
import pytest

from transkd_ros.frames import Frame, FrameError
from transkd_ros.model.engines import open_runtime
from transkd_ros.region import Region
from transkd_ros.segmenter import Segmenter


@pytest.fixture(scope="module")
def runtime(tiny_bundle):
    pytest.importorskip("openvino")
    return open_runtime(tiny_bundle, "openvino", "cpu")


def test_a_frame_of_the_models_size_gets_the_masks_of_its_pixels(runtime, colours):
    result = Segmenter(runtime)(Frame(colours, "rgb8"), want_confidence=True)
    np.testing.assert_array_equal(result.mask, colours.argmax(2))
    np.testing.assert_array_equal(result.confidence, colours.max(2))


def test_mask_and_confidence_have_the_size_of_the_frame(runtime):
    frame = Frame(np.zeros((100, 333, 3), np.uint8), "bgr8")
    result = Segmenter(runtime)(frame, want_confidence=True)
    assert result.mask.shape == result.confidence.shape == (100, 333)


def test_mask_size_model_keeps_the_size_of_the_model(runtime):
    frame = Frame(np.zeros((100, 333, 3), np.uint8), "bgr8")
    result = Segmenter(runtime, mask_size="model")(frame, want_confidence=True)
    assert result.mask.shape == result.confidence.shape == (64, 96)


def test_confidence_costs_nothing_unless_asked_for(runtime, colours):
    assert Segmenter(runtime)(Frame(colours, "rgb8")).confidence is None


def test_enlarging_keeps_classes_in_place_and_mixes_no_ids(runtime):
    image = np.zeros((192, 288, 3), np.uint8)  # three times the model's size
    image[:, :144, 0], image[:, 144:, 2] = 200, 200
    mask = Segmenter(runtime)(Frame(image, "rgb8")).mask
    np.testing.assert_array_equal(mask, image.argmax(2))


def test_every_stage_is_timed(runtime, colours):
    timings = Segmenter(runtime)(Frame(colours, "rgb8")).timings
    assert list(timings) == ["resize", "infer", "upsize"]
    assert all(seconds >= 0 for seconds in timings.values())


def test_an_unknown_mask_size_is_refused(runtime):
    with pytest.raises(ValueError, match="'big', not one of frame, model or"):
        Segmenter(runtime, mask_size="big")


def quadrants(height, width):
    """(H, W, 3) uint8 RGB: red above left, green above right, blue below left, red below right."""
    image = np.zeros((height, width, 3), np.uint8)
    for (rows, columns), channel in {(0, 0): 0, (0, 1): 1, (1, 0): 2, (1, 1): 0}.items():
        half = (slice(rows * height // 2, None), slice(columns * width // 2, None))
        image[half] = np.eye(3, dtype=np.uint8)[channel] * 200
    return image


def test_a_region_is_segmented_in_place_and_the_rest_of_the_frame_is_ignored(runtime):
    image = quadrants(128, 192)
    region = Region(32, 48, 64, 96)
    result = Segmenter(runtime, ignore_id=99)(Frame(image, "rgb8"), want_confidence=True, region=region)
    expected = np.full((128, 192), 99)
    expected[32:96, 48:144] = image.argmax(axis=2)[32:96, 48:144]
    np.testing.assert_array_equal(result.mask, expected)
    np.testing.assert_array_equal(result.confidence, np.where(expected == 99, 0, 200))
    smaller = Segmenter(runtime, mask_size=(64, 96), ignore_id=99)(Frame(image, "rgb8"), region=region)
    np.testing.assert_array_equal(smaller.mask, expected[::2, ::2])


def test_a_region_beyond_the_frame_is_cut_and_one_outside_is_refused(runtime):
    frame = Frame(quadrants(128, 192), "rgb8")
    assert Segmenter(runtime)(frame, region=Region(64, 96, 500, 500)).mask.shape == (128, 192)
    with pytest.raises(FrameError, match=r"frame is 192x128; the region .* lies outside"):
        Segmenter(runtime)(frame, region=Region(128, 0, 10, 10))


def test_a_letterbox_keeps_the_aspect_ratio_and_its_bars_are_in_no_mask(runtime):
    image = quadrants(192, 96)  # upright; the model's input is 64x96
    frame = Frame(image, "rgb8")
    mask = Segmenter(runtime, letterbox=True)(frame).mask
    assert (mask == image.argmax(axis=2)).mean() > 0.97  # all but the edges, which were blurred
    view = Segmenter(runtime, mask_size="model", letterbox=True, ignore_id=99)(frame)
    assert set(view.mask[:, :32].ravel()) == set(view.mask[:, 64:].ravel()) == {99}
    assert set(view.mask[:, 32:64].ravel()) == {0, 1, 2}
    assert view.image.shape == (64, 96, 3)


@pytest.mark.parametrize("mask_size", ["frame", "model", (48, 64)])
@pytest.mark.parametrize("letterbox", [False, True])
@pytest.mark.parametrize("region", [None, Region(20, 40, 80, 150)])
def test_the_mapping_says_where_a_point_of_the_frame_lies_in_the_mask(runtime, mask_size, letterbox, region):
    image = np.zeros((128, 192, 3), np.uint8)
    image[..., 0] = 100
    image[40:80, 60:140] = (0, 0, 200)
    result = Segmenter(runtime, mask_size, letterbox)(Frame(image, "rgb8"), region=region)
    rows, columns = np.nonzero(result.mask == 2)
    scale_x, scale_y, shift_x, shift_y = result.mapping
    found = (columns.min(), columns.max() + 1, rows.min(), rows.max() + 1)
    where = (60 * scale_x + shift_x, 140 * scale_x + shift_x, 40 * scale_y + shift_y, 80 * scale_y + shift_y)
    assert found == pytest.approx(where, abs=1.0)


def test_a_mosaic_is_cut_at_even_pixels(runtime):
    mosaic = np.zeros((64, 96), np.uint8)
    mosaic[0::2, 0::2] = 200  # red samples of RGGB
    mask = Segmenter(runtime, ignore_id=99)(Frame(mosaic, "bayer_rggb8"), region=Region(11, 21, 31, 41)).mask
    assert set(mask[10:42, 20:62].ravel()) == {0}
    assert (mask == 99).sum() == 64 * 96 - 32 * 42


def test_pixels_of_too_little_confidence_are_ignored(runtime):
    image = np.zeros((64, 96, 3), np.uint8)
    image[..., 1] = 100
    image[:, 48:, 1] = 200
    result = Segmenter(runtime, ignore_id=99, threshold=0.5)(Frame(image, "rgb8"))
    assert result.confidence is None
    np.testing.assert_array_equal(result.mask, np.where(image[..., 1] == 200, 1, 99))
