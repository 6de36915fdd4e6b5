"""Knowledge Review: attention-based fusion worked out by hand, what the loss compares, and what gradients reach."""

import math

import pytest

torch = pytest.importorskip("torch", reason="the training wing needs torch")
pytest.importorskip("segmentation_models_pytorch")

from training.distillers import KnowledgeReview  # noqa: E402
from training.distillers.feature_fusion import FusionWalk, hierarchical_context_loss  # noqa: E402
from training.distillers.knowledge_review import SpatialAttention  # noqa: E402
from training.networks import NetworkSpec, build_network  # noqa: E402
from training.taps import Taps, Widths, run_tapped, widths  # noqa: E402

pytestmark = pytest.mark.training

STUDENT, TEACHER = (32, 64, 160, 256), (24, 48, 120, 352)  # MiT-B0 under EfficientNet-Lite2
SIZES = ((16, 24), (8, 12), (4, 6), (2, 3))  # of stage maps of 64×96 images
LABELS = torch.zeros(2, 64, 96, dtype=torch.int64)


def taps_of(channels, batch=2, gradient=False):
    """Random taps of a network of these widths that looked at images of 64×96."""
    pairs = zip(channels, SIZES, strict=True)
    stages = tuple(torch.randn(batch, c, *size, requires_grad=gradient) for c, size in pairs)
    return Taps(torch.randn(batch, 11, 64, 96), torch.randn(batch, 3, 64, 96), stages, ())


def built(distiller):
    distiller.build(Widths(11, STUDENT, ()), Widths(11, TEACHER, ()))
    return distiller


def built_like(distiller):
    """A new one with the same weights, which has seen no batch."""
    other = built(KnowledgeReview())
    other.load_state_dict(distiller.state_dict())
    return other


def test_attention_weighs_both_maps_position_by_position_by_hand():
    """a = σ(first channel of the own map), b = σ(ln 3) = 3/4 everywhere: they need not sum to one."""
    attention = SpatialAttention()
    with torch.no_grad():
        attention.attend[0].weight.zero_()
        attention.attend[0].weight[0, 0] = 1
        attention.attend[0].bias.copy_(torch.tensor([0.0, math.log(3)]))
    own, deeper = torch.full((1, 64, 1, 2), 8.0), torch.full((1, 64, 1, 2), 4.0)
    own[0, 0, 0] = torch.tensor([0.0, -math.log(4)])  # a = 1/2 and 1/5
    merged = attention(own, deeper)
    assert merged.shape == (1, 64, 1, 2)
    assert merged[0, 1, 0].tolist() == pytest.approx([8 / 2 + 4 * 3 / 4, 8 / 5 + 4 * 3 / 4], rel=1e-5)


def test_the_attention_sees_the_own_map_first_and_the_deeper_one_second():
    attention = SpatialAttention()
    own, deeper = torch.randn(2, 2, 64, 3, 4)
    a, b = attention.attend(torch.cat([own, deeper], 1)).unbind(1)
    assert torch.allclose(attention(own, deeper), a[:, None] * own + b[:, None] * deeper)


def test_a_stage_merges_its_map_with_the_upsampled_deeper_one():
    walk, stages = FusionWalk((32, 64), (24, 48), SpatialAttention).eval(), taps_of((32, 64, 1, 1)).stages[:2]
    fine, coarse = walk.fused(stages)
    block = walk.stages[0]
    upsampled = coarse.repeat_interleave(2, 2).repeat_interleave(2, 3)
    assert torch.allclose(fine, block["select"](block["reduce"](stages[0]), upsampled), atol=1e-5)


def test_the_method_has_the_papers_parameters():
    def stage(student, teacher):
        return student * 64 + 2 * 64 + 9 * 64 * teacher + 2 * teacher  # 1×1, norm, 3×3, norm

    attention = 2 * 64 * 2 + 2  # both maps in, two attention maps out; the deepest stage has none
    expected = sum(stage(*pair) for pair in zip(STUDENT, TEACHER, strict=True)) + 3 * attention
    assert sum(parameter.numel() for parameter in built(KnowledgeReview()).parameters()) == expected


def test_the_loss_is_the_weighted_context_loss_of_the_fused_maps():
    student, teacher = taps_of(STUDENT), taps_of(TEACHER)
    distiller = built(KnowledgeReview(weight=3.0, standardise=False)).eval()
    maps = distiller.fusion(student.stages)
    assert [output.shape for output in maps] == [stage.shape for stage in teacher.stages]
    expected = 3 * hierarchical_context_loss(maps, teacher.stages)
    assert distiller(student, teacher, LABELS)["review"].item() == pytest.approx(expected.item(), rel=1e-6)


def test_the_scale_of_a_teachers_stage_does_not_weigh_it():
    student, teacher = taps_of(STUDENT), taps_of(TEACHER)
    scaled = Taps(teacher.logits, teacher.image, tuple(3 + 50 * stage for stage in teacher.stages), ())
    distiller = built(KnowledgeReview())
    first, second = (built_like(distiller)(student, shown, LABELS)["review"].item() for shown in (teacher, scaled))
    assert first == pytest.approx(second, rel=1e-3)


@pytest.mark.parametrize("batch", [1, 2])
def test_every_parameter_and_stage_is_trained_at_any_batch_size(batch):
    distiller = built(KnowledgeReview()).train()
    student = taps_of(STUDENT, batch, gradient=True)
    distiller(student, taps_of(TEACHER, batch), LABELS[:batch])["review"].backward()
    # None is enough: DistributedDataParallel waits for a gradient of every parameter.
    assert [name for name, parameter in distiller.named_parameters() if parameter.grad is None] == []
    assert all(stage.grad.abs().sum() > 0 for stage in student.stages)


def test_the_loss_is_float32_under_mixed_precision():
    distiller = built(KnowledgeReview()).train()
    with torch.autocast("cpu", torch.bfloat16):
        loss = distiller(taps_of(STUDENT, gradient=True), taps_of(TEACHER), LABELS)["review"]
    loss.backward()
    assert loss.dtype == torch.float32
    assert loss.isfinite()


def test_networks_of_other_strides_are_compared_at_the_teachers_sizes():
    student = build_network(NetworkSpec("segformer", "mit_b0", 11))
    teacher = build_network(NetworkSpec("deeplabv3plus", "tu-tf_efficientnet_lite0", 11)).eval()
    distiller = KnowledgeReview()
    distiller.build(widths(student), widths(teacher))
    images = torch.rand(2, 3, 64, 96)
    with torch.no_grad():
        shown = run_tapped(teacher, images)
    assert shown.stages[-1].shape[-2:] == (4, 6)  # stride 16
    distiller(run_tapped(student, images), shown, LABELS)["review"].backward()
    assert student.encoder.patch_embed1.proj.weight.grad.abs().sum() > 0
