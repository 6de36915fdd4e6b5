"""The offline evaluation takes every frame once, says what it found in two files, and goes on or ends as it should."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
from conftest import EMPTY_SAFETENSORS, TINY_FIELDS, tiny_onnx

from transkd_ros.bags.label_classes import write_classes
from transkd_ros.bags.messages import compressed_message, header_stamp, image_message
from transkd_ros.bags.storage import BagError, BagReader, BagWriter
from transkd_ros.cli import CommandError
from transkd_ros.evaluate import __main__ as command
from transkd_ros.evaluate import pipeline
from transkd_ros.evaluate.pipeline import DEPTH, Shot
from transkd_ros.evaluate.scoring import Score
from transkd_ros.frames import Frame
from transkd_ros.model.bundle import Bundle, write_bundle
from transkd_ros.model.labels import LabelTable
from transkd_ros.region import Mapping
from transkd_ros.reports.album import Video
from transkd_ros.segmenter import Segmentation
from transkd_ros.timing import Timings

SIZE = (64, 96)
TENTH = 100_000_000  # ns
PIXELS = SIZE[0] * SIZE[1]


def scene(index: int) -> tuple[np.ndarray, np.ndarray]:
    """A frame (RGB) and its label: the tiny bundle answers the brightest channel, which is the label everywhere."""
    label = np.full(SIZE, index % 3, np.uint8)
    label[:, 4 * index % 90 :] = (index + 1) % 3
    return np.where(np.arange(3) == label[..., None], 200, 20).astype(np.uint8), label


def write_bag(path: Path, count: int = 5, *, storage="mcap", compressed=False, cameras=("/front",), spoil=None) -> Path:
    """Frames ten a second with their labels; `spoil(index, message, label)` may give others back."""
    with BagWriter(path, storage) as bag:
        for index in range(count):
            rgb, label = scene(index)
            stamp = 10**9 + index * TENTH
            for camera in cameras:
                if compressed:
                    data = cv2.imencode(".png", rgb[..., ::-1])[1].tobytes()
                    message, topic = compressed_message(data, "png", stamp), f"{camera}/image_raw/compressed"
                else:
                    message, topic = image_message(rgb, "rgb8", stamp), f"{camera}/image_raw"
                labels = image_message(label, "mono8", stamp)
                message, labels = spoil(index, message, labels) if spoil else (message, labels)
                bag.write(topic, message, stamp)
                if labels:
                    bag.write(f"{camera}/ground_truth", labels, stamp)
    return path


@pytest.fixture
def evaluate(tiny_bundle, tmp_path, monkeypatch):
    """Run the command on a bag; its metrics. Raises what `cli.run` turns into one line."""

    def run(bag: Path | None, *options: object, model: Path = tiny_bundle.path, code: int = 0) -> dict:
        output = tmp_path / "out"
        source = ("--bag", bag) if bag else ()
        arguments = (*source, "--model", model, "--output", output, "--engine", "openvino", *options)
        monkeypatch.setattr(sys, "argv", ["evaluate", *map(str, arguments)])
        assert command.main() == code
        return json.loads((output / "metrics.json").read_text())

    return run


def other_bundle(folder: Path, **fields: object) -> Bundle:
    files = {"model.onnx": tiny_onnx(), "weights.safetensors": EMPTY_SAFETENSORS}
    return write_bundle(folder, TINY_FIELDS | fields, files)


# ---- what it finds -------------------------------------------------------------------------------
@pytest.mark.parametrize("storage", ["mcap", "sqlite3"])
@pytest.mark.parametrize("compressed", [False, True], ids=["raw", "compressed"])
def test_every_frame_of_every_camera_is_scored_exactly_once(evaluate, tmp_path, storage, compressed):
    bag = write_bag(tmp_path / "bag", 7, storage=storage, compressed=compressed, cameras=("/front", "/cam/rear"))
    found = evaluate(bag)["models"]["tiny"]
    assert found["total"]["miou"] == found["total"]["pixel_accuracy"] == found["total"]["boundary_f1"] == 1.0
    assert np.trace(found["total"]["confusion_matrix"]) == 2 * 7 * PIXELS
    assert list(found["cameras"]) == ["/cam/rear", "/front"]
    for camera in found["cameras"].values():
        assert camera["frames"] == {"scored": 7, "labelled": 7, "skipped": {}, "problems": {}}
        assert np.sum(camera["confusion_matrix"]) == 7 * PIXELS
        changed = [np.mean(scene(i)[1] != scene(i + 1)[1]) for i in range(6)]
        assert camera["flicker"] == {"share": pytest.approx(np.mean(changed), abs=1e-6), "steady_share": 0.0}


def test_all_but_the_timings_is_the_same_every_time(evaluate, tmp_path):
    bag = write_bag(tmp_path / "bag", 20)
    first, second = evaluate(bag), evaluate(bag)
    timings = first.pop("timings")
    second.pop("timings")
    assert first == second
    stages = timings["models"]["tiny"]["latency_ms"]
    assert set(stages) == {"decode", "resize", "infer", "upsize", "total"}
    assert all(stage["count"] == 20 and 0 < stage["p50"] <= stage["p99"] for stage in stages.values())
    assert timings["models"]["tiny"]["frames_per_second"] > 0 and timings["machine"] and timings["versions"]


def test_labels_can_come_from_a_folder_or_from_a_teacher(evaluate, tmp_path):
    bag = write_bag(tmp_path / "bag", 4, spoil=lambda index, message, label: (message, None))
    assert evaluate(bag)["models"]["tiny"]["total"]["miou"] is None
    (tmp_path / "labels").mkdir()
    for index in range(4):
        label = scene(index)[1].copy()
        label[0, :10] = (label[0, :10] + 1) % 3
        cv2.imwrite(str(tmp_path / "labels" / f"{index}.png"), label)
    accuracy = evaluate(bag, "--labels", tmp_path / "labels")["models"]["tiny"]["total"]["pixel_accuracy"]
    assert accuracy == pytest.approx(1 - 10 / PIXELS, abs=1e-6)
    teacher = other_bundle(tmp_path / "teacher", name="big", role="teacher")
    found = evaluate(bag, "--teacher", teacher.path)
    assert found["models"]["tiny"]["total"]["miou"] == 1.0 and "big" in found["ground_truth"]


def test_several_models_stand_beside_each_other(evaluate, tmp_path):
    bag = write_bag(tmp_path / "bag", 4)
    found = evaluate(bag, "--model", other_bundle(tmp_path / "b", name="second").path)
    assert list(found["models"]) == list(found["timings"]["models"]) == ["tiny", "second"]
    assert found["models"]["tiny"]["cameras"] == found["models"]["second"]["cameras"]
    page = (tmp_path / "out" / "report.html").read_text()
    assert "tiny, mIoU 100.0 %" in page and "second, mIoU 100.0 %" in page


def test_names_stand_whole_and_units_in_the_head_of_a_table_of_80_columns(evaluate, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "80")
    bag = write_bag(tmp_path / "bag", 4)
    metrics = evaluate(bag, model=other_bundle(tmp_path / "b", name="mine_transkd").path)
    assert metrics["models"]["mine_transkd"]["input_size"] == {"height": 64, "width": 96}
    lines = capsys.readouterr().out.splitlines()
    (row,) = [line for line in lines if line.split()[:2] == ["mine_transkd", "4"]]
    assert len(row.split()) == 9 and len(row) <= 80
    assert ["%", "%", "%", "%", "Hz", "ms", "ms"] in [line.split()[-7:] for line in lines]


def test_the_report_is_one_page_that_loads_nothing(evaluate, tmp_path):
    evaluate(write_bag(tmp_path / "bag", 6))
    page = (tmp_path / "out" / "report.html").read_text()
    sources = re.findall(r'(?:src|href)="([^"]{0,30})', page)
    assert sources and all(source.startswith(("data:image/jpeg;base64,", "#")) for source in sources)
    assert "@import" not in page and "url(http" not in page
    for shown in ("mIoU", "boundary F1", "Worst frames", "labelled ↓ predicted →", "Time per frame", "/front", "tiny"):
        assert shown in page
    assert page.count("<svg") == 2  # over time, histogram


def test_masks_are_written_as_a_bag_with_the_stamps_of_the_frames(evaluate, tmp_path):
    bag = write_bag(tmp_path / "bag", 3, compressed=True)
    evaluate(bag, "--write-bag")
    evaluate(bag, "--write-bag")  # again: the one before is replaced
    with BagReader(tmp_path / "out" / "masks") as masks:
        assert masks.counts == {"/front/segmentation/mask": 3, "/front/segmentation/overlay/compressed": 3}
        for index, (recorded, message) in enumerate(masks.frames("/front/segmentation/mask")):
            assert recorded == header_stamp(message) == 10**9 + index * TENTH
            assert message.encoding == "mono8" and message.header.frame_id == "camera"
            assert np.array_equal(message.data.reshape(SIZE), scene(index)[1])


def write_folders(root: Path, count: int) -> tuple[Path, Path]:
    """The same frames and labels as files, named by numbers that could be stamps and are not those of the frames."""
    images, labels = root / "images", root / "labels"
    for folder in (images, labels):
        folder.mkdir()
    for index in range(count):
        rgb, label = scene(index)
        cv2.imwrite(str(images / f"{10**15 + index}.png"), rgb[..., ::-1])
        cv2.imwrite(str(labels / f"{10**15 + index}.png"), label)
    return images, labels


def test_a_folder_of_images_is_evaluated_like_a_bag(evaluate, tmp_path):
    images, labels = write_folders(tmp_path, 5)
    found = evaluate(None, "--images", images, "--labels", labels, "--write-bag")["models"]["tiny"]
    assert found["total"]["miou"] == 1.0 and np.trace(found["total"]["confusion_matrix"]) == 5 * PIXELS
    assert found["cameras"]["/camera"]["frames"]["labelled"] == 5
    with BagReader(tmp_path / "out" / "masks") as masks:
        assert masks.counts["/camera/segmentation/mask"] == 5
    with pytest.raises(CommandError, match="belong to --bag"):
        evaluate(None, "--images", images, "--topic", "/front")
    (labels / f"{10**15}.png").unlink()
    with pytest.raises(CommandError, match=r"no label for .*1000000000000000\.png"):
        evaluate(None, "--images", images, "--labels", labels)


def test_a_broken_image_leaves_what_was_scored_until_then(evaluate, tmp_path):
    images, labels = write_folders(tmp_path, 30)
    (images / f"{10**15 + 20}.png").write_bytes(b"broken")
    with pytest.raises(CommandError, match=r"1000000000000020\.png"):
        evaluate(None, "--images", images, "--labels", labels)
    found = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert "1000000000000020" in found["partial"]
    assert 0 < found["models"]["tiny"]["cameras"]["/camera"]["frames"]["scored"] <= 20


def test_a_video_is_evaluated_like_a_bag(evaluate, tmp_path, tiny_bundle):
    video = Video(tmp_path / "drive.mp4", 10.0)
    for _ in range(4):
        video.write(scene(1)[0])
    if not video.finish():
        pytest.skip("this OpenCV writes no MP4")
    found = evaluate(None, "--images", tmp_path / "drive.mp4", "--teacher", tiny_bundle.path)["models"]["tiny"]
    assert found["total"]["miou"] == 1.0 and found["cameras"]["/camera"]["frames"]["scored"] == 4


# ---- labels of another class table ---------------------------------------------------------------
COLORS = ((255, 0, 0), (0, 255, 0), (0, 0, 255))


def with_classes(bag: Path, names: tuple[str, ...]) -> Path:
    """The bag once more, with the names of its labels' classes."""
    named = bag.with_name("named")
    with BagReader(bag) as old, BagWriter(named) as new:
        write_classes(new, "/front/ground_truth", LabelTable(names, COLORS[: len(names)]), old.start)
        for topic in old.topics:
            for stamp, message in old.frames(topic):
                new.write(topic, message, stamp)
    return named


