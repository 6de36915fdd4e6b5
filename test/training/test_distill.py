"""The training loop: it learns, resumes exactly, shows what it costs, and refuses bad recipes before it starts."""

import json
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

torch = pytest.importorskip("torch", reason="the training wing needs torch")
L = pytest.importorskip("lightning")

from training import cost, distill  # noqa: E402
from training.data.camvid import CamVid  # noqa: E402
from training.distillers import TransKD  # noqa: E402
from training.module import ClassTableError, LossError, SegmentationModule  # noqa: E402
from training.networks import build_network, count_macs, count_parameters  # noqa: E402
from training.teachers import TeacherSource  # noqa: E402
from training.trained import TrainedError, read_checkpoint  # noqa: E402
from transkd_ros.cli import CommandError  # noqa: E402

pytestmark = [
    pytest.mark.training,
    pytest.mark.filterwarnings("ignore:LightningCLI.s args parameter"),
]
ROOT = Path(__file__).parents[2]
RECIPES = sorted(p for p in (ROOT / "config" / "recipes").glob("*.yaml") if not p.stem.startswith("suite_"))
STUDENT = ROOT / "config" / "recipes" / "camvid_mit_b0.yaml"


class StopAfter(L.Callback):
    """What an interrupted run is: it ends after an epoch, before its planned last one."""

    def __init__(self, epoch):
        self.epoch = epoch

    def on_train_epoch_end(self, trainer, module):
        trainer.should_stop = trainer.current_epoch == self.epoch


def fit(scene_tree, folder, teacher, epochs=2, callbacks=(), resume=None):
    L.seed_everything(1)
    module = SegmentationModule(warmup_steps=2, distiller=TransKD("ea"), teacher=TeacherSource(str(teacher)))
    data = CamVid(str(scene_tree), crop=(64, 64), val_size=(64, 96), batch_size=2, scenes=0, workers=0)
    checkpoints = L.pytorch.callbacks.ModelCheckpoint(folder, save_last=True)
    trainer = L.Trainer(
        max_epochs=epochs, callbacks=[checkpoints, *callbacks], logger=False, default_root_dir=folder,
        accelerator="cpu", enable_progress_bar=False, enable_model_summary=False, num_sanity_val_steps=0,
    )  # fmt: skip
    trainer.fit(module, data, ckpt_path=resume, weights_only=True if resume else None)
    return module, trainer


def test_a_resumed_distillation_ends_with_the_weights_of_an_uninterrupted_one(scene_tree, tmp_path, random_teacher):
    teacher = random_teacher("mit_b1")
    whole, _ = fit(scene_tree, tmp_path / "whole", teacher)
    fit(scene_tree, tmp_path / "stopped", teacher, callbacks=[StopAfter(0)])
    torch.rand(7)  # a new process has drawn other numbers
    resumed, trainer = fit(scene_tree, tmp_path / "stopped", teacher, resume=tmp_path / "stopped" / "last.ckpt")
    assert trainer.current_epoch == 2
    for (name, expected), value in zip(whole.state_dict().items(), resumed.state_dict().values(), strict=True):
        assert torch.equal(value, expected), name


def test_validation_miou_is_that_of_the_resized_masks(shared_scene_tree):
    module = SegmentationModule()
    data = CamVid(str(shared_scene_tree), crop=(64, 64), val_size=(64, 96), batch_size=2, scenes=0, workers=0)
    trainer = L.Trainer(accelerator="cpu", logger=False, enable_progress_bar=False, enable_checkpointing=False)
    trainer.validate(module, data, verbose=False)
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


def test_the_initial_student_does_not_depend_on_the_method(random_teacher):
    torch.manual_seed(1)
    alone = SegmentationModule().network.state_dict()
    torch.manual_seed(1)
    distilled = SegmentationModule(distiller=TransKD(), teacher=TeacherSource(str(random_teacher("mit_b1")))).network
    assert all(torch.equal(value, alone[name]) for name, value in distilled.state_dict().items())


