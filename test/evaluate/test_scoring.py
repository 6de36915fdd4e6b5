"""The account of one camera: exact totals, trouble counted instead of raised, pictures bounded in number."""

from __future__ import annotations

import math

import cv2
import numpy as np
import pytest

from transkd_ros.evaluate.metrics import BoundaryF1, ConfusionMatrix
from transkd_ros.evaluate.scoring import PICTURES, Score
from transkd_ros.frames import Frame
from transkd_ros.model.labels import LabelTable

LABELS = LabelTable(("red", "green", "blue"), ((255, 0, 0), (0, 255, 0), (0, 0, 255)))
SECOND = 1_000_000_000
SIZE = (24, 32)


def mask(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 3, SIZE, dtype=np.uint8)


def truth_with(wrong: int, of: np.ndarray) -> np.ndarray:
    """Labels that differ from a mask in its first pixels."""
    truth = of.copy()
    truth.flat[:wrong] = (truth.flat[:wrong] + 1) % 3
    return truth


def test_totals_are_those_of_all_pixels_and_not_means_of_frames():
    score, confusion, boundary = Score(LABELS), ConfusionMatrix(3), BoundaryF1(3)
    for index in range(4):
        truth = truth_with(100 * index, mask(index))
        truth[:3] = 255
        score.add(index * SECOND, mask(index), truth)
        confusion.update(mask(index), truth)
        boundary.update(mask(index), truth)
    told = score.to_json()
    assert told["confusion_matrix"] == confusion.matrix.tolist()
    assert told["miou"] == pytest.approx(confusion.miou(), abs=1e-6)
    assert told["boundary_f1"] == pytest.approx(boundary.mean(), abs=1e-6)
    assert told["frames"] == {"scored": 4, "labelled": 4, "skipped": {}, "problems": {}}
    assert [frame.stamp_ns for frame in score.frames] == [index * SECOND for index in range(4)]


def test_where_a_mask_names_no_class_nothing_is_scored_and_that_is_told():
    score, truth = Score(LABELS), truth_with(100, mask(0))
    unsure = mask(0)
    unsure[:3] = LABELS.ignore_id  # 96 of the 100 wrong pixels
    score.add(0, unsure, truth)
    assert score.metrics.confusion.matrix.sum() == mask(0).size - 3 * SIZE[1]
    assert score.metrics.confusion.pixel_accuracy() == pytest.approx(1 - 4 / (mask(0).size - 96))
    assert score.to_json()["frames"]["problems"] == {"masks that name no class in places: not scored there": 1}


def test_metrics_of_cameras_add_up():
    scores = [Score(LABELS), Score(LABELS)]
    for index, score in enumerate(scores):
        for moment in range(2):
            score.add(moment, mask(index + moment), truth_with(30, mask(index + moment)))
    total = scores[0].metrics + scores[1].metrics
    assert total.confusion.matrix.sum() == 4 * mask(0).size
    assert total.flicker.total == 2 * mask(0).size
    assert total.to_json()["pixel_accuracy"] == pytest.approx(1 - 30 / mask(0).size, abs=1e-6)


def test_without_labels_flicker_alone_is_known():
    score = Score(LABELS)
    score.add(0, mask(0))
    frame = score.add(1, mask(0))
    assert frame.flicker == 0 and math.isnan(frame.miou)
    told = score.to_json()
    assert told["frames"]["labelled"] == 0
    assert told["miou"] is None and told["flicker"] == {"share": 0.0, "steady_share": None}


def test_a_label_of_another_size_is_counted_and_not_used():
    score = Score(LABELS)
    score.add(0, mask(0), np.zeros((12, 16), np.uint8))
    score.add(1, mask(1), mask(1))
    assert dict(score.problems) == {"labels of another size: 16x12 for frames of 32x24": 1}
    assert score.to_json()["frames"]["labelled"] == 1 and score.to_json()["miou"] == 1.0


