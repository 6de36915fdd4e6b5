"""Logs beside TensorBoard: one line of a recipe, files in the run's folder, pictures included."""

from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the training wing needs torch")
pytest.importorskip("lightning")

from training import distill  # noqa: E402
from transkd_ros.bags.image_folder import read_image  # noqa: E402
from transkd_ros.frames import Frame  # noqa: E402

pytestmark = [pytest.mark.training]
STUDENT = Path(__file__).parents[2] / "config" / "recipes" / "camvid_mit_b0.yaml"

CSV = '{"class_path": "CSVLogger", "init_args": {"save_dir": "."}}'


@pytest.fixture
def run(shared_scene_tree, tmp_path):
    """A function: the value of trainer.logger → the folder of a run of one step with it."""

    def with_logger(logger):
        small = {"root": shared_scene_tree, "batch_size": 4, "crop": [64, 64], "val_size": [64, 96], "workers": 0}
        options = [f"--data.init_args.{name}={value}" for name, value in (small | {"scenes": 0}).items()]
        options += ["--trainer.accelerator=cpu", "--trainer.check_val_every_n_epoch=1", "--trainer.max_epochs=1"]
        options += [f"--trainer.default_root_dir={tmp_path / 'mine'}", "--trainer.log_every_n_steps=1"]
        distill.main(["--config", str(STUDENT), *options, f"--trainer.logger={logger}"])
        return tmp_path / "mine"

    return with_logger


def assert_is_a_row_of_three(path, tree):
    picture = read_image(path)
    frame, truth, prediction = np.split(picture, 3, axis=1)
    assert picture.shape == (64, 3 * 96, 3)
    own = Frame(read_image(sorted((tree / "val" / "images").iterdir())[0]), "bgr8").rgb((64, 96))[..., ::-1]
    assert np.abs(frame.astype(int) - own).mean() < 12
    assert np.abs(frame.astype(int) - truth).mean() > 10
    assert np.abs(truth.astype(int) - prediction).mean() > 1


def test_a_log_that_takes_no_pictures_leaves_them_as_files_beside_it(run, shared_scene_tree, monkeypatch):
    monkeypatch.setattr(distill.DistillCLI, "_loggers", lambda cli: [cli.config_init.trainer.logger])  # it alone
    folder = run(CSV)
    assert "val_miou" in next(folder.rglob("metrics.csv")).read_text().splitlines()[0]
    assert_is_a_row_of_three(folder / "pictures" / "val_0.jpg", shared_scene_tree)


def test_a_log_of_the_recipe_comes_beside_tensorboard(run):
    folder = run(CSV)
    assert list(folder.rglob("metrics.csv")) and list(folder.glob("events.out.tfevents.*"))
    assert not (folder / "pictures").exists()


@pytest.mark.slow
def test_weights_and_biases_gets_scores_and_pictures(run, shared_scene_tree, monkeypatch):
    wandb = pytest.importorskip("wandb", reason="extra `tracking` not installed")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    folder = run("WandbLogger")
    summary = wandb.run.summary
    assert {"val_miou", "loss/total", "lr/encoder"} <= set(summary.keys())
    wandb.finish()
    (picture,) = folder.glob("wandb/offline-run-*/files/media/images/val/0_*.png")
    assert_is_a_row_of_three(picture, shared_scene_tree)


@pytest.mark.slow
def test_mlflow_gets_scores_and_pictures(run, shared_scene_tree, monkeypatch):
    pytest.importorskip("mlflow", reason="extra `tracking` not installed")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    folder = run("MLFlowLogger")
    assert next(folder.rglob("metrics/val_miou")).is_file()
    (picture,) = folder.rglob("artifacts/val/0/*.png")
    assert_is_a_row_of_three(picture, shared_scene_tree)
