"""IoU, accuracy, boundary F1 and flicker equal values worked out by hand and the field's own tools."""

import copy
import math
from pathlib import Path

import cv2
import numpy as np
import pytest

from transkd_ros.evaluate.metrics import BOUNDARY_TOLERANCE, BoundaryF1, ConfusionMatrix, Flicker
from transkd_ros.scenes import Drive

CAMVID = Path(__file__).resolve().parents[3] / "shared" / "data" / "camvid" / "val"

LABEL = np.array([[0, 0, 0, 1], [1, 1, 255, 255]], np.uint8)
PRED = np.array([[0, 1, 1, 1], [1, 0, 0, 2]], np.uint8)


def matrix_of(pred, label, classes=3):
    matrix = ConfusionMatrix(classes)
    matrix.update(np.asarray(pred, np.uint8), np.asarray(label, np.uint8))
    return matrix


def test_scores_equal_those_worked_by_hand():
    matrix = matrix_of(PRED, LABEL)
    assert matrix.matrix.tolist() == [[1, 2, 0], [1, 2, 0], [0, 0, 0]]
    np.testing.assert_allclose(matrix.iou(), [1 / 4, 2 / 5, np.nan])
    assert matrix.miou() == pytest.approx(0.325)
    assert matrix.pixel_accuracy() == pytest.approx(3 / 6)


def test_class_only_predicted_counts_as_zero_and_absent_class_not_at_all():
    matrix = matrix_of([0, 1], [0, 0])
    np.testing.assert_allclose(matrix.iou(), [0.5, 0, np.nan])
    assert matrix.miou() == pytest.approx(0.25)


def test_nothing_counted_gives_nan():
    matrix = matrix_of([0, 7], [255, 255])
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


def test_counts_of_huge_masks_are_exact():
    ones = np.ones((4100, 4100), np.uint8)  # more pixels than float32 counts one by one
    assert matrix_of(ones, ones).matrix[1, 1] == ones.size


def test_matrices_of_other_classes_cannot_be_added():
    with pytest.raises(ValueError, match=r"3 classes.*2"):
        ConfusionMatrix(2) + ConfusionMatrix(3)


@pytest.mark.parametrize(
    ("pred", "label", "complaint"),
    [
        ([0, 0, 0], [0, 3, 9], r"label ids \[3, 9\]"),
        ([0, 3, 9], [0, 0, 0], r"prediction ids \[3, 9\]"),
        ([0, 0], [0, 0, 0], "same shape"),
    ],
)
def test_bad_masks_are_named_and_count_nothing(pred, label, complaint):
    matrix = ConfusionMatrix(3)
    with pytest.raises(ValueError, match=complaint):
        matrix.update(np.array(pred, np.uint8), np.array(label, np.uint8))
    assert not matrix.matrix.any()


def test_masks_of_another_type_are_refused_because_their_ids_could_be_cut():
    with pytest.raises(ValueError, match=r"uint8.*int64"):
        ConfusionMatrix(3).update(np.array([256]), np.array([0], np.uint8))


# ---- against the field's tools -------------------------------------------------------------------
def noise(classes=6):
    """Two masks without any structure, a part of the label ignored."""
    pred, label = np.random.default_rng(1).integers(0, classes, (2, 64, 80), dtype=np.uint8)
    label[:8] = 255
    return pred, label, classes


def drive():
    """The labels of a rendered street and of a moment later, which differ as a good prediction does."""
    scene = Drive(3, (120, 160))
    label, pred = (scene.frame(index)[1] for index in (0, 1))
    return np.where(pred == 255, 0, pred).astype(np.uint8), label, 11


def camvid():
    """Two CamVid labels in a row."""
    if not CAMVID.is_dir():
        pytest.skip(f"{CAMVID} is not there")
    label, pred = (cv2.imread(str(path), -1) for path in sorted((CAMVID / "labels").iterdir())[:2])
    return np.where(pred == 255, 0, pred).astype(np.uint8), label, 11


PAIRS = pytest.mark.parametrize("masks", [noise, drive, camvid])


@PAIRS
@pytest.mark.training
def test_confusion_iou_and_accuracy_equal_those_of_torchmetrics(masks):
    torch = pytest.importorskip("torch")
    field = pytest.importorskip("torchmetrics.functional.classification")
    pred, label, classes = masks()
    matrix = matrix_of(pred, label, classes)
    tensors = torch.from_numpy(pred).long(), torch.from_numpy(label).long()
    counts = field.multiclass_confusion_matrix(*tensors, classes, ignore_index=255)
    assert matrix.matrix.tolist() == counts.tolist()
    iou = field.multiclass_jaccard_index(*tensors, classes, average="none", ignore_index=255).numpy()
    occurs = ~np.isnan(matrix.iou())  # torchmetrics says 0 of a class that does not occur
    np.testing.assert_allclose(matrix.iou()[occurs], iou[occurs], rtol=1e-6)
    accuracy = field.multiclass_accuracy(*tensors, classes, average="micro", ignore_index=255)
    assert matrix.pixel_accuracy() == pytest.approx(float(accuracy))


