"""Frames meet their masks by stamp, what got no mask is counted, and the pictures keep to bounded memory."""

from __future__ import annotations

import json

import cv2
import numpy as np
import pytest

from transkd_ros.bags.messages import image_message
from transkd_ros.demo.run import Run, TruthError
from transkd_ros.demo.sources import Shot
from transkd_ros.model.labels import LabelTable
from transkd_ros.reports.album import ContactSheet, Video

LABELS = LabelTable(("road", "car"), ((128, 64, 128), (0, 0, 255)))
MILLISECOND = 1_000_000


def shot(truth: int | None = None) -> Shot:
    pixels = np.full((20, 30, 3), 90, np.uint8)
    return Shot(image_message(pixels, "rgb8", 0), None if truth is None else mask(truth))


def mask(value: int) -> np.ndarray:
    return np.full((20, 30), value, np.uint8)


def test_a_mask_gives_up_the_older_frames_and_not_the_newer_ones(tmp_path):
    with Run(tmp_path, LABELS, 10.0) as run:
        for stamp in (100, 200, 300):
            run.send(stamp * MILLISECOND, shot())
        run.answer(200 * MILLISECOND, 240 * MILLISECOND, mask(0))
        assert (run.sent.count, run.answered.count, run.dropped) == (3, 1, 1)
        assert not run.is_waiting(100 * MILLISECOND) and run.is_waiting(300 * MILLISECOND)
        assert run.latency["p50"] == pytest.approx(40)
        run.answer(100 * MILLISECOND, 400 * MILLISECOND, mask(0))
        run.answer(999 * MILLISECOND, 400 * MILLISECOND, mask(0))
        assert run.answered.count == 1


def test_frames_that_are_never_answered_are_not_kept_for_ever(tmp_path):
    with Run(tmp_path, LABELS, 10.0) as run:
        for stamp in range(1, 501):
            run.send(stamp, shot())
        assert len(run._pending) <= 64
        assert run.dropped == 500 - len(run._pending)


def test_the_summary_counts_every_frame_and_scores_only_where_there_is_truth(tmp_path):
    diagnostics = {"node": {"engine": "x", "infer p50 (ms)": "1.50", "infer p95 (ms)": "2.00"}, "/camera": {}}
    with Run(tmp_path, LABELS, 10.0) as run:
        for stamp, truth in ((1, 1), (2, None), (3, 0)):
            run.send(stamp, shot(truth))
            run.answer(stamp, stamp + 5, mask(1))
        run.send(4, shot(0))
        run.finish("title", {"source": "test"}, diagnostics)
    report = json.loads((tmp_path / "timing.json").read_text())
    assert report["source"] == "test"
    assert report["frames"] == {"sent": 4, "answered": 3, "dropped": 1}
    assert report["stages_ms"] == {"infer": {"p50": 1.5, "p95": 2.0}} and report["node"] == {"engine": "x"}
    assert report["quality"]["iou"] == {"road": 0.0, "car": 0.5}
    assert {path.name for path in run.files} == {path.name for path in tmp_path.iterdir()}


def test_truth_of_other_classes_is_refused(tmp_path):
    with pytest.raises(TruthError, match="classes"), Run(tmp_path, LABELS, 10.0) as run:
        run.send(1, shot(7))
        run.answer(1, 2, mask(0))
    assert list(tmp_path.iterdir()) == []


def test_results_of_an_earlier_run_do_not_outlive_the_start_of_the_next(tmp_path):
    for name in ("timing.json", "overlay.mp4", "contact_sheet.png", "mine.txt"):
        (tmp_path / name).write_text("old")
    Run(tmp_path, LABELS, 10.0)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]



def test_the_sheet_keeps_few_frames_of_a_long_run_and_spreads_over_all_of_it():
    sheet = ContactSheet(LABELS, rows=4)
    for index in range(1000):
        sheet.offer(np.full((20, 30, 3), index // 4, np.uint8), mask(0), None)
        assert len(sheet._kept) <= 16
    drawn = sheet.draw("title")
    cell = drawn[28 * 2 + 10 :: 267 + 6, 20, 0][:4].astype(int)  # a pixel of each row's frame
    assert cell[0] < 10 and cell[-1] > 180 and (np.diff(cell) > 30).all()


def test_the_sheet_has_a_third_column_only_with_ground_truth():
    widths = []
    for truth in (None, mask(1)):
        sheet = ContactSheet(LABELS)
        sheet.offer(np.zeros((20, 30, 3), np.uint8), mask(0), truth)
        widths.append(sheet.draw("title").shape[1])
    assert widths[0] < widths[1]


def test_a_video_of_odd_and_changing_sizes_can_be_read_back(tmp_path):
    video = Video(tmp_path / "v.mp4", 10.0)
    for size in ((33, 47), (33, 47), (60, 80)):
        video.write(np.zeros((*size, 3), np.uint8))
    assert list(tmp_path.glob("v.mp4")) == []
    path = video.finish()
    if path is None:
        pytest.skip("this OpenCV build cannot write MP4")
    assert cv2.VideoCapture(str(path)).get(cv2.CAP_PROP_FRAME_COUNT) == 3


def test_a_discarded_video_leaves_nothing(tmp_path):
    video = Video(tmp_path / "v.mp4", 10.0)
    video.write(np.zeros((32, 32, 3), np.uint8))
    video.discard()
    assert list(tmp_path.iterdir()) == []
