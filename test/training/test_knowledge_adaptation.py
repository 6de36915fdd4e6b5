"""Knowledge Adaptation: the auto-encoder's stage and its file, and both losses worked out by hand."""

import pytest

torch = pytest.importorskip("torch", reason="the training wing needs torch")
L = pytest.importorskip("lightning")

from safetensors import safe_open  # noqa: E402
from safetensors.torch import load_file, save_file  # noqa: E402
from torch import nn  # noqa: E402

from training.data.camvid import CamVid  # noqa: E402
from training.distillers import DistillerError, KnowledgeAdaptation, auto_encoder, knowledge_adaptation  # noqa: E402
from training.distillers.auto_encoder import Encoder, reconstruction_losses  # noqa: E402
from training.distillers.base import Preparation  # noqa: E402
from training.distillers.knowledge_adaptation import adaptation_loss, affinity, affinity_loss, unit_vectors  # noqa: E402
from training.module import SegmentationModule  # noqa: E402
from training.networks import NetworkSpec, build_network  # noqa: E402
from training.taps import Taps, Widths, run_tapped, widths  # noqa: E402
from training.teachers import TeacherSource  # noqa: E402

pytestmark = pytest.mark.training

STUDENT, TEACHER = Widths(11, (4, 4, 4, 6), ()), Widths(11, (4, 4, 4, 5), ())
STEPS = 30


class Lookout(nn.Module):
    """A teacher whose last map, of stride 8, shows little more than the image's colours; the maps' scale is free."""

    source = "runs/some_teacher/checkpoints/best.ckpt"

    def __init__(self, scale=1.0, name="teacher"):
        super().__init__()
        self.scale, self.name = scale, name
        generator = torch.Generator().manual_seed(5)
        self.mix = nn.Parameter(torch.randn(5, 3, 1, 1, generator=generator), requires_grad=False)

    def fingerprint(self):
        return f"fingerprint of the {self.name}"

    def forward(self, images):
        colours = nn.functional.avg_pool2d(images.float() / 255, 8)
        last = self.scale * nn.functional.conv2d(colours, self.mix)
        return Taps(last, images, (last,) * 4, ())


def preparation(folder=None, teacher=None, steps=STEPS):
    def epoch():
        generator = torch.Generator().manual_seed(3)
        for _ in range(steps):
            coarse = torch.rand(2, 3, 4, 4, generator=generator)
            yield (255 * nn.functional.interpolate(coarse, (64, 64), mode="bilinear")).byte()

    return Preparation(teacher or Lookout(), epoch, steps, folder)


def untrainable(folder, teacher=None):
    """A preparation in which nothing can be trained."""

    def epoch():
        raise AssertionError("trained once more")

    return Preparation(teacher or Lookout(), epoch, STEPS, folder)


def built(seed=1, **settings):
    torch.manual_seed(seed)
    distiller = KnowledgeAdaptation(**{"width": 8, **settings})
    distiller.build(STUDENT, TEACHER)
    return distiller.train()


def taps(channels, size, batch=2):
    last = torch.randn(batch, channels, *size, requires_grad=True)
    return Taps(last, last, (last,) * 4, ())


def same(found, expected):
    return found.keys() == expected.keys() and all(torch.equal(found[name], value) for name, value in expected.items())


# The auto-encoder


@pytest.mark.parametrize("scale", [1.0, 1e4])
def test_the_reconstruction_error_falls_whatever_the_scale_of_the_map(scale):
    torch.manual_seed(1)
    run = preparation(teacher=Lookout(scale), steps=100)
    first, last = auto_encoder.train(Encoder(5, 8, (2, 1, 1)), run, 1)
    assert first > 0.8  # not far from guessing every channel's mean
    assert last < 0.7 * first


def test_the_loss_of_an_auto_encoder_by_hand(monkeypatch):
    """A decoder that says nothing errs by the variance after standardising; the code's L1 norm is added.

    That is 1, less what the estimate from 48 values a channel is unbiased by.
    """
    assert auto_encoder.SPARSITY == 1e-7
    monkeypatch.setattr(auto_encoder, "SPARSITY", 0.5)  # enough to be seen beside the error
    encoder, maps = Encoder(5, 8, (2, 1, 1)).requires_grad_(True).train(), 3 + 100 * torch.randn(2, 5, 4, 6)
    codes = []

    def silent(code):
        codes.append(code)
        return torch.zeros(2, 5, 4, 6)

    loss, error = reconstruction_losses(encoder, silent, maps)
    assert error.item() == pytest.approx(47 / 48, rel=1e-4)
    assert codes[0].shape == (2, 8, 2, 3)
    assert codes[0].min() == 0
    squares, sparsity = 2 * 5 * 4 * 6, 0.5 * codes[0].sum().item()
    assert loss.item() == pytest.approx((47 / 48 * squares + sparsity) / (2 * 4 * 6), rel=1e-4)


