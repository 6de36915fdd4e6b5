"""What an adaptation of training/adapt.py is of: its settings, and what follows from them."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

from torch.utils.data import Dataset

from training.annotate import check_classes, load_members, maps_of_each
from training.committee import Committee
from training.data.extraction import Unlabelled
from training.data.folder import Folder
from training.teachers import TeacherSource
from transkd_ros.model.bundle import Bundle


@dataclass(frozen=True)
class Adaptation:
    """An adaptation under way: its settings, its working folder, and the student that it starts from."""

    args: argparse.Namespace
    student: Bundle

    @property
    def folder(self) -> Path:
        return self.args.work

    @property
    def parts(self) -> tuple[tuple[float, float], tuple[float, float], tuple[float, float]]:
        """Of every drive: what is trained on, what the run is chosen by, and what is held out."""
        held_out = self.args.held_out
        first, second = round(1 - 2 * held_out, 6), round(1 - held_out, 6)
        return (0.0, first), (first, second), (second, 1.0)

    @property
    def frames(self) -> Unlabelled:
        args = self.args
        return Unlabelled(
            [str(path) for path in args.bag], args.topic, args.every, args.most, args.distinct, args.longest,
            self.parts[0], args.ratio, str(self.folder / "frames"),
        )  # fmt: skip

    def committee(self) -> tuple[Committee, list[str | None]]:
        """The teachers, and the class map of each. Raises CommandError where they know other classes."""
        args = self.args
        given = [None if name == "none" else name for name in args.class_map or ["none"]]
        maps = maps_of_each(given, args.teacher)
        pairs = zip(args.teacher, maps, strict=True)
        members = load_members([TeacherSource(name, labels=args.labels, class_map=by) for name, by in pairs])
        size, weights = args.size or self.student.manifest.input_size, dict(args.class_weights)
        committee = Committee(members, size, args.scales, args.flip, weights)
        table, whose = self.student.manifest.labels, f"the student {args.student}"
        check_classes(committee, table, whose, ", or take another --student")
        return committee, maps

    def labelled(self) -> Dataset | None:
        """The labelled training images, whose soft labels the run needs as well."""
        if self.args.labelled is None:
            return None
        images = Folder(str(self.args.labelled), str(self.folder / "classes.yaml")).split("train")
        images.check()
        return images
