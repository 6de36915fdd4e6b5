"""Scores of a validation beside the mIoU, by numbers worked out by hand."""

import math

import pytest

torch = pytest.importorskip("torch", reason="the training wing needs torch")
pytest.importorskip("lightning")

from training.callbacks import ValidationScores  # noqa: E402
from training.module import SegmentationModule  # noqa: E402

pytestmark = pytest.mark.training

# A class that is 5 above the other ten has probability 1 / (1 + 10·exp(-5)) = 0.94; 4 above, 0.85.
SURE, UNSURE = 5.0, 4.0


class Answers(torch.nn.Module):
    """A network that gives prepared logits, in order."""

    def __init__(self, *answers):
        super().__init__()
        self.answers = iter(answers)

    def forward(self, images):
        return next(self.answers)


def answer(*pixels):
    """Logits (1, 11, 1, width): each pixel's class, and how far it is above the others."""
    logits = torch.zeros(1, 11, 1, len(pixels))
    for column, (index, margin) in enumerate(pixels):
        logits[0, index, 0, column] = margin
    return logits


@pytest.fixture
def module(monkeypatch):
    module = SegmentationModule()
    module.logged, module.scores = {}, ValidationScores()
    monkeypatch.setattr(module, "log_dict", lambda values, **_: module.logged.update(values))
    return module


def validate(module, *images):
    """The scores of pairs of a network's logits and the labels of the row of pixels."""
    module.network = Answers(*(logits for logits, _ in images))
    module.scores.on_validation_start(None, module)
    for index, (logits, labels) in enumerate(images):
        image = torch.zeros(1, 3, *logits.shape[-2:], dtype=torch.uint8)
        batch = image, torch.tensor([[labels]], dtype=torch.uint8)
        module.scores.on_validation_batch_end(None, module, module.validation_step(batch), batch, index)
    module.scores.on_validation_epoch_end(None, module)
    module.on_validation_epoch_end()
    return {name: float(value) for name, value in module.logged.items()}


# Three labelled pixels. Right and sure: the first alone; the second is unsure, the third wrong, the fourth unlabelled.
# Class 0: two of three pixels, class 1: none of one; mIoU (2/3 + 0) / 2 = 1/3.
FIRST = answer((0, SURE), (0, UNSURE), (0, SURE), (1, SURE)), [0, 0, 1, 255]
# Two labelled pixels, both right and sure; the one class that is there has an IoU of 1.
SECOND = answer((1, SURE), (1, SURE)), [1, 1]
UNLABELLED = answer((0, SURE), (1, UNSURE)), [255, 255]


def test_high_precision_accuracy_is_the_share_of_labelled_pixels_that_are_right_and_sure(module):
    assert validate(module, FIRST, SECOND)["val_high_precision_accuracy"] == pytest.approx((1 + 2) / (3 + 2))


def test_the_variance_is_that_of_the_images_own_miou(module):
    # 1/3 and 1: a third to either side of their mean. The mIoU over all pixels is another matter: 2/3 for both classes.
    scores = validate(module, FIRST, SECOND)
    assert scores["val_miou_variance"] == pytest.approx((1 / 3) ** 2)
    assert scores["val_miou"] == pytest.approx(2 / 3)


def test_the_validation_loss_is_the_cross_entropy_of_a_labelled_pixel(module):
    sure, unsure = math.log1p(10 * math.exp(-SURE)), math.log1p(10 * math.exp(-UNSURE))
    wrong = SURE + sure
    scores = validate(module, FIRST, UNLABELLED, SECOND)
    assert scores["val_loss"] == pytest.approx((sure + unsure + wrong + 2 * sure) / 5, rel=1e-5)


def test_an_image_without_labels_counts_for_nothing(module):
    scores = validate(module, FIRST, UNLABELLED, SECOND)
    assert scores["val_high_precision_accuracy"] == pytest.approx(3 / 5)
    assert scores["val_miou_variance"] == pytest.approx(1 / 9)


def test_every_validation_starts_anew(module):
    validate(module, FIRST, SECOND)
    scores = validate(module, SECOND, SECOND)
    assert scores["val_high_precision_accuracy"] == 1
    assert scores["val_miou_variance"] == 0


def test_confidence_is_the_class_probability_at_the_labels_size(module):
    # Two answered pixels for four labelled ones: the nearest one's class and confidence.
    scores = validate(module, (answer((0, SURE), (0, UNSURE)), [0, 0, 0, 0]))
    assert scores["val_high_precision_accuracy"] == pytest.approx(2 / 4)


def test_a_split_without_a_label_has_no_scores_and_ends_well(module):
    scores = validate(module, UNLABELLED)
    assert math.isnan(scores["val_miou"])
    assert math.isnan(scores["val_miou_variance"])
