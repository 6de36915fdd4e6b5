"""Label images beside images, as CVAT ("Segmentation mask"), VOC and most tools export them.

What a pixel means is said by a class table (its colours, or its ids), by a `labelmap.txt` (CVAT's and VOC's: a line
`name:r,g,b::` a class), or by names for the stored ids.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path

import cv2
import numpy as np

from training.data.convert.annotations import UNLABELLED, Annotated, Annotations, ConversionError, table_of
from transkd_ros.bags.image_folder import decode_label, list_images
from transkd_ros.model.labels import IGNORE, LabelTable


def read_masks(
    images: Path, labels: Path, table: LabelTable | None, labelmap: Path | None = None,
    ids: Mapping[int, str] | None = None,
) -> Annotations:  # fmt: skip
    """The images of one folder that have a label image of the same stem in the other.

    `labelmap` or `ids` (stored id → name, IGNORE for none) say what the labels hold, else `table` does. Raises
    ConversionError or ImageFolderError.
    """
    by_stem = {path.stem: path for path in list_images(images)}
    masks = list_images(labels)
    if foreign := [path for path in masks if path.stem not in by_stem]:
        raise ConversionError(f"{foreign[0]}: no image of that name in {images}")
    source = _source(table, labelmap, ids)
    read = partial(_stored, ids, source) if ids else partial(_in_table, source)
    found = [Annotated(by_stem[path.stem], path.stem, partial(read, path)) for path in masks]
    left_out = len(by_stem) - len(found)
    return Annotations(source, found, [f"{left_out} images without a label are left out"] if left_out else [])


def read_labelmap(path: Path) -> LabelTable:
    """The classes and colours of a labelmap.txt. Raises ConversionError for a line that says none."""
    names, colors = [], []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        if not line.strip() or line.startswith("#"):
            continue
        name, *rest = line.split(":")
        color = rest[0].split(",") if rest else []
        if not name or len(color) != 3 or not all(value.strip().isdecimal() and int(value) < 256 for value in color):
            raise ConversionError(f"{path}, line {number}: {line!r} is not NAME:RED,GREEN,BLUE::")
        names.append(name)
        colors.append([int(value) for value in color])
    try:
        entries = [{"id": i, "name": n, "color": c} for i, (n, c) in enumerate(zip(names, colors, strict=True))]
        return LabelTable.from_json(entries, UNLABELLED)
    except ValueError as error:
        raise ConversionError(f"{path}: {error}") from error


def _source(table: LabelTable | None, labelmap: Path | None, ids: Mapping[int, str] | None) -> LabelTable:
    if labelmap:
        return read_labelmap(labelmap)
    if ids:
        return table_of(name for name in ids.values() if name != IGNORE)
    if table is None:
        raise ConversionError("what do the labels hold? give --classes TABLE, --labelmap FILE or --ids ID=NAME …")
    return table


def _in_table(table: LabelTable, path: Path) -> np.ndarray:
    mask = decode_label(path.read_bytes(), path, table)
    unknown = np.unique(mask[(mask >= len(table.names)) & (mask != table.ignore_id)]).tolist()
    if unknown:
        raise ConversionError(
            f"{path}: ids {unknown} are no classes; there are 0 to {len(table.names) - 1} and {table.ignore_id} for "
            "none; --ids ID=NAME … says what other ids mean"
        )
    mask[mask == table.ignore_id] = UNLABELLED
    return mask


def _stored(names: Mapping[int, str], source: LabelTable, path: Path) -> np.ndarray:
    stored = decode_label(path.read_bytes(), path)
    if unknown := sorted(set(np.unique(stored).tolist()) - set(names)):
        example = f"{unknown[0]}={IGNORE}"
        raise ConversionError(f"{path}: ids {unknown} have no name in --ids; {example} leaves such pixels unlabelled")
    lut = np.full(256, UNLABELLED, np.uint8)
    for value, name in names.items():
        if name != IGNORE:
            lut[value] = source.names.index(name)
    return cv2.LUT(stored, lut).astype(np.uint8, copy=False)