def test_labels_are_matched_with_the_model_s_classes_by_name(evaluate, tmp_path):
    def spoil(index, message, label):  # ids of blue, red, green
        ids = np.array([1, 2, 0], np.uint8)[scene(index)[1]]
        return message, image_message(ids, "mono8", header_stamp(message))

    bag = write_bag(tmp_path / "bag", spoil=spoil)
    assert evaluate(bag)["models"]["tiny"]["total"]["miou"] < 0.1
    found = evaluate(with_classes(bag, ("blue", "red", "green")))
    assert found["models"]["tiny"]["total"]["miou"] == 1.0 and found["notes"] == []


def test_classes_that_only_one_side_has_are_left_out_and_told(evaluate, tmp_path):
    bag = with_classes(write_bag(tmp_path / "bag", 6), ("red", "green", "sky"))
    found = evaluate(bag)
    total = found["models"]["tiny"]["total"]
    assert total["iou"] == {"red": 1.0, "green": 1.0, "blue": None} and total["miou"] == 1.0
    counted = sum(np.count_nonzero(scene(i)[1] < 2) for i in range(6))
    assert np.sum(total["confusion_matrix"]) == counted
    (note,) = found["notes"]
    assert "sky of the labels of /front are no classes of tiny" in note and "blue of tiny are never labelled" in note
    assert "blue of tiny" in (tmp_path / "out" / "report.html").read_text()


