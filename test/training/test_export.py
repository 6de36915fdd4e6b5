"""Export: a checkpoint becomes a bundle that does what the network did, or nothing at all."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the training wing needs torch")
pytest.importorskip("lightning")
pytest.importorskip("onnxscript")

from training import export  # noqa: E402
from training.module import SegmentationModule  # noqa: E402
from transkd_ros.frames import Frame  # noqa: E402
from transkd_ros.model.bundle import load_bundle  # noqa: E402
from transkd_ros.model.engines import open_runtime  # noqa: E402
from transkd_ros.scenes import Drive  # noqa: E402

pytestmark = pytest.mark.training
ROOT = Path(__file__).parents[2]


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
    output = checkpoint.parent / "student"
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
    assert "mIoU" in (exported.path / "README.md").read_text()


@pytest.mark.parametrize("size", [(64, 96), (96, 64)])
def test_the_graph_takes_any_multiple_of_32_and_agrees_with_the_network(checkpoint, exported, size):
    trained = export.read_checkpoint(checkpoint)
    image = Frame(Drive(3).frame(0)[0], "rgb8").rgb(size)
    with torch.inference_mode():
        mean, std = (torch.tensor(values) * 255 for values in trained.spec.normalisation())
        logits = trained.network(((torch.from_numpy(image) - mean) / std).permute(2, 0, 1)[None])
    runtime = open_runtime(exported, "openvino", "cpu", "fp32", input_size=size)
    prediction = runtime.infer(image)
    assert (prediction.mask == logits.argmax(1).squeeze(0).numpy()).mean() >= 0.999
    assert prediction.confidence is not None
    certain = logits.softmax(1).amax(1).squeeze(0).numpy() * 255
    assert np.abs(prediction.confidence.astype(float) - certain).mean() < 16  # interpolated from every fourth pixel


def test_the_torch_program_of_the_bundle_runs(exported):
    image = Frame(Drive(3).frame(0)[0], "rgb8").rgb((64, 96))
    masks = [open_runtime(exported, engine, "cpu", "fp32").infer(image).mask for engine in ("torch", "openvino")]
    assert (masks[0] == masks[1]).mean() >= 0.999


def test_a_graph_that_disagrees_is_not_written(checkpoint, tmp_path, monkeypatch):
    def broken(network):
        network = fold(network)
        network.decoder.stages[0].weight.data.neg_()
        return network

    fold = export.fold
    monkeypatch.setattr(export, "fold", broken)
    monkeypatch.setattr(export, "find_camvid", lambda: None)
    with pytest.raises(export.ExportError, match=r"99\.9%"):
        export.export(
            export.parse_arguments(
                ["--checkpoint", str(checkpoint), "--output", str(tmp_path / "broken"), "--input-size", "96x64"]
            )
        )
    assert not (tmp_path / "broken").exists()


def test_a_file_that_is_no_checkpoint_is_one_line_and_code_2(tmp_path):
    path = tmp_path / "best.ckpt"
    path.write_bytes(b"no checkpoint")
    command = [sys.executable, str(ROOT / "training" / "export.py"), "--checkpoint", str(path), "--output", "x"]
    result = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert result.returncode == 2
    assert result.stderr.count("\n") == 1
    assert str(path) in result.stderr
