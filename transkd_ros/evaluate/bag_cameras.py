"""Which topics of a bag are cameras, what they are called, and where the labels of each are."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from transkd_ros.bags.frame_files import FrameFiles
from transkd_ros.bags.label_classes import read_classes
from transkd_ros.bags.storage import BagReader
from transkd_ros.evaluate.truth import FilesTruth, FolderTruth, TopicTruth, Truth, TruthError
from transkd_ros.model.class_map import class_map
from transkd_ros.model.labels import LabelTable

GROUND_TRUTH = "ground_truth"


@dataclass(frozen=True)
class Camera:
    """`frames` messages on `topic` of a bag; `name` is `/front` for `/front/image_raw/compressed`.

    Its labels are on `label_topic`, or in `label_folder` (where `label_files` says it, these for its frames in order),
    or there are none; their ids are of the table `classes`, or it is not known of which.
    """

    bag: Path
    topic: str
    name: str
    frames: int
    label_topic: str | None = None
    label_folder: Path | None = None
    label_files: tuple[Path, ...] = ()
    classes: LabelTable | None = None

    @property
    def has_labels(self) -> bool:
        return bool(self.label_topic or self.label_folder)

    @contextmanager
    def open_truth(self) -> Iterator[Truth | None]:
        """The labels from the first one on. Raises BagError, ImageFolderError, TruthError."""
        if self.label_topic:
            with BagReader(self.bag) as bag:  # one of its own: two who read through one may move each other's place
                yield TopicTruth(bag, self.label_topic, self.classes)
        elif self.label_files:
            yield FilesTruth(self.label_files, self.classes)
        else:
            folder = self.label_folder
            yield FolderTruth(folder, self.frames, self.classes) if folder else None


def choose(
    bag: BagReader, topics: list[str] | None, label_topic: str | None = None, label_folder: Path | None = None,
    classes: LabelTable | None = None,
) -> list[Camera]:  # fmt: skip
    """The cameras on `topics`, by default all of the bag, with their labels.

    `label_topic` is a topic, or without a slash in front its name below each camera's; by default `ground_truth`, for
    the cameras that have it. `label_folder` is of one camera, or has a folder for each (`front` for `/front`).
    `classes` is the labels' class table, by default what the bag says of its label topics.
    Raises BagError for a topic that the bag lacks, TruthError for labels that fit no camera.
    """
    asked = bag.chosen_topics(topics, but=label_topic)
    found = [Camera(bag.path, topic, camera_name(topic), bag.counts[topic]) for topic in asked]
    if label_folder:
        folders = (_folder_of(camera, label_folder, len(found)) for camera in found)
        return [replace(camera, label_folder=f, classes=classes) for camera, f in zip(found, folders, strict=True)]
    label_topics = _labels(bag, found, label_topic)
    return [
        replace(camera, label_topic=name, classes=classes or (read_classes(bag, name) if name else None))
        for camera, name in zip(found, label_topics, strict=True)
    ]


def of_files(files: FrameFiles) -> Camera:
    """The camera whose frames are image files or a video."""
    return Camera(
        files.path, files.topic, camera_name(files.topic), files.counts[files.topic],
        label_folder=files.labels, label_files=tuple(files.label_files), classes=files.classes,
    )  # fmt: skip


def matched(cameras: list[Camera], model: str, labels: LabelTable) -> list[str]:
    """What a reader has to know of how the cameras' labels fit a model's classes: sentences, without repetition.

    Raises ClassTableError where a camera's labels have no class in common with the model.
    """
    remarks = []
    for camera in cameras:
        whose = f"the labels of {camera.name}"
        if camera.classes:
            mapping = class_map(camera.classes, labels, whose, model)
            remarks.append(mapping.remark(whose, model))
        elif camera.has_labels:
            remarks.append(
                f"It is not said of which classes {whose} are: their ids were taken as those of {model} (--classes)."
            )
    return list(dict.fromkeys(remark for remark in remarks if remark))


def bag_names(bags: Sequence[Path | str]) -> list[str]:
    """What each of several bags is called in the names of cameras: `/monday`, or its whole path where that is no name
    of one alone; "" for a single bag."""
    if len(bags) == 1:
        return [""]
    stems = [Path(bag).stem for bag in bags]
    names = [stem if stems.count(stem) == 1 else str(bag).strip("/") for stem, bag in zip(stems, bags, strict=True)]
    return [f"/{name}" for name in names]


def camera_name(topic: str) -> str:
    """`/front` of `/front/image_raw` and `/front/image_raw/compressed`; a topic of another name is its own."""
    return topic.removesuffix("/compressed").removesuffix("/image_raw") or topic


def describe(cameras: list[Camera]) -> str:
    """Where the labels are, in words; "" if there are none."""
    return ", ".join(str(camera.label_topic or camera.label_folder) for camera in cameras if camera.has_labels)


def _labels(bag: BagReader, cameras: list[Camera], name: str | None) -> list[str | None]:
    """The label topic of each camera. Raises TruthError if one was asked for and no camera has it."""
    images = bag.image_topics()
    if name and name.startswith("/"):
        bag.frames(name)  # raises if it is not there
        of_camera = [name if name.startswith(f"{camera.name}/") or len(cameras) == 1 else None for camera in cameras]
    else:
        wanted = [f"{camera.name}/{name or GROUND_TRUTH}" for camera in cameras]
        of_camera = [next((t for t in (topic, f"{topic}/compressed") if t in images), None) for topic in wanted]
    if name and not any(of_camera):
        names = ", ".join(camera.name for camera in cameras)
        raise TruthError(f"{bag.path}: no labels '{name}' of {names}; its image topics: {', '.join(images)}")
    return of_camera


def _folder_of(camera: Camera, folder: Path, cameras: int) -> Path:
    own = folder / camera.name.strip("/")
    if own.is_dir():
        return own
    if cameras > 1:
        raise TruthError(f"{own}: no such folder; each of the {cameras} cameras needs one")
    return folder
