"""Export: a checkpoint becomes a bundle that does what the network did, or nothing at all."""

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml

torch = pytest.importorskip("torch", reason="the training wing needs torch")
pytest.importorskip("lightning")
pytest.importorskip("onnxscript")

from training import bundle_checks, export, export_frames  # noqa: E402
from training.model_card import model_card  # noqa: E402
from training.module import SegmentationModule  # noqa: E402
from training.soft_labels import Annotators, SoftLabels  # noqa: E402
from transkd_ros.cli import CommandError  # noqa: E402
from transkd_ros.frames import Frame  # noqa: E402
from transkd_ros.model.bundle import load_bundle  # noqa: E402
from transkd_ros.model.engines import open_runtime  # noqa: E402
from transkd_ros.model.labels import LabelTable  # noqa: E402
from transkd_ros.scenes import Drive  # noqa: E402

pytestmark = [pytest.mark.training, pytest.mark.slow]
ROOT = Path(__file__).parents[2]
LABELS = LabelTable.load("camvid")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """A checkpoint as the training loop writes it, of a network that has seen nothing."""
    torch.manual_seed(0)
    module = SegmentationModule()
    path = tmp_path_factory.mktemp("run") / "best.ckpt"
    settings = dict(module.hparams)
    torch.save({"state_dict": module.state_dict(), "hyper_parameters": settings}, path)
    return path


@pytest.fixture(scope="module")
def exported(checkpoint, shared_scene_tree):
    output = checkpoint.parent.parent / "bundles" / "student"
    export.export(
        export.parse_arguments(
            ["--checkpoint", str(checkpoint), "--output", str(output), "--input-size", "96x64", "--torch",
             "--images", str(shared_scene_tree / "val" / "images"), "--split", "scenes",
             "--labels", str(shared_scene_tree / "val" / "labels"), "--recipe", "config/recipes/some.yaml"]
        )
    )
    return load_bundle(output)


def test_the_manifest_says_what_was_counted_and_measured(exported):
    manifest = exported.manifest
    assert manifest.name == "student"
    assert manifest.architecture == {"architecture": "segformer", "encoder": "mit_b0", "classes": 11}
    assert manifest.input_size == (64, 96)
    assert manifest.parameters == pytest.approx(3.7e6, rel=0.01)
    assert manifest.macs > 0
    assert 0 <= manifest.metrics["scenes"]["fp32"]["miou"] <= 1
    assert manifest.recipe == "config/recipes/some.yaml"
    assert manifest.licence == "not stated"
    assert "mIoU" in (exported.path / "README.md").read_text()


@pytest.mark.parametrize("size", [(64, 96), (96, 64)])
def test_the_graph_takes_any_multiple_of_32_and_agrees_with_the_network(checkpoint, exported, size):
    trained = export.read_checkpoint(checkpoint)
    image = Frame(Drive(3).frame(0)[0], "rgb8").rgb(size)
    with torch.inference_mode():
        mean, std = (torch.tensor(values) * 255 for values in trained.spec.normalisation())
        logits = trained.network(((torch.from_numpy(image) - mean) / std).permute(2, 0, 1)[None])
    runtime = open_runtime(exported, "openvino", "cpu", "fp32", input_size=size)
    prediction = runtime.infer(image, want_confidence=True)
    assert (prediction.mask == logits.argmax(1).squeeze(0).numpy()).mean() >= 0.999
    assert prediction.confidence is not None
    certain = logits.softmax(1).amax(1).squeeze(0).numpy() * 255
    assert np.abs(prediction.confidence.astype(float) - certain).mean() < 16  # interpolated from every fourth pixel


def test_the_torch_program_of_the_bundle_runs(exported):
    image = Frame(Drive(3).frame(0)[0], "rgb8").rgb((64, 96))
    masks = [open_runtime(exported, engine, "cpu", "fp32").infer(image).mask for engine in ("torch", "openvino")]
    assert (masks[0] == masks[1]).mean() >= 0.999


@pytest.mark.parametrize("engine", ["openvino", "onnxruntime", "torch"])
def test_the_graph_takes_batches_whose_masks_are_those_of_the_single_images(exported, engine):
    runtime = open_runtime(exported, engine, "cpu", "fp32")
    assert runtime.takes_batches
    images = [np.ascontiguousarray(Frame(Drive(seed).frame(0)[0], "rgb8").rgb((64, 96))) for seed in (3, 4, 5)]
    for image, (mask, confidence) in zip(images, runtime.infer_batch(images, want_confidence=True), strict=True):
        alone = runtime.infer(image, want_confidence=True)
        assert (mask == alone.mask).mean() >= 0.999  # kernels may add up in another order
        assert np.abs(confidence.astype(int) - alone.confidence).max() <= 1