@PAIRS
def test_confusion_and_iou_equal_those_of_the_cityscapes_scripts(masks, tmp_path):
    field = pytest.importorskip("cityscapesscripts.evaluation.evalPixelLevelSemanticLabeling")
    pred, label, classes = masks()
    matrix = matrix_of(pred, label, classes)

    # Files of Cityscapes' own ids, which the scripts read: those they evaluate, and for void one they do not.
    ids = np.array([i for i, kind in sorted(field.id2label.items()) if i >= 0 and not kind.ignoreInEval][:classes])
    void = field.name2label["unlabeled"].id
    files = {"pred": ids[pred], "label": np.where(label == 255, void, ids[np.minimum(label, classes - 1)])}
    for name, mask in files.items():
        cv2.imwrite(str(tmp_path / f"{name}.png"), mask.astype(np.uint8))
    args = copy.copy(field.args)
    args.evalInstLevelScore = args.evalPixelAccuracy = False
    theirs = field.generateMatrix(args)
    field.evaluatePair(str(tmp_path / "pred.png"), str(tmp_path / "label.png"), theirs, {}, {}, args)

    assert theirs[np.ix_(ids, ids)].tolist() == matrix.matrix.tolist()
    np.testing.assert_allclose(matrix.iou(), [field.getIouScoreForLabel(i, theirs, args) for i in ids.tolist()])


# ---- boundary F1 ---------------------------------------------------------------------------------
def boundary_of(pred, label, classes=3, tolerance=BOUNDARY_TOLERANCE):
    boundary = BoundaryF1(classes, tolerance=tolerance)
    boundary.update(np.asarray(pred, np.uint8), np.asarray(label, np.uint8))
    return boundary


def outlines_by_hand(mask, label, class_id):
    """(n, 2) pixels of the class next to another class, pixel by pixel."""
    height, width = mask.shape
    found = []
    for y, x in np.argwhere((mask == class_id) & (label != 255)):
        beside = [(y + dy, x + dx) for dy, dx in ((0, 1), (1, 0), (0, -1), (-1, 0))]
        inside = [(v, u) for v, u in beside if 0 <= v < height and 0 <= u < width and label[v, u] != 255]
        if any(mask[at] != class_id for at in inside):
            found.append((y, x))
    return np.array(found).reshape(-1, 2)


def hits_by_hand(points, others, limit):
    """How many of the points have one of the others nearer than the limit."""
    if not len(points) or not len(others):
        return 0
    distances = np.hypot(*(points[:, np.newaxis] - others[np.newaxis]).transpose(2, 0, 1))
    return int((distances.min(axis=1) < limit).sum())


@pytest.mark.parametrize("masks", [noise, drive])
@pytest.mark.parametrize("tolerance", [0.001, BOUNDARY_TOLERANCE, 0.03])
def test_boundary_counts_equal_a_search_through_all_pairs_of_pixels(masks, tolerance):
    pred, label, classes = masks()
    boundary = boundary_of(pred, label, classes, tolerance)
    limit = tolerance * math.hypot(*label.shape)
    for i in range(classes):
        ours, theirs = outlines_by_hand(pred, label, i), outlines_by_hand(label, label, i)
        assert (boundary.predicted[i], boundary.labelled[i]) == (len(ours), len(theirs))
        assert boundary.predicted_hits[i] == hits_by_hand(ours, theirs, limit)
        assert boundary.labelled_hits[i] == hits_by_hand(theirs, ours, limit)


