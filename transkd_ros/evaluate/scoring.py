"""What the masks of one model on one camera add up to. Knows no bag, no ROS and no clock: mask by mask comes in.

Memory stays bounded: counts, four numbers a frame, and a handful of shrunk pictures.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from transkd_ros.evaluate.metrics import BoundaryF1, ConfusionMatrix, Flicker
from transkd_ros.frames import Frame, resize_mask
from transkd_ros.model.class_map import ClassMap
from transkd_ros.model.labels import LabelTable
from transkd_ros.reports import html

Mask = NDArray[np.uint8]

PICTURES = 4  # of the worst frames, and again of the spread of all
_PICTURE_WIDTH = 480  # pixels, at most
_APART = 3_000_000_000  # ns between two of the worst frames: neighbours look alike
_OPACITY = 0.6
_BOUNDARY = ("predicted", "predicted_hits", "labelled", "labelled_hits")
_FLICKER = ("changed", "total", "steady_changed", "steady_total")
_RIGHT, _UNLABELLED = 222, 255  # grey levels in the picture of the errors


class FrameScore(NamedTuple):
    """One frame: `miou` over the classes in label or mask, `flicker` since the frame before; nan where unknown."""

    stamp_ns: int
    miou: float
    accuracy: float
    flicker: float


@dataclass(frozen=True)
class Picture:
    """A frame to look at, shrunk: `rgb` (h, w, 3), `mask` and `truth` (h, w), uint8; drawn when it is asked for."""

    score: FrameScore
    labels: LabelTable
    rgb: NDArray[np.uint8]
    mask: Mask
    truth: Mask | None

    @cached_property
    def images(self) -> dict[str, bytes]:
        """JPEG files by name: `frame`, `prediction`, and with a label `truth` and `errors`."""
        images = {"frame": self.rgb, "prediction": self.labels.overlay(self.rgb, self.mask, _OPACITY)}
        if self.truth is not None:
            images["truth"] = self.labels.overlay(self.rgb, self.truth, _OPACITY)
            images["errors"] = self.labels.colorize(self.mask)
            images["errors"][self.mask == self.truth] = _RIGHT
            images["errors"][self.truth == self.labels.ignore_id] = _UNLABELLED
        return {name: html.jpeg(image) for name, image in images.items()}


class Metrics:
    """The counts that every score is computed from; those of several cameras can be added up.

    `scored` are the classes that the labels may hold, (classes,) bool; the others have no scores and join no mean.
    """

    def __init__(self, labels: LabelTable, scored: NDArray[np.bool_] | None = None) -> None:
        self.labels = labels
        self.scored = np.ones(len(labels.names), bool) if scored is None else scored
        self.confusion = ConfusionMatrix(len(labels.names), labels.ignore_id)
        self.boundary = BoundaryF1(len(labels.names), labels.ignore_id)
        self.flicker = Flicker(labels.ignore_id)

    def __add__(self, other: Metrics) -> Metrics:
        total = Metrics(self.labels, self.scored | other.scored)
        total.confusion = self.confusion + other.confusion
        total.boundary = self.boundary + other.boundary
        total.flicker = self.flicker + other.flicker
        return total

    @property
    def labelled(self) -> bool:
        """Whether any pixel had a label."""
        return bool(self.confusion.matrix.any())

    def iou(self) -> NDArray[np.float64]:
        """(classes,) in [0, 1]; nan for a class that is not scored or does not occur."""
        return np.where(self.scored, self.confusion.iou(), np.nan)

    def boundary_f1(self) -> NDArray[np.float64]:
        """(classes,) in [0, 1]; nan for a class that is not scored or has no boundary."""
        return np.where(self.scored, self.boundary.f1(), np.nan)

    def miou(self) -> float:
        """Mean IoU of the scored classes that occur, in [0, 1]; nan before the first labelled pixel."""
        return _mean(self.iou()) if self.labelled else float("nan")

    def to_json(self) -> dict[str, Any]:
        """Fractions of 1; None for what does not occur."""
        classes = (self.iou(), self.boundary_f1(), self.boundary.precision(), self.boundary.recall())
        iou, f1, precision, recall = (self._by_class(values) for values in classes)
        return {
            "miou": _known(self.miou()),
            "pixel_accuracy": _known(self.confusion.pixel_accuracy()),
            "boundary_f1": _known(_mean(self.boundary_f1())),
            "flicker": {"share": _known(self.flicker.share()), "steady_share": _known(self.flicker.steady_share())},
            "iou": iou,
            "boundary": {"tolerance": self.boundary.tolerance, "f1": f1, "precision": precision, "recall": recall},
            "confusion_matrix": self.confusion.matrix.tolist(),
            "counts": self._counts(),
        }

    def _counts(self) -> dict[str, Any]:
        """The numbers of pixels behind boundary F1 and flicker, as `from_json` reads them, and what is scored."""
        boundary = {name: getattr(self.boundary, name).tolist() for name in _BOUNDARY}
        flicker = {name: int(getattr(self.flicker, name)) for name in _FLICKER}  # OpenCV 5 counts in NumPy integers
        return {"boundary": boundary, "flicker": flicker, "scored": self.scored.tolist()}

    @classmethod
    def from_json(cls, labels: LabelTable, content: dict[str, Any]) -> Metrics:
        """The metrics that `to_json` wrote of masks of these classes. Raises KeyError, TypeError or ValueError."""
        counts = content["counts"]
        metrics = cls(labels, np.array(counts["scored"], bool))
        metrics.confusion.matrix += np.array(content["confusion_matrix"], np.int64)
        metrics.boundary.tolerance = float(content["boundary"]["tolerance"])
        for name in _BOUNDARY:
            getattr(metrics.boundary, name)[:] = counts["boundary"][name]
        for name in _FLICKER:
            setattr(metrics.flicker, name, int(counts["flicker"][name]))
        return metrics

    def _by_class(self, values: NDArray[np.float64]) -> dict[str, float | None]:
        return {name: _known(value) for name, value in zip(self.labels.names, values.tolist(), strict=True)}


class Score:
    """The account of one camera: give it every mask in order, and say which frames got none.

    `truth` is the class table of the labels where it is another than the model's; they are matched by name.
    `frames` are the scores one by one. `problems` counts by text what was wrong with labels and stamps, `skipped` by
    cause the frames without a mask. `worst` and `samples` are the pictures: lowest mIoU first, and spread over time.
    """

    def __init__(self, labels: LabelTable, pictures: int = PICTURES, truth: LabelTable | None = None) -> None:
        self.labels = labels
        self._truth = ClassMap(truth or labels, labels)
        self.metrics = Metrics(labels, self._truth.scored)
        self.frames: list[FrameScore] = []
        self.problems: Counter[str] = Counter()
        self.skipped: Counter[str] = Counter()
        self.unknown_ids: Counter[int] = Counter()  # pixels by id
        self._pictures = pictures
        self._worst: list[Picture] = []
        self._samples: list[Picture] = []
        self._stride = 1

    @property
    def worst(self) -> list[Picture]:
        return sorted(self._worst, key=lambda picture: picture.score.miou)

    @property
    def samples(self) -> list[Picture]:
        last = len(self._samples) - 1
        chosen = np.linspace(0, last, min(last + 1, self._pictures)).round().astype(int)
        return [self._samples[i] for i in sorted(set(chosen.tolist()))]

    def add(self, stamp_ns: int, mask: Mask, truth: Mask | None = None, frame: Frame | None = None) -> FrameScore:
        """Score the mask (H, W) of a frame; `truth` (H, W) are its labels, `frame` is looked at for pictures only.

        A label of another size is not used, pixels of unknown ids count as unlabelled; both are counted. Where the mask
        says nothing, the ignore id of a node with `confidence_threshold` or `roi`, nothing is scored.
        """
        if self.frames and stamp_ns < self.frames[-1].stamp_ns:
            self.problems["stamps that jump back"] += 1
            self.metrics.flicker.reset()
        truth = None if truth is None else self._checked(truth, mask.shape)
        if (unsaid := mask == self.labels.ignore_id).any():
            self.problems["masks that name no class in places: not scored there"] += 1
            truth = None if truth is None else np.where(unsaid, np.uint8(self.labels.ignore_id), truth)
        flicker = self.metrics.flicker.update(mask, truth)
        of_frame = ConfusionMatrix(len(self.labels.names), self.labels.ignore_id)
        if truth is not None:
            of_frame.update(mask, truth)
            self.metrics.confusion += of_frame
            self.metrics.boundary.update(mask, truth)
        iou = np.where(self.metrics.scored, of_frame.iou(), np.nan)
        miou = _mean(iou) if of_frame.matrix.any() else np.nan
        score = FrameScore(stamp_ns, miou, of_frame.pixel_accuracy(), flicker)
        if frame is not None:
            self._show(score, frame, mask, truth)
        self.frames.append(score)
        return score

    def skip(self, cause: str) -> None:
        """A frame came that got no mask, for a cause such as FrameError's."""
        self.skipped[cause] += 1
        self.metrics.flicker.reset()  # the next mask does not follow the last one

    def to_json(self) -> dict[str, Any]:
        """The metrics after the counts of frames, problems and unknown ids."""
        counts: dict[str, Any] = {
            "scored": len(self.frames),
            "labelled": sum(not np.isnan(score.miou) for score in self.frames),
            "skipped": dict(sorted(self.skipped.items())),
            "problems": dict(sorted(self.problems.items())),
        }
        if self.unknown_ids:
            counts["unknown_label_ids"] = {str(i): pixels for i, pixels in sorted(self.unknown_ids.items())}
        return {"frames": counts, **self.metrics.to_json()}

    def _checked(self, truth: Mask, shape: tuple[int, ...]) -> Mask | None:
        if truth.shape != shape:
            sizes = (f"{width}x{height}" for height, width in (truth.shape, shape))
            self.problems["labels of another size: {} for frames of {}".format(*sizes)] += 1
            return None
        unknown = cv2.LUT(truth, self._truth.undefined.view(np.uint8)).astype(bool, copy=False)
        if unknown.any():
            ids, pixels = np.unique(truth[unknown], return_counts=True)
            self.unknown_ids.update(dict(zip(ids.tolist(), pixels.tolist(), strict=True)))
            self.problems["labels with unknown ids"] += 1
        return self._truth(truth)

    def _show(self, score: FrameScore, frame: Frame, mask: Mask, truth: Mask | None) -> None:
        """Keep a picture if it is one of the worst, or an n-th frame, n growing."""
        is_sample = len(self.frames) % self._stride == 0
        place = self._place_among_worst(score)
        if not is_sample and place is None:
            return
        shown = self._picture(score, frame, mask, truth)
        if place is not None:
            self._worst[place : place + 1] = [shown]
        if is_sample:
            self._samples.append(shown)
            if len(self._samples) == 2 * self._pictures:
                self._samples = self._samples[::2]
                self._stride *= 2

    def _place_among_worst(self, score: FrameScore) -> int | None:
        """The index that it takes: of a neighbour in time, a new one, or of the best; None if it is not so bad."""
        if np.isnan(score.miou) or not self._pictures:
            return None
        kept = [picture.score for picture in self._worst]
        near = [i for i, other in enumerate(kept) if abs(other.stamp_ns - score.stamp_ns) < _APART]
        if not near and len(kept) < self._pictures:
            return len(kept)
        best = max(near or range(len(kept)), key=lambda i: kept[i].miou)
        return best if all(score.miou < kept[i].miou for i in near or [best]) else None

    def _picture(self, score: FrameScore, frame: Frame, mask: Mask, truth: Mask | None) -> Picture:
        height, width = frame.size
        size = max(1, round(height * min(1.0, _PICTURE_WIDTH / width))), min(width, _PICTURE_WIDTH)
        rgb = frame.rgb(size).copy()  # which may be the message itself
        small_truth = None if truth is None else resize_mask(truth, size)
        return Picture(score, self.labels, rgb, resize_mask(mask, size), small_truth)


def _mean(values: NDArray[np.float64]) -> float:
    """Of those that are known; nan if none is."""
    known = values[~np.isnan(values)]
    return float(known.mean()) if known.size else float("nan")


def _known(value: float) -> float | None:
    """Rounded to a millionth; JSON has no nan."""
    return None if np.isnan(value) else round(value, 6)
