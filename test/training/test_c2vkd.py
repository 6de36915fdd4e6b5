"""C2VKD: both parts of both losses by hand, what ignored pixels and wrong teachers do, and the bound on tokens."""

import math

import pytest

torch = pytest.importorskip("torch", reason="the training wing needs torch")
pytest.importorskip("segmentation_models_pytorch")

from training.distillers import C2VKD, c2vkd  # noqa: E402
from training.distillers.c2vkd import (  # noqa: E402
    decouple,
    decoupled_divergences,
    relation_divergence,
    token_relations,
    visual_distance,
)
from training.networks import NetworkSpec, build_network  # noqa: E402
from training.taps import Taps, Widths, run_tapped, widths  # noqa: E402

pytestmark = pytest.mark.training

IGNORED = 255
EIGHTHS = (math.log(1), math.log(2), math.log(5))  # probabilities 1/8, 2/8 and 5/8


def row(*pixels):
    """Logits (1, classes, 1, pixels), one tuple of classes per pixel."""
    return torch.tensor(pixels).T[None, :, None, :]


def divergences(student, teacher, *labels):
    """Target and non-target part of a row of pixels."""
    return decoupled_divergences(student, teacher, torch.tensor(labels).view(1, 1, -1))


def taps_of(width, size=(2, 3), gradient=False):
    """Random taps of a network whose last stage has this width, at the size of 64×96 images."""
    stage = torch.randn(2, width, *size, requires_grad=gradient)
    logits = torch.randn(2, 11, 64, 96, requires_grad=gradient)
    return Taps(logits, torch.zeros(2, 3, 64, 96), (stage,) * 4, ())


def built(distiller, student=8, teacher=12):
    distiller.build(Widths(11, (student,) * 4, ()), Widths(11, (teacher,) * 4, ()))
    return distiller


LABELS = torch.zeros(2, 64, 96, dtype=torch.int64)


# Pixel-wise decoupled distillation


def test_a_pixel_is_decoupled_into_two_distributions_by_hand():
    pair, others = decouple(row(EIGHTHS), torch.tensor([[[[1]]]]))
    assert pair.exp().flatten().tolist() == pytest.approx([1 / 4, 3 / 4])
    assert others.exp().flatten().tolist() == pytest.approx([1 / 6, 5 / 6])


def test_both_distributions_sum_to_one_whatever_the_target():
    logits, target = 5 * torch.randn(3, 7, 4, 5), torch.arange(60).view(3, 1, 4, 5) % 7
    pair, others = decouple(logits, target)
    assert (pair.shape, others.shape) == ((3, 2, 4, 5), (3, 6, 4, 5))
    for distribution in (pair, others):
        assert torch.allclose(distribution.exp().sum(1), torch.ones(3, 4, 5), atol=1e-5)
    assert torch.allclose(pair[:, :1], logits.log_softmax(1).gather(1, target), atol=1e-5)


def test_both_divergences_of_a_pixel_by_hand():
    """The teacher is right: 5/8 against 3/8, and 1/3 to 2/3 among the others; the student knows nothing."""
    target, non_target = divergences(row((0.0, 0.0, 0.0)), row(EIGHTHS), 2)
    expected = 5 / 8 * math.log((5 / 8) / (1 / 3)) + 3 / 8 * math.log((3 / 8) / (2 / 3))
    assert target.item() == pytest.approx(expected, rel=1e-5)
    expected = 1 / 3 * math.log((1 / 3) / (1 / 2)) + 2 / 3 * math.log((2 / 3) / (1 / 2))
    assert non_target.item() == pytest.approx(expected, rel=1e-5)


def test_a_pixel_where_the_teacher_is_wrong_is_pulled_to_the_label():
    """The teacher gives the label 1/8, less than the student's 1/3: it would pull away, to class 2."""
    student = row((0.0, 0.0, 0.0)).requires_grad_()
    target, _ = divergences(student, row(EIGHTHS), 0)
    assert target.item() == pytest.approx(math.log(3), rel=1e-5)  # the cross-entropy of the label
    target.backward()
    assert student.grad.flatten().tolist() == pytest.approx([1 / 3 - 1, 1 / 3, 1 / 3], rel=1e-5)


