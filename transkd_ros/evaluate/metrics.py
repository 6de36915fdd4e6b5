"""How good masks are: confusion matrix with IoU and accuracy, boundary F1, flicker. All are exact integer counts.

So they can be added up in any order over frames and cameras, and are the same on every machine. Training measures
with torchmetrics, which the tests hold these to.
"""

from __future__ import annotations

import math

import cv2
import numpy as np
from numpy.typing import NDArray

BOUNDARY_TOLERANCE = 0.0075  # of the image diagonal, as Csurka et al. take it

_FLOAT32_COUNTS = 1 << 24  # as far as OpenCV's histograms, which are several times faster than NumPy's, count exactly
_PLANES = 16  # classes whose boundaries are widened at once, a bit of uint16 each


class ConfusionMatrix:
    """Counts of pixels by label (row) and prediction (column) over any number of masks.

    `matrix` is (num_classes, num_classes) int64. Pixels labelled `ignore_id` are not counted.
    """

    def __init__(self, num_classes: int, ignore_id: int = 255) -> None:
        self.num_classes = num_classes
        self.ignore_id = ignore_id
        self.matrix: NDArray[np.int64] = np.zeros((num_classes, num_classes), np.int64)

    def update(self, pred: NDArray[np.uint8], label: NDArray[np.uint8]) -> None:
        """Add masks of class ids: two uint8 arrays of the same shape, whatever that is.

        Raises ValueError, and counts nothing, if shape or type are others, or an id is outside [0, num_classes);
        a prediction may be anything where the label is ignored.
        """
        if pred.shape != label.shape:
            raise ValueError(f"prediction {pred.shape} and label {label.shape} must have the same shape")
        if pred.dtype != np.uint8 or label.dtype != np.uint8:
            raise ValueError(f"masks hold class ids as uint8; the prediction is {pred.dtype}, the label {label.dtype}")
        pairs = _pairs(label.ravel(), pred.ravel())
        pairs[self.ignore_id] = 0
        self._check(pairs.sum(axis=1), "label")
        self._check(pairs.sum(axis=0), "prediction")
        self.matrix += pairs[: self.num_classes, : self.num_classes]

    def iou(self) -> NDArray[np.float64]:
        """(num_classes,) intersection over union, 0 to 1; nan for a class neither labelled nor predicted."""
        hits = np.diag(self.matrix)
        union = self.matrix.sum(axis=0) + self.matrix.sum(axis=1) - hits
        return _ratio(hits, union)

    def miou(self) -> float:
        """Mean IoU of the classes that occur, in [0, 1]; nan before the first counted pixel."""
        iou = self.iou()
        return float(iou[~np.isnan(iou)].mean()) if self.matrix.any() else float("nan")

    def pixel_accuracy(self) -> float:
        """Share of the counted pixels predicted right, in [0, 1]; nan before the first one."""
        total = self.matrix.sum()
        return float(np.trace(self.matrix) / total) if total else float("nan")

    def __add__(self, other: ConfusionMatrix) -> ConfusionMatrix:
        """The counts of both together. Raises ValueError if they are not about the same classes."""
        if (self.num_classes, self.ignore_id) != (other.num_classes, other.ignore_id):
            raise ValueError(
                f"cannot add a matrix of {other.num_classes} classes (ignore id {other.ignore_id}) "
                f"to one of {self.num_classes} (ignore id {self.ignore_id})"
            )
        total = ConfusionMatrix(self.num_classes, self.ignore_id)
        total.matrix = self.matrix + other.matrix
        return total

    def _check(self, occurrences: NDArray[np.int64], what: str) -> None:
        if occurrences[self.num_classes :].any():
            outside = self.num_classes + np.flatnonzero(occurrences[self.num_classes :])
            raise ValueError(f"{what} ids {outside.tolist()} are outside 0..{self.num_classes - 1}")


