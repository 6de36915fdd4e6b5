"""What is kept of a replay through a running node, and what the evaluation makes of it; no ROS."""

from __future__ import annotations

import json

import numpy as np
import pytest

from transkd_ros.bags.messages import compressed_message, image_message
from transkd_ros.bags.storage import BagError, BagReader, BagWriter
from transkd_ros.cli import CommandError
from transkd_ros.evaluate.live import Recording, dropped, read_offline
from transkd_ros.evaluate.replay import Account, conclude, plan

SECOND = 1_000_000_000
FRAMES = "/front/image_raw"


def frame(pixels, stamp_ns):
    return image_message(pixels, "rgb8", stamp_ns)


@pytest.fixture
def stamps():
    """Of the frames in the bag; the camera's clock jumps back once."""
    return [1 * SECOND, 2 * SECOND, 3 * SECOND, 2 * SECOND + 1, 4 * SECOND]


@pytest.fixture
def drive(tmp_path, colours, stamps):
    """A bag of a camera whose labels are the brightest channels."""
    with BagWriter(tmp_path / "drive") as bag:
        for index, stamp_ns in enumerate(stamps):
            recorded = SECOND + index
            bag.write(FRAMES, frame(colours, stamp_ns), recorded)
            truth = image_message(colours.argmax(axis=2).astype(np.uint8), "mono8", stamp_ns)
            bag.write("/front/ground_truth", truth, recorded)
    return tmp_path / "drive"


@pytest.fixture
def recording(tmp_path):
    return Recording(tmp_path)


def account(drive, bundle, recording, **more):
    diagnostics = {
        "node": {
            "engine": "openvino",
            "device": "CPU",
            "precision": "fp32",
            "input size": "96x64",
            **{f"infer p{n} (ms)": "5" for n in (50, 95, 99)},
        },
        "/front": {"received": "5", "dropped superseded": "2", "dropped stale": "0"},
    }
    return Account(plan(drive), str(bundle.path), {"/front": recording}, diagnostics, **more)


def metrics(folder):
    return json.loads((folder / "metrics.json").read_text())


# ---- the recording -------------------------------------------------------------------------------


def test_masks_come_back_as_they_were_heard_by_stamp(recording):
    masks = {stamp: np.full((4, 6), stamp, np.uint8) for stamp in (7, 5, 9)}
    for stamp, mask in masks.items():
        recording.answer(stamp, stamp, mask[:, ::-1])
        assert recording.mask(99) is None
    for stamp, mask in masks.items():
        np.testing.assert_array_equal(recording.mask(stamp), mask)


def test_a_recording_leaves_no_file_behind(tmp_path):
    Recording(tmp_path).answer(1, 1, np.zeros((4, 6), np.uint8))
    assert list(tmp_path.iterdir()) == []


