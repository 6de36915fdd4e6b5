"""Converted annotations on disk, as `training.data.folder` reads them: train/ and val/ with images/ and labels/.

Written in a hidden folder and moved when all of it is there: a refused export leaves nothing behind.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from training.data.convert.annotations import Annotated, Annotations, ConversionError
from training.data.convert.classes import ids_under
from training.data.samples import image_size
from transkd_ros.files import write_atomic
from transkd_ros.model.labels import LabelTable

TABLE = "classes.yaml"
SEED = 1


@dataclass(frozen=True)
class Written:
    """What was written of a split: how many images, and (256,) pixels by id."""

    images: int
    pixels: np.ndarray


def split(annotated: list[Annotated], share: float) -> dict[str, list[Annotated]]:
    """{"train", "val"}: a `share` of the images drawn for validation, at least one; the same for equal images."""
    count = len(annotated)
    if count < 2:
        raise ConversionError(f"{count} labelled images: at least one to train on and one to validate are needed")
    held_out = min(count - 1, max(1, round(share * count)))
    drawn = set(np.random.default_rng(SEED).permutation(count)[:held_out].tolist())
    return {
        "train": [a for i, a in enumerate(annotated) if i not in drawn],
        "val": [annotated[i] for i in sorted(drawn)],
    }


def write(
    splits: dict[str, list[Annotated]], annotations: Annotations, table: LabelTable, output: Path,
    show: Callable[[], None],
) -> dict[str, Written]:  # fmt: skip
    """Write every split, and the class table as classes.yaml; `show` is called for every image.

    Raises ConversionError for a split that is there already, for another class table there, and for what cannot be
    converted; then nothing is changed.
    """
    for name in splits:
        if (output / name).exists():
            raise ConversionError(f"{output / name}: exists already, not overwritten")
    if (output / TABLE).is_file() and LabelTable.load(output / TABLE) != table:
        raise ConversionError(f"{output / TABLE}: another class table than this one; give another --output")
    ids = ids_under(annotations.classes, table)
    output.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".converting-", dir=output) as temporary:
        written = {name: _write_split(Path(temporary) / name, part, ids, show) for name, part in splits.items()}
        for name in splits:
            (Path(temporary) / name).rename(output / name)
    write_atomic(output / TABLE, table.to_yaml())
    return written


def _write_split(folder: Path, annotated: list[Annotated], ids: np.ndarray, show: Callable[[], None]) -> Written:
    for kind in ("images", "labels"):
        (folder / kind).mkdir(parents=True)
    pixels = np.zeros(256, np.int64)
    for image, name, read in annotated:
        mask = cv2.LUT(read(), ids).astype(np.uint8, copy=False)
        height, width = image_size(image)
        if mask.shape != (height, width):
            raise ConversionError(f"{image}: {width}x{height}, but its labels {mask.shape[1]}x{mask.shape[0]}")
        label = folder / "labels" / f"{name}.png"
        if label.exists():
            raise ConversionError(f"{image}: a second image is called {name}")
        shutil.copyfile(image, folder / "images" / f"{name}{image.suffix}")
        label.write_bytes(cv2.imencode(".png", mask)[1].tobytes())
        pixels += np.bincount(mask.ravel(), minlength=256)
        show()
    return Written(len(annotated), pixels)
