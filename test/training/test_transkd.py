"""TransKD and SKR+PEA: every block with the paper's widths, the losses worked out by hand, and what gradients reach."""

import pytest

torch = pytest.importorskip("torch", reason="the training wing needs torch")
pytest.importorskip("segmentation_models_pytorch")

from torch import nn  # noqa: E402

from training.distillers import SKRPEA, DistillerError, TransKD  # noqa: E402
from training.distillers.base import check_fit  # noqa: E402
from training.distillers.feature_fusion import (  # noqa: E402
    ChannelSelection,
    FusionWalk,
    context_loss,
    hierarchical_context_loss,
)
from training.distillers.patch_alignment import EmbeddingAssistant, GLMixer, PatchProjection, patch_loss  # noqa: E402
from training.networks import NetworkSpec, build_network  # noqa: E402
from training.taps import Taps, Widths, run_tapped, widths  # noqa: E402

pytestmark = pytest.mark.training

STUDENT, TEACHER = (32, 64, 160, 256), (64, 128, 320, 512)  # MiT-B0 under MiT-B2
SIZES = ((16, 24), (8, 12), (4, 6), (2, 3))  # of stage maps of 64×96 images
VARIANTS = ("base", "gl", "ea", "skr_pea")


def taps_of(channels, batch=2, gradient=False):
    """Random taps of a network of these widths that looked at images of 64×96."""

    def random(*shape):
        return torch.randn(batch, *shape, requires_grad=gradient)

    pairs = list(zip(channels, SIZES, strict=True))
    stages = tuple(random(c, *size) for c, size in pairs)
    patches = tuple(random(h * w, c) for c, (h, w) in pairs)
    return Taps(random(11, 64, 96), torch.randn(batch, 3, 64, 96), stages, patches)


def built(distiller, student=STUDENT, teacher=TEACHER):
    distiller.build(Widths(11, student, student), Widths(11, teacher, teacher))
    return distiller


def parameters(module):
    return sum(parameter.numel() for parameter in module.parameters())


def losses_of(distiller, student, teacher):
    return distiller(student, teacher, torch.zeros(1, dtype=torch.int64))


# Feature maps: cross selective fusion


def fusion(student=STUDENT, teacher=TEACHER):
    """Cross selective fusion."""
    return FusionWalk(student, teacher, ChannelSelection)


def test_the_walk_gives_maps_of_the_teachers_widths_at_the_students_sizes():
    outputs = fusion()(taps_of(STUDENT).stages)
    assert [output.shape for output in outputs] == [stage.shape for stage in taps_of(TEACHER).stages]


def test_the_fused_maps_have_64_channels():
    assert [fused.shape for fused in fusion().fused(taps_of(STUDENT).stages)] == [(2, 64, *size) for size in SIZES]


def test_the_blocks_have_the_papers_parameters():
    select = 64 * 32 + 2 * 32 + 2 * (32 * 64 + 64)  # squeeze, its norm, two heads
    assert parameters(ChannelSelection()) == select

    def stage(student, teacher):
        return student * 64 + 2 * 64 + 9 * 64 * teacher + 2 * teacher  # 1×1, norm, 3×3, norm

    assert [parameters(block) for block in fusion((160, 256), (320, 512)).stages] == [
        stage(160, 320) + select, stage(256, 512)
    ]  # fmt: skip
    whole = sum(stage(*pair) for pair in zip(STUDENT, TEACHER, strict=True)) + 3 * select
    assert parameters(fusion()) == whole
    projection = 32 * 64 + 64 + 64 * 128 + 128 + 160 * 320 + 320 + 256 * 512 + 512
    assert parameters(PatchProjection(STUDENT, TEACHER)) == projection
    mixer = (3 * 256 * 256 + 3 * 256) + (256 * 256 + 256) + 2 * (3 * 256 * 256 + 256) + 2  # qkv, out, convolutions, α β
    assert parameters(GLMixer(256)) == mixer
    # convolution and its bias, LayerNorm, λ and μ
    assistants = [7 * 7 * 3 * 64 + 3 * 64 + 2, 9 * 32 * 128 + 3 * 128 + 2]
    assistants += [9 * 64 * 320 + 3 * 320 + 2, 9 * 160 * 512 + 3 * 512 + 2]
    assert parameters(EmbeddingAssistant(1, 3, 64)) == assistants[0]
    assert parameters(EmbeddingAssistant(4, 160, 512)) == assistants[3]
    assert parameters(built(TransKD("skr_pea"))) == parameters(built(TransKD())) == whole + projection
    assert parameters(built(TransKD("gl"))) == whole + projection + mixer
    assert parameters(built(TransKD("ea"))) == whole + projection + sum(assistants)


