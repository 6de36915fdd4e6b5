"""Frames without labels: chosen from bags and folders, decoded once, mixed into batches or alone."""

from __future__ import annotations

import errno
import json

import cv2
import numpy as np
import pytest

pytest.importorskip("torch", reason="the training wing needs torch")
pytest.importorskip("lightning")

import lightning
import torch

from training.annotate import annotate
from training.committee import Committee
from training.data import extraction
from training.data.camvid import CamVid
from training.data.drives import Drives, TaughtImages
from training.data.extraction import INDEX, FramesError, Unlabelled, extract, part_of
from training.data.samples import LabelledImages
from training.distillers import C2VKD, DistillerError, ResponseKD, SpiritDistillation
from training.module import SegmentationModule
from training.soft_labels import SoftLabelError, SoftLabels, frame_hash
from training.teachers import TeacherSource, load_teacher
from transkd_ros.bags.messages import compressed_message, image_message
from transkd_ros.bags.storage import BagWriter

pytestmark = pytest.mark.training
SECOND = 1_000_000_000


def picture(number: int, size=(64, 96)) -> np.ndarray:
    """(H, W, 3) uint8 BGR, unlike that of any other number."""
    return np.random.default_rng(number).integers(256, size=(*size, 3), dtype=np.uint8)


def record(path, pictures, *, rate=2.0, storage="mcap", compressed=False, topic="/front/image_raw"):
    """A bag of these BGR pictures."""
    with BagWriter(path, storage) as bag:
        for index, pixels in enumerate(pictures):
            stamp = SECOND + round(index / rate * SECOND)
            if compressed:
                data = cv2.imencode(".png", pixels)[1].tobytes()
                bag.write(f"{topic}/compressed", compressed_message(data, "png", stamp))
            else:
                bag.write(topic, image_message(pixels, "bgr8", stamp))
    return path


def choice(tmp_path, *sources, **options) -> Unlabelled:
    defaults = {"every": 0.0, "cache": str(tmp_path / "cache")}
    return Unlabelled([str(source) for source in sources], **defaults | options)


def read_rgb(path):
    return cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB)


# ---- what is chosen
@pytest.mark.parametrize("storage", ["mcap", "sqlite3"])
@pytest.mark.parametrize("compressed", [False, True])
def test_frames_of_a_bag_keep_their_pixels_and_what_they_are_known_by(tmp_path, storage, compressed):
    bag = record(tmp_path / "drive", map(picture, range(3)), storage=storage, compressed=compressed)
    (found,) = extract(choice(tmp_path, bag))
    assert (found.seen, found.duplicates, found.skipped) == (3, 0, {})
    for number, frame in enumerate(found.frames):
        image = read_rgb(frame.path)
        np.testing.assert_array_equal(image, picture(number)[..., ::-1])
        assert frame.hash == frame_hash(image)
        assert frame.stamp_ns == frame.recorded_ns == SECOND + number * SECOND // 2


def test_one_frame_every_so_many_seconds_and_so_many_at_most_are_spread_over_the_drive(tmp_path):
    bag = record(tmp_path / "drive", map(picture, range(21)), rate=2.0)  # of ten seconds

    def seconds(**options):
        return [(frame.stamp_ns - SECOND) / SECOND for frame in extract(choice(tmp_path, bag, **options))[0].frames]

    assert seconds(every=2.0) == [0, 2, 4, 6, 8, 10]
    chosen = seconds(most=5)
    assert len(chosen) == 5 and chosen[0] == 0 and chosen[-1] >= 8
    assert len(seconds(every=0.0)) == 21


