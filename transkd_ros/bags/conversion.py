"""A folder of frames and labels as a bag, and what a bag holds, in words."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from transkd_ros.bags import image_folder
from transkd_ros.bags.label_classes import write_classes
from transkd_ros.bags.messages import compressed_message, image_message
from transkd_ros.bags.storage import BagError, BagReader, BagWriter
from transkd_ros.model.labels import LabelTable

_CAMERA = re.compile(r"[A-Za-z_]\w*(/[A-Za-z_]\w*)*", re.ASCII)


def from_images(
    images: Path, output: Path, labels: Path | None = None, *, rate: float = 1.0, storage: str = "mcap",
    camera: str = "camera", raw: bool = False, overwrite: bool = False, classes: LabelTable | None = None,
) -> int:  # fmt: skip
    """Write the frames of a folder, in name order and `rate` Hz apart, as a bag; returns how many.

    JPEG and PNG files are copied as they are to `/<camera>/image_raw/compressed`; with `raw` every image is
    decoded to bgr8 on `/<camera>/image_raw`. Labels go to `/<camera>/ground_truth` as mono8 class ids with
    the stamps of their frames, and `classes`, their class table, beside it. The first frame is stamped 1 s. Raises
    BagError or ImageFolderError.
    """
    if not _CAMERA.fullmatch(camera):
        raise BagError(f"camera '{camera}' is not a ROS name (letters, digits, _ and /, e.g. front/left)")
    frames = image_folder.list_frames(images, labels)
    topic = f"/{camera}/image_raw" if raw else f"/{camera}/image_raw/compressed"
    with BagWriter(output, storage, overwrite) as bag:
        for index, (image, label) in enumerate(frames):
            stamp_ns = 1_000_000_000 + round(index * 1e9 / rate)
            data = image.read_bytes()
            pixels = image_folder.decode_image(data, image)
            if raw:
                bag.write(topic, image_message(pixels, "bgr8", stamp_ns, camera))
            elif image_format := image_folder.COMPRESSED_FORMATS.get(image.suffix.lower()):
                bag.write(topic, compressed_message(data, image_format, stamp_ns, camera))
            else:
                raise BagError(f"{image}: only JPEG and PNG travel compressed; use --raw for other formats")
            if label:
                mask = image_folder.read_label(label, pixels.shape[:2], classes)
                if classes:
                    _check_ids(mask, classes, label)
                    if not index:
                        write_classes(bag, f"/{camera}/ground_truth", classes, stamp_ns)
                bag.write(f"/{camera}/ground_truth", image_message(mask, "mono8", stamp_ns, camera))
    return len(frames)


def _check_ids(mask: np.ndarray, classes: LabelTable, label: Path) -> None:
    unknown = [i for i in np.unique(mask).tolist() if i >= len(classes.names) and i != classes.ignore_id]
    if unknown:
        raise image_folder.ImageFolderError(
            f"{label}: ids {unknown} are no classes; the class table has 0 to {len(classes.names) - 1} and "
            f"{classes.ignore_id} for none"
        )


def info(path: Path) -> str:
    """The bag's topics, types, counts and duration as text."""
    with BagReader(path) as bag:
        counts, topics = bag.counts, bag.topics
        lines = [f"{path}: {sum(counts.values())} messages, {bag.duration:.3f} s"]
    width = max(len(topic) for topic in topics)
    return "\n".join([*lines, *(f"  {t:{width}}  {topics[t]:32} {counts[t]:6}" for t in sorted(topics))])