def test_a_pixel_where_the_teacher_is_right_follows_the_teacher_even_down():
    student = row((0.0, 0.0, 3.0)).requires_grad_()  # surer than the teacher
    target, _ = divergences(student, row(EIGHTHS), 2)
    target.backward()
    assert student.grad.flatten()[2] > 0


def test_a_teacher_who_is_wrong_still_teaches_the_other_classes():
    """Among classes 1 and 2 the teacher has 2/7 and 5/7."""
    _, non_target = divergences(row((4.0, 0.0, 0.0)), row(EIGHTHS), 0)
    assert non_target.item() == pytest.approx(2 / 7 * math.log(4 / 7) + 5 / 7 * math.log(10 / 7), rel=1e-5)


def test_equal_predictions_that_are_right_cost_nothing():
    target, non_target = divergences(row(EIGHTHS), row(EIGHTHS), 2)
    assert target.item() == pytest.approx(0, abs=1e-6)
    assert non_target.item() == pytest.approx(0, abs=1e-6)


def test_ignored_pixels_contribute_nothing():
    teacher, wild = EIGHTHS, (90.0, -90.0, 0.0)
    alone = divergences(row((0.0, 1.0, 2.0)), row(teacher), 2)
    student = row((0.0, 1.0, 2.0), wild).requires_grad_()
    beside = divergences(student, row(teacher, tuple(reversed(wild))), 2, IGNORED)
    assert [part.item() for part in beside] == pytest.approx([part.item() for part in alone], rel=1e-6)
    sum(beside).backward()
    assert student.grad[..., 0].abs().sum() > 0
    assert student.grad[..., 1].abs().sum() == 0


def test_a_batch_without_labels_costs_nothing_and_has_finite_gradients():
    student = torch.randn(2, 5, 4, 6, requires_grad=True)
    parts = decoupled_divergences(student, torch.randn(2, 5, 4, 6), torch.full((2, 4, 6), IGNORED))
    assert [part.item() for part in parts] == [0, 0]
    sum(parts).backward()
    assert student.grad.abs().sum() == 0  # and not NaN


@pytest.mark.parametrize("label", [0, 1], ids=["right", "wrong"])
def test_a_teacher_without_a_doubt_gives_finite_losses_and_gradients(label):
    student = row((-200.0, 300.0, 0.0)).requires_grad_()
    parts = divergences(student, row((1e4, 0.0, -1e4)), label)
    sum(parts).backward()
    assert all(part.isfinite() for part in parts)
    assert student.grad.isfinite().all()
    # Right: 200 + 300 nats short of certainty. Wrong: the student says what the label says.
    assert parts[0].item() == pytest.approx([500, 0][label], abs=1e-4)


# Visual part of VLFD


def test_the_visual_distance_by_hand():
    """Unit vectors (0.6, 0.8) and (0, 1) are √0.4 apart, opposite ones 2, and lengths do not count."""
    student = torch.tensor([[3.0, 4], [1, 0], [2, 2]]).T.reshape(1, 2, 1, 3)
    teacher = torch.tensor([[0.0, 5], [-7, 0], [1, 1]]).T.reshape(1, 2, 1, 3)
    assert visual_distance(student, teacher).item() == pytest.approx((0.4 + 4 + 0) / 3, rel=1e-5)


def test_the_students_map_is_brought_to_the_teachers_size():
    student, teacher = torch.ones(1, 2, 4, 6), torch.tensor([1.0, 0]).view(1, 2, 1, 1).expand(1, 2, 8, 12)
    assert visual_distance(student, teacher).item() == pytest.approx(2 - math.sqrt(2), rel=1e-5)


# Linguistic part of VLFD