def test_a_loss_that_is_not_finite_stops_the_run_with_its_name_and_keeps_the_last_good_checkpoint(
    scene_tree, tmp_path, random_teacher
):
    class Poison(L.Callback):
        def on_train_epoch_start(self, trainer, module):
            if trainer.current_epoch == 1:
                module.distiller.fusion.stages[0].expand[0].weight.data.fill_(float("nan"))

    with pytest.raises(LossError, match="loss/feature is nan"):
        fit(scene_tree, tmp_path, random_teacher("mit_b1"), callbacks=[Poison()])
    kept = torch.load(tmp_path / "last.ckpt", weights_only=True)
    assert kept["epoch"] == 0
    assert all(value.isfinite().all() for value in kept["state_dict"].values() if value.is_floating_point())


def run(recipe, scene_tree, *arguments):
    """The recipe on a tiny data set, cut down to what two cores do in seconds."""
    small = {"root": scene_tree, "batch_size": 2, "crop": [64, 64], "val_size": [64, 96], "workers": 0}
    data = [f"--data.init_args.{name}={value}" for name, value in small.items()]
    arguments = ["--trainer.accelerator", "cpu", *data, *arguments]
    distill.main(["--config", str(recipe), "--data", "training.data.camvid.CamVid", *arguments])


@pytest.mark.slow
@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
def test_every_recipe_trains_for_a_step_on_rendered_scenes(recipe, shared_scene_tree, random_teacher, tmp_path):
    settings = distill.settings_of(["--config", str(recipe)])
    arguments = ["--trainer.fast_dev_run", "1", "--model.labels", "camvid"]
    network = [settings[f"model.{name}"] for name in ("encoder", "architecture", "decoder_width")]
    if str(settings.get("model.teacher.source")).startswith(("runs/", "smp-hub/")):
        if settings["model.distiller.class_path"].endswith("SpiritDistillation"):  # the student is its teacher
            teacher = random_teacher(*network)
        else:
            teacher = random_teacher("tu-pvt_v2_b1" if "tu-pvt" in settings["model.encoder"] else "mit_b1")
        arguments += ["--model.teacher.source", str(teacher)]
    if settings["data.init_args.limit"]:
        arguments += ["--data.init_args.limit", "4"]
    if settings["data.init_args.proximity"]:
        arguments += ["--data.init_args.proximity", str(shared_scene_tree / "val" / "images")]
    if settings.get("data.init_args.unlabelled.sources"):
        sources = json.dumps([str(shared_scene_tree / "val" / "images")])
        arguments += [f"--data.init_args.unlabelled.sources={sources}"]
        arguments += [f"--data.init_args.unlabelled.cache={tmp_path}"]
    if settings["model.encoder_weights"] == "imagenet":  # would be downloaded
        arguments += ["--model.encoder_weights", "null"]
    if str(settings.get("model.initial_weights")).startswith("runs/"):  # another recipe's run
        arguments += ["--model.initial_weights", str(random_teacher(*network))]
    run(recipe, shared_scene_tree, *arguments)


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
def test_every_recipe_is_understood(recipe, capsys):
    with pytest.raises(SystemExit) as end:
        distill.main(["--config", str(recipe), "--print_config"])
    assert end.value.code == 0
    assert f"default_root_dir: runs/{recipe.stem}" in capsys.readouterr().out


def test_few_shots_are_one_short_option_away(capsys):
    with pytest.raises(SystemExit):
        distill.main(["--config", str(STUDENT), "--data.limit", "64", "--print_config"])
    assert "limit: 64" in capsys.readouterr().out


def test_the_gpu_profile_fits_on_top_of_a_recipe(capsys):
    profile = ROOT / "config" / "recipes" / "profiles" / "gpu.yaml"
    with pytest.raises(SystemExit):
        distill.main(["--config", str(STUDENT), "--config", str(profile), "--print_config"])
    shown = capsys.readouterr().out
    assert "accelerator: gpu" in shown
    assert "batch_size: 16" in shown
    assert "encoder: mit_b0" in shown


def steps_of(settings):
    """The steps of a CamVid or rendered recipe on the whole data."""
    data = "data.init_args."
    camvid = (settings[data + "limit"] or 367) if settings["data.class_path"].endswith("CamVid") else 0
    return (camvid + settings[data + "scenes"]) // settings[data + "batch_size"] * settings["trainer.max_epochs"]


SIZED = [recipe for recipe in RECIPES if recipe.stem.startswith(("camvid", "rendered"))]


