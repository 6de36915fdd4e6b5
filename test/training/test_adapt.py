"""From a drive without labels to a bundle: the tutorial as it stands in the docs, made small, and what is refused."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest

pytest.importorskip("torch", reason="the training wing needs torch")
pytest.importorskip("lightning")
pytest.importorskip("onnxscript")

from training import adapt, distill
from training.adaptation.opinion import labelmap
from training.adaptation.recipe import trust_of
from training.data.convert.masks import read_labelmap, read_masks
from training.data.extraction import FramesError
from training.soft_labels import SoftLabels
from transkd_ros.bags.messages import image_message
from transkd_ros.bags.storage import BagWriter
from transkd_ros.cli import CommandError
from transkd_ros.model.bundle import load_bundle
from transkd_ros.model.labels import LabelTable
from transkd_ros.resources import DEFAULT_MODEL, find_model
from transkd_ros.scenes import Drive

pytestmark = [pytest.mark.training, pytest.mark.slow, pytest.mark.filterwarnings("ignore"), pytest.mark.timeout(300)]
PAGE = (Path(__file__).parents[2] / "docs" / "adapt.md").read_text()
HUB = "owner/segformer-of-19-classes"
SMALL = ["--longest", "128", "--size", "96x64", "--steps", "3", "--batch", "2", "--no-int8", "--no-flip"]


def save_in_hub_cache(cache: Path) -> None:
    """A small SegFormer of Cityscapes' classes, where and as huggingface_hub keeps what it has fetched."""
    import segmentation_models_pytorch as smp

    repository, commit = cache / f"models--{HUB.replace('/', '--')}", "0" * 40
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(commit)
    smp.Segformer("mit_b0", encoder_weights=None, classes=19).save_pretrained(repository / "snapshots" / commit)


