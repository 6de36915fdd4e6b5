"""The folder of a run: left alone until everything has been checked, and by every run but its own."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

torch = pytest.importorskip("torch", reason="the training wing needs torch")
pytest.importorskip("lightning")

from lightning.pytorch.callbacks import EMAWeightAveraging  # noqa: E402

from training import distill, module  # noqa: E402
from training.callbacks import average_on_its_device  # noqa: E402
from training.module import ClassTableError  # noqa: E402
from training.trained import TrainedError, read_checkpoint  # noqa: E402
from transkd_ros.bags.image_folder import ImageFolderError  # noqa: E402
from transkd_ros.cli import CommandError  # noqa: E402
from transkd_ros.model.labels import LabelTable  # noqa: E402

pytestmark = [pytest.mark.training, pytest.mark.filterwarnings("ignore:LightningCLI.s args parameter")]
STUDENT = Path(__file__).parents[2] / "config" / "recipes" / "camvid_mit_b0.yaml"
AVERAGE = ("--trainer.callbacks+=EMAWeightAveraging", "--trainer.callbacks.decay=0.5")


def run(scene_tree, folder, *arguments, epochs=1):
    small = {"root": scene_tree, "batch_size": 2, "crop": [64, 64], "val_size": [64, 96], "workers": 0, "scenes": 0}
    options = [f"--data.init_args.{name}={value}" for name, value in small.items()]
    options += ["--trainer.accelerator=cpu", "--trainer.check_val_every_n_epoch=1"]
    options += [f"--trainer.max_epochs={epochs}", f"--trainer.default_root_dir={folder}"]
    distill.main(["--config", str(STUDENT), *options, *arguments])


def contents(folder):
    return {path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_a_run_is_neither_replaced_nor_touched_unasked(shared_scene_tree, tmp_path):
    folder = tmp_path / "run"
    run(shared_scene_tree, folder)
    before = contents(folder)
    with pytest.raises(CommandError, match=r"holds a run .*--ckpt_path .*last\.ckpt.*--overwrite"):
        run(shared_scene_tree, folder, "--seed_everything=2")
    with pytest.raises(ClassTableError):
        run(shared_scene_tree, folder, "--overwrite", "--model.labels=cityscapes")
    assert contents(folder) == before

    run(shared_scene_tree, folder, "--overwrite", "--seed_everything=2")
    assert json.loads((folder / "metrics.json").read_text())["seed"] == 2
    assert len(list(folder.glob("events.out.tfevents.*"))) == 1
    again = distill.settings_of(["--config", str(folder / "config.yaml")])
    assert (again["overwrite"], again["seed_everything"]) == (False, 2)


@pytest.mark.parametrize(
    ("argument", "error"),
    [
        ("--data.init_args.root=/no/such/folder", ImageFolderError),
        ("--data.init_args.batch_size=99", ImageFolderError),
        ("--model.labels=cityscapes", ClassTableError),
    ],
)
def test_a_start_that_fails_leaves_no_folder(argument, error, shared_scene_tree, tmp_path):
    with pytest.raises(error):
        run(shared_scene_tree, tmp_path / "run", argument)
    assert list(tmp_path.iterdir()) == []


def test_a_checkpoint_goes_on_in_its_own_folder_only(shared_scene_tree, tmp_path):
    for name in ("one", "other"):
        (tmp_path / name / "checkpoints").mkdir(parents=True)
        (tmp_path / name / "checkpoints" / "last.ckpt").touch()
    last = tmp_path / "one" / "checkpoints" / "last.ckpt"
    distill.check_free(tmp_path / "one", str(last), overwrite=False)
    with pytest.raises(CommandError, match="other holds a run"):
        distill.check_free(tmp_path / "other", str(last), overwrite=False)
    with pytest.raises(CommandError, match="give one of them"):
        distill.check_free(tmp_path / "one", str(last), overwrite=True)


def test_the_last_checkpoint_is_of_the_last_epoch_whatever_came_of_it_and_the_best_stays(
    shared_scene_tree, tmp_path, monkeypatch
):
    scores = iter([0.5, 0.4, 0.3])
    monkeypatch.setattr(module, "iou_of", lambda matrix: (torch.full((11,), next(scores)), torch.tensor(0.5)))
    run(shared_scene_tree, tmp_path, epochs=3)
    epochs = {
        name: torch.load(tmp_path / "checkpoints" / f"{name}.ckpt", weights_only=True)["epoch"]
        for name in ("best", "last")
    }
    assert epochs == {"best": 0, "last": 2}


@pytest.mark.parametrize(("epochs", "every", "validated"), [(1, 4, [0]), (3, 2, [1, 2])])
def test_the_last_epoch_is_validated_however_seldom_others_are(
    shared_scene_tree, tmp_path, monkeypatch, epochs, every, validated
):
    seen = []
    monkeypatch.setattr(
        module.SegmentationModule, "on_validation_start", lambda it: seen.append(it.current_epoch), raising=False
    )
    run(shared_scene_tree, tmp_path, f"--trainer.check_val_every_n_epoch={every}", epochs=epochs)
    assert seen == validated
    assert json.loads((tmp_path / "metrics.json").read_text())["epochs"] == epochs


def test_a_checkpoint_holds_its_classes_whatever_becomes_of_their_file(shared_scene_tree, tmp_path):
    table = LabelTable.load("camvid")
    file = tmp_path / "classes.yaml"

    def write(classes):
        entries = [entry | {"id": index} for index, entry in enumerate(classes)]
        file.write_text(yaml.safe_dump({"ignore_id": 255, "classes": entries}))

    write(table.to_json())
    run(shared_scene_tree, tmp_path / "run", f"--model.labels={file}")
    last = tmp_path / "run" / "checkpoints" / "last.ckpt"
    write(table.to_json()[::-1])
    assert read_checkpoint(last).labels.names == table.names
    with pytest.raises(ClassTableError, match=r"class 0 is sky; in model\.labels it is bicyclist"):
        module.SegmentationModule(labels=str(file), initial_weights=str(last))
    with pytest.raises(ClassTableError, match="class 0 is sky"):
        distill.check_resumable(str(last), module.SegmentationModule(labels=str(file)), SimpleNamespace(callbacks=[]))


def test_an_average_of_the_weights_lies_where_they_will_be():
    average, placed = EMAWeightAveraging(decay=0.9), EMAWeightAveraging(decay=0.9, device="cpu")
    strategy = SimpleNamespace(root_device=torch.device("meta"))
    average_on_its_device(SimpleNamespace(callbacks=[average, placed], strategy=strategy))
    for callback, device in ((average, "meta"), (placed, "cpu")):
        callback.setup(SimpleNamespace(), module.SegmentationModule(), "fit")
        assert {weights.device.type for weights in callback._average_model.parameters()} == {device}


@pytest.mark.slow
def test_a_resumed_run_with_an_average_of_its_weights_ends_as_an_uninterrupted_one(shared_scene_tree, tmp_path):
    run(shared_scene_tree, tmp_path / "whole", *AVERAGE, epochs=2)
    with pytest.MonkeyPatch.context() as patched, pytest.raises(Stopped):
        patched.setattr(distill.RunRecord, "on_train_epoch_start", _stop_in_second_epoch, raising=False)
        run(shared_scene_tree, tmp_path / "stopped", *AVERAGE, epochs=2)
    last = tmp_path / "stopped" / "checkpoints" / "last.ckpt"
    with pytest.raises(TrainedError, match=r"that run has a weight average in trainer\.callbacks"):
        run(shared_scene_tree, tmp_path / "stopped", f"--ckpt_path={last}", epochs=2)
    run(shared_scene_tree, tmp_path / "stopped", *AVERAGE, f"--ckpt_path={last}", epochs=2)
    whole, resumed = (
        torch.load(tmp_path / it / "checkpoints" / "last.ckpt", weights_only=True) for it in ("whole", "stopped")
    )
    for state in ("state_dict", "current_model_state"):
        for name, value in whole[state].items():
            assert torch.equal(value, resumed[state][name]), (state, name)
    metrics = [json.loads((tmp_path / it / "metrics.json").read_text()) for it in ("whole", "stopped")]
    assert metrics[0]["val_iou"] == metrics[1]["val_iou"]

    best = tmp_path / "stopped" / "checkpoints" / "best.ckpt"  # what an export takes holds the average
    averaged = torch.load(best, weights_only=True)["state_dict"]
    network = read_checkpoint(best).network.state_dict()
    assert all(torch.equal(value, averaged[f"network.{name}"]) for name, value in network.items())


class Stopped(Exception):  # noqa: N818 (what an interrupted run is)
    pass


def _stop_in_second_epoch(record, trainer, module):
    if trainer.current_epoch == 1:
        raise Stopped


def test_a_run_of_another_weight_decay_is_not_gone_on_with(shared_scene_tree, tmp_path):
    run(shared_scene_tree, tmp_path, "--model.decay_norms=true")
    last = tmp_path / "checkpoints" / "last.ckpt"
    with pytest.raises(TrainedError, match=r"go on with --model\.decay_norms true"):
        run(shared_scene_tree, tmp_path, f"--ckpt_path={last}", epochs=2)
    run(shared_scene_tree, tmp_path, f"--ckpt_path={last}", "--model.decay_norms=true", epochs=2)
