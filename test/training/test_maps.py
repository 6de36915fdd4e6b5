"""What methods do before they compare: bounded sizes, and maps standardised by running statistics."""

import pytest

torch = pytest.importorskip("torch", reason="the training wing needs torch")
pytest.importorskip("segmentation_models_pytorch")

from training.distillers.maps import Standardise, bounded_size, compared_logits  # noqa: E402
from training.taps import Taps  # noqa: E402

pytestmark = pytest.mark.training


def taps(height, width, stages=True):
    logits = torch.randn(1, 3, height, width, dtype=torch.float16)
    return Taps(logits, logits, (logits,) if stages else (), ())


@pytest.mark.parametrize(
    ("teacher", "stride", "size"),
    [((64, 96), 1, (64, 96)), ((64, 96), 4, (16, 24)), ((16, 24), 1, (16, 24)), ((16, 24), 4, (16, 24))],
)
def test_logits_meet_at_the_teachers_size_or_the_smaller_one_of_the_stride(teacher, stride, size):
    own, wanted = compared_logits(taps(64, 96), taps(*teacher), stride)
    assert own.shape == wanted.shape == (1, 3, *size)
    assert own.dtype == wanted.dtype == torch.float32


@pytest.mark.parametrize("size", [(32, 64), (1, 5000), (5000, 1), (3, 2000), (33, 31), (1025, 1), (45, 60)])
def test_no_size_has_more_than_so_many_positions(size):
    height, width = bounded_size(size, 1024)
    assert 1 <= height <= size[0]
    assert 1 <= width <= size[1]
    assert 512 < height * width <= 1024


def test_a_bounded_size_keeps_the_aspect_and_a_small_map():
    assert bounded_size((64, 128), 256) == (11, 22)
    assert bounded_size((32, 32), 256) == (16, 16)
    assert bounded_size((8, 10), 256) == (8, 10)


def test_the_teachers_maps_are_standardised_by_the_mean_of_all_batches():
    """Two batches with channel means 10 and 30: behind the second the statistics are those of both, not its own."""
    standardise = Standardise(1).train()
    first, second = (torch.tensor([[[[-1.0, 1.0]]], [[[-1.0, 1.0]]]]) + mean for mean in (10, 30))
    unbiased = (4 / 3) ** 0.5  # of four values with the variance 1
    assert standardise(first).flatten().tolist() == pytest.approx([-1 / unbiased, 1 / unbiased] * 2, rel=1e-4)
    assert standardise(second).flatten().tolist() == pytest.approx([9 / unbiased, 11 / unbiased] * 2, rel=1e-4)
    assert list(standardise.parameters()) == []
    assert standardise.eval()(second).flatten().tolist() == pytest.approx([9 / unbiased, 11 / unbiased] * 2, rel=1e-4)