TWO_TOKENS = torch.tensor([[2.0, 0, 0, 0], [1, 1, 0, 0]]).T.reshape(1, 4, 1, 2)
# Of length one their product is cos 45°: at a temperature of 1/2 each row is softmax(2, √2), the own token first.
OWN, OTHER = (math.exp(it) / (math.exp(2) + math.exp(2**0.5)) for it in (2, 2**0.5))


def test_the_relations_of_two_tokens_by_hand():
    relations = token_relations(TWO_TOKENS, (1, 2), 0.5).exp()
    assert relations.shape == (1, 2, 2)
    assert relations.flatten().tolist() == pytest.approx([OWN, OTHER, OTHER, OWN], rel=1e-5)


def test_the_relation_divergence_by_hand():
    """To a student whose tokens are all alike each relates as much as any other; its width does not matter."""
    expected = OWN * math.log(2 * OWN) + OTHER * math.log(2 * OTHER)
    assert relation_divergence(torch.ones(1, 3, 1, 2), TWO_TOKENS, 0.5).item() == pytest.approx(expected, rel=1e-5)


def test_the_scale_of_a_map_does_not_change_its_relations():
    """Products of raw tokens grow with it, until each token relates to itself alone."""
    maps = torch.randn(1, 16, 4, 5)
    assert torch.allclose(token_relations(100 * maps, (4, 5), 0.1), token_relations(maps, (4, 5), 0.1), atol=1e-4)


def test_a_large_map_is_pooled_to_at_most_256_tokens(monkeypatch):
    seen = []

    def spied(maps, grid, temperature):
        seen.append(grid)
        return token_relations(maps, grid, temperature)

    monkeypatch.setattr(c2vkd, "token_relations", spied)
    assert relation_divergence(torch.randn(1, 3, 64, 128), torch.randn(1, 2, 64, 128), 0.1).isfinite()
    relation_divergence(torch.randn(1, 3, 8, 10), torch.randn(1, 2, 8, 10), 0.1)
    assert seen == [(11, 22)] * 2 + [(8, 10)] * 2


@pytest.mark.parametrize("finer", ["student", "teacher"])
def test_maps_of_two_sizes_are_compared_on_the_grid_of_the_smaller(finer):
    coarse, fine = torch.randn(2, 4, 3, 5), torch.randn(2, 4, 6, 10)
    pooled = fine.unflatten(3, (5, 2)).unflatten(2, (3, 2)).mean((3, 5))
    pairs = [(fine, coarse), (pooled, coarse)] if finer == "student" else [(coarse, fine), (coarse, pooled)]
    found, expected = (relation_divergence(*pair, 0.5).item() for pair in pairs)
    assert found == pytest.approx(expected, rel=1e-5)
    assert found > 0.01


# The method


@pytest.mark.parametrize("architecture", ["segformer", "fpn"])
def test_equal_networks_have_no_vlfd(architecture):
    encoder = {"segformer": "mit_b0", "fpn": "tu-tf_efficientnet_lite0"}[architecture]
    network = build_network(NetworkSpec(architecture, encoder, 11)).eval()
    distiller = C2VKD()
    distiller.build(widths(network), widths(network))
    taps = run_tapped(network, torch.rand(2, 3, 64, 96))
    losses = distiller(taps, taps, LABELS)
    assert losses["visual"].item() == pytest.approx(0, abs=1e-6)
    assert losses["linguistic"].item() == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("architecture", ["fpn", "deeplabv3plus"])
def test_a_transformer_learns_from_a_cnn(architecture):
    """DeepLabV3+ dilates its encoder: the last map of the teacher is finer than the student's."""
    student = build_network(NetworkSpec("segformer", "mit_b0", 11))
    teacher = build_network(NetworkSpec(architecture, "tu-tf_efficientnet_lite0", 11)).eval()
    distiller = C2VKD()
    distiller.build(widths(student), widths(teacher))
    images = torch.rand(2, 3, 64, 96)
    with torch.no_grad():
        shown = run_tapped(teacher, images)
    sum(distiller(run_tapped(student, images), shown, LABELS).values()).backward()
    assert distiller.projection.weight.grad.abs().sum() > 0
    assert student.encoder.patch_embed4.proj.weight.grad.abs().sum() > 0
    assert student.segmentation_head[0].weight.grad.abs().sum() > 0


