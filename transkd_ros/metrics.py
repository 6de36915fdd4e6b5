"""Segmentation quality from a confusion matrix, in NumPy alone. Training measures with torchmetrics."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


class ConfusionMatrix:
    """Counts of pixels by label (row) and prediction (column) over any number of masks.

    `matrix` is (num_classes, num_classes) int64. Pixels labelled `ignore_id` are not counted.
    """

    def __init__(self, num_classes: int, ignore_id: int = 255) -> None:
        self.num_classes = num_classes
        self.ignore_id = ignore_id
        self.matrix: NDArray[np.int64] = np.zeros((num_classes, num_classes), np.int64)

    def update(self, pred: NDArray[np.integer], label: NDArray[np.integer]) -> None:
        """Add masks of class ids: two integer arrays of the same shape, whatever that is.

        Raises ValueError, and counts nothing, if the shapes differ or an id is outside [0, num_classes);
        a prediction may be anything where the label is ignored.
        """
        if pred.shape != label.shape:
            raise ValueError(f"prediction {pred.shape} and label {label.shape} must have the same shape")
        counted = label != self.ignore_id
        labels = self._ids(label[counted], "label")
        preds = self._ids(pred[counted], "prediction")
        pairs = np.bincount(labels * self.num_classes + preds, minlength=self.num_classes**2)
        self.matrix += pairs.reshape(self.matrix.shape)

    def iou(self) -> NDArray[np.float64]:
        """(num_classes,) intersection over union, 0 to 1; nan for a class neither labelled nor predicted."""
        hits = np.diag(self.matrix)
        union = self.matrix.sum(axis=0) + self.matrix.sum(axis=1) - hits
        return np.divide(hits, union, out=np.full(self.num_classes, np.nan), where=union > 0)

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

    def _ids(self, ids: NDArray[np.integer], what: str) -> NDArray[np.int64]:
        if not np.issubdtype(ids.dtype, np.integer):
            raise ValueError(f"a {what} mask holds class ids, integers; this one is {ids.dtype}")
        outside = np.unique(ids[(ids < 0) | (ids >= self.num_classes)])
        if outside.size:
            raise ValueError(f"{what} ids {outside.tolist()} are outside 0..{self.num_classes - 1}")
        return ids.astype(np.int64)