def test_the_two_shares_sum_to_one_in_every_channel():
    own, deeper = ChannelSelection().shares(10 * torch.randn(3, 64, 1, 1))
    assert own.shape == deeper.shape == (3, 64, 1, 1)
    assert torch.allclose(own + deeper, torch.ones(3, 64, 1, 1))
    assert own.std(1).min() > 0  # chosen channel by channel


def test_fusion_weighs_the_own_and_the_upsampled_deeper_map_by_their_shares():
    walk, stages = fusion().eval(), taps_of(STUDENT).stages
    *_, third, deepest = walk.fused(stages)
    block = walk.stages[2]
    own, upsampled = block["reduce"](stages[2]), deepest.repeat_interleave(2, 2).repeat_interleave(2, 3)
    a, b = block["select"].shares((own + upsampled).mean((2, 3), keepdim=True))
    assert torch.allclose(third, a * own + b * upsampled, atol=1e-5)
    assert torch.allclose(deepest, walk.stages[3]["reduce"](stages[3]), atol=1e-5)


def test_every_stage_sees_the_deeper_ones_only():
    stages = taps_of(STUDENT, gradient=True).stages
    fusion()(stages)[2].square().sum().backward()
    assert [stage.grad is not None for stage in stages] == [False, False, True, True]


# Feature maps: hierarchical context loss


@pytest.mark.parametrize(
    ("height", "sizes"),
    [
        # One value of `height`² differs, by 12: the mean square of the full map, then of each pool size that is used.
        (1, [12**2]),
        # 1×1: 12/4.
        (2, [12**2 / 4, 3**2]),
        # 2×2: windows of 2×2, of which one contains the corner: 12/4. 1×1: 12/9.
        (3, [12**2 / 9, 3**2 / 4, (12 / 9) ** 2]),
        # 2×2: 12/4. 1×1: 12/16. A pool size of 4 is the full map and left out.
        (4, [12**2 / 16, 3**2 / 4, (12 / 16) ** 2]),
        # 4×4: windows of 2×2: 12/4. 2×2: of 3×3: 12/9. 1×1: 12/25.
        (5, [12**2 / 25, 3**2 / 16, (12 / 9) ** 2 / 4, (12 / 25) ** 2]),
        (8, [12**2 / 64, 3**2 / 16, (12 / 16) ** 2 / 4, (12 / 64) ** 2]),
    ],
)
def test_the_context_loss_by_hand_halves_the_weight_with_every_pool_size_that_is_used(height, sizes):
    """A map of height 4 takes 2×2 at 1/2 and 1×1 at 1/4, not at the 1/4 and 1/8 that they have in a taller one."""
    student = torch.zeros(1, 1, height, height)
    student[0, 0, 0, 0] = 12.0
    weights = [1, 1 / 2, 1 / 4, 1 / 8][: len(sizes)]
    expected = sum(weight * size for weight, size in zip(weights, sizes, strict=True)) / sum(weights)
    assert context_loss(student, torch.zeros_like(student)).item() == pytest.approx(expected, rel=1e-6)


def test_the_height_says_which_pool_sizes_are_used():
    constant = torch.full((1, 1, 1, 7), 3.0)  # nothing is smaller than a height of 1
    assert context_loss(constant, torch.zeros(1, 1, 1, 7)).item() == pytest.approx(9)


def test_the_stages_are_summed_and_equal_maps_cost_nothing():
    maps, others = taps_of(TEACHER).stages, taps_of(TEACHER).stages
    assert hierarchical_context_loss(maps, maps).item() == 0
    single = sum(context_loss(*pair) for pair in zip(maps, others, strict=True))
    assert hierarchical_context_loss(maps, others).item() == pytest.approx(single.item(), rel=1e-6)