class BoundaryF1:
    """How well the outlines of the classes fit, after Csurka et al., "What is a good evaluation measure for semantic
    segmentation?", BMVC 2013.

    A pixel is on the boundary of its class if one of its four neighbours has another one; the borders of the image
    and of ignored areas are no boundary. Precision is the share of the predicted boundary pixels that have a labelled
    one of the same class nearer than the tolerance (Euclidean, from centre to centre), recall the share of the
    labelled ones that have a predicted one. The tolerance is a fraction of the image diagonal: 4.5 pixels at 480x360.
    The paper takes the mean over images; here the pixels are added up over all of them, as those of IoU are.

    `predicted`, `predicted_hits`, `labelled` and `labelled_hits` are (num_classes,) int64 numbers of pixels.
    """

    def __init__(self, num_classes: int, ignore_id: int = 255, tolerance: float = BOUNDARY_TOLERANCE) -> None:
        self.num_classes = num_classes
        self.ignore_id = ignore_id
        self.tolerance = tolerance
        self.predicted, self.predicted_hits, self.labelled, self.labelled_hits = np.zeros((4, num_classes), np.int64)

    def update(self, pred: NDArray[np.uint8], label: NDArray[np.uint8]) -> None:
        """Add masks (H, W) uint8 of class ids below `num_classes`; anything goes where the label is ignored."""
        reach = _half_widths(self.tolerance**2 * (label.shape[0] ** 2 + label.shape[1] ** 2))
        # Rows one after the other in one dimension, which is the fastest to shift. Ignored pixels at their ends, as
        # many as the disk is wide, take up what is shifted over the edge.
        beside = ((0, 0), (0, 1 + reach[0]))
        stride = label.shape[1] + beside[1][1]
        preds, labels = (np.pad(mask, beside, constant_values=self.ignore_id).ravel() for mask in (pred, label))
        valid = labels != self.ignore_id
        ours, theirs = _outline(preds, valid, stride), _outline(labels, valid, stride)
        self.predicted += self._count(preds[ours])
        self.labelled += self._count(labels[theirs])
        for first in range(0, self.num_classes, _PLANES):
            bit = np.zeros(256, np.uint16)
            bit[first : first + _PLANES] = 1 << np.arange(_PLANES)
            predicted, labelled = _plane(preds, ours, bit), _plane(labels, theirs, bit)
            hits = predicted[ours] & _widened(labelled, reach, stride)[ours] != 0
            self.predicted_hits += self._count(preds[ours[hits]])
            hits = labelled[theirs] & _widened(predicted, reach, stride)[theirs] != 0
            self.labelled_hits += self._count(labels[theirs[hits]])

    def precision(self) -> NDArray[np.float64]:
        """(num_classes,) from 0 to 1; nan for a class without a predicted boundary."""
        return _ratio(self.predicted_hits, self.predicted)

    def recall(self) -> NDArray[np.float64]:
        """(num_classes,) from 0 to 1; nan for a class without a labelled boundary."""
        return _ratio(self.labelled_hits, self.labelled)

    def f1(self) -> NDArray[np.float64]:
        """(num_classes,) from 0 to 1; 0 for a class that has only one of the two boundaries, nan with neither."""
        precision, recall = np.nan_to_num(self.precision()), np.nan_to_num(self.recall())
        f1 = np.nan_to_num(_ratio(2 * precision * recall, precision + recall))
        f1[self.predicted + self.labelled == 0] = np.nan
        return f1

    def mean(self) -> float:
        """Mean F1 of the classes that have a boundary, in [0, 1]; nan before the first one."""
        f1 = self.f1()
        return float(f1[~np.isnan(f1)].mean()) if (self.predicted + self.labelled).any() else float("nan")

    def __add__(self, other: BoundaryF1) -> BoundaryF1:
        """The pixels of both together. Raises ValueError if they do not count the same."""
        mine, its = ((m.num_classes, m.ignore_id, m.tolerance) for m in (self, other))
        if mine != its:
            raise ValueError(f"cannot add boundaries of (classes, ignore id, tolerance) {its} to ones of {mine}")
        total = BoundaryF1(*mine)
        for name in ("predicted", "predicted_hits", "labelled", "labelled_hits"):
            setattr(total, name, getattr(self, name) + getattr(other, name))
        return total

    def _count(self, classes: NDArray[np.uint8]) -> NDArray[np.int64]:
        return np.bincount(classes, minlength=self.num_classes)