def test_labels_that_say_no_classes_are_taken_as_the_model_s_with_a_note(evaluate, tmp_path):
    bag = write_bag(tmp_path / "bag")
    (note,) = evaluate(bag)["notes"]
    assert "taken as those of tiny" in note
    table = tmp_path / "table.yaml"
    entries = [{"id": i, "name": n, "color": [i, 9, 9]} for i, n in enumerate(("red", "green", "blue"))]
    table.write_text(json.dumps({"classes": entries}))
    assert evaluate(bag, "--classes", table)["notes"] == []


def test_a_teacher_s_masks_are_matched_by_name(evaluate, tmp_path):
    bag = write_bag(tmp_path / "bag", spoil=lambda index, message, label: (message, None))
    teacher = other_bundle(tmp_path / "b", name="big", labels=LabelTable(("red", "green", "sky"), COLORS))
    found = evaluate(bag, "--teacher", teacher.path)
    assert found["models"]["tiny"]["total"]["iou"] == {"red": 1.0, "green": 1.0, "blue": None}
    assert "sky of the masks of big are no classes of tiny" in found["notes"][0]


# ---- bad input that the rest can go on with ------------------------------------------------------
def test_frames_that_cannot_be_used_are_counted_by_cause(evaluate, tmp_path):
    def spoil(index, message, label):
        if index == 1:
            message.encoding = "no_such_encoding"
        if index == 3:
            message.height += 1
        return message, label

    found = evaluate(write_bag(tmp_path / "bag", 6, spoil=spoil))["models"]["tiny"]
    frames = found["cameras"]["/front"]["frames"]
    assert frames["scored"] == 4 and frames["skipped"] == {"encoding": 1, "length": 1}
    assert found["total"]["miou"] == 1.0