@pytest.mark.parametrize("recipe", SIZED, ids=lambda path: path.stem)
def test_the_warm_up_is_at_most_a_twentieth_of_the_steps_of_a_run_or_of_its_phases(recipe):
    settings = distill.settings_of(["--config", str(recipe)])
    first = settings.get("model.distiller.init_args.mimic_epochs", settings["trainer.max_epochs"])
    assert settings["model.warmup_steps"] <= steps_of(settings) * first / settings["trainer.max_epochs"] / 20


def test_the_profile_of_an_average_fits_the_recipes_of_camvid():
    """At the end of the run the average has forgotten where it began."""
    profile = ROOT / "config" / "recipes" / "profiles" / "ema.yaml"
    settings = distill.settings_of(["--config", str(STUDENT), "--config", str(profile)])
    (callback,) = settings["trainer.callbacks"]
    assert callback.class_path.endswith("EMAWeightAveraging")
    assert callback.init_args.decay ** steps_of(settings) < 0.01
    assert settings["model.encoder"] == "mit_b0"


def test_a_run_leaves_checkpoints_logs_pictures_and_its_metrics(shared_scene_tree, tmp_path, random_teacher, capsys):
    teacher = random_teacher("mit_b1")
    recipe = ROOT / "config" / "recipes" / "camvid_transkd_base.yaml"
    folder = ("--trainer.default_root_dir", str(tmp_path), "--data.init_args.scenes", "0")
    every = ("--trainer.check_val_every_n_epoch", "1", "--trainer.log_every_n_steps", "1")
    run(recipe, shared_scene_tree, "--trainer.max_epochs", "1", *folder, *every, "--model.teacher.source", str(teacher))
    assert {path.name for path in tmp_path.rglob("*.ckpt")} == {"best.ckpt", "last.ckpt"}

    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert (metrics["epochs"], metrics["method"], metrics["teacher"]) == (1, "TransKD", str(teacher))
    assert metrics["val_miou"] == pytest.approx(metrics["last_val_miou"])
    assert 0 <= metrics["val_iou"]["road"] <= 1

    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    log = EventAccumulator(str(tmp_path)).Reload().Tags()
    assert {"loss/cross_entropy", "loss/feature", "loss/patch", "loss/total"} <= set(log["scalars"])
    assert "val/0" in log["images"]

    assert metrics["best_epoch"] == 1
    assert metrics["val_loss"] > 0
    assert {"gradient_cosine/feature", "gradient_cosine/patch"} <= set(metrics["gradients"]) & set(log["scalars"])
    assert {"val_loss", "lr/encoder", "lr/head"} <= set(log["scalars"])
    assert "hp_metric" not in log["scalars"]

    printed = capsys.readouterr().out
    assert "student saves" in printed  # the cost table
    assert f"the teacher's is {metrics['teacher_val_miou']:.1%}, on the same images" in printed
    assert ("the teacher is not better" in printed) == (metrics["teacher_val_miou"] <= metrics["val_miou"])
    assert f"export it: python training/export.py --checkpoint {tmp_path}/checkpoints/best.ckpt" in printed
    assert all(len(line) <= 80 for line in printed.splitlines() if line.startswith(("┃", "│")))
    assert "Validation, epoch 1 of 1" in printed

    trained = read_checkpoint(tmp_path / "checkpoints" / "best.ckpt")  # and the student is a plain student
    assert count_parameters(trained.network) == metrics["parameters"] == count_parameters(build_network(trained.spec))
    assert metrics["macs"] == count_macs(build_network(trained.spec), (64, 64))


def test_a_run_that_was_killed_after_its_last_epoch_still_writes_its_metrics_when_resumed(shared_scene_tree, tmp_path):
    options = ["--trainer.max_epochs", "1", "--trainer.check_val_every_n_epoch", "1", "--data.init_args.scenes", "0"]
    options += ["--trainer.default_root_dir", str(tmp_path)]
    run(STUDENT, shared_scene_tree, *options)
    written = tmp_path / "metrics.json"
    before = json.loads(written.read_text())
    written.unlink()
    run(STUDENT, shared_scene_tree, *options, "--ckpt_path", str(tmp_path / "checkpoints" / "last.ckpt"))
    after = json.loads(written.read_text())
    scores = ("val_miou", "last_val_miou", "val_iou", "epochs", "steps")
    assert [after[name] for name in scores] == [before[name] for name in scores]


