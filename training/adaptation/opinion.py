"""What the teachers said of a drive: how sure they are, how much of it is trusted, and where they disagree."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from training.data.extraction import ExtractedFrame
from training.soft_labels import SoftLabels
from transkd_ros.files import write_atomic
from transkd_ros.model.labels import LabelTable


@dataclass(frozen=True)
class FrameOpinion:
    """Of one frame: the mean of the largest probabilities, the share that is trusted, and the disagreement, 0 to 1."""

    frame: ExtractedFrame
    confidence: float
    kept: float
    disagreement: float


@dataclass(frozen=True)
class Opinion:
    """Of all frames, and by class the stored pixels that the teachers call so, and those of them that are trusted."""

    frames: list[FrameOpinion]
    pixels: np.ndarray
    trusted: np.ndarray

    @property
    def kept(self) -> float:
        return float(self.trusted.sum() / max(1, self.pixels.sum()))

    @property
    def confidence(self) -> float:
        return float(np.mean([frame.confidence for frame in self.frames]))

    def most_disputed(self, count: int) -> list[FrameOpinion]:
        """The frames that the members disagree most about; where they do not, those that they are least sure of."""
        return sorted(self.frames, key=lambda frame: (-frame.disagreement, frame.confidence))[:count]


def opinion_of(store: SoftLabels, frames: Sequence[ExtractedFrame], trust: float) -> Opinion:
    """Read what is stored of the frames. Raises SoftLabelError; FileNotFoundError for one that was not annotated."""
    classes = len(store.labels.names)
    pixels, trusted = np.zeros((2, classes), np.int64)
    found = []
    for frame in frames:
        probabilities = store.at(frame.hash)
        largest, mask = probabilities.max(0), probabilities.argmax(0)
        sure = largest >= trust
        pixels += np.bincount(mask.ravel(), minlength=classes)
        trusted += np.bincount(mask[sure], minlength=classes)
        disagreement = store.disagreement(frame.hash)
        found.append(FrameOpinion(frame, float(largest.mean(dtype=np.float64)), float(sure.mean()), disagreement))
    return Opinion(found, pixels, trusted)


def teacher_mask(store: SoftLabels, frame: ExtractedFrame, size: tuple[int, int]) -> np.ndarray:
    """The most likely classes (H, W) uint8 of a frame, at its `size`."""
    maps = store.at(frame.hash).astype(np.float32).transpose(1, 2, 0)
    return cv2.resize(maps, size[::-1], interpolation=cv2.INTER_LINEAR).argmax(2).astype(np.uint8)


def export_for_labelling(opinions: Sequence[FrameOpinion], store: SoftLabels, folder: Path) -> None:
    """Write frames with the teachers' masks as CVAT's "Segmentation mask" (VOC) folder, to correct instead of to draw.

    `JPEGImages` (PNG files), `SegmentationClass` (palette PNGs of ids), `labelmap.txt`, `ImageSets` and, for the
    reader, `frames.json`. Label Studio and `training.data.convert masks` read images and masks. Raises OSError.
    """
    if folder.exists():
        shutil.rmtree(folder)
    images, masks, sets = (folder / name for name in ("JPEGImages", "SegmentationClass", "ImageSets/Segmentation"))
    for path in (images, masks, sets):
        path.mkdir(parents=True)
    listed = []
    for place, opinion in enumerate(opinions, 1):
        name = f"{place:03}_{opinion.frame.path.stem}"
        shutil.copyfile(opinion.frame.path, images / f"{name}.png")
        with Image.open(opinion.frame.path) as opened:
            size = opened.height, opened.width
        mask = Image.fromarray(teacher_mask(store, opinion.frame, size))
        mask.putpalette(store.labels.palette.ravel().tolist())
        mask.save(masks / f"{name}.png")
        at = {"source": opinion.frame.source, "topic": opinion.frame.topic, "stamp_ns": opinion.frame.stamp_ns}
        said = {"disagreement": round(opinion.disagreement, 4), "confidence": round(opinion.confidence, 4)}
        listed.append({"name": name, **at, **said})
    write_atomic(folder / "labelmap.txt", labelmap(store.labels))
    write_atomic(sets / "default.txt", "".join(f"{entry['name']}\n" for entry in listed))
    write_atomic(folder / "frames.json", json.dumps(listed, indent=1) + "\n")


def labelmap(labels: LabelTable) -> str:
    """CVAT's list of classes and colours."""
    lines = ["# label:color_rgb:parts:actions"]
    lines += [f"{name}:{r},{g},{b}::" for name, (r, g, b) in zip(labels.names, labels.colors, strict=True)]
    return "\n".join(lines) + "\n"
