"""A folder of frames and labels, or a video, as a bag, and what a bag holds, in words."""

from __future__ import annotations

import re
from pathlib import Path

from transkd_ros.bags import video
from transkd_ros.bags.frame_files import START, FrameFiles
from transkd_ros.bags.label_classes import write_classes
from transkd_ros.bags.messages import header_stamp, image_message
from transkd_ros.bags.storage import BagError, BagReader, BagWriter
from transkd_ros.model.labels import LabelTable

_CAMERA = re.compile(r"[A-Za-z_]\w*(/[A-Za-z_]\w*)*", re.ASCII)


def from_images(
    images: Path, output: Path, labels: Path | None = None, *, rate: float | None = None, storage: str = "mcap",
    camera: str = "camera", raw: bool = False, overwrite: bool = False, classes: LabelTable | None = None,
) -> int:  # fmt: skip
    """Write the frames of a folder in name order, or of a video, `rate` Hz apart, as a bag; returns how many.

    JPEG and PNG files are copied as they are to `/<camera>/image_raw/compressed`, and frames of a video become JPEG;
    with `raw` all are decoded to bgr8 on `/<camera>/image_raw`. Labels go to `/<camera>/ground_truth` as mono8 class
    ids with the stamps of their frames, and `classes`, their class table, beside it. The first frame is stamped 1 s. By
    default a video keeps its rate, and images are 1 s apart. Raises BagError or ImageFolderError.
    """
    if not _CAMERA.fullmatch(camera):
        raise BagError(f"camera '{camera}' is not a ROS name (letters, digits, _ and /, e.g. front/left)")
    rate = rate or (None if video.is_video(images) else 1.0)
    files = FrameFiles(images, labels, classes, rate=rate, camera=camera, compressed=not raw)
    ground_truth = f"/{camera}/ground_truth"
    count = 0
    with BagWriter(output, storage, overwrite) as bag:
        if labels and classes:
            write_classes(bag, ground_truth, classes, START)
        for message, mask in files.shots():
            count += 1
            bag.write(files.topic, message)
            if mask is not None:
                bag.write(ground_truth, image_message(mask, "mono8", header_stamp(message), camera))
    return count


def info(path: Path) -> str:
    """The bag's topics, types, counts and duration as text."""
    with BagReader(path) as bag:
        counts, topics = bag.counts, bag.topics
        lines = [f"{path}: {sum(counts.values())} messages, {bag.duration:.3f} s"]
    width = max(len(topic) for topic in topics)
    return "\n".join([*lines, *(f"  {t:{width}}  {topics[t]:32} {counts[t]:6}" for t in sorted(topics))])
