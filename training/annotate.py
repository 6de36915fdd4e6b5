"""Ask teachers once: `python training/annotate.py --config RECIPE --teacher A.ckpt --teacher B.ckpt --output FOLDER`.

Every training frame of the recipe's data goes through every teacher of the committee, flipped and at several scales,
and the mean of the probabilities is stored. A recipe that names the folder as `model.teacher.source` learns from it as
fast as from labels alone. Stopped and started again, it goes on; under torchrun the processes share the frames.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

if __name__ == "__main__":  # run as a script: this folder is not the package's parent
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.transforms import v2

from training.class_maps import ClassMapError
from training.distill import data_of
from training.networks import SIZE_DIVISOR, resize
from training.soft_labels import Annotators, SoftLabelError, SoftLabels
from training.teachers import Teacher, TeacherSource, load_teacher
from training.trained import TrainedError
from transkd_ros import cli
from transkd_ros.bags.image_folder import ImageFolderError
from transkd_ros.model.bundle import BundleError
from transkd_ros.model.labels import LabelTable

BAD_INPUT = (BundleError, ClassMapError, ImageFolderError, SoftLabelError, TrainedError)


class Committee:
    """Teachers of the same classes, whose probabilities are averaged over the views of a frame.

    `size` (H, W) times each of `scales`, in multiples of SIZE_DIVISOR, is what they see. `weights` of classes multiply
    their probabilities, which are made to sum to one again, as class weights of a cross-entropy move a network's: what
    is thin is never likely pixel by pixel, and IoU rewards to say it earlier **[ours]**.

    Raises SoftLabelError for members that disagree about the classes.
    """

    def __init__(
        self,
        members: Sequence[Teacher],
        size: tuple[int, int],
        scales: Sequence[float] = (1.0,),
        flip: bool = True,
        weights: Mapping[str, float] | None = None,
    ) -> None:
        self.members, self.scales, self.flip, self.size = tuple(members), tuple(scales), flip, size
        tables = [_table_of(member) for member in members]
        for member, table in zip(members, tables, strict=True):
            if table.names != tables[0].names:
                raise SoftLabelError(
                    f"{member.source} knows other classes than {members[0].source} "
                    f"({', '.join(table.names[:4])} …); give it a --class-map"
                )
        self.labels = tables[0]
        self.weights = dict(weights or {})
        if unknown := [name for name in self.weights if name not in self.labels.names]:
            raise SoftLabelError(f"--class-weights: the teachers have no class {unknown[0]}")

    @torch.no_grad()
    def __call__(self, image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
        """Mean probabilities (classes, *size) float32 of a frame (H, W, 3) uint8 RGB."""
        device = self.members[0].normalise.mean.device
        frame = torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))[None].to(device)
        views = [self._look(member, frame, scale, size) for member in self.members for scale in self.scales]
        weights = torch.tensor([self.weights.get(name, 1.0) for name in self.labels.names], device=device)
        weighted = torch.stack(views).mean(0) * weights.view(-1, 1, 1)
        return (weighted / weighted.sum(0)).cpu().numpy()

    def _look(self, member: Teacher, frame: Tensor, scale: float, size: tuple[int, int]) -> Tensor:
        view = v2.functional.resize(frame, [_divisible(side * scale) for side in self.size], antialias=True)
        views = torch.cat([view, view.flip(-1)]) if self.flip else view
        probabilities = member(views).logits.float().softmax(1)
        if self.flip:
            probabilities = (probabilities[:1] + probabilities[1:].flip(-1)) / 2
        smaller = all(have > want for have, want in zip(probabilities.shape[-2:], size, strict=True))
        return F.adaptive_avg_pool2d(probabilities, size)[0] if smaller else resize(probabilities, size)[0]

    def described(self, class_maps: Sequence[str | None], stride: int) -> Annotators:
        """What the store says of the committee."""
        teachers: list[dict[str, str | None]] = [
            {"source": member.source, "fingerprint": member.fingerprint(), "class_map": class_map}
            for member, class_map in zip(self.members, class_maps, strict=True)
        ]
        return Annotators(self.labels.to_json(), teachers, self.size, self.scales, self.flip, self.weights, stride)


def _table_of(member: Teacher) -> LabelTable:
    if member.labels is None:
        raise SoftLabelError(f"{member.source} does not say what its classes are: give --labels or --class-map")
    return member.labels


def _divisible(side: float) -> int:
    return max(1, round(side / SIZE_DIVISOR)) * SIZE_DIVISOR


def annotate(committee: Committee, store: SoftLabels, frames: Any, progress: Callable[[], None]) -> int:
    """Store what the committee says of each of `frames` (an indexable of samples) that is not stored yet; how many."""
    rank, processes = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    stride, done = store.annotators.stride, 0
    for index in range(rank, len(frames), processes):
        image = frames[index][0]
        if not store.has(image):
            height, width = image.shape[:2]
            store.add(image, committee(image, (-(-height // stride), -(-width // stride))))
            done += 1
        progress()
    return done


def _weight(text: str) -> tuple[str, float]:
    """An argparse type: `pole=2.7`."""
    name, separator, factor = text.rpartition("=")
    if not separator:
        raise argparse.ArgumentTypeError(f"{text} is not CLASS=FACTOR, e.g. pole=2.7")
    return name, cli.positive_float(factor)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="training/annotate.py", description=(__doc__ or "").split(":")[0])
    parser.add_argument("--config", type=Path, action="append", required=True, help="recipe whose data are annotated")
    parser.add_argument("--teacher", action="append", required=True, help="checkpoint, bundle or hub name; repeatable")
    parser.add_argument("--class-map", action="append", help="of all teachers, or one for each in their order")
    parser.add_argument("--labels", help="class table of published teachers (name or YAML file)")
    parser.add_argument("--output", type=Path, required=True, help="folder of the soft labels")
    parser.add_argument("--size", type=cli.size, help="WIDTHxHEIGHT the teachers see (default: the recipe's val_size)")
    parser.add_argument("--scales", type=cli.positive_float, nargs="+", default=[1.0], help="of that size (default 1)")
    parser.add_argument("--flip", action=argparse.BooleanOptionalAction, default=True, help="average over both sides")
    parser.add_argument("--class-weights", type=_weight, nargs="+", default=[], help="e.g. pole=2.7: says it earlier")
    parser.add_argument("--stride", type=cli.positive_int, default=4, help="frame pixels a stored one (default 4)")
    parser.add_argument("--precision", choices=("fp32", "bf16", "fp16"), default="fp32", help="the teachers compute in")
    return parser


def main() -> int:
    args = _parser().parse_args()
    data = data_of([word for recipe in args.config for word in ("--config", str(recipe))])
    data.setup("fit")
    maps = args.class_map or [None]
    maps = maps * len(args.teacher) if len(maps) == 1 else maps
    if len(maps) != len(args.teacher):
        raise cli.CommandError(f"--class-map is given {len(maps)} times for {len(args.teacher)} teachers")
    device = torch.device(f"cuda:{os.environ.get('LOCAL_RANK', 0)}" if torch.cuda.is_available() else "cpu")
    members = []
    for source, class_map in zip(args.teacher, maps, strict=True):
        teacher = load_teacher(TeacherSource(source, args.precision, args.labels, class_map))
        if not isinstance(teacher, Teacher):
            raise cli.CommandError(f"--teacher {source} is a store of soft labels, not a network")
        members.append(teacher.to(device))
    size = args.size or tuple(data.hparams["val_size"])
    committee = Committee(members, size, args.scales, args.flip, dict(args.class_weights))
    store = SoftLabels.create(args.output, committee.described(maps, args.stride))
    frames: Any = data.train_set
    with cli.progress() as bar:
        task = bar.add_task("annotating", total=len(frames))
        done = annotate(committee, store, frames, lambda: bar.advance(task))
    print(f"{args.output}: {len(frames)} frames, {done} of them new")
    return 0


if __name__ == "__main__":
    cv2.setNumThreads(0)
    cli.run(main, *BAD_INPUT)