def test_mixed_encodings_and_sizes_are_no_trouble(evaluate, tmp_path):
    def spoil(index, message, label):
        if index % 2:
            rgb, ids = scene(index)
            big = np.kron(rgb, np.ones((2, 2, 1), np.uint8))
            stamp = header_stamp(message)
            message = image_message(big[..., ::-1], "bgr8", stamp)
            label = image_message(np.kron(ids, np.ones((2, 2), np.uint8)), "mono8", stamp)
        return message, label

    found = evaluate(write_bag(tmp_path / "bag", 6, spoil=spoil))["models"]["tiny"]
    assert found["cameras"]["/front"]["frames"]["labelled"] == 6 and found["total"]["miou"] > 0.99


def test_labels_that_cannot_be_used_are_counted_and_the_frames_still_get_masks(evaluate, tmp_path):
    def spoil(index, message, label):
        stamp = header_stamp(message)
        others = {
            1: image_message(np.zeros((5, 5), np.uint8), "mono8", stamp),
            2: image_message(np.zeros((*SIZE, 3), np.uint8), "rgb8", stamp),
            3: image_message(np.full(SIZE, 77, np.uint8), "mono8", stamp),
            4: None,
        }
        return message, others.get(index, label)

    frames = evaluate(write_bag(tmp_path / "bag", 6, spoil=spoil))["models"]["tiny"]["cameras"]["/front"]["frames"]
    assert frames["scored"] == 6 and frames["labelled"] == 2
    assert frames["unknown_label_ids"] == {"77": PIXELS}
    assert frames["problems"] == {
        "labels of another size: 5x5 for frames of 96x64": 1,
        "labels of encoding rgb8, which is not mono8": 1,
        "labels with unknown ids": 1,
    }
    assert "77: 6\N{NO-BREAK SPACE}144 pixels" in (tmp_path / "out" / "report.html").read_text()


