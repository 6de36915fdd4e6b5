"""Teacher and student are paired by stamp in bounded memory, their agreement is counted right, and all of it told."""

from __future__ import annotations

import json
import math
import re
from dataclasses import replace

import numpy as np
import pytest

from transkd_ros.compare import pair_page
from transkd_ros.compare.agreement import LONGEST_LATENCY, Comparison, Course, Moment, common_labels
from transkd_ros.compare.pairing import STUDENT, TEACHER, Pair, Pairing
from transkd_ros.compare.pictures import disagreement, side_by_side
from transkd_ros.evaluate.metrics import ConfusionMatrix
from transkd_ros.frames import Frame
from transkd_ros.model.class_map import ClassTableError
from transkd_ros.model.labels import LabelTable

LABELS = LabelTable(("road", "car", "tree"), ((10, 20, 30), (200, 0, 0), (0, 150, 0)))
MASK = np.zeros((4, 6), np.uint8)


def hear_pair(comparison, stamp, teacher, student, now=0.0):
    comparison.hear(TEACHER, stamp, np.asarray(teacher, np.uint8), now)
    return comparison.hear(STUDENT, stamp, np.asarray(student, np.uint8), now)


# ---- pairing -------------------------------------------------------------------------------------


@pytest.mark.parametrize("first", [TEACHER, STUDENT])
def test_masks_of_one_stamp_make_a_pair_whoever_is_first(first):
    pairing, masks = Pairing(), {TEACHER: MASK, STUDENT: MASK + 1}
    second = STUDENT if first == TEACHER else TEACHER
    assert pairing.add(first, 5, masks[first]) is None
    pair = pairing.add(second, 5, masks[second])
    assert pair.stamp_ns == 5 and pair.teacher is masks[TEACHER] and pair.student is masks[STUDENT]
    assert (pairing.complete, pairing.waiting, pairing.unpaired) == (1, 0, {TEACHER: 0, STUDENT: 0})


def test_a_slow_teacher_is_paired_with_the_frames_it_answered_and_the_others_are_counted():
    pairing = Pairing()
    for stamp in range(1, 7):
        pairing.add(STUDENT, stamp, MASK)
    assert pairing.add(TEACHER, 3, MASK)
    assert pairing.unpaired == {TEACHER: 0, STUDENT: 2} and pairing.waiting == 3
    assert pairing.add(TEACHER, 6, MASK)
    assert pairing.unpaired == {TEACHER: 0, STUDENT: 4} and pairing.waiting == 0


def test_masks_without_a_partner_are_given_up_oldest_first_and_counted():
    pairing = Pairing(most_waiting=3)
    for stamp in range(1, 101):
        pairing.add(TEACHER, stamp, MASK)
        assert pairing.waiting <= 3
    assert pairing.unpaired == {TEACHER: 97, STUDENT: 0}
    assert pairing.add(STUDENT, 97, MASK) is None
    assert pairing.add(STUDENT, 98, MASK)


def test_a_side_that_starts_again_goes_on_being_paired():
    pairing = Pairing()
    pairing.add(TEACHER, 1, MASK)
    pairing.add(STUDENT, 1, MASK)
    for stamp in range(2, 50):  # the student is away
        pairing.add(TEACHER, stamp, MASK)
    pairing.add(STUDENT, 50, MASK)
    assert pairing.add(TEACHER, 50, MASK)
    assert pairing.waiting == 0 and pairing.complete == 2


def test_a_bag_that_starts_again_is_paired_by_its_old_stamps():
    pairing = Pairing()
    for _ in range(3):
        for stamp in (10, 20, 30):
            pairing.add(TEACHER, stamp, MASK)
            assert pairing.add(STUDENT, stamp, MASK)
    pairing.add(TEACHER, 30, MASK)  # never answered by the student
    for stamp in (10, 20, 30):
        pairing.add(STUDENT, stamp, MASK)
        assert pairing.add(TEACHER, stamp, MASK)
    assert pairing.complete == 12 and pairing.unpaired[STUDENT] == 0


def test_a_stamp_that_comes_twice_from_one_side_keeps_the_newer_mask():
    pairing = Pairing()
    pairing.add(TEACHER, 1, MASK)
    newer = MASK + 1
    pairing.add(TEACHER, 1, newer)
    assert pairing.add(STUDENT, 1, MASK).teacher is newer
    assert pairing.unpaired[TEACHER] == 1


# ---- agreement -----------------------------------------------------------------------------------


