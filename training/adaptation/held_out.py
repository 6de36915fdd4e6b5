"""The end of every drive, which nobody trained on: how far students agree there with the teachers, and with labels.

Run as a vehicle runs them: bundles on OpenVINO in fp32, frames resized to the model's input, masks enlarged again.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from training.adaptation.opinion import teacher_mask
from training.data.extraction import ExtractedFrame
from training.soft_labels import SoftLabels
from transkd_ros.bags.image_folder import read_image
from transkd_ros.bags.storage import BagReader
from transkd_ros.evaluate import bag_cameras
from transkd_ros.evaluate.metrics import ConfusionMatrix
from transkd_ros.evaluate.truth import LabelError
from transkd_ros.frames import Frame, resize_mask
from transkd_ros.model.bundle import Bundle
from transkd_ros.model.class_map import class_map
from transkd_ros.model.engines import open_runtime
from transkd_ros.model.labels import LabelTable
from transkd_ros.segmenter import Segmenter

PICTURES = 4


@dataclass
class Standing:
    """Of one model: `teacher` counts its masks against the teachers', `truth` against labels, where a bag has any.

    `by_frame` is the share of a frame's pixels on which it and the teachers agree.
    """

    name: str
    teacher: ConfusionMatrix
    truth: ConfusionMatrix
    by_frame: list[float] = field(default_factory=list)
    masks: dict[int, np.ndarray] = field(default_factory=dict)  # of the frames that are shown

    def to_json(self, labels: LabelTable) -> dict[str, Any]:
        against = {"teacher": self.teacher} | ({"labels": self.truth} if self.truth.matrix.any() else {})
        return {who: scores(counts, labels) for who, counts in against.items()}


def scores(counts: ConfusionMatrix, labels: LabelTable) -> dict[str, Any]:
    """What is reported of counted masks, as fractions; classes that are in neither side have no IoU."""
    iou = zip(labels.names, counts.iou().tolist(), strict=True)
    return {
        "miou": round(counts.miou(), 6),
        "pixel_accuracy": round(counts.pixel_accuracy(), 6),
        "iou": {name: round(value, 6) for name, value in iou if value == value},
    }


def write_folder(frames: Sequence[ExtractedFrame], store: SoftLabels, folder: Path) -> tuple[Path, Path]:
    """The frames and the teachers' masks of them as folders of images and labels, for the export; their paths."""
    if folder.exists():
        shutil.rmtree(folder)
    images, labels = folder / "images", folder / "labels"
    images.mkdir(parents=True)
    labels.mkdir()
    for frame in frames:
        name = f"{frame.path.parent.name}_{frame.path.name}"
        shutil.copyfile(frame.path, images / name)
        mask = teacher_mask(store, frame, read_image(frame.path).shape[:2])
        cv2.imwrite(str(labels / name), mask)
    return images, labels


def stand(
    models: dict[str, Bundle], frames: Sequence[ExtractedFrame], store: SoftLabels
) -> tuple[list[Standing], ConfusionMatrix]:
    """Take every frame through every model; the teachers' own masks counted against labels come with it: what they have
    to give. Raises RuntimeUnavailable, BagError, TruthError, ClassTableError."""
    labels, shown = store.labels, set(np.linspace(0, len(frames) - 1, min(PICTURES, len(frames))).astype(int).tolist())
    teachers = ConfusionMatrix(len(labels.names), labels.ignore_id)
    standings, segmenters = [], []
    for name, bundle in models.items():
        against_teacher, against_truth = (ConfusionMatrix(len(labels.names), labels.ignore_id) for _ in range(2))
        standings.append(Standing(name, against_teacher, against_truth))
        segmenters.append(Segmenter(open_runtime(bundle, "openvino", "cpu", "fp32")))
    for index, (frame, truth) in enumerate(zip(frames, truths(frames, labels), strict=True)):
        pixels = read_image(frame.path)
        wanted = teacher_mask(store, frame, (pixels.shape[0], pixels.shape[1]))
        truth = None if truth is None else resize_mask(truth, wanted.shape)
        if truth is not None:
            teachers.update(wanted, truth)
        for standing, segmenter in zip(standings, segmenters, strict=True):
            mask = segmenter(Frame(pixels, "bgr8")).mask
            standing.teacher.update(mask, wanted)
            standing.by_frame.append(float((mask == wanted).mean()))
            if truth is not None:
                standing.truth.update(mask, truth)
            if index in shown:
                standing.masks[index] = mask
    for segmenter in segmenters:
        segmenter.runtime.close()
    return standings, teachers


def truths(frames: Sequence[ExtractedFrame], labels: LabelTable) -> Iterator[np.ndarray | None]:
    """The label of each frame in the model's classes, (H, W) uint8 with 255 for none, where its bag has labels.

    `frames` are in the order of their bags. Raises BagError, TruthError, ClassTableError.
    """
    for (source, topic), group in groupby(frames, lambda frame: (frame.source, frame.topic)):
        with ExitStack() as stack:
            truth = mapping = None
            if topic:
                bag = stack.enter_context(BagReader(source))
                (camera,) = bag_cameras.choose(bag, [topic])
                truth = stack.enter_context(camera.open_truth())
                mapping = class_map(camera.classes or labels, labels, f"the labels of {camera.name}", "the student")
            for frame in group:
                try:
                    mask = truth.mask(0, frame.stamp_ns) if truth else None
                except LabelError:
                    mask = None
                yield None if mask is None or mapping is None else mapping(mask)