def test_a_map_of_another_size_is_brought_to_the_teachers():
    assert context_loss(torch.ones(1, 2, 4, 6), torch.zeros(1, 2, 8, 12)).item() == pytest.approx(1)


# Patch embeddings


def test_patches_are_compared_stage_by_stage_with_their_weights():
    projected = [torch.full((1, 5, 2), value) for value in (1.0, 2.0, 3.0, 4.0)]
    teacher = [torch.zeros(1, 5, 2)] * 4
    loss = patch_loss(projected, teacher, TransKD().patch_weights)
    assert loss.item() == pytest.approx(0.1 * 1 + 0.1 * 4 + 0.5 * 9 + 1 * 16)
    assert patch_loss(projected, projected, (1, 1, 1, 1)).item() == 0


def test_the_first_version_weighs_all_stages_the_same_and_so_does_its_old_name():
    assert TransKD("skr_pea").patch_weights == SKRPEA().patch_weights == (1, 1, 1, 1)
    assert (SKRPEA(2.0, 3.0).feature_weight, SKRPEA(2.0, 3.0).patch_weight) == (2, 3)
    assert TransKD("skr_pea", patch_weights=(0, 0, 0, 1)).patch_weights == (0, 0, 0, 1)


def test_sequences_of_different_lengths_are_an_error_that_names_both():
    with pytest.raises(DistillerError, match=r"stage 1.*16.*64"):
        patch_loss([torch.zeros(1, 16, 8)], [torch.zeros(1, 64, 8)], (1,))


@pytest.mark.parametrize("variant", VARIANTS)
def test_projected_patches_have_the_teachers_shape(variant):
    teacher = taps_of(TEACHER)
    projected = built(TransKD(variant)).project_patches(taps_of(STUDENT))
    assert [tokens.shape for tokens in projected] == [tokens.shape for tokens in teacher.patches]


def test_the_mixer_by_hand():
    """Width 8, so that every head is one channel: two equal tokens attend to themselves, whatever the weights."""
    mixer = GLMixer(8)
    assert mixer(torch.randn(3, 7, 8)).shape == (3, 7, 8)
    with torch.no_grad():
        mixer.attention.in_proj_weight.copy_(torch.eye(8).repeat(3, 1))
        mixer.attention.out_proj.weight.copy_(torch.eye(8))
        for convolution, centre in ((mixer.content, 2.0), (mixer.gate, 0.0)):
            convolution.weight.zero_()
            convolution.weight[:, :, 1] = centre * torch.eye(8)
            convolution.bias.zero_()
        mixer.content.weight[:, :, 0] = torch.eye(8)  # plus the token before
        mixer.alpha.fill_(0.5)
        mixer.beta.fill_(4.0)
    tokens = torch.full((1, 2, 8), 3.0)
    # Global: 3. Local: 2·3 + what stands before (0, then 3), gated by σ(0) = 1/2.
    expected = torch.tensor([0.5 * 3 + 4 * 6 / 2, 0.5 * 3 + 4 * 9 / 2])
    assert torch.allclose(mixer(tokens)[0, :, 0], expected)


def test_only_the_last_stage_is_mixed():
    distiller, student = built(TransKD("gl")), taps_of(STUDENT)
    mixed, plain = distiller.project_patches(student), distiller.projection(student.patches)
    assert [torch.equal(*pair) for pair in zip(mixed, plain, strict=True)] == [True, True, True, False]


def test_the_assistants_scalars_start_as_the_paper_says():
    assistants = built(TransKD("ea")).assistants
    assert [assistant.own.item() for assistant in assistants] == pytest.approx([0.1, 0.2, 0.3, 0.4])
    assert [assistant.assistance.item() for assistant in assistants] == pytest.approx([0.5, 0.6, 0.7, 0.8])
    assert all(assistant.own.requires_grad and assistant.assistance.requires_grad for assistant in assistants)


def test_an_assistant_adds_its_own_patches_to_the_projection():
    assistant = EmbeddingAssistant(2, 32, 128)
    projected, given = torch.randn(2, 8 * 12, 128), torch.randn(2, 32, 16, 24)
    own = nn.functional.conv2d(given, assistant.embed.proj.weight, assistant.embed.proj.bias, stride=2, padding=1)
    own = nn.functional.layer_norm(own.flatten(2).transpose(1, 2), (128,))  # an untrained norm
    assert torch.allclose(assistant(projected, given), 0.2 * projected + 0.6 * own, atol=1e-5)