@pytest.mark.parametrize("masks", [drive, camvid])
@pytest.mark.training
def test_boundary_f1_equals_one_made_of_the_edges_and_distances_of_torchmetrics(masks):
    torch = pytest.importorskip("torch")
    field = pytest.importorskip("torchmetrics.functional.segmentation.utils")
    pred, label, classes = masks()
    # Its distances need memory by the square of the pixels and, in 1.9, a square image.
    top, left = label.shape[0] // 2 - 40, label.shape[1] // 2 - 40
    pred, label = (mask[top : top + 80, left : left + 80] for mask in (pred, label))
    label = np.where(label == 255, 0, label).astype(np.uint8)  # its edges know no ignored pixels
    expected = []
    for i in range(classes):
        # It takes the border of the image for an edge, so the border is moved away and cut off again.
        padded = (torch.from_numpy(np.pad(mask == i, 1, mode="edge")) for mask in (pred, label))
        edges = [edge.bool()[1:-1, 1:-1] for edge in field.mask_edges(*padded, crop=False)]
        if not all(edge.any() for edge in edges):
            expected.append(0.0 if any(edge.any() for edge in edges) else math.nan)
            continue
        limit = BOUNDARY_TOLERANCE * math.hypot(*label.shape)
        precision = (field.surface_distance(*edges) < limit).double().mean()
        recall = (field.surface_distance(*reversed(edges)) < limit).double().mean()
        expected.append(float(2 * precision * recall / (precision + recall)))
    boundary = boundary_of(pred, label, classes)
    np.testing.assert_allclose(boundary.f1(), expected, rtol=1e-9)
    assert boundary.mean() == pytest.approx(np.nanmean(expected))


def test_boundary_f1_of_equal_masks_is_one_and_of_far_ones_zero():
    label = np.zeros((60, 80), np.uint8)
    label[:, 20:] = 1
    far = np.zeros_like(label)
    far[:, 60:] = 1
    assert boundary_of(label, label).mean() == 1.0
    assert boundary_of(far, label).f1()[:2].tolist() == [0.0, 0.0]
    assert math.isnan(boundary_of(far, label).f1()[2])


def test_a_pixel_exactly_as_far_as_the_tolerance_does_not_fit():
    label = np.zeros((480, 640), np.uint8)  # of a diagonal of 800: the tolerance is 6 pixels
    label[:, 100:] = 1
    for shift, fits in ((5, 1.0), (6, 0.0)):
        pred = np.roll(label, shift, axis=1)
        pred[:, :50] = 0
        assert boundary_of(pred, label).f1()[1] == fits


def test_borders_of_image_and_of_ignored_areas_are_no_boundary():
    label = np.full((40, 50), 255, np.uint8)
    label[5:20, 5:20] = 1
    label[5:20, 30:] = 0
    boundary = boundary_of(np.full_like(label, 1), label)
    assert not boundary.predicted.any() and not boundary.labelled.any()
    assert math.isnan(boundary.mean())


@pytest.mark.parametrize("classes", [16, 17, 200])
def test_boundaries_of_many_classes_are_told_apart(classes):
    label = np.repeat(np.arange(classes, dtype=np.uint8), 4)[np.newaxis].repeat(9, axis=0)
    assert (boundary_of(label, label, classes).f1() == 1).all()
    wrong = np.where(label % 16 == 0, 1, label).astype(np.uint8)  # 16 has the bit of 0
    f1 = boundary_of(wrong, label, classes).f1()
    assert (f1[::16] == 0).all()


def test_boundary_counts_add_up_over_frames():
    pred, label, classes = noise()
    whole = boundary_of(pred, label, classes)
    whole.update(label, label)
    parts = boundary_of(pred, label, classes) + boundary_of(label, label, classes)
    assert parts.f1().tolist() == whole.f1().tolist()
    with pytest.raises(ValueError, match="cannot add"):
        parts + BoundaryF1(classes, tolerance=0.01)


# ---- flicker -------------------------------------------------------------------------------------
def test_flicker_is_the_share_of_pixels_that_change_class():
    flicker = Flicker()
    masks = [np.zeros((4, 5), np.uint8) for _ in range(3)]
    masks[1][0, :2] = 1
    assert math.isnan(flicker.update(masks[0]))
    assert flicker.update(masks[1]) == 2 / 20
    assert flicker.update(masks[1]) == 0
    assert flicker.share() == 2 / 40
    assert math.isnan(flicker.steady_share())


def test_where_the_label_changes_the_scene_moved_and_the_mask_may():
    flicker = Flicker()
    first, second = np.zeros((2, 10), np.uint8), np.zeros((2, 10), np.uint8)
    second[0, :4] = 1  # what moves, and one pixel that flickers
    label, label_after = first.copy(), second.copy()
    label_after[0, 3] = 0
    label[1], label_after[1] = 255, 255
    flicker.update(first, label)
    assert flicker.update(second, label_after) == 4 / 20
    assert (flicker.steady_changed, flicker.steady_total) == (1, 7)


def test_masks_that_do_not_follow_each_other_are_not_compared():
    flicker = Flicker()
    flicker.update(np.zeros((4, 5), np.uint8))
    assert math.isnan(flicker.update(np.ones((5, 5), np.uint8)))
    flicker.reset()
    assert math.isnan(flicker.update(np.zeros((5, 5), np.uint8)))
    assert math.isnan(flicker.share())