def test_an_average_of_the_weights_is_one_option_away(shared_scene_tree, tmp_path):
    options = ["--trainer.max_epochs", "1", "--trainer.check_val_every_n_epoch", "1", "--data.init_args.scenes", "0"]
    average = ["--trainer.callbacks+=EMAWeightAveraging", "--trainer.callbacks.decay=0.5"]
    run(STUDENT, shared_scene_tree, "--trainer.default_root_dir", str(tmp_path), *options, *average)
    last = tmp_path / "checkpoints" / "last.ckpt"
    saved = torch.load(last, weights_only=True)
    averaged = read_checkpoint(last).network.state_dict()  # what an export takes
    current = saved["current_model_state"]
    weight = "encoder.patch_embed1.proj.weight"
    assert not torch.equal(averaged[weight], current[f"network.{weight}"])
    assert torch.allclose(averaged[weight], current[f"network.{weight}"], atol=0.01)


def test_the_cost_of_a_transkd_step_is_that_of_its_parts(random_teacher):
    teacher = TeacherSource(str(random_teacher("mit_b1")))
    module = SegmentationModule(distiller=TransKD("ea"), teacher=teacher).train()
    found = cost.costs(module, (64, 96))
    assert found["student"].macs == count_macs(module.network, (64, 96))
    assert found["teacher"].macs == count_macs(module.teachers[0].network, (64, 96))
    assert found["training only"].parameters == count_parameters(module.distiller)
    assert found["training only"].macs > 64 * 96 / 16 * 64 * 64 * 9  # the finest stage's 3×3 convolution alone
    assert module.training
    assert not any(name.endswith("num_batches_tracked") and value for name, value in module.named_buffers())


def test_the_cost_table_names_what_teaches_beside_the_student_and_calls_a_network_alone_a_network():
    student, method = cost.Cost(2_000_000, 10**9), cost.Cost(0, 0)

    def names(found):
        return list(cost.table(found, (64, 96)).columns[0].cells)

    assert names({"student": student}) == ["network"]
    assert names({"student": student, "training only": method}) == ["student", "training only"]  # from soft labels
    assert names({"student": student, "teacher": student, "training only": method})[:2] == ["student", "teacher"]


@pytest.mark.parametrize(
    ("arguments", "error", "named"),
    [
        (["--data.init_args.root", "/no/such/folder"], distill.ImageFolderError, "/no/such/folder"),
        (["--data.init_args.limit", "99"], distill.ImageFolderError, "limit is 99"),
        (["--model.no_such_key", "1"], CommandError, "no_such_key"),
        (["--model.encoder", "no_such_encoder"], distill.NetworkError, "no_such_encoder"),
        (["--model.encoder", "tf_efficientnet_lite0"], distill.NetworkError, "closest: tu-tf_efficientnet_lite0"),
        (["--model.architecture", "segfromer"], distill.NetworkError, "segfromer is unknown; the closest: segformer"),
        (["--data.batchsize", "3"], CommandError, "data has no option batchsize; the closest: batch_size"),
        (["--data", "Foldr"], CommandError, "there is no data set Foldr; the closest: Folder"),
        (["--trainer.max_epchs", "3"], CommandError, "--trainer.max_epchs; the closest: --trainer.max_epochs"),
        (["--model.labels", "cityscapes"], ClassTableError, "data: 11 classes; model.labels has 19"),
        (["--model.class_weights", "[1, 2]"], ClassTableError, "class_weights"),
        (["--model.distiller", "ResponseKD"], distill.DistillerError, "belong together"),
        (["--model.distiller.class_path", "NoSuchMethod"], CommandError, "NoSuchMethod"),
        (["--config", "no_such_recipe.yaml"], CommandError, "no_such_recipe.yaml"),
    ],
)
def test_bad_input_is_refused_before_training_by_its_name(arguments, error, named, shared_scene_tree):
    with pytest.raises(error) as refused:
        run(STUDENT, shared_scene_tree, "--trainer.fast_dev_run", "1", *arguments)
    assert named in " ".join(str(refused.value).split())