class Flicker:
    """Share of the pixels that change class from one frame of a camera to the next.

    Some of that is the scene in motion: where labels come with the frames, `steady` counts only the pixels whose label
    stayed the same. `changed`, `total`, `steady_changed` and `steady_total` are numbers of pixels.
    """

    def __init__(self, ignore_id: int = 255) -> None:
        self.ignore_id = ignore_id
        self.changed = self.total = self.steady_changed = self.steady_total = 0
        self.reset()

    def reset(self) -> None:
        """The next mask does not follow the last one: the stamps jumped, or a frame between them is missing."""
        self._mask: NDArray[np.uint8] | None = None
        self._label: NDArray[np.uint8] | None = None

    def update(self, mask: NDArray[np.uint8], label: NDArray[np.uint8] | None = None) -> float:
        """Add the next mask (H, W) and its label; the share of its pixels that changed, nan if it follows none."""
        before, label_before = self._mask, self._label
        self._mask, self._label = mask, label
        if before is None or before.shape != mask.shape:
            return float("nan")
        differs = mask != before
        changed = np.count_nonzero(differs)
        self.changed += changed
        self.total += mask.size
        if label is not None and label_before is not None and label_before.shape == label.shape:
            steady = (label == label_before) & (label != self.ignore_id)
            self.steady_changed += np.count_nonzero(differs & steady)
            self.steady_total += np.count_nonzero(steady)
        return changed / mask.size

    def share(self) -> float:
        """In [0, 1]; nan before the second mask."""
        return self.changed / self.total if self.total else float("nan")

    def steady_share(self) -> float:
        """The same of the pixels whose label did not change; nan without labels."""
        return self.steady_changed / self.steady_total if self.steady_total else float("nan")

    def __add__(self, other: Flicker) -> Flicker:
        """The pixels of both together."""
        total = Flicker(self.ignore_id)
        for name in ("changed", "total", "steady_changed", "steady_total"):
            setattr(total, name, getattr(self, name) + getattr(other, name))
        return total


def _pairs(rows: NDArray[np.uint8], columns: NDArray[np.uint8]) -> NDArray[np.int64]:
    """(256, 256) how often each pair of bytes stands at the same place; one pass counts ids and finds unknown ones."""
    pairs = np.zeros((256, 256), np.int64)
    for start in range(0, rows.size, _FLOAT32_COUNTS):
        part = [array[start : start + _FLOAT32_COUNTS] for array in (rows, columns)]
        pairs += cv2.calcHist(part, [0, 1], None, [256, 256], [0, 256, 0, 256]).astype(np.int64)
    return pairs


def _ratio(part: NDArray[np.number], whole: NDArray[np.number]) -> NDArray[np.float64]:
    """Element by element; nan where the whole is 0."""
    return np.divide(part, whole, out=np.full(whole.shape, np.nan), where=whole > 0)


def _outline(mask: NDArray[np.uint8], valid: NDArray[np.bool_], stride: int) -> NDArray[np.intp]:
    """Indices of the pixels that have a neighbour of another class; neither of the two is ignored."""
    on = np.zeros(mask.shape, bool)
    for shift in (1, stride):
        edge = (mask[shift:] != mask[:-shift]) & valid[shift:] & valid[:-shift]
        on[shift:] |= edge
        on[:-shift] |= edge
    return np.flatnonzero(on)


def _plane(mask: NDArray[np.uint8], outline: NDArray[np.intp], bit: NDArray[np.uint16]) -> NDArray[np.uint16]:
    """The bit of its class in every pixel of the outline, 0 elsewhere."""
    plane = np.zeros(mask.shape, np.uint16)
    plane[outline] = bit[mask[outline]]
    return plane


def _half_widths(limit: float) -> list[int]:
    """The disk dx² + dy² < `limit` by rows: the largest dx for dy = 0, 1, …"""
    limit = round(limit, 6)  # 6 pixels are not nearer than a tolerance of 6, whatever the last digit of its square
    return [math.ceil(math.sqrt(limit - dy * dy)) - 1 for dy in range(math.ceil(math.sqrt(limit)))]


def _widened(plane: NDArray[np.uint16], half_widths: list[int], stride: int) -> NDArray[np.uint16]:
    """Every bit spread over the disk around it: a union of rows, from the outermost inwards each wider."""
    near, row = np.zeros_like(plane), plane.copy()
    reached = 0
    for dy in reversed(range(len(half_widths))):
        while reached < half_widths[dy]:
            reached += 1
            _spread(row, plane, reached)
        _spread(near, row, dy * stride)
    return near


def _spread(onto: NDArray[np.uint16], bits: NDArray[np.uint16], shift: int) -> None:
    """Add the bits shifted to both sides."""
    kept = max(len(bits) - shift, 0)
    onto[shift:] |= bits[:kept]
    onto[:kept] |= bits[shift:]
