"""Channel-wise distillation: a divergence worked out by hand, what it does not see, and its scale."""

import math

import pytest

torch = pytest.importorskip("torch", reason="the training wing needs torch")

from training.distillers import CWD  # noqa: E402
from training.taps import Taps  # noqa: E402

pytestmark = pytest.mark.training


def taps(*classes):
    """Taps of a network that gives these logits, one tuple of positions per class."""
    return live(torch.tensor(classes)[None, :, None, :])


def live(logits):
    """Taps of a network, which has stages, with these logits (B, classes, H, W)."""
    image = torch.zeros(len(logits), 3, *logits.shape[-2:])
    return Taps(logits, image, (image,), ())


def loss(student, teacher, temperature=1.0, weight=1.0):
    labels = torch.full(student.logits[:, 0].shape, 255)  # are not read
    return CWD(temperature, weight)(student, teacher, labels)["channel"].item()


QUARTERS, HALVES = (0.0, math.log(3)), (0.0, 0.0)  # softmax over two positions: 1/4 and 3/4, 1/2 and 1/2


def test_the_loss_is_the_mean_over_classes_of_kl_teacher_student_over_positions():
    # Teacher 1/4 : 3/4 against a student of 1/2 : 1/2 in the first class, no difference in the others.
    found = loss(taps(HALVES, (0.0, 1.0), (5.0, 0.0)), taps(QUARTERS, (0.0, 1.0), (5.0, 0.0)))
    first = 1 / 4 * math.log((1 / 4) / (1 / 2)) + 3 / 4 * math.log((3 / 4) / (1 / 2))
    assert found == pytest.approx(first / 3, rel=1e-5)


def test_the_positions_of_an_image_are_one_distribution_and_images_are_averaged():
    """Rows and columns together: 1/6, 1/6, 1/6 and 3/6 in the first image; the second costs nothing."""
    teacher = torch.zeros(2, 1, 2, 2)
    teacher[0, 0, 1, 1] = math.log(3)
    pair = (live(logits) for logits in (torch.zeros(2, 1, 2, 2), teacher))
    first = 3 / 6 * math.log((1 / 6) / (1 / 4)) + 3 / 6 * math.log((3 / 6) / (1 / 4))
    assert loss(*pair) == pytest.approx(first / 2, rel=1e-5)


def test_a_constant_added_to_a_class_costs_nothing():
    """Softmax over positions does not see it, though it may change the class of every pixel."""
    assert loss(taps(HALVES, QUARTERS), taps((9.0, 9.0), QUARTERS)) == pytest.approx(0, abs=1e-6)


def test_temperature_softens_both_sides_and_is_squared_into_the_weight():
    hot = loss(taps((2.0, 0.0)), taps((0.0, 6.0)), temperature=2.0)
    assert hot == pytest.approx(4 * loss(taps((1.0, 0.0)), taps((0.0, 3.0))), rel=1e-5)


def test_the_weight_multiplies_the_loss():
    assert loss(taps(HALVES), taps(QUARTERS), weight=3.0) == pytest.approx(3 * loss(taps(HALVES), taps(QUARTERS)))


def test_half_precision_logits_are_compared_in_float32():
    student, teacher = taps((0.0, 1.0)), taps((1.0, 0.0))
    halved = live(student.logits.bfloat16())
    result = CWD()(halved, teacher, torch.zeros(1, 1, 2, dtype=torch.int64))["channel"]
    assert result.dtype == torch.float32
    assert result.item() == pytest.approx(loss(student, teacher, 4.0, 3.0), rel=1e-6)


def test_logits_are_compared_at_the_size_over_the_stride():
    """Of 8×8 positions, in which 4×4 blocks are alike, a stride of 4 leaves 2×2."""
    blocks = torch.randn(2, 1, 3, 2, 2)
    large = [live(logits.repeat_interleave(4, 2).repeat_interleave(4, 3)) for logits in blocks]
    labels = torch.zeros(1, 8, 8, dtype=torch.int64)
    found = CWD(stride=4)(*large, labels)["channel"].item()
    assert found == pytest.approx(loss(*map(live, blocks), 4.0, 3.0), rel=1e-5)


def test_soft_labels_are_compared_with_log_probabilities_at_their_size():
    """A student that predicts what was stored has nothing to learn, whatever constant its pixels' logits carry."""
    logits = torch.randn(1, 3, 2, 2)
    stored = Taps(logits.log_softmax(1), torch.zeros(1, 3, 8, 8), (), ())
    student = (logits + torch.randn(1, 1, 2, 2)).repeat_interleave(4, 2).repeat_interleave(4, 3)
    assert loss(live(student), stored) == pytest.approx(0, abs=1e-6)
    assert loss(live(student.roll(4, 3)), stored) > 0.01
