"""Ask teachers once: `python training/annotate.py --config RECIPE --teacher A.ckpt --teacher B.ckpt --output FOLDER`.

Every training frame of the recipe's data, labelled or not, goes through every teacher of the committee, flipped and at
several scales, and the mean of the probabilities is stored. A recipe that names the folder as `model.teacher.source`
learns from it as fast as from labels alone. Stopped and started again, it goes on; under torchrun the processes share
the frames.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

if __name__ == "__main__":  # run as a script: this folder is not the package's parent
    sys.path[0] = str(Path(__file__).resolve().parents[1])
    from training.requirements import require

    require()

import cv2
import torch

from training.class_maps import ClassMapError
from training.committee import Committee, class_weight, scores
from training.distill import data_of
from training.soft_labels import SoftLabelError, SoftLabels
from training.teachers import Teacher, TeacherSource, load_teacher
from training.trained import TrainedError
from transkd_ros import cli
from transkd_ros.bags.image_folder import ImageFolderError
from transkd_ros.files import write_atomic
from transkd_ros.model.bundle import BundleError
from transkd_ros.model.labels import LabelTable
from transkd_ros.reports.machine import machine, versions

RANK, PROCESSES = (int(os.environ.get(name, value)) for name, value in (("RANK", 0), ("WORLD_SIZE", 1)))
"""Which of how many processes this one is, as torchrun says."""
BAD_INPUT = (BundleError, ClassMapError, ImageFolderError, SoftLabelError, TrainedError)


def annotate(committee: Committee, store: SoftLabels, frames: Any, progress: Callable[[], None]) -> int:
    """Store what the committee says of each of `frames` (an indexable of samples) that is not stored yet; how many."""
    stride, done = store.annotators.stride, 0
    for index in range(RANK, len(frames), PROCESSES):
        image = frames[index][0]
        if not store.has(image):
            height, width = image.shape[:2]
            store.add(image, *committee.ask(image, (-(-height // stride), -(-width // stride))))
            done += 1
        progress()
    return done


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="training/annotate.py", description=(__doc__ or "").split(":")[0])
    parser.add_argument("--config", type=Path, action="append", required=True, help="recipe whose data are annotated")
    parser.add_argument("--teacher", action="append", required=True, help="checkpoint, bundle or hub name; repeatable")
    parser.add_argument("--class-map", action="append", help="of all teachers, or one for each in their order")
    parser.add_argument("--labels", help="class table of published teachers (name or YAML file)")
    parser.add_argument("--output", type=Path, required=True, help="folder of the soft labels")
    parser.add_argument("--score", type=Path, help="first score all on the recipe's val split, into a JSON file")
    parser.add_argument("--size", type=cli.size, help="WIDTHxHEIGHT the teachers see (default: the recipe's val_size)")
    parser.add_argument("--scales", type=cli.positive_float, nargs="+", default=[1.0], help="of that size (default 1)")
    parser.add_argument("--flip", action=argparse.BooleanOptionalAction, default=True, help="average over both sides")
    parser.add_argument("--class-weights", type=class_weight, nargs="+", default=[], help="pole=2.7: says it earlier")
    parser.add_argument("--stride", type=cli.positive_int, default=4, help="frame pixels a stored one (default 4)")
    parser.add_argument("--precision", choices=("fp32", "bf16", "fp16"), default="fp32", help="the teachers compute in")
    return parser


def main() -> int:
    args = _parser().parse_args()
    data = data_of([word for recipe in args.config for word in ("--config", str(recipe))])
    data.setup("fit")
    maps = maps_of_each(args.class_map or [None], args.teacher)
    pairs = zip(args.teacher, maps, strict=True)
    sources = [TeacherSource(name, args.precision, args.labels, class_map) for name, class_map in pairs]
    size = args.size or data.val_size
    committee = Committee(load_members(sources), size, args.scales, args.flip, dict(args.class_weights))
    check_classes(committee, LabelTable.load(data.labels), f"the data of {args.config[-1]}")
    store = SoftLabels.create(args.output, committee.described(maps, args.stride))
    frames: Any = data.frames
    with cli.progress() as bar:
        if args.score and RANK == 0:
            task = bar.add_task("scoring", total=len(data.val_set))
            found = scores(committee, data.val_set, lambda: bar.advance(task))
            result = {"annotators": asdict(store.annotators), "val": found}
            result |= {"machine": machine(), "versions": versions()}
            write_atomic(args.score, json.dumps(result, indent=2) + "\n")
            print(*(f"{score['miou']:.1%} {name}" for name, score in found.items()), sep="\n")
        task = bar.add_task("annotating", total=len(frames))
        done = annotate(committee, store, frames, lambda: bar.advance(task))
    print(f"{args.output}: {len(frames)} frames, {done} of them new")
    return 0


def maps_of_each(maps: list[str | None], teachers: list[str]) -> list[str | None]:
    """The class map of each teacher; a single one is that of all. Raises CommandError for another number of them."""
    maps = maps * len(teachers) if len(maps) == 1 else maps
    if len(maps) != len(teachers):
        raise cli.CommandError(f"--class-map is given {len(maps)} times for {len(teachers)} teachers")
    return maps


def check_classes(committee: Committee, table: LabelTable, whose: str, remedy: str = "") -> None:
    """Raises CommandError where the teachers know other classes than `table`, that of `whose`."""
    own, theirs = table.names, committee.labels.names
    if own != theirs:
        raise cli.CommandError(
            f"the teachers know {len(theirs)} classes ({', '.join(theirs[:4])} …), {whose} {len(own)} "
            f"({', '.join(own[:4])} …): give the teachers a --class-map{remedy}"
        )


def load_members(sources: Sequence[TeacherSource]) -> list[Teacher]:
    """The teachers, on this process's device. Raises CommandError for a store, and what `load_teacher` raises."""
    device = torch.device(f"cuda:{os.environ.get('LOCAL_RANK', 0)}" if torch.cuda.is_available() else "cpu")
    members = []
    for source in sources:
        teacher = load_teacher(source)
        if not isinstance(teacher, Teacher):
            raise cli.CommandError(f"--teacher {source.source} is a store of soft labels, not a network")
        members.append(teacher.to(device))
    return members


if __name__ == "__main__":
    cv2.setNumThreads(0)
    cli.run(main, *BAD_INPUT)
