"""Label Studio's "Brush labels to PNG": a PNG a region, `task-7-annotation-9-by-1-tag-car-0.png`, and tasks as JSON.

The JSON export says which image a task is about. Of several annotations of a task the last one counts.
"""

from __future__ import annotations

import json
import re
from collections import defaultdict
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import cv2
import numpy as np

from training.data.convert.annotations import UNLABELLED, Annotated, Annotations, ConversionError, table_of
from transkd_ros.bags.image_folder import list_images

_REGION = re.compile(r"task-(?P<task>\d+)-annotation-(?P<annotation>\d+)-by-(?P<labels>.+)-\d+")
_UPLOADED = re.compile(r"^[0-9a-f]{8}-")  # what Label Studio puts in front of the name of an uploaded file
_PAINTED = 128  # of 255: the brush has soft edges

Region = tuple[Path, str]  # a PNG, and its label


def read_label_studio(masks: Path, tasks: Path, images: Path, background: str | None = None) -> Annotations:
    """The images of the folder `images` whose regions are among the PNGs of `masks`.

    `background` is the class of what nobody painted, else it has none. Raises ConversionError or ImageFolderError.
    """
    content = _tasks(tasks)
    names = list(dict.fromkeys(label for task in content for label in _labels(task)))
    if not names:
        raise ConversionError(f"{tasks}: holds no brush labels; it must be the JSON export of the same annotations")
    regions = _regions(masks, names)
    files = {path.name: path for path in list_images(images)}
    classes = table_of([*names, *([background] if background else [])])
    empty = classes.names.index(background) if background else UNLABELLED
    found, missing = [], 0
    for task in content:
        if parts := regions.get(task["id"]):
            image = _image_of(task, files, tasks)
            found.append(Annotated(image, image.stem, partial(_draw, parts, classes.names, empty)))
        else:
            missing += 1
    return Annotations(classes, found, [f"{missing} tasks without painted regions are left out"] if missing else [])


def _tasks(path: Path) -> list[Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ConversionError(f"{path}: not JSON ({error})") from error
    if not isinstance(content, list) or not all(isinstance(t, dict) and "id" in t and "data" in t for t in content):
        raise ConversionError(f"{path}: not a JSON export of Label Studio, a list of tasks with id and data")
    return content


def _labels(task: Any) -> list[str]:
    results = (result for annotation in task.get("annotations", ()) for result in annotation.get("result", ()))
    return [label for result in results for label in result.get("value", {}).get("brushlabels", ())]


def _regions(folder: Path, names: list[str]) -> dict[int, list[Region]]:
    """The PNGs of each task's last annotation, each with its label."""
    of_task: dict[int, dict[int, list[Region]]] = defaultdict(lambda: defaultdict(list))
    for path in list_images(folder):
        if not (match := _REGION.fullmatch(path.stem)):
            raise ConversionError(f"{path}: not called task-…-annotation-…-by-…-LABEL-0.png as Label Studio does")
        ends = [name for name in names if match["labels"].endswith(f"-{name}")]
        if not ends:
            raise ConversionError(f"{path}: of no label that the JSON export has ({', '.join(names)})")
        of_task[int(match["task"])][int(match["annotation"])].append((path, max(ends, key=len)))
    return {task: annotations[max(annotations)] for task, annotations in of_task.items()}


def _image_of(task: Any, files: dict[str, Path], tasks: Path) -> Path:
    """The image file of a task, by its name with or without what an upload puts in front."""
    for value in task["data"].values():
        url = urlsplit(str(value))
        name = Path(unquote(parse_qs(url.query).get("d", [url.path])[0])).name
        for candidate in (name, _UPLOADED.sub("", name)):
            if candidate in files:
                return files[candidate]
    raise ConversionError(f"{tasks}: no image of task {task['id']} ({task['data']}) in the folder of --images")


def _draw(parts: list[Region], names: tuple[str, ...], empty: int) -> np.ndarray:
    """The mask (H, W), small regions over large ones."""
    painted = []
    for path, label in parts:
        pixels = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)
        if pixels is None:
            raise ConversionError(f"{path}: not an image that OpenCV can decode")
        painted.append((pixels >= _PAINTED, names.index(label), path))
    mask = np.full(painted[0][0].shape, empty, np.uint8)
    for region, i, path in sorted(painted, key=lambda part: -int(part[0].sum())):
        if region.shape != mask.shape:
            raise ConversionError(f"{path}: {region.shape[1]}x{region.shape[0]}, another size than the task's others")
        mask[region] = i
    return mask
