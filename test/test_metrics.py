"""IoU and accuracy from a confusion matrix, against values worked out by hand and by torchmetrics."""

import math

import numpy as np
import pytest

from transkd_ros.metrics import ConfusionMatrix

LABEL = np.array([[0, 0, 0, 1], [1, 1, 255, 255]], np.uint8)
PRED = np.array([[0, 1, 1, 1], [1, 0, 0, 2]], np.uint8)


def matrix_of(pred, label, classes=3):
    matrix = ConfusionMatrix(classes)
    matrix.update(pred, label)
    return matrix


def test_scores_equal_those_worked_by_hand():
    matrix = matrix_of(PRED, LABEL)
    assert matrix.matrix.tolist() == [[1, 2, 0], [1, 2, 0], [0, 0, 0]]
    np.testing.assert_allclose(matrix.iou(), [1 / 4, 2 / 5, np.nan])
    assert matrix.miou() == pytest.approx(0.325)
    assert matrix.pixel_accuracy() == pytest.approx(3 / 6)


def test_class_only_predicted_counts_as_zero_and_absent_class_not_at_all():
    matrix = matrix_of(np.array([0, 1]), np.array([0, 0]))
    np.testing.assert_allclose(matrix.iou(), [0.5, 0, np.nan])
    assert matrix.miou() == pytest.approx(0.25)


def test_nothing_counted_gives_nan():
    matrix = matrix_of(np.array([0, 7]), np.array([255, 255]))
    assert math.isnan(matrix.miou())
    assert math.isnan(matrix.pixel_accuracy())
    assert np.isnan(matrix.iou()).all()


def test_updates_and_sums_equal_one_update_with_everything():
    rng = np.random.default_rng(0)
    pred, label = rng.integers(0, 5, (2, 4, 30, 40), dtype=np.uint8)
    label[rng.random(label.shape) < 0.1] = 255
    whole = matrix_of(pred, label, 5)
    parts = matrix_of(pred[0], label[0], 5)
    parts.update(pred[1], label[1])
    total = parts + matrix_of(pred[2:], label[2:], 5)
    assert np.array_equal(total.matrix, whole.matrix)
    assert whole.matrix.sum() == (label != 255).sum()


def test_matrices_of_other_classes_cannot_be_added():
    with pytest.raises(ValueError, match=r"3 classes.*2"):
        ConfusionMatrix(2) + ConfusionMatrix(3)


@pytest.mark.parametrize(
    ("pred", "label", "complaint"),
    [
        ([0, 0, 0], [0, 3, 9], r"label ids \[3, 9\]"),
        ([0, 3, 9], [0, 0, 0], r"prediction ids \[3, 9\]"),
        ([0, -1, 0], [0, 0, 0], r"prediction ids \[-1\]"),
        ([0, 0], [0, 0, 0], "same shape"),
        ([0.0, 1.0, 0.0], [0, 0, 0], "integers.*float64"),
    ],
)
def test_bad_masks_are_named_and_count_nothing(pred, label, complaint):
    matrix = ConfusionMatrix(3)
    with pytest.raises(ValueError, match=complaint):
        matrix.update(np.array(pred), np.array(label))
    assert not matrix.matrix.any()


def test_iou_and_accuracy_equal_those_of_torchmetrics():
    torch = pytest.importorskip("torch")
    classification = pytest.importorskip("torchmetrics.functional.classification")
    rng = np.random.default_rng(1)
    pred, label = rng.integers(0, 6, (2, 64, 64), dtype=np.uint8)
    label[:8] = 255
    matrix = matrix_of(pred, label, 6)
    tensors = torch.from_numpy(pred).long(), torch.from_numpy(label).long()
    iou = classification.multiclass_jaccard_index(*tensors, 6, average="none", ignore_index=255)
    accuracy = classification.multiclass_accuracy(*tensors, 6, average="micro", ignore_index=255)
    np.testing.assert_allclose(matrix.iou(), iou.numpy(), rtol=1e-6)
    assert matrix.pixel_accuracy() == pytest.approx(float(accuracy))