def test_what_a_standing_robot_sees_is_kept_once(tmp_path):
    still = [picture(1)] * 4
    noisy = [np.clip(picture(1).astype(int) + 1, 0, 255).astype(np.uint8)]
    bag = record(tmp_path / "drive", [*still, *noisy, picture(2), picture(1)])
    (found,) = extract(choice(tmp_path, bag))
    assert [(frame.stamp_ns - SECOND) * 2 // SECOND for frame in found.frames] == [0, 5, 6]
    assert found.duplicates == 4
    assert len(extract(choice(tmp_path, bag, distinct=0.0))[0].frames) == 7


def test_cameras_share_the_number_of_frames_and_topics_choose_them(tmp_path):
    with BagWriter(tmp_path / "drive") as bag:
        for index in range(20):
            for camera in ("front", "rear"):
                pixels = picture(index * 2 + (camera == "rear"))
                bag.write(f"/{camera}/image_raw", image_message(pixels, "bgr8", SECOND * (index + 1)))
    (found,) = extract(choice(tmp_path, tmp_path / "drive", most=8))
    topics = [frame.topic for frame in found.frames]
    assert topics.count("/front/image_raw") == topics.count("/rear/image_raw") == 4
    (found,) = extract(choice(tmp_path, tmp_path / "drive", most=8, topics=["/rear/image_raw"]))
    assert [frame.topic for frame in found.frames] == ["/rear/image_raw"] * 8


def test_a_folder_of_images_is_a_source_and_large_frames_are_made_smaller(tmp_path):
    (tmp_path / "images").mkdir()
    for number in range(3):
        cv2.imwrite(str(tmp_path / "images" / f"{number}.png"), picture(number, (60, 120)))
    (found,) = extract(choice(tmp_path, tmp_path / "images", longest=60))
    assert [read_rgb(frame.path).shape for frame in found.frames] == [(30, 60, 3)] * 3
    assert len(part_of([found], (0.0, 0.5))) == 1 and len(part_of([found], (0.5, 1.0))) == 2


# ---- the cache
def test_an_extraction_that_was_stopped_goes_on_and_is_not_taken_for_whole(tmp_path, monkeypatch):
    bag = record(tmp_path / "drive", map(picture, range(4)))
    written, real = [], extraction.write_atomic

    def stopping(path, data):
        if len(written) == 2:
            raise KeyboardInterrupt
        written.append(path.name)
        real(path, data)

    monkeypatch.setattr(extraction, "write_atomic", stopping)
    with pytest.raises(KeyboardInterrupt):
        extract(choice(tmp_path, bag))
    (folder,) = (tmp_path / "cache").iterdir()
    assert len(list(folder.glob("*.png"))) == 2 and not (folder / INDEX).exists()
    again = []
    monkeypatch.setattr(extraction, "write_atomic", lambda path, data: (again.append(path.name), real(path, data)))
    assert len(extract(choice(tmp_path, bag))[0].frames) == 4
    assert len(again) == 3 and again[-1] == INDEX and not set(again) & set(written)
    again.clear()
    extract(choice(tmp_path, bag, part=(0.0, 0.5), ratio=0.2))  # another part of the same frames
    assert again == []


def test_no_room_for_the_cache_is_one_line_and_nothing_passes_for_whole(tmp_path, monkeypatch):
    bag = record(tmp_path / "drive", map(picture, range(2)))

    def full(path, data):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(extraction, "write_atomic", full)
    with pytest.raises(FramesError, match=r"^\S+: frames cannot be kept \(No space left on device\); make room"):
        extract(choice(tmp_path, bag))
    assert not list((tmp_path / "cache").rglob(INDEX))


def test_a_frame_that_is_gone_from_the_cache_is_named(tmp_path):
    wanted = choice(tmp_path, record(tmp_path / "drive", map(picture, range(2))))
    extract(wanted)[0].frames[1].path.unlink()
    with pytest.raises(FramesError, match=r"\.png is missing; remove"):
        extract(wanted)


# ---- bad input
def test_a_bag_without_images_a_missing_one_and_an_unknown_topic_are_one_line(tmp_path):
    from transkd_ros.bags.messages import STORE, STRING

    with BagWriter(tmp_path / "words") as bag:
        bag.write("/chatter", STORE.types[STRING](data="hello"), SECOND)
    bag = record(tmp_path / "drive", map(picture, range(2)))
    for wanted, text in (
        (choice(tmp_path, tmp_path / "words"), "words: no camera topic; its image topics: none"),
        (choice(tmp_path, tmp_path / "nowhere"), "nowhere"),
        (choice(tmp_path, bag, topics=["/rear"]), "no topic /rear; its image topics: /front/image_raw"),
    ):
        with pytest.raises(FramesError, match=text) as raised:
            extract(wanted)
        assert "\n" not in str(raised.value)


def test_a_bag_of_another_encoding_names_the_cause(tmp_path):
    with BagWriter(tmp_path / "drive") as bag:
        message = image_message(picture(0), "bgr8", SECOND)
        message.encoding = "quaternions"
        bag.write("/front/image_raw", message)
    with pytest.raises(FramesError, match=r"drive: no frame could be used \(1 of cause encoding\)"):
        extract(choice(tmp_path, tmp_path / "drive"))


@pytest.mark.parametrize("storage", ["mcap", "sqlite3"])
def test_a_bag_that_was_cut_off_is_named_and_leaves_nothing_whole(tmp_path, storage):
    bag = record(tmp_path / "drive", map(picture, range(40)), storage=storage)
    (file,) = [path for path in bag.iterdir() if path.suffix != ".yaml"]
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    with pytest.raises(FramesError, match=r"drive: .*damaged"):
        extract(choice(tmp_path, bag))
    assert not list(tmp_path.rglob(INDEX))


@pytest.mark.parametrize("options", [{"ratio": 1.0}, {"part": (0.5, 0.5)}, {"most": 0}, {"every": -1.0}])
def test_a_setting_that_cannot_be_is_named(options):
    (name,) = options
    with pytest.raises(FramesError, match=rf"unlabelled\.{name} is"):
        Unlabelled(["drive"], **options)


# ---- in training
@pytest.fixture
def drive(tmp_path):
    """Six seconds of grey levels, which no training image is of."""
    levels = (40, 90, 140, 190, 240, 70, 120)
    return record(tmp_path / "drive", [np.full((70, 110, 3), level, np.uint8) for level in levels], rate=1.0)


OPTIONS = {"crop": (64, 64), "val_size": (64, 96), "photometric": 0, "batch_size": 2, "workers": 0}


def test_unlabelled_frames_take_their_share_of_every_epoch(tmp_path, shared_scene_tree, drive):
    unlabelled = choice(tmp_path, drive, ratio=0.5, part=(0.0, 0.8))
    data = CamVid(str(shared_scene_tree), scenes=3, unlabelled=unlabelled, **OPTIONS)
    data.setup("fit")
    assert len(data.unlabelled_set) == 5 and len(data.frames) == 8 + 5
    loader = data.train_dataloader()
    for epoch in range(2):
        loader.sampler.set_epoch(epoch)
        images, labels = (torch.cat(parts) for parts in zip(*loader, strict=True))
        grey = (images == images[:, :1, :1, :1]).flatten(1).all(1)
        assert len(images) == 8 and grey.sum() == 4
        assert torch.equal((labels == 255).flatten(1).all(1), grey)


def test_a_recipe_names_them_and_gets_them_back_from_a_checkpoint(tmp_path, shared_scene_tree, drive):
    from training.distill import data_of

    recipe = tmp_path / "recipe.yaml"
    frames = {"sources": [str(drive)], "every": 0.0, "part": [0.0, 0.5], "cache": str(tmp_path / "cache")}
    init = {"unlabelled": frames} | {k: v for k, v in OPTIONS.items() if k != "crop"}
    recipe.write_text(json.dumps({"data": {"class_path": "training.data.drives.Drives", "init_args": init}}))
    data = data_of(["--config", str(recipe)])
    assert isinstance(data, Drives) and data.unlabelled.part == (0.0, 0.5)
    assert "unlabelled" not in data.hparams


@pytest.fixture
def alone(tmp_path, drive):
    """The drive alone: five frames to train on, one to validate."""
    data = Drives("camvid", choice(tmp_path, drive, part=(0.0, 0.8)), val_part=(0.8, 0.95), **OPTIONS)
    data.setup("fit")
    return data


def test_labelled_images_among_a_drive_leave_the_choice_of_the_epoch_to_the_drive(tmp_path, shared_scene_tree, drive):
    frames = choice(tmp_path, drive, ratio=0.5, part=(0.0, 0.8))
    labelled = tmp_path / "labelled"
    labelled.mkdir()
    (labelled / "train").symlink_to(shared_scene_tree / "train")  # all that is needed of it
    data = Drives("camvid", frames, val_part=(0.8, 0.95), labelled=str(labelled), **OPTIONS)
    data.setup("fit")
    assert isinstance(data.train_set, LabelledImages) and len(data.train_set) == 5
    assert isinstance(data.val_set, TaughtImages) and len(data.val_set) == 1
    assert len(data.unlabelled_set) == 5 and len(data.frames) == 5 + 5 + 1
    labels = torch.cat([labels for _, labels in data.train_dataloader()])
    assert (labels == 255).flatten(1).all(1).sum() == len(labels) // 2


@pytest.fixture
def store(alone, random_teacher, tmp_path):
    member = load_teacher(TeacherSource(str(random_teacher("mit_b0"))))
    committee = Committee([member], (64, 96))
    made = SoftLabels.create(tmp_path / "labels", committee.described([None], 4))
    assert annotate(committee, made, alone.frames, lambda: None) == 6
    return made


def test_a_student_learns_from_a_drive_alone_and_is_held_to_its_teacher(alone, store, tmp_path):
    module = SegmentationModule(distiller=ResponseKD(), teacher=TeacherSource(str(store.path)), warmup_steps=1)
    trainer = lightning.Trainer(
        max_epochs=1, accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False,
        enable_checkpointing=False, num_sanity_val_steps=0, default_root_dir=tmp_path,
    )  # fmt: skip
    trainer.fit(module, alone)
    metrics = trainer.callback_metrics
    assert metrics["loss/cross_entropy"] == 0 and metrics["loss/response"] > 0
    _, labels = alone.val_set[0]
    assert labels.shape == (18, 28) and labels.max() < 11  # a quarter of 70x110, rounded up
    assert 0 <= metrics["val_miou"] <= 1


def test_a_store_that_lacks_frames_of_the_drive_is_refused(alone, store):
    store._file(alone.val_set[0][0]).unlink()
    with pytest.raises(SoftLabelError, match=r"annotate.py \(again\)"):
        alone.use_soft_labels(store)


def test_a_drive_shorter_than_its_parts_is_one_line(tmp_path):
    bag = record(tmp_path / "short", [picture(1)])
    data = Drives("camvid", choice(tmp_path, bag), **OPTIONS)
    with pytest.raises(FramesError, match=r"the part 0\.8 to 0\.9 of .*short holds no frame"):
        data.setup("fit")


def test_methods_that_learn_from_labels_say_so_at_start(alone):
    module = SegmentationModule()
    with pytest.raises(DistillerError, match=r"teach nothing without a teacher"):
        module._check_unlabelled()
    for method in (C2VKD(), SpiritDistillation()):
        module.distiller = method
        with pytest.raises(DistillerError, match=rf"{type(method).__name__} learns from labels.*ResponseKD"):
            module._check_unlabelled()
    module.distiller = ResponseKD()
    module._check_unlabelled()