def test_agreement_is_the_field_s_confusion_matrix_of_the_student_against_the_teacher():
    rng, comparison, expected = np.random.default_rng(0), Comparison(LABELS), ConfusionMatrix(3)
    for stamp in range(1, 20):
        teacher, student = rng.integers(0, 3, (2, 30, 40)).astype(np.uint8)
        teacher[rng.random(teacher.shape) < 0.1] = 255
        expected.update(student, teacher)
        hear_pair(comparison, stamp, teacher, student)
    np.testing.assert_array_equal(comparison.agreement.total.matrix, expected.matrix)
    total = comparison.summary()["agreement"]["total"]
    assert total["miou"] == pytest.approx(expected.miou(), abs=1e-4)
    assert total["pixel_accuracy"] == pytest.approx(expected.pixel_accuracy(), abs=1e-4)
    assert list(total["iou"]) == list(LABELS.names)


def test_the_window_forgets_and_the_total_does_not():
    comparison = Comparison(LABELS, window=2)
    hear_pair(comparison, 1, [[0, 0]], [[1, 1]])
    for stamp in (2, 3):
        hear_pair(comparison, stamp, [[0, 1]], [[0, 1]])
    agreement = comparison.summary()["agreement"]
    assert agreement["window"]["pixel_accuracy"] == 1.0
    assert agreement["total"]["pixel_accuracy"] == pytest.approx(4 / 6, abs=1e-4)
    assert agreement["total"]["iou"]["tree"] is None


def test_of_masks_of_different_size_the_student_s_is_stretched_and_counted():
    comparison = Comparison(LABELS)
    pair = hear_pair(comparison, 1, np.repeat([[0, 1]], 8, axis=1).repeat(8, axis=0), [[0, 1]])
    assert pair.student.shape == pair.teacher.shape == (8, 16)
    summary = comparison.summary()
    assert summary["pairs"]["resized"] == 1 and summary["agreement"]["total"]["pixel_accuracy"] == 1.0


def test_ids_that_are_no_class_are_left_out_and_reported_for_the_side_that_sent_them():
    comparison = Comparison(LABELS)
    hear_pair(comparison, 1, [[0, 1, 255, 7]], [[0, 1, 1, 1]])
    hear_pair(comparison, 2, [[0, 1, 255, 2]], [[0, 1, 1, 9]])
    problems = {side: comparison.summary()[side]["problems"]["unknown ids"] for side in (TEACHER, STUDENT)}
    assert problems == {TEACHER: 1, STUDENT: 1}  # 255 means no class and is none
    assert comparison.agreement.total.matrix.sum() == 4


def test_a_pair_in_which_no_pixel_can_be_compared_is_a_pair_all_the_same():
    comparison = Comparison(LABELS)
    hear_pair(comparison, 1, [[255, 255]], [[0, 1]])
    summary = comparison.summary()
    assert summary["pairs"]["complete"] == 1 and summary["agreement"]["total"]["miou"] is None
    assert comparison.worst is None


def test_the_worst_pair_is_the_one_that_agrees_least():
    comparison = Comparison(LABELS)
    for stamp, student in ((1, [[0, 0, 1]]), (2, [[0, 1, 1]]), (3, [[0, 0, 0]])):
        hear_pair(comparison, stamp, [[0, 0, 0]], student)
    assert comparison.worst.stamp_ns == 2


def test_bundles_of_other_classes_are_refused_with_the_first_difference(tiny_bundle):
    teacher = tiny_bundle.manifest
    more = replace(teacher, name="more", labels=LabelTable((*teacher.labels.names, "sky"), ((0, 0, 0),) * 4))
    other = replace(teacher, name="other", labels=LabelTable(("red", "sky", "blue"), ((0, 0, 0),) * 3))
    painted = replace(teacher, labels=LabelTable(teacher.labels.names, ((1, 1, 1),) * 3))
    with pytest.raises(ClassTableError, match="only more has sky"):
        common_labels(teacher, more)
    with pytest.raises(ClassTableError, match="only tiny has green; only other has sky"):
        common_labels(teacher, other)
    assert common_labels(teacher, painted) == teacher.labels


def test_a_student_with_the_same_classes_in_another_order_is_compared_by_name(tiny_bundle):
    student = LabelTable(("tree", "road", "car"), LABELS.colors, ignore_id=254)
    teacher, other = (replace(tiny_bundle.manifest, labels=labels) for labels in (LABELS, student))
    assert common_labels(teacher, other) == LABELS
    comparison = Comparison(LABELS, student=student)
    hear_pair(comparison, 1, [[0, 1, 2, 255]], [[1, 2, 0, 254]])
    total = comparison.summary()["agreement"]["total"]
    assert total["iou"] == {"road": 1.0, "car": 1.0, "tree": 1.0}
    hear_pair(comparison, 2, [[0]], [[7]])
    assert comparison.summary()[STUDENT]["problems"]["unknown ids"] == 1