@pytest.fixture(scope="module")
def tutorial(tmp_path_factory):
    """The folder in which the commands of docs/adapt.md were executed, on few and small frames and steps, with a
    teacher of the hub beside the shipped one; and the arguments of the last one."""
    from huggingface_hub import constants

    folder = tmp_path_factory.mktemp("tutorial")
    save_in_hub_cache(folder / "hub")
    with pytest.MonkeyPatch.context() as patched:
        patched.chdir(folder)
        patched.setattr(constants, "HF_HUB_OFFLINE", True)
        patched.setattr(constants, "HF_HUB_CACHE", str(folder / "hub"))
        (recording,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
        small = recording.replace("FRAMES, SIZE = 300, (360, 480)", "FRAMES, SIZE = 20, (96, 128)")
        assert small != recording
        exec(small, {})
        commands = re.findall(r"^python training/adapt\.py (.*)$", PAGE, re.MULTILINE)
        assert len(commands) == 2 and "--dry-run" in commands[0]
        more = ["--teacher", HUB, "--labels", "cityscapes", "--class-map", "none", "--class-map", "cityscapes_camvid"]
        more += ["--class-weights", "pole=2.7", "sign_symbol=1.5"]
        arguments = [*shlex.split(commands[1]), *more, *SMALL]
        assert adapt.main(arguments) == 0
        yield folder, arguments


@pytest.fixture
def run(tutorial, monkeypatch):
    folder, _ = tutorial
    monkeypatch.chdir(folder)
    return folder / "runs" / "my_robot"


def test_the_tutorial_ends_with_a_bundle_a_report_and_a_recipe(tutorial, run):
    folder, _ = tutorial
    bundle = load_bundle(folder / "models" / "my_robot")
    assert bundle.manifest.architecture["encoder"] == "tu-tf_efficientnet_lite0"
    assert "camvid_student" in bundle.manifest.data_note
    result = json.loads((run / "result.json").read_text())
    assert result["frames"] == {"trained on": 16, "to choose the best epoch by": 2, "held out": 2}
    assert 0 < result["trust"]["kept"] <= 1 and set(result["trust"]["kept_by_class"]) == set(TABLE.names)
    for model in ("before", "after"):
        assert set(result["held_out"][model]) == {"teacher", "labels"}  # the rendered bag has labels
    page = (run / "report.html").read_text()
    assert "Worth a label" in page and "before" in page and 'src="http' not in page
    recipe = distill.settings_of(["--config", str(run / "recipe.yaml")])
    assert recipe["model.initial_weights"] == DEFAULT_MODEL
    assert recipe["data.init_args.unlabelled.part"] == (0.0, 0.8)
    weights = dict(zip(TABLE.names, recipe["model.class_weights"], strict=True))
    assert (weights["pole"], weights["sign_symbol"], weights["road"]) == (2.7, 1.5, 1.0)


def test_a_teacher_of_the_hubs_cache_teaches_through_its_class_map(run):
    store = SoftLabels(run / "soft_labels")
    assert [teacher["source"] for teacher in store.annotators.teachers] == ["camvid_student", HUB]
    assert store.annotators.teachers[1]["class_map"] == "cityscapes_camvid"
    assert store.labels.names == TABLE.names
    assert store.annotators.weights == {"pole": 2.7, "sign_symbol": 1.5}


def test_called_again_it_does_nothing_twice_and_with_other_settings_it_refuses(tutorial, run, monkeypatch):
    _, arguments = tutorial
    checkpoint = run / "checkpoints" / "best.ckpt"
    before = checkpoint.stat().st_mtime_ns
    monkeypatch.setattr(adapt.distill, "main", lambda args: pytest.fail("trained again"))
    monkeypatch.setattr(adapt.export, "export", lambda args: pytest.fail("exported again"))
    monkeypatch.setattr(adapt, "ask", lambda *_: SoftLabels(run / "soft_labels"))  # the hub's cache is gone
    assert adapt.main(arguments) == 0
    assert checkpoint.stat().st_mtime_ns == before
    with pytest.raises(CommandError, match=r"my_robot holds an adaptation with another --every"):
        adapt.main([*arguments, "--every", "2"])
    shutil.copytree(find_model("camvid_student"), "others/my_robot")
    with pytest.raises(CommandError, match=r"others/my_robot holds a model bundle; give --overwrite"):
        adapt.main([*arguments, "--output", "others/my_robot"])


def test_a_recipe_that_was_edited_since_its_run_is_not_passed_over(tutorial, run, monkeypatch):
    _, arguments = tutorial
    recipe = run / "recipe.yaml"
    text = recipe.read_text()
    monkeypatch.setattr(adapt, "ask", lambda *_: SoftLabels(run / "soft_labels"))
    try:
        recipe.write_text(text.replace("trust: 0.5", "trust: 0.75"))
        assert trust_of(recipe) == 0.75
        with pytest.raises(CommandError, match=r"model\.distiller.* was changed since that run; .*--overwrite"):
            adapt.main(arguments)
    finally:
        recipe.write_text(text)


def test_one_of_several_processes_prints_the_command_that_goes_on_and_does_not_train(
    tutorial, run, monkeypatch, capsys
):
    _, arguments = tutorial
    for name in ("train", "write_bundle"):
        monkeypatch.setattr(adapt, name, lambda *_: pytest.fail("a process of several went on"))
    monkeypatch.setattr(adapt, "ask", lambda *_: SoftLabels(run / "soft_labels"))
    monkeypatch.setattr(adapt, "PROCESSES", 2)
    for rank, printed in ((1, False), (0, True)):
        monkeypatch.setattr(adapt, "RANK", rank)
        assert adapt.main(arguments) == 0
        assert (f"train: python training/adapt.py {shlex.join(arguments)}\n" in capsys.readouterr().out) == printed


def test_a_run_that_was_stopped_goes_on_from_its_last_checkpoint(tutorial, run, monkeypatch):
    state = adapt.Adaptation(adapt.parse_arguments(tutorial[1]), load_bundle("models/my_robot"))
    asked = []
    monkeypatch.setattr(adapt.distill, "main", lambda args: asked.append(args))
    (run / "metrics.json").rename(run / "kept.json")
    try:
        with pytest.raises(CommandError, match=r"has ended without metrics\.json"):
            adapt.train(state, run / "recipe.yaml")
    finally:
        (run / "kept.json").rename(run / "metrics.json")
    last = "runs/my_robot/checkpoints/last.ckpt"
    assert asked == [["--config", str(run / "recipe.yaml"), "--ckpt_path", last]]


def test_frames_worth_a_label_are_read_back_as_they_were_written(run):
    folder = run / "for_labelling"
    listed = json.loads((folder / "frames.json").read_text())
    assert len(listed) == 3 and listed[0]["disagreement"] >= listed[-1]["disagreement"] > 0
    assert read_labelmap(folder / "labelmap.txt").names == TABLE.names
    found = read_masks(folder / "JPEGImages", folder / "SegmentationClass", None, folder / "labelmap.txt")
    assert len(found.images) == 3
    mask = found.images[0].mask()
    assert mask.shape == (96, 128) and mask.max() < 11
    assert labelmap(TABLE).splitlines()[1] == "sky:{},{},{}::".format(*TABLE.colors[0])


def test_the_plan_names_sizes_and_times_and_leaves_nothing(tutorial, run, capsys):
    bag = run.parents[1] / "drive"
    words = ["--bag", str(bag), "--teacher", "camvid_student", "--output", "planned", "--dry-run", *SMALL]
    assert adapt.main(words) == 0
    out = capsys.readouterr().out
    assert "at most 20 frames" in out and " MB" in out and "3 steps of 2" in out
    assert not Path("planned").exists() and not Path("runs/planned").exists()


# ---- bad input
TABLE = LabelTable.load("camvid")


def record(path, count):
    with BagWriter(path) as bag:
        for index in range(count):
            image = Drive(index, (96, 128)).frame(0)[0]
            bag.write("/camera/image_raw", image_message(image, "rgb8", (index + 1) * 10**9))
    return path


def refused(*arguments):
    with pytest.raises((CommandError, *adapt.BAD_INPUT)) as raised:
        adapt.main([*map(str, arguments), *SMALL])
    assert "\n" not in str(raised.value)
    return str(raised.value)


def test_a_drive_shorter_than_its_held_out_stretch_is_one_line(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    bag = record(tmp_path / "short", 2)
    text = refused("--bag", bag, "--teacher", "camvid_student", "--output", "out")
    assert re.search(r"short: too short for a stretch that is held out: 1, 0, 1 frames", text)
    assert not (tmp_path / "out").exists()


def test_teachers_and_students_that_do_not_fit_are_one_line(tmp_path, monkeypatch, tiny_bundle):
    monkeypatch.chdir(tmp_path)
    bag = record(tmp_path / "drive", 12)
    text = refused("--bag", bag, "--teacher", "camvid_student", "--student", tiny_bundle.path, "--output", "out")
    assert "the teachers know 11 classes" in text and "3 (red, green, blue …)" in text and "--student" in text
    assert "no model 'nobody'" in refused("--bag", bag, "--teacher", "T", "--student", "nobody", "--output", "out")
    assert "hub name" in refused("--bag", bag, "--teacher", "nobody", "--output", "out", "--work", "w")
    (tmp_path / "mine").mkdir()
    text = refused("--bag", bag, "--teacher", "camvid_student", "--output", "mine")
    assert "mine exists and is not a model bundle" in text


def test_images_in_a_folder_are_a_drive_too_and_a_missing_one_is_named(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "images").mkdir()
    rng = np.random.default_rng(0)
    for number in range(10):
        cv2.imwrite(str(tmp_path / "images" / f"{number}.png"), rng.integers(256, size=(40, 60, 3), dtype=np.uint8))
    arguments = ["--bag", "images", "--teacher", "camvid_student", "--output", "out"]
    adaptation = adapt.Adaptation(adapt.parse_arguments(arguments), load_bundle(adapt.find_model("camvid_lite0")))
    assert len(adapt._held_out(adaptation, adapt.extract(adaptation.frames))) == 1
    with pytest.raises(FramesError, match="nowhere"):
        adapt.main(["--bag", "nowhere", *arguments[2:]])
