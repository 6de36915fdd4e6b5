"""What the training loop does for a method of several phases: preparation, what counts, freezing, the schedule."""

import pytest

torch = pytest.importorskip("torch", reason="the training wing needs torch")
L = pytest.importorskip("lightning")

from training.data.camvid import CamVid  # noqa: E402
from training.distillers import Distiller, DistillerError, TransKD  # noqa: E402
from training.distillers.base import Phase  # noqa: E402
from training.module import SegmentationModule  # noqa: E402
from training.teachers import TeacherSource  # noqa: E402

pytestmark = pytest.mark.training


class TwoPhases(Distiller):
    """Mimics for an epoch with the encoder alone, then learns from labels with all of the network."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def phases(self):
        return Phase("mimic", labelled=False), Phase("labels", start=1, lr_scale=0.5, taught=False)

    def prepare(self, run):
        images = next(run.epoch())
        self.seen.append(("prepared", tuple(images.shape), run.folder))
        run.teacher(images)

    def begin_epoch(self, phase, network):
        self.seen.append(phase.name)
        network.decoder.requires_grad_(phase.labelled)

    def forward(self, student, teacher, labels):
        return {"mimic": (student.stages[0] - teacher.stages[0][:, :32]).square().mean()}


@pytest.fixture
def module(random_teacher):
    return SegmentationModule(
        warmup_steps=2, power=1.0, distiller=TwoPhases(), teacher=TeacherSource(str(random_teacher("mit_b1")))
    )


def trainer_of(folder, **options):
    return L.Trainer(
        default_root_dir=folder, logger=False, accelerator="cpu", enable_progress_bar=False,
        enable_model_summary=False, enable_checkpointing=False, num_sanity_val_steps=0, **options,
    )  # fmt: skip


def data_of(root):
    return CamVid(str(root), crop=(64, 64), val_size=(64, 96), batch_size=2, scenes=0, workers=0)


class Watch(L.Callback):
    """Notes which losses were logged and what the decoder's first weight was after every epoch."""

    def __init__(self):
        self.losses, self.decoder = [], []

    def on_train_epoch_end(self, trainer, module):
        names = {name for name in trainer.callback_metrics if name.startswith("loss/")} - {"loss/total"}
        self.losses.append(names)
        self.decoder.append(next(module.network.decoder.parameters()).detach().clone())


def test_a_phase_says_what_counts_and_a_method_freezes_and_prepares_itself(module, shared_scene_tree, tmp_path):
    before = next(module.network.decoder.parameters()).detach().clone()
    watch = Watch()
    trainer_of(tmp_path, max_epochs=2, callbacks=[watch]).fit(module, data_of(shared_scene_tree))
    assert module.distiller.seen == [("prepared", (2, 3, 64, 64), tmp_path), "mimic", "labels"]
    assert watch.losses[0] == {"loss/mimic"}
    assert "loss/cross_entropy" in watch.losses[1]
    assert torch.equal(watch.decoder[0], before)
    assert not torch.equal(watch.decoder[1], before)


def test_the_teacher_is_not_asked_in_a_phase_without_it(module):
    module.phase = module.phases[1]
    module.teachers = ()  # would be an IndexError
    images = torch.zeros(1, 3, 64, 64, dtype=torch.uint8)
    assert set(module.losses(images, images[:, 0])) == {"cross_entropy"}


def test_a_fast_dev_run_prepares_on_its_one_batch_and_has_no_folder(module, shared_scene_tree, tmp_path):
    trainer_of(tmp_path, fast_dev_run=1).fit(module, data_of(shared_scene_tree))
    assert module.distiller.seen[0] == ("prepared", (2, 3, 64, 64), None)


def test_every_phase_has_a_warm_up_and_a_decay_of_its_own(module, shared_scene_tree, tmp_path):
    class Rates(L.Callback):
        def __init__(self):
            self.seen = []

        def on_train_batch_start(self, trainer, module, *_):
            self.seen.append(trainer.optimizers[0].param_groups[0]["lr"] / module.hparams["lr"])

    rates = Rates()
    trainer_of(tmp_path, max_epochs=3, callbacks=[rates]).fit(module, data_of(shared_scene_tree))
    # Two steps an epoch; the first phase has one epoch, the second two. Warm-up over two steps, linear decay.
    assert rates.seen == pytest.approx([0.5 * 1, 1 * 1 / 2, 0.5 * 0.5 * 1, 0.5 * 3 / 4, 0.5 * 2 / 4, 0.5 * 1 / 4])


def test_a_run_too_short_for_its_phases_is_refused(module, shared_scene_tree, tmp_path):
    with pytest.raises(DistillerError, match="max_epochs is 1; the phase labels starts after 1"):
        trainer_of(tmp_path, max_epochs=1).fit(module, data_of(shared_scene_tree))


def test_a_method_of_one_phase_trains_on_everything_from_the_start(random_teacher):
    module = SegmentationModule(distiller=TransKD(), teacher=TeacherSource(str(random_teacher("mit_b1"))))
    images = torch.zeros(1, 3, 64, 64, dtype=torch.uint8)
    assert set(module.losses(images, images[:, 0])) == {"cross_entropy", "feature", "patch"}


@pytest.mark.parametrize("decay_norms", [False, True])
def test_weight_decay_spares_norms_and_biases_unless_told_otherwise(decay_norms, shared_scene_tree, tmp_path):
    module = SegmentationModule(decay_norms=decay_norms, encoder_lr_scale=0.5)
    trainer = trainer_of(tmp_path, max_steps=1, limit_val_batches=0)
    trainer.fit(module, data_of(shared_scene_tree))
    groups = trainer.optimizers[0].param_groups
    decay = {id(p): group["weight_decay"] for group in groups for p in group["params"]}
    peak = {id(p): group["initial_lr"] for group in groups for p in group["params"]}
    assert len(decay) == len(list(module.network.parameters()))
    for name, parameter in module.network.named_parameters():
        assert decay[id(parameter)] == (0.01 if parameter.dim() > 1 or decay_norms else 0), name
        assert peak[id(parameter)] == (0.5e-3 if name.startswith("encoder.") else 1e-3), name


def test_processes_drop_paths_of_their_own(monkeypatch):
    module, drawn = SegmentationModule(), []
    for rank in (0, 1, 0):
        monkeypatch.setattr(SegmentationModule, "global_rank", rank)
        module.on_train_batch_start(None, 5)
        drawn.append(torch.rand(1).item())
    assert drawn[0] == drawn[2] != drawn[1]


def test_sgd_is_one_line_of_a_recipe(shared_scene_tree, tmp_path):
    module = SegmentationModule(optimiser="sgd", weight_decay=4e-5)
    trainer = trainer_of(tmp_path, max_steps=1, limit_val_batches=0)
    trainer.fit(module, data_of(shared_scene_tree))
    (optimiser,) = trainer.optimizers
    assert isinstance(optimiser, torch.optim.SGD)
    decays = {(group["momentum"], group["weight_decay"]) for group in optimiser.param_groups}
    assert decays == {(0.9, 4e-5), (0.9, 0.0)}  # norms and biases do not decay