def test_labels_that_fit_no_frame_are_noted(evaluate, tmp_path):
    def spoil(index, message, label):
        return message, image_message(scene(index)[1], "mono8", header_stamp(message) + 1)

    found = evaluate(write_bag(tmp_path / "bag", 3, spoil=spoil))
    note = found["notes"][-1]
    assert "/front" in note and "1000000000" in note and "1000000001" in note
    assert note in (tmp_path / "out" / "report.html").read_text()


def test_a_bag_damaged_in_the_middle_leaves_what_was_scored_until_then(evaluate, tmp_path):
    bag = write_bag(tmp_path / "bag", 200)
    (file,) = bag.glob("*.mcap")
    data = bytearray(file.read_bytes())
    middle = len(data) // 2
    data[middle : middle + 100_000] = bytes(100_000)
    file.write_bytes(data)
    with pytest.raises(CommandError, match="damaged"):
        evaluate(bag)
    found = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert "damaged" in found["partial"]
    assert 0 < found["models"]["tiny"]["cameras"]["/front"]["frames"]["scored"] < 200
    assert found["models"]["tiny"]["total"]["miou"] == 1.0
    assert "Partial." in (tmp_path / "out" / "report.html").read_text()


# ---- bad input that ends it ----------------------------------------------------------------------
@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (("--topic", "/back"), r"no topic /back; its image topics: .*/front/image_raw"),
        (("--ground-truth", "/labels"), r"no topic /labels; its image topics: .*/front/ground_truth"),
        (("--ground-truth", "labels"), r"no labels 'labels' of /front; its image topics: .*/front/ground_truth"),
        (("--labels", "no_such_folder"), "no_such_folder: no such folder"),
        (("--teacher", "no_such_model"), "no_such_model"),
    ],
)
def test_what_is_not_there_is_named_before_anything_runs(evaluate, tmp_path, options, complaint):
    bag = write_bag(tmp_path / "bag")
    with pytest.raises((CommandError, OSError), match=complaint):
        evaluate(bag, *options)
    assert not (tmp_path / "out" / "metrics.json").exists()


def test_models_of_other_classes_cannot_be_compared(evaluate, tmp_path):
    bag = write_bag(tmp_path / "bag")
    labels = LabelTable(("red", "green", "sky"), ((255, 0, 0), (0, 255, 0), (0, 0, 255)))
    other = other_bundle(tmp_path / "b", name="other", labels=labels)
    with pytest.raises(CommandError, match=r"other has other classes than tiny: red, green, sky against"):
        evaluate(bag, "--model", other.path)


def test_labels_without_a_class_in_common_with_the_model_are_refused(evaluate, tmp_path):
    bag = with_classes(write_bag(tmp_path / "bag"), ("road", "sky", "tree"))
    with pytest.raises(CommandError, match=r"/front and tiny have no class in common: road, sky, tree against"):
        evaluate(bag)
    assert not (tmp_path / "out" / "metrics.json").exists()


def test_a_bag_whose_frames_are_all_broken_ends_with_their_causes(evaluate, tmp_path):
    def spoil(index, message, label):
        message.encoding = "no_such_encoding"
        return message, label

    with pytest.raises(CommandError, match=r"no frame could be used \(broken: 3 of cause encoding\)"):
        evaluate(write_bag(tmp_path / "bag", 3, spoil=spoil), "--write-bag")
    assert list((tmp_path / "out").iterdir()) == []