def test_pixels_of_unknown_ids_are_counted_by_id_and_left_out():
    truth = mask(0).copy()
    truth[0, :5], truth[1, :2], truth[2] = 7, 19, 255
    score = Score(LABELS)
    score.add(0, mask(0), truth)
    frames = score.to_json()["frames"]
    assert frames["unknown_label_ids"] == {"7": 5, "19": 2}
    assert frames["problems"] == {"labels with unknown ids": 1}
    assert score.metrics.confusion.matrix.sum() == truth.size - 5 - 2 - 32


def test_stamps_that_jump_back_are_counted_and_end_the_comparison_of_neighbours():
    score = Score(LABELS)
    for stamp in (10, 20, 5, 6):
        score.add(stamp, mask(stamp))
    assert dict(score.problems) == {"stamps that jump back": 1}
    assert score.metrics.flicker.total == 2 * mask(0).size


def test_a_frame_without_a_mask_is_counted_by_cause_and_its_neighbours_are_not_compared():
    score = Score(LABELS)
    score.add(0, mask(0))
    score.skip("encoding")
    score.add(2, mask(2))
    assert score.to_json()["frames"]["skipped"] == {"encoding": 1}
    assert score.metrics.flicker.total == 0


# ---- pictures ------------------------------------------------------------------------------------
def run(wrong_pixels: list[int], apart: int = 5 * SECOND) -> Score:
    score = Score(LABELS)
    frame = Frame(np.full((*SIZE, 3), 90, np.uint8), "rgb8")
    for index, wrong in enumerate(wrong_pixels):
        score.add(index * apart, mask(index), truth_with(wrong, mask(index)), frame)
    return score


def test_the_worst_frames_are_kept_worst_first():
    wrong = [(37 * index) % 101 for index in range(100)]
    worst = run(wrong).worst
    expected = sorted(wrong, reverse=True)[:PICTURES]
    assert [wrong[picture.score.stamp_ns // (5 * SECOND)] for picture in worst] == expected
    assert [picture.score.miou for picture in worst] == sorted(picture.score.miou for picture in worst)


def test_of_neighbours_in_time_only_the_worst_is_kept():
    wrong = [0] * 60
    wrong[20:25] = [50, 60, 90, 70, 50]
    worst = run(wrong, apart=SECOND // 2).worst
    assert worst[0].score.stamp_ns == 22 * SECOND // 2
    stamps = sorted(picture.score.stamp_ns for picture in worst)
    assert min(np.diff(stamps)) > SECOND


def test_samples_are_spread_over_the_whole_run_and_stay_few():
    for count in (1, PICTURES + 1, 500):
        score = run([1] * count)
        stamps = [picture.score.stamp_ns // (5 * SECOND) for picture in score.samples]
        assert len(stamps) == min(count, PICTURES)
        assert stamps == sorted(stamps) and stamps[0] == 0
        assert stamps[-1] >= 0.75 * (count - 1)
    assert len(score._samples) < 2 * PICTURES


def test_a_picture_shows_frame_prediction_truth_and_errors():
    score = Score(LABELS)
    prediction, truth = np.zeros((480, 960), np.uint8), np.zeros((480, 960), np.uint8)
    prediction[:, 480:] = 2
    truth[240:] = 255
    score.add(0, prediction, truth, Frame(np.full((480, 960, 3), 90, np.uint8), "rgb8"))
    (picture,) = score.samples
    assert list(picture.images) == ["frame", "prediction", "truth", "errors"]
    errors = cv2.imdecode(np.frombuffer(picture.images["errors"], np.uint8), cv2.IMREAD_COLOR)[..., ::-1]
    assert errors.shape == (240, 480, 3)
    for (y, x), colour in {(60, 100): (222, 222, 222), (60, 400): (0, 0, 255), (200, 400): (255, 255, 255)}.items():
        np.testing.assert_allclose(errors[y, x], colour, atol=8)