@pytest.mark.parametrize("strides", [(2, 1, 1), (2, 2, 1), (1, 1, 1), (1, 3, 2)])
def test_a_map_of_any_size_is_compressed_by_the_strides_and_comes_back(strides):
    encoder = Encoder(5, 8, strides).eval()
    total = strides[0] * strides[1] * strides[2]
    code = encoder(torch.randn(1, 5, 12, 24))
    assert code.shape == (1, 8, 12 // total, 24 // total)
    assert encoder.decoder()(code).shape == (1, 5, 12, 24)
    reconstruction_losses(encoder, encoder.decoder(), torch.randn(1, 5, 7, 9))[0].backward()


def test_a_frozen_encoder_stays_as_it_is_in_train_mode():
    distiller = built()
    before = {name: value.clone() for name, value in distiller.encoder.state_dict().items()}
    assert not any(parameter.requires_grad for parameter in distiller.encoder.parameters())
    assert not any(module.training for module in distiller.encoder.modules())
    assert distiller.adapt.training
    losses = distiller(taps(6, (4, 4)), taps(5, (8, 8)), None)
    sum(losses.values()).backward()
    assert same(distiller.encoder.state_dict(), before)  # its batch norms' statistics, too


def test_the_stage_is_repeatable_freezes_the_encoder_and_leaves_the_random_numbers_alone():
    first, second = built(), built()
    initial = {name: value.clone() for name, value in first.encoder.state_dict().items()}
    state = torch.get_rng_state()
    first.prepare(preparation())
    assert torch.equal(torch.get_rng_state(), state)
    second.prepare(preparation())
    assert same(second.encoder.state_dict(), first.encoder.state_dict())
    assert not torch.equal(first.encoder.layers[0][0].weight, initial["layers.0.0.weight"])
    assert not any(parameter.requires_grad for parameter in first.encoder.parameters())
    assert not first.train().encoder.training


def test_a_stage_that_does_not_stay_finite_names_the_teacher():
    with pytest.raises(DistillerError, match=r"error of the last of 2 batches is nan.*some_teacher"):
        built().prepare(preparation(teacher=Lookout(float("inf")), steps=2))


# Its file


def test_the_encoder_is_kept_in_the_runs_folder_and_not_trained_a_second_time(tmp_path, capsys):
    folder = tmp_path / "run"  # which nobody has made yet
    first = built()
    first.prepare(preparation(folder))
    printed = capsys.readouterr().out
    assert printed.count("\n") == 1
    assert "reconstruction error" in printed
    with safe_open(folder / "auto_encoder.safetensors", "pt") as file:
        about = file.metadata()
    assert (about["teacher"], about["source"]) == ("fingerprint of the teacher", Lookout.source)
    assert (about["width"], about["strides"], about["epochs"]) == ("8", "(2, 1, 1)", "1")
    assert float(about["last_error"]) < float(about["first_error"])
    assert f"{float(about['last_error']):.3f} at the last" in printed

    resumed = built(seed=2)
    resumed.prepare(untrainable(folder))
    assert same(resumed.encoder.state_dict(), first.encoder.state_dict())
    assert [path.name for path in folder.iterdir()] == ["auto_encoder.safetensors"]


def test_the_file_of_another_run_can_be_named(tmp_path):
    first = built()
    first.prepare(preparation(tmp_path / "first"))
    second = built(seed=2, auto_encoder=str(tmp_path / "first" / "auto_encoder.safetensors"))
    second.prepare(untrainable(tmp_path / "second"))
    assert same(second.encoder.state_dict(), first.encoder.state_dict())


@pytest.mark.parametrize(
    ("settings", "teacher", "named"),
    [
        ({}, "stranger", "its teacher is"),
        ({"width": 16}, "teacher", "its width is 8, this run's is 16"),
        ({"strides": (2, 2, 1)}, "teacher", r"its strides is \(2, 1, 1\), this run's is \(2, 2, 1\)"),
        ({"epochs": 2}, "teacher", "its epochs is 1, this run's is 2"),
    ],
)
def test_the_file_of_another_teacher_or_of_other_settings_is_refused_by_name(tmp_path, settings, teacher, named):
    built().prepare(preparation(tmp_path, steps=1))
    with pytest.raises(DistillerError, match=rf"auto_encoder\.safetensors is not .*{named}.*; remove it") as refused:
        built(**settings).prepare(untrainable(tmp_path, Lookout(name=teacher)))
    assert "\n" not in str(refused.value)


def test_a_broken_or_missing_file_is_refused_by_name(tmp_path):
    file = tmp_path / "auto_encoder.safetensors"
    built().prepare(preparation(tmp_path, steps=1))
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DistillerError, match=r"auto_encoder\.safetensors cannot be read.*; remove it"):
        built().prepare(untrainable(tmp_path))

    file.write_bytes(whole)
    with safe_open(file, "pt") as opened:
        about = opened.metadata()
    save_file({"layers.0.0.weight": torch.zeros(1)}, file, about)
    with pytest.raises(DistillerError, match=r"auto_encoder\.safetensors cannot be read.*; remove it"):
        built().prepare(untrainable(tmp_path))
    save_file({"other": torch.zeros(1)}, file)
    with pytest.raises(DistillerError, match=r"its teacher is not said"):
        built().prepare(untrainable(tmp_path))

    with pytest.raises(DistillerError, match=r"no_such\.safetensors cannot be read"):
        built(auto_encoder=str(tmp_path / "no_such.safetensors")).prepare(untrainable(tmp_path))