# ---- speed ---------------------------------------------------------------------------------------


def test_ratios_say_how_many_times_better_the_student_is():
    comparison = Comparison(LABELS)
    for index in range(9):
        comparison.hear(TEACHER, 1 + 4 * index, MASK, now=0.4 * index, latency=0.3)
        for fast in range(4):
            comparison.hear(STUDENT, 1 + 4 * index + fast, MASK, now=0.4 * index + 0.1 * fast, latency=0.1)
    summary = comparison.summary(now=3.2)
    assert summary[TEACHER]["rate_hz"] == pytest.approx(2.5) and summary[TEACHER]["mean_rate_hz"] == 2.5
    assert summary["ratios"]["rate"] == pytest.approx(4.0) and summary["ratios"]["latency"] == pytest.approx(3.0)
    assert summary[STUDENT]["latency_ms"]["p95"] == pytest.approx(100.0)


@pytest.mark.parametrize("latency", [-0.5, LONGEST_LATENCY + 1])
def test_stamps_of_another_clock_give_no_latency_but_are_counted(latency):
    comparison = Comparison(LABELS)
    comparison.hear(TEACHER, 1, MASK, now=1.0, latency=latency)
    teacher = comparison.summary()[TEACHER]
    assert teacher["latency_ms"] == {} and teacher["problems"]["stamp of another clock"] == 1


def test_missing_stamps_and_stamps_that_jump_back_are_counted():
    comparison = Comparison(LABELS)
    for stamp in (0, 10, 20, 5, 6, 0, 7):
        comparison.hear(STUDENT, stamp, MASK, now=1.0)
    problems = comparison.summary()[STUDENT]["problems"]
    assert problems["stamp jumped back"] == 1 and problems["no stamp"] == 2
    assert comparison.pairing.waiting == 5


def test_the_course_stays_short_and_evenly_spread():
    course = Course(most=10)
    for pair in range(1, 1001):
        course.add(Moment(pair, 1.0, 1.0))
    numbers = [moment.pair for moment in course.moments]
    assert len(numbers) <= 10 and numbers[-1] > 800
    assert len(set(np.diff(numbers))) == 1


# ---- what is shown and written -------------------------------------------------------------------


def test_the_disagreement_shows_the_student_s_class_where_they_differ():
    picture = disagreement(LABELS, Pair(1, np.array([[0, 1]], np.uint8), np.array([[0, 2]], np.uint8)))
    assert picture[0, 1].tolist() == [0, 150, 0]
    assert picture[0, 0].min() == picture[0, 0].max() > 200


@pytest.mark.parametrize("with_frame", [True, False])
@pytest.mark.parametrize("size", [(60, 100), (720, 1280)])
def test_side_by_side_has_four_tiles_above_a_legend(size, with_frame):
    mask = np.ones(size, np.uint8)
    frame = Frame(np.full((*size, 3), 77, np.uint8), "rgb8") if with_frame else None
    picture = side_by_side(LABELS, Pair(1, mask, 0 * mask), frame)
    height, width = size[0] * min(size[1], 640) // size[1], min(size[1], 640)
    assert picture.shape[1] == 2 * width and picture.shape[0] > 2 * height
    assert picture[height - 1, width - 1].tolist() == ([77] * 3 if with_frame else [0] * 3)
    assert picture[2 * height - 1, 2 * width - 1].tolist() == [10, 20, 30]  # the student says road


def test_the_report_is_strict_json_and_one_page_that_needs_nothing_beside_it(tmp_path):
    comparison, silent = Comparison(LABELS), Comparison(LABELS)
    for stamp in range(1, 4):
        hear_pair(comparison, stamp, [[0, 1, 7]], [[0, 2, 1]], now=float(stamp))
    subject = pair_page.Subject("big <b>", "small", LABELS)
    pair_page.write(tmp_path, subject, {"front": pair_page.View(comparison), "rear": pair_page.View(silent)}, "a test")
    result = json.loads((tmp_path / "comparison.json").read_text(), parse_constant=lambda text: math.nan)
    assert result["cameras"]["front"]["confusion"] == [[3, 0, 0], [0, 0, 3], [0, 0, 0]]
    assert result["cameras"]["front"]["agreement"]["total"]["miou"] == pytest.approx(1 / 3, abs=1e-3)
    assert "NaN" not in (tmp_path / "comparison.json").read_text()
    html = (tmp_path / "comparison.html").read_text()
    assert "big &lt;b&gt;" in html and "<svg" in html and "data:image/jpeg" in html
    assert "teacher: unknown ids, 3 of 3 masks" in html and "nothing to compare" in html
    assert not re.search(r'(src|href)="(?!data:|#)', html)
