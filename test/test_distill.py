"""The training loop: it learns, resumes exactly, and refuses bad recipes before it starts."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

torch = pytest.importorskip("torch", reason="the training wing needs torch")
L = pytest.importorskip("lightning")

from training import distill  # noqa: E402
from training.data.camvid import CamVid  # noqa: E402
from training.module import LossError, SegmentationModule  # noqa: E402

pytestmark = pytest.mark.training
ROOT = Path(__file__).parents[1]
RECIPES = sorted((ROOT / "config" / "recipes").glob("*.yaml"))


class StopAfter(L.Callback):
    """What an interrupted run is: it ends after an epoch, before its planned last one."""

    def __init__(self, epoch):
        self.epoch = epoch

    def on_train_epoch_end(self, trainer, module):
        trainer.should_stop = trainer.current_epoch == self.epoch


def fit(scene_tree, folder, epochs=2, callbacks=(), resume=None):
    L.seed_everything(1)
    module = SegmentationModule(warmup_steps=2)
    data = CamVid(str(scene_tree), crop=(64, 64), val_size=(64, 96), batch_size=2, scenes=0, workers=0)
    checkpoints = L.pytorch.callbacks.ModelCheckpoint(folder, save_last=True)
    trainer = L.Trainer(
        max_epochs=epochs, callbacks=[checkpoints, *callbacks], logger=False, default_root_dir=folder,
        accelerator="cpu", enable_progress_bar=False, enable_model_summary=False, num_sanity_val_steps=0,
    )
    trainer.fit(module, data, ckpt_path=resume)
    return module, trainer


def test_a_resumed_run_ends_with_the_weights_of_an_uninterrupted_one(scene_tree, tmp_path):
    whole, _ = fit(scene_tree, tmp_path / "whole")
    fit(scene_tree, tmp_path / "stopped", callbacks=[StopAfter(0)])
    torch.rand(7)  # a new process has drawn other numbers
    resumed, trainer = fit(scene_tree, tmp_path / "stopped", resume=tmp_path / "stopped" / "last.ckpt")
    assert trainer.current_epoch == 2
    for (name, expected), value in zip(whole.state_dict().items(), resumed.state_dict().values(), strict=True):
        assert torch.equal(value, expected), name


def test_validation_miou_is_that_of_the_resized_masks(scene_tree, tmp_path):
    module, trainer = fit(scene_tree, tmp_path, epochs=1)
    data = trainer.datamodule
    module.eval()
    hits, unions = torch.zeros(11), torch.zeros(11)
    with torch.no_grad():
        for images, labels in data.val_dataloader():
            mask = module(images).argmax(1, keepdim=True).float()
            mask = torch.nn.functional.interpolate(mask, labels.shape[-2:], mode="nearest-exact").squeeze(1)
            for c in range(11):
                counted = labels != 255
                hits[c] += ((mask == c) & (labels == c) & counted).sum()
                unions[c] += (((mask == c) | (labels == c)) & counted).sum()
    expected = (hits / unions).nanmean()
    assert trainer.callback_metrics["val_miou"].item() == pytest.approx(expected.item(), abs=1e-5)


def test_a_loss_that_is_not_finite_stops_the_run_with_its_name():
    module = SegmentationModule()
    module.log = lambda *args, **kwargs: None
    module.network.segmentation_head[0].weight.data.fill_(float("nan"))
    with pytest.raises(LossError, match="loss/cross_entropy"):
        module.training_step((torch.zeros(1, 3, 64, 64, dtype=torch.uint8), torch.zeros(1, 64, 64, dtype=torch.uint8)))


def run(recipe, scene_tree, *arguments):
    """The recipe on a tiny data set, cut down to what two cores do in seconds."""
    small = {"root": scene_tree, "batch_size": 2, "crop": [64, 64], "val_size": [64, 96], "workers": 0}
    data = [f"--data.init_args.{name}={value}" for name, value in small.items()]
    distill.main(["--config", str(recipe), "--trainer.accelerator", "cpu", *data, *arguments])


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
def test_every_recipe_trains(recipe, scene_tree):
    run(recipe, scene_tree, "--trainer.fast_dev_run", "1")


def test_a_run_leaves_checkpoints_logs_and_its_metrics(scene_tree, tmp_path):
    folder = ("--trainer.default_root_dir", str(tmp_path), "--data.init_args.scenes", "0")
    run(RECIPES[0], scene_tree, "--trainer.max_epochs", "1", *folder)
    assert {path.name for path in tmp_path.rglob("*.ckpt")} == {"best.ckpt", "last.ckpt"}
    assert list(tmp_path.rglob("events.out.tfevents.*"))
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert metrics["epochs"] == 1
    assert metrics["best_val_miou"] == pytest.approx(metrics["last"]["val_miou"])
    assert "val_iou/road" in metrics["last"]


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--data.init_args.root", "/no/such/folder"], "/no/such/folder"),
        (["--model.no_such_key", "1"], "no_such_key"),
        (["--model.encoder", "no_such_encoder"], "no_such_encoder"),
        (["--config", "no_such_recipe.yaml"], "no_such_recipe.yaml"),
    ],
)
def test_bad_input_ends_with_code_2_and_its_name_before_training(arguments, named):
    command = [sys.executable, str(ROOT / "training" / "distill.py"), "--config", str(RECIPES[0]), *arguments]
    result = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert result.returncode == 2
    assert named in result.stderr
    assert "Traceback" not in result.stderr