# The losses


def test_the_adaptation_loss_by_hand():
    """Unit vectors (0.6, 0.8) and (0, 1) against (1, 0) and (0, 1): distances √(0.4² + 0.8²) and 0."""
    student = torch.tensor([[3.0, 0.0], [4.0, 2.0]])[None, :, None]
    code = torch.tensor([[5.0, 0.0], [0.0, 1.0]])[None, :, None]
    assert adaptation_loss(student, code).item() == pytest.approx(0.8**0.5 / 2, rel=1e-6)
    assert adaptation_loss(7 * code, code).item() == 0


def test_a_students_map_of_another_size_is_pooled_to_the_codes():
    student = torch.tensor([[8.0, 0.0], [0.0, 0.0]]).expand(1, 1, 2, 2)
    student = torch.cat([student, student.flip(2, 3)], 1)  # both channels have the mean 2
    code = torch.tensor([1.0, 1.0]).view(1, 2, 1, 1)
    assert adaptation_loss(student, code).item() == pytest.approx(0, abs=1e-6)


def test_the_affinity_matrix_of_a_known_map():
    """Three positions: (1, 0), (3, 4) and the zero vector that a ReLU may leave, which is like nothing."""
    maps = torch.tensor([[1.0, 3.0, 0.0], [0.0, 4.0, 0.0]])[None, :, None]
    expected = torch.tensor([[1.0, 0.6, 0.0], [0.6, 1.0, 0.0], [0.0, 0.0, 0.0]])
    assert torch.allclose(affinity(unit_vectors(maps, (1, 3)))[0], expected)


def test_the_affinity_loss_by_hand():
    """All positions of the code are alike, the student's two are at right angles: 2 of 4 cosines differ by 1."""
    student = torch.tensor([[2.0, 0.0], [0.0, 5.0]])[None, :, None]
    code = torch.tensor([[1.0, 3.0], [1.0, 3.0]])[None, :, None]
    assert affinity_loss(student, code, 1024).item() == pytest.approx(2 / 4, rel=1e-6)
    assert affinity_loss(3 * code, code, 1024).item() == pytest.approx(0, abs=1e-12)


def test_zero_vectors_have_finite_losses_and_gradients():
    student = torch.zeros(1, 4, 2, 3, requires_grad=True)
    code = torch.zeros(1, 4, 2, 3)
    code[..., 0] = 1.0
    (adaptation_loss(student, code) + affinity_loss(student, code, 4)).backward()
    assert adaptation_loss(student, code).item() == pytest.approx(1 / 3)  # one column of three is a unit away
    assert student.grad.isfinite().all()


def test_the_matrices_of_a_large_image_are_bounded_by_the_positions(monkeypatch):
    seen = []

    def spied(vectors):
        seen.append(affinity(vectors).shape)
        return affinity(vectors)

    monkeypatch.setattr(knowledge_adaptation, "affinity", spied)
    student = torch.rand(1, 8, 32, 64)  # stride 16 of 512×1024
    affinity_loss(student, torch.rand(1, 8, 32, 64), KnowledgeAdaptation().positions)
    affinity_loss(student, torch.rand(1, 8, 16, 20), KnowledgeAdaptation().positions)
    assert seen == [(1, 22 * 45, 22 * 45)] * 2 + [(1, 320, 320)] * 2  # 32 and 64, each over √2


def test_the_losses_are_weighted_and_float32_whatever_the_autocast():
    student, teacher = taps(6, (4, 4)), taps(5, (8, 8))
    single = built(adapt_weight=1.0, affinity_weight=1.0).eval()
    plain, weighted = single(student, teacher, None), built(affinity_weight=3.0).eval()(student, teacher, None)
    assert set(plain) == {"adapt", "affinity"}
    assert weighted["adapt"].item() == pytest.approx(50 * plain["adapt"].item(), rel=1e-6)
    assert weighted["affinity"].item() == pytest.approx(3 * plain["affinity"].item(), rel=1e-6)
    with torch.autocast("cpu", torch.bfloat16):
        halved = single(student, teacher, None)
    assert {loss.dtype for loss in halved.values()} == {torch.float32}
    assert halved["affinity"].item() == pytest.approx(plain["affinity"].item(), rel=0.05)
    vectors = torch.rand(1, 8, 16)
    expected = affinity(vectors)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(affinity(vectors), expected)