def test_a_checkpoint_that_does_not_belong_to_the_recipe_is_refused(shared_scene_tree, tmp_path, random_teacher):
    other = random_teacher("mit_b1")
    with pytest.raises(TrainedError, match="another recipe"):
        run(STUDENT, shared_scene_tree, "--ckpt_path", str(other))
    (tmp_path / "broken.ckpt").write_bytes(b"nothing")
    with pytest.raises(TrainedError, match="not a checkpoint"):
        run(STUDENT, shared_scene_tree, "--ckpt_path", str(tmp_path / "broken.ckpt"))


def test_a_missing_teacher_says_which_recipe_makes_it(shared_scene_tree, tmp_path):
    missing = tmp_path / "camvid_teacher" / "checkpoints" / "best.ckpt"
    recipe = ROOT / "config" / "recipes" / "camvid_transkd_base.yaml"
    with pytest.raises(TrainedError, match=r"train it first: .*--config config/recipes/camvid_teacher\.yaml"):
        run(recipe, shared_scene_tree, "--model.teacher.source", str(missing))


def test_without_a_recipe_the_command_says_how_to_name_one():
    with pytest.raises(CommandError, match="--config RECIPE"):
        distill.main([])


def test_the_help_starts_with_an_example_and_the_options_that_matter(capsys):
    with pytest.raises(SystemExit):
        distill.main(["--help"])
    lines = capsys.readouterr().out.splitlines()
    assert any("--config config/recipes/" in line for line in lines[:8])
    first = lines[: lines.index("Every option there is:")]
    assert all(len(line) <= 80 for line in first)
    rest = "\n".join(lines[len(first) :])
    options = re.findall(r"^  (--\w[\w.]*) \w", "\n".join(first), re.MULTILINE)
    assert len(options) >= 10
    for option in options:  # those of the data set are shown by its own help
        assert option in rest or option.startswith(("--data.", "--model.teacher.")), option


def test_the_options_of_a_data_set_are_shown_by_its_short_name(capsys):
    with pytest.raises(SystemExit) as end:
        distill.main(["--data.help", "Folder"])
    assert end.value.code == 0
    assert "--data.batch_size" in capsys.readouterr().out


def test_running_out_of_memory_says_which_setting_to_lower(shared_scene_tree, monkeypatch):
    def exhausted(*args):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    monkeypatch.setattr(SegmentationModule, "losses", exhausted)
    monkeypatch.setattr(cost, "costs", lambda module, size: {"student": cost.Cost(1, 1)})
    with pytest.raises(CommandError, match=r"data\.init_args\.batch_size"):
        run(STUDENT, shared_scene_tree, "--trainer.fast_dev_run", "1")


@pytest.mark.slow
def test_the_command_ends_with_one_line_and_code_2():
    command = [sys.executable, str(ROOT / "training" / "distill.py"), "--config", str(STUDENT), "--model.no_such_key=1"]
    result = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert result.returncode == 2
    assert result.stderr.splitlines()[-1].startswith("error: ")
    assert "no_such_key" in result.stderr.splitlines()[-1]
    assert "Traceback" not in result.stderr


@pytest.mark.slow
def test_ctrl_c_ends_a_run_with_code_130_and_a_checkpoint_that_resumes(shared_scene_tree, tmp_path):
    small = {"root": shared_scene_tree, "batch_size": 2, "crop": "[64,64]", "val_size": "[64,96]", "scenes": 0}
    script = str(ROOT / "training" / "distill.py")
    options = [f"--data.init_args.{name}={value}" for name, value in small.items()]
    options += ["--trainer.accelerator=cpu", f"--trainer.default_root_dir={tmp_path}", "--trainer.max_epochs=1000"]
    command = [sys.executable, script, "--config", str(STUDENT), *options]
    last = tmp_path / "checkpoints" / "last.ckpt"
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        while not last.exists() and process.poll() is None:
            time.sleep(0.1)
        process.send_signal(signal.SIGINT)
        shown, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in errors
    assert "epoch 1/1000: val mIoU" in shown  # and of libraries nothing
    assert not re.search(r"TPU|litlogger|deprecated|GPU available", shown + errors)

    reached = torch.load(last, weights_only=True)["epoch"]
    _, _, printed = errors.partition("go on with: python training/distill.py ")
    distill.main([*shlex.split(printed.splitlines()[0]), f"--trainer.max_epochs={reached + 2}"])
    assert json.loads((tmp_path / "metrics.json").read_text())["epochs"] == reached + 2
