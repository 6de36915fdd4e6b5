"""Response distillation: a divergence worked out by hand, and how temperature and weight scale it."""

import math

import pytest

torch = pytest.importorskip("torch", reason="the training wing needs torch")

from training.distillers import ResponseKD  # noqa: E402
from training.taps import Taps  # noqa: E402

pytestmark = pytest.mark.training

LABELS = torch.zeros(1, 1, 2, dtype=torch.int64)


def taps(*pixels):
    """Taps of a network that gives these logits, one tuple of classes per pixel of a single row."""
    logits = torch.tensor(pixels).T[None, :, None, :]
    return Taps(logits, torch.zeros(1, 3, *logits.shape[-2:]), (), ())


def loss(student, teacher, temperature=1.0, weight=1.0):
    return ResponseKD(temperature, weight)(student, teacher, LABELS)["response"].item()


def test_the_loss_is_the_mean_over_pixels_of_kl_teacher_student():
    # Teacher 1/4 : 3/4 against a student of 1/2 : 1/2 in the first pixel, no difference in the second.
    teacher, student = taps((0.0, math.log(3)), (0.0, 1.0)), taps((0.0, 0.0), (0.0, 1.0))
    first = 1 / 4 * math.log((1 / 4) / (1 / 2)) + 3 / 4 * math.log((3 / 4) / (1 / 2))
    assert loss(student, teacher) == pytest.approx(first / 2, rel=1e-5)


def test_equal_predictions_cost_nothing():
    # Softmax does not see a constant added to all classes.
    assert loss(taps((1.0, 2.0), (0.0, 3.0)), taps((11.0, 12.0), (0.0, 3.0))) == pytest.approx(0, abs=1e-6)


def test_temperature_softens_both_sides_and_is_squared_into_the_weight():
    hot = loss(taps((2.0, 0.0)), taps((0.0, 6.0)), temperature=2.0)
    assert hot == pytest.approx(4 * loss(taps((1.0, 0.0)), taps((0.0, 3.0))), rel=1e-5)


def test_the_weight_multiplies_the_loss():
    student, teacher = taps((0.0, 1.0)), taps((1.0, 0.0))
    assert loss(student, teacher, weight=3.0) == pytest.approx(3 * loss(student, teacher), rel=1e-6)


def test_half_precision_logits_are_compared_in_float32():
    student, teacher = taps((0.0, 1.0)), taps((1.0, 0.0))
    halved = Taps(student.logits.bfloat16(), student.image, (), ())
    result = ResponseKD(1.0, 1.0)(halved, teacher, LABELS)["response"]
    assert result.dtype == torch.float32
    assert result.item() == pytest.approx(loss(student, teacher), rel=1e-6)


def test_void_pixels_are_taught_too():
    student, teacher = taps((0.0, 1.0), (0.0, 0.0)), taps((0.0, 1.0), (3.0, 0.0))
    unlabelled = torch.full_like(LABELS, 255)
    assert ResponseKD(1.0, 1.0)(student, teacher, unlabelled)["response"].item() == loss(student, teacher) > 0


def test_soft_labels_of_a_quarter_of_the_size_teach_what_their_logits_would():
    """What a committee's mean leaves behind are log-probabilities: a softmax at any temperature sees no difference."""
    student, logits = torch.randn(2, 3, 16, 24, requires_grad=True), 4 * torch.randn(2, 3, 4, 6)
    image = torch.zeros(2, 3, 16, 24)
    whole = Taps(student, image, (image,), ())
    live, stored = Taps(logits, image, (image,), ()), Taps(logits.log_softmax(1).half(), image, (), ())
    found, expected = (ResponseKD()(whole, shown, LABELS)["response"] for shown in (stored, live))
    assert found.item() == pytest.approx(expected.item(), rel=1e-3)
    found.backward()
    assert student.grad.abs().sum() > 0
