"""Classes by id, name and colour, and how a mask of them is shown. The tables are `config/labels/*.yaml`."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import yaml

from transkd_ros.resources import labels_file

Color = tuple[int, int, int]  # RGB, 0 to 255 each
IGNORE = "ignore"
"""What a table's `merge` calls having no class."""


@dataclass(frozen=True)
class LabelTable:
    """Class `i` is `names[i]`, drawn in `colors[i]` (RGB). Masks are uint8; `ignore_id` means no class.

    `merge` says which class takes what annotators call otherwise: {"truck": "vehicle"}, or IGNORE for none. It is for
    reading annotations; a model knows its own classes only.
    """

    names: tuple[str, ...]
    colors: tuple[Color, ...]
    ignore_id: int = 255
    merge: Mapping[str, str] = field(default_factory=dict, compare=False)

    @classmethod
    def load(cls, name_or_path: str | os.PathLike[str]) -> LabelTable:
        """A shipped table by name ("camvid"), or a YAML file: `ignore_id`, `classes: [{id, name, color}]`, `merge`.

        Raises FileNotFoundError for an unknown name or path, ValueError that names the file for a bad table.
        """
        is_path = Path(name_or_path).suffix in (".yaml", ".yml")
        path = Path(name_or_path) if is_path else labels_file(os.fspath(name_or_path))
        try:
            table = yaml.safe_load(path.read_text(encoding="utf-8"))
            if not isinstance(table, dict) or not isinstance(table.get("classes"), list):
                raise ValueError("it needs a list 'classes'")
            return cls.from_json(table["classes"], table.get("ignore_id", 255), table.get("merge"))
        except (ValueError, yaml.YAMLError) as error:
            raise ValueError(f"label table {path}: {error}") from error

    @classmethod
    def from_json(
        cls, classes: Sequence[Mapping[str, Any]], ignore_id: int = 255, merge: Mapping[str, str] | None = None
    ) -> LabelTable:
        """The table of `[{"id": 0, "name": str, "color": [r, g, b]}, …]`, ids ascending from 0.

        Raises ValueError that names a bad entry.
        """
        if not 1 <= len(classes) <= 255:
            raise ValueError(f"{len(classes)} classes; a uint8 mask holds 1 to 255")
        if not isinstance(ignore_id, int) or not len(classes) <= ignore_id <= 255:
            raise ValueError(f"ignore_id is {ignore_id!r}; it must be {len(classes)} to 255, no class's id")
        for i, entry in enumerate(classes):
            _check_class(entry, i)
        names = tuple(entry["name"] for entry in classes)
        if repeated := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"several classes are called {', '.join(repeated)}")
        _check_merge(merge or {}, names)
        red_green_blue = (entry["color"] for entry in classes)
        return cls(names, tuple((r, g, b) for r, g, b in red_green_blue), ignore_id, merge or {})

    def to_yaml(self) -> str:
        """The table as `load` reads it, a line a class."""
        style: Any = {"default_flow_style": True, "sort_keys": False, "width": 1000}
        lines = [f"  - {yaml.safe_dump(entry, **style).strip()}" for entry in self.to_json()]
        return "\n".join([f"ignore_id: {self.ignore_id}", "classes:", *lines]) + "\n"

    def to_json(self) -> list[dict[str, Any]]:
        """What from_json() takes."""
        pairs = zip(self.names, self.colors, strict=True)
        return [{"id": i, "name": name, "color": list(color)} for i, (name, color) in enumerate(pairs)]

    @cached_property
    def palette(self) -> np.ndarray:
        """(256, 3) uint8 RGB by mask value; black where there is no class."""
        palette = np.zeros((256, 3), np.uint8)
        palette[: len(self.colors)] = self.colors
        return palette

    def colorize(self, mask: np.ndarray) -> np.ndarray:
        """The (H, W) uint8 mask as (H, W, 3) uint8 RGB."""
        # The same as palette[mask], but faster.
        return cv2.LUT(cv2.cvtColor(mask, cv2.COLOR_GRAY2RGB), self.palette[np.newaxis])

    def mask_of_colors(self, rgb: np.ndarray) -> tuple[np.ndarray, list[Color]]:
        """The mask (H, W) uint8 that `colorize` drew as `rgb` (H, W, 3) uint8, and the colours of no class in it.

        Those, and black where no class is black, become `ignore_id`. Of two classes of one colour it is the first.
        """
        ids = {(0, 0, 0): self.ignore_id} | {c: i for i, c in reversed(list(enumerate(self.colors)))}
        known = np.array(sorted((_packed(np.array(color)), i) for color, i in ids.items()))
        pixels = _packed(rgb)
        place = np.searchsorted(known[:, 0], pixels).clip(max=len(known) - 1)
        is_known = known[place, 0] == pixels
        mask = np.where(is_known, known[place, 1], self.ignore_id).astype(np.uint8)
        foreign = np.unique(pixels[~is_known]).tolist()
        return mask, [(color >> 16, color >> 8 & 255, color & 255) for color in foreign]

    def overlay(
        self, rgb: np.ndarray, mask: np.ndarray, alpha: float = 0.5, legend: bool = False
    ) -> np.ndarray:
        """`rgb` (H, W, 3) uint8 with the class colours of `mask` blended over it, `alpha` of them, 0 to 1.

        A mask of another size is stretched. Pixels of no class stay as they are.
        """
        height, width = rgb.shape[:2]
        if mask.shape != (height, width):
            mask = cv2.resize(mask, (width, height), interpolation=cv2.INTER_NEAREST)
        blended = cv2.addWeighted(self.colorize(mask), alpha, rgb, 1 - alpha, 0)
        cv2.copyTo(rgb, (mask >= len(self.names)).view(np.uint8), blended)
        if legend:
            self._draw_legend(blended)
        return blended

    def _draw_legend(self, rgb: np.ndarray) -> None:
        """Draw name and swatch of every class on `rgb`, in columns from the top left, on darkened ground."""
        scale = max(rgb.shape[0] / 720, 0.5)
        line = round(20 * scale)
        font, text_scale = cv2.FONT_HERSHEY_SIMPLEX, 0.5 * scale
        rows = max(1, (rgb.shape[0] - line) // line)
        widest = max(cv2.getTextSize(name, font, text_scale, 1)[0][0] for name in self.names)
        column = widest + 2 * line
        columns = -(-len(self.names) // rows)
        ground = rgb[: min(rows, len(self.names)) * line + line // 2, : columns * column]
        ground //= 3
        for i, (name, color) in enumerate(zip(self.names, self.colors, strict=True)):
            x, y = line // 2 + i // rows * column, line // 4 + i % rows * line
            cv2.rectangle(rgb, (x, y + line // 8), (x + line * 3 // 4, y + line * 7 // 8), color, cv2.FILLED)
            cv2.putText(
                rgb, name, (x + line, y + line * 3 // 4), font, text_scale, (255, 255, 255), 1, cv2.LINE_AA
            )


def _packed(rgb: np.ndarray) -> np.ndarray:
    """(…, 3) colours as (…) int32 numbers 0xRRGGBB."""
    red, green, blue = np.moveaxis(rgb.astype(np.int32), -1, 0)
    return red << 16 | green << 8 | blue


def _check_merge(merge: Any, names: tuple[str, ...]) -> None:
    if not isinstance(merge, Mapping) or not all(isinstance(n, str) for pair in merge.items() for n in pair):
        raise ValueError(f"merge is {merge!r}; it must be names of annotated classes and of the classes they become")
    for name, target in merge.items():
        if name in names:
            raise ValueError(f"merge makes {name} into {target}, but {name} is a class of the table itself")
        if target not in (*names, IGNORE):
            raise ValueError(f"merge makes {name} into {target}, which is no class; there are {', '.join(names)}")


def _check_class(entry: Any, i: int) -> None:
    if i == 0 and isinstance(entry, Mapping) and entry.get("id") == 1:
        raise ValueError(
            "the first class has id 1; ids count from 0. Where label images have 0 for no class, make that one too, "
            "or convert them: python -m training.data.convert masks --ids 0=ignore 1=NAME …"
        )
    if not isinstance(entry, Mapping) or entry.get("id") != i:
        raise ValueError(f"entry {i} of the classes is {entry!r}; it must be an object with id {i}")
    if not isinstance(entry.get("name"), str) or not entry["name"]:
        raise ValueError(f"class {i} has the name {entry.get('name')!r}; it must be a text")
    color = entry.get("color")
    if not isinstance(color, Sequence) or len(color) != 3 or not all(value in range(256) for value in color):
        raise ValueError(f"class {i} has the color {color!r}; it must be [red, green, blue], 0 to 255 each")