def test_every_frame_is_answered_or_not_even_if_only_its_mask_was_heard(recording):
    for stamp, published in ((1, 0), (2, SECOND), (3, 2 * SECOND), (3, 3 * SECOND)):
        recording.frame(stamp, published)
    mask = np.zeros((4, 6), np.uint8)
    recording.answer(2, 5 * SECOND // 2, mask)
    recording.answer(4, 7 * SECOND // 2, mask)
    assert recording.latencies() == {2: 1.5}
    assert recording.to_json(in_bag=10) == {
        "in_bag": 10,
        "sent": 4,
        "answered": 2,
        "never_answered": 2,
        "repeated_stamps": 1,
        "rate_hz": {"in": 0.667, "out": 1.0},
    }


def test_drops_are_told_by_cause_as_far_as_there_are_any():
    assert dropped({"received": "9", "dropped superseded": "3", "dropped stale": "0"}) == {"superseded": 3}


# ---- the plan ------------------------------------------------------------------------------------


def test_a_topic_of_another_name_is_played_where_the_node_listens(tmp_path, colours):
    with BagWriter(tmp_path / "bag") as bag:
        for topic in (FRAMES, "/usb_cam"):
            bag.write(topic, frame(colours, SECOND))
    replay = plan(tmp_path / "bag")
    assert (replay.topics, replay.compressed) == ([FRAMES, "/usb_cam"], False)
    assert replay.renamed() == [("/usb_cam", "/usb_cam/image_raw")]


def test_raw_and_compressed_frames_at_once_are_refused_and_either_alone_is_not(tmp_path, colours):
    with BagWriter(tmp_path / "bag") as bag:
        bag.write(FRAMES, frame(colours, SECOND))
        bag.write("/rear/image_raw/compressed", compressed_message(b"", "png", SECOND))
    with pytest.raises(BagError, match="raw or compressed, not both; choose topics of /front/image_raw, /rear"):
        plan(tmp_path / "bag")
    assert plan(tmp_path / "bag", ["/rear/image_raw/compressed"]).compressed


def test_what_cannot_be_replayed_is_refused_by_name(drive, tmp_path):
    with pytest.raises(BagError, match="no topic /left; its image topics: /front/ground_truth, /front/image_raw"):
        plan(drive, ["/left"])
    with pytest.raises(BagError, match="no topic /nothing; its image topics"):
        plan(drive, label_topic="/nothing")
    with pytest.raises(ValueError, match="no such folder"):
        plan(drive, label_folder=str(tmp_path / "labels"))


# ---- the result ----------------------------------------------------------------------------------


def test_answered_frames_are_scored_unanswered_ones_counted_and_unsent_ones_left_out(
    drive, tiny_bundle, colours, recording, stamps, tmp_path
):
    for index, stamp in enumerate(stamps[:4]):
        recording.frame(stamp, index * SECOND)
    right = colours.argmax(axis=2).astype(np.uint8)
    recording.answer(stamps[0], SECOND // 10, right)
    recording.answer(stamps[2], 2 * SECOND + SECOND // 5, right)
    recording.answer(stamps[3], 3 * SECOND + SECOND // 5, np.zeros_like(right))
    evaluation = conclude(account(drive, tiny_bundle, recording), tmp_path, offline="")
    found = metrics(tmp_path)
    camera = found["models"]["tiny live"]["cameras"]["/front"]
    assert camera["frames"]["scored"] == 3 and camera["frames"]["skipped"] == {"never answered": 1}
    assert camera["frames"]["problems"] == {"stamps that jump back": 1}
    assert camera["pixel_accuracy"] == pytest.approx((2 + 1 / 3) / 3, abs=0.01)
    live = found["live"]
    assert live["cameras"]["/front"]["never_answered"] == 1 and live["cameras"]["/front"]["in_bag"] == 5
    assert live["dropped_by_the_node"] == {"/front": {"superseded": 2}}
    assert live["gap"]["answered"] == {"live": 0.75, "offline": None}
    assert live["gap"]["latency_p50_ms"]["live"] == pytest.approx(200)
    assert live["gap"]["frames_per_second"]["live"] == pytest.approx(3 / 3.2)
    assert "3 of 4 frames answered" in evaluation.line()
    page = (tmp_path / "report.html").read_text()
    assert "2 superseded" in page and "There was no offline run" in page


def test_an_offline_result_is_set_beside_the_live_one(drive, tiny_bundle, colours, recording, stamps, tmp_path):
    offline = tmp_path / "offline.json"
    total = {"miou": 0.5, "pixel_accuracy": 0.75, "boundary_f1": None, "flicker": {"share": 0.25}}
    latency = {"total": {"p50": 7.0, "p95": 8.0, "p99": 9.0}}
    timings = {"models": {"tiny": {"frames_per_second": 100.0, "latency_ms": latency}}}
    cameras = {"/front": {"frames": {"scored": 3, "skipped": {"compressed": 1}}}}
    offline.write_text(json.dumps({"models": {"tiny": {"total": total, "cameras": cameras}}, "timings": timings}))
    recording.frame(stamps[0], 0)
    recording.answer(stamps[0], SECOND // 10, colours.argmax(axis=2).astype(np.uint8))
    conclude(account(drive, tiny_bundle, recording), tmp_path, str(offline))
    found = metrics(tmp_path)
    gap = found["live"]["gap"]
    assert gap["miou"] == {"live": 1.0, "offline": 0.5}
    assert gap["latency_p99_ms"] == {"live": pytest.approx(100), "offline": 9.0}
    assert gap["answered"] == {"live": 1.0, "offline": 0.75}
    assert "offline result is of other frames: 4 of /front; the bag has 5 of /front" in found["notes"][-1]
    page = (tmp_path / "report.html").read_text()
    assert "+50.0" in page and "There was no offline run" not in page


def test_a_file_that_is_no_offline_result_of_the_model_is_refused(tmp_path):
    (tmp_path / "a.json").write_text('{"models": {"big": {}}, "timings": {"models": {"big": {}}}}')
    with pytest.raises(CommandError, match=r"a\.json: has no model tiny, but big"):
        read_offline(tmp_path / "a.json", "tiny")
    (tmp_path / "b.json").write_text("[]")
    with pytest.raises(CommandError, match=r"b\.json: not the metrics\.json"):
        read_offline(tmp_path / "b.json", "tiny")
    with pytest.raises(OSError):
        read_offline(tmp_path / "c.json", "tiny")


def test_a_replay_without_a_mask_is_an_error_and_writes_nothing(drive, tiny_bundle, recording, tmp_path):
    recording.frame(SECOND, 0)
    with pytest.raises(CommandError, match="none of its frames got a mask"):
        conclude(account(drive, tiny_bundle, recording), tmp_path, "")
    assert not (tmp_path / "metrics.json").exists()


@pytest.mark.parametrize("error, words", [(KeyboardInterrupt(), "stopped"), (BagError("cut short"), "cut short")])
def test_what_was_scored_before_the_end_of_the_scoring_is_written(
    drive, tiny_bundle, colours, recording, stamps, tmp_path, monkeypatch, error, words
):
    for stamp in stamps:
        recording.frame(stamp, 0)
        recording.answer(stamp, 1, colours.argmax(axis=2).astype(np.uint8))
    frames = BagReader.frames

    def broken(self, topic, *args):
        for number, found in enumerate(frames(self, topic, *args)):
            if topic == FRAMES and number == 2:
                raise error
            yield found

    replay = account(drive, tiny_bundle, recording)
    monkeypatch.setattr(BagReader, "frames", broken)
    conclude(replay, tmp_path, "")
    found = metrics(tmp_path)
    assert words in found["partial"]
    assert found["models"]["tiny live"]["cameras"]["/front"]["frames"]["scored"] == 2
