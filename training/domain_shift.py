"""What adaptation is worth where the weather changes: `python training/domain_shift.py --teacher A.ckpt`.

Rendered drives at dusk and in rain are the robot's bags. The shipped student is adapted to each by training/adapt.py,
without their labels, and then scored, before and after, with the exact labels of the end of the drives, and on CamVid
val, which it should not forget. Writes OUTPUT.json, OUTPUT.md and OUTPUT.png; what is there is not done again.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from pathlib import Path
from typing import Any

if __name__ == "__main__":  # run as a script: this folder is not the package's parent
    sys.path[0] = str(Path(__file__).resolve().parents[1])
    from training.requirements import require

    require()

import cv2

from training import adapt, distill
from training.bundle_checks import measure
from training.data.camvid import CamVid
from training.export_frames import Frames
from transkd_ros import cli, sizes
from transkd_ros.bags.label_classes import write_classes
from transkd_ros.bags.messages import image_message
from transkd_ros.bags.storage import BagWriter
from transkd_ros.files import write_atomic
from transkd_ros.model.bundle import Bundle, load_bundle
from transkd_ros.model.labels import LabelTable
from transkd_ros.reports.html import axes, png
from transkd_ros.reports.machine import machine, versions
from transkd_ros.resources import find_model
from transkd_ros.scenes import Drive
from transkd_ros.scenes.weather import WEATHERS

SECOND = 1_000_000_000
PER_DRIVE = 10  # frames of one street, two seconds apart, before the next


def record(path: Path, weather: str, frames: int, first: int, size: tuple[int, int]) -> Path:
    """A bag of `frames` labelled scenes in that weather, one a second; streets of the seeds from `first` on."""
    if path.exists():
        return path
    with BagWriter(path) as bag, cli.progress() as bar:
        write_classes(bag, "/camera/ground_truth", LabelTable.load("camvid"), SECOND)
        for number in bar.track(range(frames), description=f"rendering {weather}"):
            drive = Drive(first + number // PER_DRIVE, size, weather)
            image, labels = drive.frame(number % PER_DRIVE, rate=0.5)
            stamp = (number + 1) * SECOND
            bag.write("/camera/image_raw", image_message(image, "rgb8", stamp))
            bag.write("/camera/ground_truth", image_message(labels, "mono8", stamp))
    return path


def camvid_val(bundle: Bundle) -> float:
    """mIoU of a bundle in fp32 on CamVid val. Raises ImageFolderError where that is not found."""
    metrics, _ = measure(bundle, Frames("camvid_val", CamVid(scenes=0).split("val"), labelled=True))
    return float(metrics["fp32"]["miou"])


def shift(weather: str, args: argparse.Namespace, more: list[str], val_before: float) -> dict[str, Any]:
    """Adapt to one weather; scores before and after, as fractions."""
    folder = args.work / weather
    height, width = args.render_size
    name = f"drive_{args.first}_{args.frames}_{width}x{height}"  # another one is another bag
    bag = record(folder / name, weather, args.frames, args.first, args.render_size)
    output = folder / "model"
    words = ["--bag", str(bag), "--output", str(output), "--work", str(folder / "run"), "--student", args.student]
    words += [word for teacher in args.teacher for word in ("--teacher", teacher)]
    words += ["--labelled", str(args.labelled)] if args.labelled else []
    adapt.main([*words, "--most", str(args.frames), "--no-int8", *more])
    result = json.loads((folder / "run" / "result.json").read_text(encoding="utf-8"))
    scores = {who: result["held_out"][who]["labels"] for who in ("before", "after", "teachers")}
    val = {"before": val_before, "after": camvid_val(load_bundle(output))}
    return {"labels": scores, "camvid_val": val, **{key: result[key] for key in ("frames", "trust", "seconds")}}


def page(result: dict[str, Any], image: str) -> str:
    """The table as Markdown."""
    lines = [
        "# Adaptation to other weather",
        "",
        f"Written by `{result['command']}`; do not edit.",
        "",
        "The student before and after `training/adapt.py` on rendered drives without their labels, scored with the",
        "exact labels of the end of the drives, which it was not trained on, and on CamVid val. mIoU in %, and in",
        "brackets the share of the pixels that are right.",
        "",
        "| weather | its teachers | before | after | difference | CamVid val before | after |",
        "|---|---|---|---|---|---|---|",
    ]
    for weather, found in result["weathers"].items():
        before, after = (100 * found["labels"][when]["miou"] for when in ("before", "after"))
        shown = (found["labels"][who] for who in ("teachers", "before", "after"))
        scored = " | ".join(f"{100 * it['miou']:.1f} ({100 * it['pixel_accuracy']:.1f})" for it in shown)
        val = " | ".join(f"{100 * found['camvid_val'][when]:.1f}" for when in ("before", "after"))
        lines.append(f"| {weather} | {scored} | {after - before:+.1f} | {val} |")
    teachers = ", ".join(f"`{teacher}`" for teacher in result["teachers"])
    seen = sizes.text(sizes.read(result["input_size"]))
    who = f"Student `{result['student']}`, which sees {seen}, teachers {teachers}, one seed."
    lines += ["", who, "", f"![mIoU by weather]({image})", ""]
    return "\n".join(lines)


def plot(result: dict[str, Any]) -> bytes:
    """A PNG: bars of the mIoU of the teachers, and of the student before and after."""
    figure, shown = axes(5.6, 3.0)
    weathers = result["weathers"]
    for offset, who in ((-0.26, "teachers"), (0, "before"), (0.26, "after")):
        heights = [100 * found["labels"][who]["miou"] for found in weathers.values()]
        shown.bar([place + offset for place in range(len(weathers))], heights, 0.24, label=who)
    shown.set_xticks(range(len(weathers)), list(weathers))
    shown.set_ylabel("mIoU on exact labels (%)")
    shown.legend(frameon=False, ncols=3, loc="lower center", bbox_to_anchor=(0.5, 1.0))
    figure.dpi = 120
    return png(figure)


def parse_arguments() -> tuple[argparse.Namespace, list[str]]:
    parser = argparse.ArgumentParser(
        description=(__doc__ or "").split(":")[0], epilog="Other options are those of training/adapt.py."
    )
    parser.add_argument("--teacher", action="append", required=True, help="checkpoint or bundle; repeatable")
    parser.add_argument("--student", default=adapt.DEFAULT_MODEL, help="bundle (%(default)s)")
    parser.add_argument("--labelled", type=Path, help="labelled images to mix in, so that nothing is forgotten")
    parser.add_argument("--weather", nargs="+", choices=sorted(WEATHERS), default=["dusk", "rain"])
    parser.add_argument("--frames", type=cli.positive_int, default=300, help="of each drive (%(default)s)")
    parser.add_argument("--first", type=int, default=5000, help="seed of the first street (%(default)s)")
    parser.add_argument("--render-size", type=cli.size, default=(360, 480), help="WIDTHxHEIGHT (480x360)")
    parser.add_argument("--work", type=Path, default=Path("runs/domain_shift"), help="folder (%(default)s)")
    parser.add_argument("--output", type=Path, default=Path("docs/results/adaptation"), help="(%(default)s)")
    return parser.parse_known_args()


def main() -> int:
    args, more = parse_arguments()
    student = load_bundle(find_model(args.student))
    val = camvid_val(student)
    result = {
        "command": shlex.join(["python", "training/domain_shift.py", *sys.argv[1:]]),
        "student": args.student,
        "input_size": sizes.named(student.manifest.input_size),
        "teachers": args.teacher,
        "weathers": {weather: shift(weather, args, more, val) for weather in args.weather},
        "machine": machine(),
        "versions": versions(),
    }
    table, text, image = (args.output.with_name(args.output.name + end) for end in (".json", ".md", ".png"))
    args.output.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(table, json.dumps(result, indent=2) + "\n")
    write_atomic(text, page(result, image.name))
    write_atomic(image, plot(result))
    print(text.read_text(encoding="utf-8"))
    return 0


if __name__ == "__main__":
    cv2.setNumThreads(0)
    distill.quiet()
    cli.run(main, *adapt.BAD_INPUT)
