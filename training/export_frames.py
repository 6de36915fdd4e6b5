"""Real frames for an export: those that a bundle is checked and measured on, and those that int8 is calibrated on.

By default they are those of the run that is exported, as its `config.yaml` names them.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from jsonargparse import ArgumentParser

from training.callbacks.folder import METRICS
from training.data.base import SegmentationData
from training.data.camvid import CamVid, find_camvid
from training.data.samples import LabelledImages, Samples, UnlabelledImages, own_ids, spread
from training.data.scenes import RenderedScenes
from training.soft_labels import INDEX, SoftLabels
from transkd_ros.bags.image_folder import ImageFolderError, list_frames, list_images
from transkd_ros.bags.storage import BagReader
from transkd_ros.cli import CommandError, one_line
from transkd_ros.frames import Frame, decode
from transkd_ros.model.labels import LabelTable

RENDERED = 24
"""Scenes to check on where there are no real frames."""


@dataclass(frozen=True)
class Frames:
    """Samples under the name of their split, e.g. `camvid_val`; labels count only where `labelled`, and int8 is not
    judged by what is not `real`."""

    name: str
    samples: Samples
    labelled: bool
    real: bool = True

    def some(self, count: int) -> list[np.ndarray]:
        """Up to `count` images (H, W, 3) uint8 RGB, spread evenly over all."""
        return [self.samples[index][0] for index in spread(len(self.samples), count)]


@dataclass(frozen=True)
class Calibration(Sequence[np.ndarray]):
    """Images (H, W, 3) uint8 RGB of `size` (H, W), read when they are asked for: up to `most` of the samples."""

    samples: Samples
    size: tuple[int, int]
    most: int

    def __len__(self) -> int:
        return min(self.most, len(self.samples))

    def __getitem__(self, index: Any) -> Any:
        image = self.samples[spread(len(self.samples), self.most)[index]][0]
        return Frame(image, "rgb8").rgb(self.size)


@dataclass(frozen=True)
class Run:
    """What the folder of a run says about how its network came about."""

    path: Path
    config: dict[str, Any]

    @classmethod
    def of(cls, checkpoint: Path) -> Run | None:
        """The run whose folder a checkpoint lies in, or in whose `checkpoints/`; None where no config.yaml is there.

        Raises CommandError for one that is no recipe.
        """
        for folder in (checkpoint.parent, checkpoint.parent.parent):
            if (path := folder / "config.yaml").is_file():
                config = yaml.safe_load(path.read_text(encoding="utf-8"))
                if not (isinstance(config, dict) and isinstance(config.get("data"), dict)):
                    raise CommandError(f"{path} is not the recipe of a run: it has no data; give --images and --labels")
                return cls(path, config)
        return None

    @property
    def data(self) -> SegmentationData:
        """The data set of the run. Raises CommandError for options that it does not take."""
        parser = ArgumentParser(exit_on_error=False)
        parser.add_subclass_arguments(SegmentationData, "data")
        if labels := (self.config.get("model") or {}).get("labels"):  # as in training, where it stands once
            parser.add_argument("--labels", default=labels)
            parser.link_arguments("labels", "data.init_args.labels")
        try:
            return parser.instantiate(parser.parse_object({"data": self.config["data"]})).data
        except Exception as error:  # of jsonargparse, and whatever a data set's class raises
            raise CommandError(f"{self.path}: its data cannot be built: {one_line(error)[:200]}") from error

    @property
    def data_name(self) -> str:
        """What the data are called: a folder of one's own by its name, a published data set by its class."""
        kind = self.config["data"]["class_path"].rpartition(".")[2]
        root = self.config["data"].get("init_args", {}).get("root")
        return Path(root).resolve().name if kind == "Folder" and root else kind.lower()

    @property
    def input_size(self) -> tuple[int, int]:
        return self.data.val_size

    def teaching(self) -> dict[str, Any]:
        """Of a distilled network, its "method" and "teachers", each with its "source", and a single one with the "miou"
        that the run has measured of it on its validation set. Empty for a run from labels only."""
        model = self.config.get("model") or {}
        if not model.get("distiller"):
            return {}
        source = Path(model["teacher"]["source"])
        teachers: list[dict[str, Any]] = [{"source": str(source)}]
        if (source / INDEX).is_file():
            teachers = [{"source": teacher["source"]} for teacher in SoftLabels(source).annotators.teachers]
        else:
            metrics = self.path.parent / METRICS
            if metrics.is_file() and (miou := json.loads(metrics.read_text()).get("teacher_val_miou")) is not None:
                teachers[0]["miou"] = round(miou, 6)
        return {"method": model["distiller"]["class_path"].rpartition(".")[2], "teachers": teachers}

    def describe_data(self) -> str:
        """A sentence for the model card."""
        scenes = self.config["data"].get("init_args", {}).get("scenes")
        rendered = f" and {scenes} rendered scenes" if scenes and self.data_name != "rendered" else ""
        return f"Trained on {self.data_name} train{rendered}. What the data allow is not stated here."


def checked_frames(
    run: Run | None, images: Path | None, labels: Path | None, name: str | None, table: LabelTable
) -> Frames:
    """The frames of a folder, else those that the run validated on, else CamVid val where it is found and the classes
    are its own, else rendered scenes, whose labels do not count. Raises ImageFolderError."""
    if images:
        samples: Samples = UnlabelledImages(list_images(images))
        if labels:
            samples = LabelledImages(list_frames(images, labels), own_ids(len(table.names)))
        samples.check()
        return Frames(name or images.resolve().name, samples, bool(labels))
    data = run.data if run else _camvid(table)
    if data:
        try:
            samples = data.split("val")
            samples.check()
            labelled = not isinstance(samples, UnlabelledImages)  # as of drives alone
            return Frames(name or f"{run.data_name if run else 'camvid'}_val", samples, labelled)
        except ImageFolderError as error:
            print(f"the frames of the run are not there ({one_line(error)}); --images and --labels name others")
    print("checking on rendered scenes, measuring nothing")
    return Frames("rendered", RenderedScenes(RENDERED), labelled=False, real=False)


def calibration_images(
    run: Run | None, source: Path | None, size: tuple[int, int], count: int, table: LabelTable
) -> Sequence[np.ndarray]:
    """Up to `count` images for int8 of `size` (H, W): of a folder or bag, else of what the run trained on, else of
    CamVid train as in `checked_frames`; none where nothing is found. Raises ImageFolderError and BagError."""
    if source and not (source / "metadata.yaml").is_file() and source.is_dir():
        return Calibration(UnlabelledImages(list_images(source)), size, count)
    if source:
        return list(_of_bag(source, size, count))
    data = run.data if run else _camvid(table)
    return Calibration(data.split("train"), size, count) if data else []


def _camvid(table: LabelTable) -> SegmentationData | None:
    return CamVid() if find_camvid() and table.names == LabelTable.load(CamVid.labels).names else None


def _of_bag(path: Path, size: tuple[int, int], count: int) -> Iterator[np.ndarray]:
    """Frames of all cameras of a bag, evenly over its length."""
    with BagReader(path) as bag:
        topics = bag.camera_topics()
        for topic in topics:
            chosen = set(spread(bag.counts[topic], max(1, count // len(topics))))
            for index, (_, message) in enumerate(bag.frames(topic)):
                if index in chosen:
                    yield decode(message).rgb(size)