def test_each_part_reaches_what_it_compares():
    distiller, student, teacher = built(C2VKD()), taps_of(8, gradient=True), taps_of(12)
    losses = distiller(student, teacher, LABELS)
    for name, reached in {
        "visual": (student.stages[-1], distiller.projection.weight),
        "linguistic": (student.stages[-1],),
        "target": (student.logits,),
        "non_target": (student.logits,),
    }.items():
        gradients = torch.autograd.grad(losses[name], reached, retain_graph=True)
        assert all(gradient.abs().sum() > 0 for gradient in gradients), name


def test_weights_are_applied_to_the_losses():
    student, teacher = taps_of(8), taps_of(12)
    plain, weighted = built(C2VKD(1, 1, 1, 1)), built(C2VKD(2.0, 3.0, 4.0, 5.0))
    weighted.load_state_dict(plain.state_dict())
    expected, found = (distiller(student, teacher, LABELS) for distiller in (plain, weighted))
    ratios = [found[name].item() / expected[name].item() for name in ("visual", "linguistic", "target", "non_target")]
    assert ratios == pytest.approx([2, 3, 4, 5], rel=1e-4)


def test_temperature_softens_both_sides_of_pdd_and_is_squared_into_it():
    student, teacher = taps_of(8), taps_of(12)
    hot = built(C2VKD(temperature=2.0))(student, teacher, LABELS)
    halved = [Taps(taps.logits / 2, taps.image, taps.stages, ()) for taps in (student, teacher)]
    plain = built(C2VKD())(*halved, LABELS)
    for name in ("target", "non_target"):
        assert hot[name].item() == pytest.approx(4 * plain[name].item(), rel=1e-4)


def test_losses_are_float32_under_mixed_precision():
    distiller, student, teacher = built(C2VKD()), taps_of(8), taps_of(12)
    halved = Taps(student.logits.bfloat16(), student.image, tuple(stage.bfloat16() for stage in student.stages), ())
    with torch.autocast("cpu", torch.bfloat16):
        losses = distiller(halved, teacher, LABELS)
    exact = Taps(halved.logits.float(), student.image, tuple(stage.float() for stage in halved.stages), ())
    expected = distiller(exact, teacher, LABELS)
    assert all(loss.dtype == torch.float32 and loss.isfinite() for loss in losses.values())
    for name in ("linguistic", "target", "non_target"):  # the projection alone is computed in bf16
        assert losses[name].item() == pytest.approx(expected[name].item(), rel=1e-6), name


# Soft labels


def test_pdd_alone_learns_from_soft_labels_at_their_size():
    """Labels are taken at the nearest pixel; a student that is right about what was stored has nothing to learn."""
    distiller = C2VKD(visual_weight=0, linguistic_weight=0)
    assert (distiller.needs_stages, C2VKD().needs_stages) == (False, True)
    distiller.build(Widths(11, (8,) * 4, ()), Widths(11, (), ()))
    assert list(distiller.parameters()) == []
    logits, labels = torch.randn(2, 11, 4, 6), torch.randint(11, (2, 4, 6))
    logits.scatter_(1, labels[:, None], 9.0)  # the teacher is right
    stored = Taps(logits.log_softmax(1), torch.zeros(2, 3, 16, 24), (), ())

    def enlarged(maps):
        return maps.repeat_interleave(4, -2).repeat_interleave(4, -1)

    student = Taps(enlarged(logits), stored.image, (torch.randn(2, 8, 2, 3),) * 4, ())
    losses = distiller(student, stored, enlarged(labels))
    assert list(losses) == ["target", "non_target"]
    assert [loss.item() for loss in losses.values()] == pytest.approx([0, 0], abs=1e-5)
    shifted = distiller(student, stored, enlarged(labels).roll(4, -1))
    assert shifted["target"].item() > 0.1