# The method


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("batch", [1, 2])
def test_every_parameter_and_tap_is_trained_at_any_batch_size(variant, batch):
    distiller = built(TransKD(variant)).train()
    student, teacher = taps_of(STUDENT, batch, gradient=True), taps_of(TEACHER, batch)
    losses = losses_of(distiller, student, teacher)
    assert set(losses) == {"feature", "patch"}
    sum(losses.values()).backward()
    # None is enough: DistributedDataParallel waits for a gradient of every parameter.
    assert [name for name, parameter in distiller.named_parameters() if parameter.grad is None] == []
    assert all(tap.grad.abs().sum() > 0 for tap in (*student.stages, *student.patches))


def test_a_single_value_per_channel_trains_and_leaves_the_running_statistics():
    distiller = built(TransKD()).train()
    before = {name: value.clone() for name, value in distiller.named_buffers() if ".squeeze." in name}
    losses_of(distiller, taps_of(STUDENT, 1), taps_of(TEACHER, 1))
    after = dict(distiller.named_buffers())
    assert len(before) == 3 * 3
    assert all(torch.equal(value, after[name]) for name, value in before.items())
    losses_of(distiller, taps_of(STUDENT, 2), taps_of(TEACHER, 2))
    assert not any(torch.equal(value, after[name]) for name, value in before.items())
    assert fusion((256,), (512,))([torch.randn(1, 256, 1, 1)])[0].shape == (1, 512, 1, 1)


def test_weights_are_applied_to_the_losses():
    student, teacher = taps_of(STUDENT), taps_of(TEACHER)
    plain = built(TransKD())
    weighted = built(TransKD(feature_weight=2.0, patch_weight=3.0))
    weighted.load_state_dict(plain.state_dict())
    expected, found = losses_of(plain, student, teacher), losses_of(weighted, student, teacher)
    assert found["feature"].item() == pytest.approx(2 * expected["feature"].item(), rel=1e-5)
    assert found["patch"].item() == pytest.approx(3 * expected["patch"].item(), rel=1e-5)


def test_losses_are_float32_under_mixed_precision():
    distiller = built(TransKD("ea")).train()
    with torch.autocast("cpu", torch.bfloat16):
        losses = losses_of(distiller, taps_of(STUDENT, gradient=True), taps_of(TEACHER))
    sum(losses.values()).backward()
    assert all(loss.dtype == torch.float32 and loss.isfinite() for loss in losses.values())


@pytest.mark.parametrize(
    ("encoders", "embeddings"),
    [
        (("mit_b0", "mit_b1"), [f"patch_embed{stage}" for stage in (1, 2, 3, 4)]),
        (("tu-pvt_v2_b0", "tu-pvt_v2_b1"), ["model.patch_embed", *(f"model.stages_{i}.downsample" for i in (1, 2, 3))]),
    ],
)
def test_gradients_reach_the_students_patch_embeddings_and_none_the_teacher(encoders, embeddings):
    student, teacher = (build_network(NetworkSpec("segformer", encoder, 11)) for encoder in encoders)
    distiller = TransKD("ea")
    distiller.build(widths(student), widths(teacher))
    image = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        seen = run_tapped(teacher, image)
    losses_of(distiller, run_tapped(student, image), seen)["patch"].backward()
    for name in embeddings:
        assert student.encoder.get_submodule(name).proj.weight.grad.abs().sum() > 0, name
    assert all(parameter.grad is None for parameter in teacher.parameters())


def test_a_teacher_without_patches_is_refused_with_methods_that_fit():
    with pytest.raises(DistillerError, match=r"TransKD.*teacher.*ResponseKD"):
        check_fit(TransKD(), Widths(11, STUDENT, STUDENT), Widths(11, (24, 40, 112, 320), ()))


def test_variants_share_their_initial_weights():
    """With one seed the blocks that all variants have start alike, so that their runs can be compared."""
    states = []
    for variant in VARIANTS:
        torch.manual_seed(1)
        states.append(built(TransKD(variant)).state_dict())
    assert all(torch.equal(value, state[name]) for state in states for name, value in states[0].items())