@pytest.mark.parametrize("settings", [{"width": 0}, {"positions": 0}, {"epochs": 0}, {"strides": (2, 0, 1)}])
def test_settings_below_one_are_refused(settings):
    with pytest.raises(DistillerError, match="at least 1"):
        KnowledgeAdaptation(**settings)


# In a run


def fit(scenes, folder, teacher, callbacks=(), resume=None, **options):
    L.seed_everything(1)
    distiller, source = KnowledgeAdaptation(width=8, strides=(1, 1, 1)), TeacherSource(str(teacher))
    module = SegmentationModule(warmup_steps=2, optimiser="sgd", distiller=distiller, teacher=source)
    data = CamVid(str(scenes), crop=(64, 64), val_size=(64, 96), batch_size=2, scenes=0, workers=0)
    trainer = L.Trainer(
        **{"max_epochs": 2, **options}, callbacks=list(callbacks), logger=False, default_root_dir=folder,
        accelerator="cpu", enable_progress_bar=False, enable_model_summary=False, num_sanity_val_steps=0,
        limit_val_batches=0,
    )  # fmt: skip
    trainer.fit(module, data, ckpt_path=resume, weights_only=True if resume else None)
    return module, trainer


class StopAfterFirst(L.Callback):
    def on_train_epoch_end(self, trainer, module):
        trainer.save_checkpoint(f"{trainer.default_root_dir}/last.ckpt")
        trainer.should_stop = True


@pytest.mark.slow
def test_a_run_trains_the_auto_encoder_first_and_a_resumed_one_reads_it(
    shared_scene_tree, tmp_path, random_teacher, monkeypatch
):
    teacher, stopped = random_teacher("mit_b1"), tmp_path / "stopped"
    whole, trainer = fit(shared_scene_tree, tmp_path / "whole", teacher)
    kept = load_file(tmp_path / "whole" / "auto_encoder.safetensors")
    assert same(whole.distiller.encoder.state_dict(), kept)  # four steps later
    trained = {id(parameter) for group in trainer.optimizers[0].param_groups for parameter in group["params"]}
    assert trained.isdisjoint({id(parameter) for parameter in whole.distiller.encoder.parameters()})
    assert {id(parameter) for parameter in whole.distiller.adapt.parameters()} <= trained

    fit(shared_scene_tree, stopped, teacher, callbacks=[StopAfterFirst()])
    monkeypatch.setattr(auto_encoder, "train", None)  # which nobody can call
    torch.rand(7)  # a new process has drawn other numbers
    resumed, _ = fit(shared_scene_tree, stopped, teacher, resume=stopped / "last.ckpt")
    assert same(resumed.state_dict(), whole.state_dict())
    assert not any("decoder" in name for name in dict(whole.distiller.named_parameters()))


def test_a_fast_dev_run_leaves_no_file(shared_scene_tree, tmp_path, random_teacher):
    fit(shared_scene_tree, tmp_path, random_teacher("mit_b1"), fast_dev_run=1)
    assert list(tmp_path.iterdir()) == []


def test_the_networks_of_the_recipe_show_four_stages_and_the_code_has_the_size_of_the_students_map():
    student = build_network(NetworkSpec("deeplabv3", "mobilenet_v2", 11, 16)).train()
    teacher = build_network(NetworkSpec("deeplabv3", "tu-tf_efficientnet_lite2", 11, 8)).eval()
    images = torch.randn(2, 3, 64, 96)
    seen = run_tapped(student, images)  # in train mode: two values per channel behind the image pooling are enough
    with torch.no_grad():
        wanted = run_tapped(teacher, images)
    distiller = KnowledgeAdaptation(width=8)
    distiller.build(widths(student), widths(teacher))
    assert [stage.shape[1] for stage in seen.stages] == list(widths(student).stages)
    assert [stage.shape[1] for stage in wanted.stages] == list(widths(teacher).stages)
    assert seen.stages[-1].shape[-2:] == distiller.encoder(wanted.stages[-1]).shape[-2:] == (4, 6)
    sum(distiller.train()(seen, wanted, None).values()).backward()
    assert all(parameter.grad is not None for parameter in distiller.parameters() if parameter.requires_grad)
    assert next(student.encoder.parameters()).grad.abs().sum() > 0
