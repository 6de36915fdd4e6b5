"""A frame of any size gets a mask of its size, with every stage timed."""

from __future__ import annotations

import numpy as np
import pytest

from transkd_ros.frames import Frame
from transkd_ros.model.engines import open_runtime
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
