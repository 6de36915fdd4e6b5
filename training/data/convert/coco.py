"""COCO: instances with polygons or run lengths, and panoptic PNGs (https://cocodataset.org/#format-data).

Run lengths and polygons are drawn by pycocotools, the format's own library.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from training.data.convert.annotations import UNLABELLED, Annotated, Annotations, ConversionError, table_of


def read_coco(file: Path, images: Path, panoptic: Path | None = None, background: str | None = None) -> Annotations:
    """The annotated images of a COCO file; their files are in the folder `images`.

    `panoptic` is the folder of a panoptic file's PNGs, by default the one beside it with its name. `background` is the
    class of the pixels that nobody annotated, else they have none; without it, images without annotations are left out.
    Raises ConversionError.
    """
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        pictures = {image["id"]: image for image in content["images"]}
        names = {category["id"]: category["name"] for category in content["categories"]}
        of_image: dict[Any, list[Any]] = defaultdict(list)
        for annotation in content["annotations"]:
            if annotation["image_id"] not in pictures:
                raise ConversionError(f"{file}: an annotation is of image {annotation['image_id']}, which it lacks")
            of_image[annotation["image_id"]].append(annotation)
    except (ValueError, KeyError, TypeError) as error:
        if isinstance(error, ConversionError):
            raise
        raise ConversionError(f"{file}: not a COCO file of images, categories and annotations ({error})") from error
    classes = table_of([*names.values(), *([background] if background else [])])
    index = {category: classes.names.index(name) for category, name in names.items()}
    empty = classes.names.index(background) if background else UNLABELLED
    folder = panoptic or file.with_suffix("")
    found = []
    for key, picture in pictures.items():
        if of_image[key] or background:
            draw = partial(_draw, file, picture, of_image[key], index, empty, folder)
            name = Path(picture["file_name"])
            found.append(Annotated(_image_file(images, name), "_".join(name.with_suffix("").parts), draw))
    left_out = len(pictures) - len(found)
    return Annotations(classes, found, [f"{left_out} images without annotations are left out"] if left_out else [])


def _image_file(images: Path, name: Path) -> Path:
    for path in (images / name, images / name.name):
        if path.is_file():
            return path
    raise ConversionError(f"{images / name}: no such image, but the annotations name it")


def _draw(
    file: Path, picture: Mapping[str, Any], annotations: Sequence[Mapping[str, Any]], index: Mapping[Any, int],
    empty: int, panoptic: Path,
) -> np.ndarray:  # fmt: skip
    """The mask (H, W) of an image, small segments over large ones."""
    mask = np.full((picture["height"], picture["width"]), empty, np.uint8)
    try:
        if any("segments_info" in annotation for annotation in annotations):
            _draw_panoptic(mask, annotations, index, panoptic)
            return mask
        parts = [(_segment(a["segmentation"], mask.shape), index[a["category_id"]]) for a in annotations]
    except ConversionError:
        raise
    except Exception as error:  # pycocotools raises bare ones
        raise ConversionError(f"{file}: an annotation of {picture['file_name']} cannot be drawn ({error!r})") from error
    for part, i in sorted(parts, key=lambda drawn: -int(drawn[0].sum())):
        mask[part] = i
    return mask


def _segment(segmentation: Any, size: tuple[int, ...]) -> np.ndarray:
    """(H, W) bool of polygons, or of run lengths, compressed or not."""
    from pycocotools import mask as coco

    if not segmentation:
        raise ValueError("a box without a segmentation")
    if isinstance(segmentation, list):
        runs = coco.merge(coco.frPyObjects(segmentation, *size))
    elif isinstance(segmentation["counts"], list):
        runs = coco.frPyObjects(segmentation, *size)
    else:
        runs = segmentation
    decoded = coco.decode(runs).astype(bool)
    if decoded.shape != size:
        raise ValueError(f"run lengths of {decoded.shape[1]}x{decoded.shape[0]} pixels")
    return decoded


def _draw_panoptic(
    mask: np.ndarray, annotations: Sequence[Mapping[str, Any]], index: Mapping[Any, int], folder: Path
) -> None:
    for annotation in annotations:
        path = folder / annotation["file_name"]
        pixels = cv2.imread(str(path), cv2.IMREAD_COLOR)
        if pixels is None:
            raise ConversionError(f"{path}: no such panoptic PNG, or it cannot be decoded; --panoptic gives its folder")
        if pixels.shape[:2] != mask.shape:
            (height, width), (own_height, own_width) = mask.shape, pixels.shape[:2]
            raise ConversionError(f"{path}: {own_width}x{own_height}, its image {width}x{height}")
        blue, green, red = np.moveaxis(pixels.astype(np.uint32), -1, 0)
        segments = red | green << 8 | blue << 16
        for segment in annotation["segments_info"]:
            mask[segments == segment["id"]] = index[segment["category_id"]]