def test_a_graph_that_disagrees_is_not_written(checkpoint, tmp_path, monkeypatch):
    def broken(network):
        network = fold(network)
        network.decoder.stages[0].weight.data.neg_()
        return network

    fold = export.fold
    monkeypatch.setattr(export, "fold", broken)
    monkeypatch.setattr(export_frames, "find_camvid", lambda: None)
    with pytest.raises(bundle_checks.ExportError, match=r"99\.9%"):
        export.export(
            export.parse_arguments(
                ["--checkpoint", str(checkpoint), "--output", str(tmp_path / "broken"), "--input-size", "96x64"]
            )
        )
    assert not (tmp_path / "broken").exists()


# ---- of a run -----------------------------------------------------------------------------------
OWN = {"root": "mine", "labels": "classes.yaml", "val_size": [64, 96], "crop": [64, 96], "batch_size": 2}


@pytest.fixture(scope="module")
def own_run(checkpoint, shared_scene_tree, tmp_path_factory):
    """The folder of a run on data of one's own with CamVid's number of classes, as training leaves it."""
    folder = tmp_path_factory.mktemp("own") / "runs" / "mine"
    (folder / "checkpoints").mkdir(parents=True)
    data = shutil.copytree(shared_scene_tree, folder.parents[1] / "mine")
    table = yaml.safe_load((ROOT / "config" / "labels" / "camvid.yaml").read_text())
    for entry in table["classes"]:
        entry["name"] = f"my_{entry['name']}"
    (folder / "classes.yaml").write_text(yaml.safe_dump(table))
    options = OWN | {"root": str(data), "labels": str(folder / "classes.yaml")}
    recipe = {"data": {"class_path": "training.data.folder.Folder", "init_args": options}}
    (folder / "config.yaml").write_text(yaml.safe_dump(recipe))
    content = torch.load(checkpoint, weights_only=True)
    content["hyper_parameters"]["labels"] = str(folder / "classes.yaml")
    torch.save(content, folder / "checkpoints" / "best.ckpt")
    return folder


def source_of(run, *options):
    path = run / "checkpoints" / "best.ckpt"
    return export.source_of(export.parse_arguments(["--checkpoint", str(path), "--output", "b", *options]))


def test_size_data_recipe_and_split_are_those_of_the_run(own_run):
    source = source_of(own_run)
    assert source.input_size == (64, 96) and source.known["recipe"] == str(own_run / "config.yaml")
    frames = export_frames.checked_frames(source.run, None, None, None, source.trained.labels)
    assert (frames.name, len(frames.samples), frames.labelled) == ("mine_val", 3, True)
    images = export_frames.calibration_images(source.run, None, (32, 64), 2, source.trained.labels)
    assert [image.shape for image in images] == [(32, 64, 3)] * 2


def test_own_data_are_neither_camvid_nor_under_a_licence_that_nobody_gave(own_run):
    known = source_of(own_run).known
    assert known["licence"] == "not stated"
    assert known["data_note"].startswith("Trained on mine train.")


def test_options_override_what_the_run_says(own_run):
    options = ["--input-size", "64x32", "--licence", "MIT", "--data-note", "My own.", "--role", "teacher"]
    source = source_of(own_run, *options)
    assert source.input_size == (32, 64)
    assert source.known["licence"] == "MIT" and source.known["data_note"] == "My own."
    assert source.known["role"] == "teacher" and source.known["recipe"]


def taught_by(run, source):
    recipe = yaml.safe_load((run / "config.yaml").read_text())
    recipe["model"] = {"distiller": {"class_path": "training.distillers.CWD"}, "teacher": {"source": str(source)}}
    (run / "config.yaml").write_text(yaml.safe_dump(recipe))
    return source_of(run).known["teaching"]


def test_the_teachers_of_a_run_are_named(own_run, tmp_path):
    assert source_of(own_run).known["teaching"] == {}
    run = shutil.copytree(own_run, tmp_path / "run")
    assert taught_by(run, "big.ckpt") == {"method": "CWD", "teachers": [{"source": "big.ckpt"}]}
    (run / "metrics.json").write_text('{"teacher_val_miou": 0.6801234}')
    teaching = taught_by(run, "big.ckpt")
    assert teaching["teachers"] == [{"source": "big.ckpt", "miou": 0.680123}]
    fields = {"architecture": {"architecture": "fpn", "encoder": "e"}, "input_size": (64, 96), "labels": LABELS}
    fields |= {"name": "n", "role": "student", "parameters": 1, "macs": 1, "size_divisor": 32, "seed": 1}
    fields |= {"metrics": {}, "agreement": {}} | dict.fromkeys(("recipe", "created", "licence", "data_note"), "x")
    assert "| taught by | CWD under `big.ckpt` (68.0% mIoU) |" in model_card(fields | {"teaching": teaching})
    assert "| taught by | labels only |" in model_card(fields)