def test_an_empty_bag_ends_with_one_line_and_exit_code_2(tmp_path, tiny_bundle):
    with BagWriter(tmp_path / "bag"):
        pass
    arguments = ("--bag", tmp_path / "bag", "--model", tiny_bundle.path, "--output", tmp_path / "out")
    ended = subprocess.run(cli_command(*arguments), capture_output=True, text=True, check=False)
    assert ended.returncode == 2
    (line,) = ended.stderr.strip().splitlines()
    assert "empty" in line and not (tmp_path / "out").exists()


def cli_command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "transkd_ros.evaluate", *map(str, arguments)]


def test_an_interrupt_leaves_what_was_scored_until_then(tmp_path, tiny_bundle):
    bag = write_bag(tmp_path / "bag", 2000)
    output = tmp_path / "out"
    options = ("--engine", "openvino", "--size", "512x512", "--write-bag")
    arguments = cli_command("--bag", bag, "--model", tiny_bundle.path, "--output", output, *options)
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        while sum(file.stat().st_size for file in output.glob(".masks*/masks/*")) < 100_000:  # some masks are made
            assert process.poll() is None, process.stderr.read()
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate()
    assert process.returncode == 130 and "Traceback" not in errors
    found = json.loads((output / "metrics.json").read_text())
    scored = found["models"]["tiny"]["cameras"]["/front"]["frames"]["scored"]
    assert found["partial"] and 0 < scored < 2000
    with BagReader(output / "masks") as masks:
        assert masks.counts["/front/segmentation/mask"] == scored
    assert not list(output.glob(".*"))


# ---- the pipeline --------------------------------------------------------------------------------
LABELS = LabelTable(("red", "green", "blue"), ((255, 0, 0), (0, 255, 0), (0, 0, 255)))
SHOT = Shot(0, 0, "camera", Frame(np.zeros((*SIZE, 3), np.uint8), "rgb8"), "", None, "", 0.001)


class Answer:
    """A segmenter that gives a mask of the number of its call, and notes how far the reader is ahead."""

    def __init__(self) -> None:
        self.calls = 0
        self.read = 0
        self.farthest = 0

    def __call__(self, frame: Frame) -> Segmentation:
        self.calls += 1
        self.farthest = max(self.farthest, self.read - self.calls)
        mask, timings = np.full(SIZE, self.calls % 3, np.uint8), {"resize": 0, "infer": 0.001, "upsize": 0}
        return Segmentation(mask, None, Mapping(1.0, 1.0, 0.0, 0.0), None, timings)

    def shots(self, count: int, then: Exception | None = None) -> Iterator[Shot]:
        for index in range(count):
            self.read += 1
            yield replace_stamp(index)
        if then:
            raise then


def replace_stamp(stamp_ns: int) -> Shot:
    return SHOT._replace(stamp_ns=stamp_ns)


def test_frames_are_scored_in_order_and_few_are_read_ahead():
    answer, score, latencies = Answer(), Score(LABELS), Timings(window=None)
    seen = []
    pipeline.evaluate(
        answer.shots(200), answer, score, latencies, sink=lambda shot, mask: seen.append((shot.stamp_ns, mask[0, 0]))
    )
    assert [frame.stamp_ns for frame in score.frames] == list(range(200))
    assert seen == [(index, (index + 1) % 3) for index in range(200)]
    assert answer.farthest <= DEPTH + 1
    assert {stage: len(seconds) for stage, seconds in latencies.seconds.items()} == dict.fromkeys(pipeline.STAGES, 200)


def test_what_was_read_before_a_damage_is_scored_and_the_damage_told():
    answer, score = Answer(), Score(LABELS)
    with pytest.raises(BagError, match="damaged"):
        pipeline.evaluate(answer.shots(9, BagError("damaged")), answer, score, Timings())
    assert len(score.frames) == 9


def test_a_defect_in_scoring_is_not_swallowed():
    def sink(shot: Shot, mask: np.ndarray) -> None:
        raise RuntimeError("disk full")

    answer = Answer()
    with pytest.raises(RuntimeError, match="disk full"):
        pipeline.evaluate(answer.shots(200), answer, Score(LABELS), Timings(), sink=sink)
    assert answer.calls < 200