def test_the_members_of_a_committee_are_named(own_run, tmp_path):
    teachers = [{"source": name, "fingerprint": "f", "class_map": None} for name in ("a.ckpt", "b.ckpt")]
    SoftLabels.create(tmp_path / "store", Annotators(LABELS.to_json(), teachers, (64, 96), (1.0,), True, {}, 4))
    run = shutil.copytree(own_run, tmp_path / "run")
    assert taught_by(run, tmp_path / "store")["teachers"] == [{"source": "a.ckpt"}, {"source": "b.ckpt"}]


def test_a_bundle_is_not_replaced_without_being_asked_and_that_is_said_at_once(checkpoint, exported, monkeypatch):
    monkeypatch.setattr(export, "source_of", lambda arguments: pytest.fail("something was computed"))
    with pytest.raises(CommandError, match=r"holds a model bundle; give --overwrite"):
        export.export(export.parse_arguments(["--checkpoint", str(checkpoint), "--output", str(exported.path)]))


def test_a_run_whose_data_are_gone_is_checked_on_scenes_and_that_is_said(own_run, tmp_path, capsys):
    run = shutil.copytree(own_run, tmp_path / "run")
    recipe = (run / "config.yaml").read_text()
    (run / "config.yaml").write_text(recipe.replace(str(own_run.parents[1] / "mine"), str(tmp_path / "gone")))
    source = source_of(run)
    frames = export_frames.checked_frames(source.run, None, None, None, source.trained.labels)
    assert not frames.labelled
    told = capsys.readouterr().out
    assert "gone" in told and "--images" in told and "measuring nothing" in told


def test_what_is_known_of_a_bundle_is_kept_when_it_is_exported_anew(exported):
    source = export.source_of(export.parse_arguments(["--bundle", str(exported.path), "--licence", "MIT"]))
    manifest = exported.manifest
    assert source.known == {
        "role": manifest.role,
        "recipe": manifest.recipe,
        "seed": manifest.seed,
        "licence": "MIT",
        "data_note": manifest.data_note,
        "teaching": manifest.teaching,
    }
    assert source.input_size == manifest.input_size and source.trained.labels == manifest.labels


def test_int8_without_real_frames_to_check_it_on_is_refused(checkpoint, monkeypatch):
    monkeypatch.setattr(export_frames, "find_camvid", lambda: None)
    with pytest.raises(CommandError, match="--int8 is checked on real frames"):
        export.export(export.parse_arguments(["--checkpoint", str(checkpoint), "--output", "b", "--int8"]))


def test_a_run_on_drives_alone_is_checked_and_calibrated_on_its_own_frames_without_labels(own_run, shared_scene_tree):
    unlabelled = {"sources": [str(shared_scene_tree / "val" / "images")], "every": 0, "distinct": 0}
    unlabelled |= {"part": [0, 0.7], "cache": str(own_run / "frames")}
    options = {"unlabelled": unlabelled, "val_part": [0.7, 1.0]}
    data, table = {"class_path": "training.data.drives.Drives", "init_args": options}, LabelTable.load("camvid")
    run = export_frames.Run(own_run / "config.yaml", {"model": {"labels": "camvid"}, "data": data})
    frames = export_frames.checked_frames(run, None, None, None, table)
    images = export_frames.calibration_images(run, None, (32, 64), 300, table)
    assert (frames.name, frames.labelled, frames.real) == ("drives_val", False, True)
    assert len(frames.samples) and len(images) and len(frames.samples) + len(images) == 3


@pytest.mark.parametrize(
    ("metrics", "agreement", "fault"),
    [
        ({"fp32": {"miou": 0.700}, "int8": {"miou": 0.696}}, 0.9, ""),
        ({"fp32": {"miou": 0.700}, "int8": {"miou": 0.690}}, 1.0, "loses 1.0 points of mIoU, 0.5 are allowed"),
        ({}, 0.99, ""),
        ({}, 0.98, "gives 98.0% of the pixels the class of fp32, 98.5% are required"),
    ],
)
def test_int8_is_judged_by_labels_and_without_them_by_its_agreement_with_fp32(metrics, agreement, fault):
    assert bundle_checks.fault_of_int8(metrics, {"int8": agreement}) == fault


def test_a_file_that_is_no_checkpoint_is_one_line_and_code_2(tmp_path):
    path = tmp_path / "best.ckpt"
    path.write_bytes(b"no checkpoint")
    command = [sys.executable, str(ROOT / "training" / "export.py"), "--checkpoint", str(path), "--output", "x"]
    result = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert result.returncode == 2
    assert result.stderr.count("\n") == 1
    assert str(path) in result.stderr
