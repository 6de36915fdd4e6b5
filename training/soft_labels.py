"""Soft labels: a teacher's class probabilities, stored once per frame, and the teacher that shows them again.

`training.annotate` writes a store; a recipe names its folder as `model.teacher.source`. A frame is known by the hash of
its pixels, wherever it came from: a file, a bag, a renderer. Cutting soft labels out with an augmented image is the
business of `training.data.transforms`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.numpy import load_file, save
from torch import Tensor, nn

from training.networks import NetworkSpec
from training.taps import Taps
from transkd_ros.files import write_atomic
from transkd_ros.model.labels import LabelTable

INDEX = "soft_labels.json"
VERSION = 1
LEAST = 1e-4
"""What a probability counts at least when its logarithm is taken: half precision keeps no smaller one apart."""
_TENSOR, _DISAGREEMENT = "probabilities", "disagreement"


class SoftLabelError(ValueError):
    """A store of soft labels that cannot be used; the text names it and what to do."""


@dataclass(frozen=True)
class Annotators:
    """What made a store, in `soft_labels.json`: equal for stores that may be continued or mixed.

    `teachers` are {"source", "fingerprint", "class_map"} each; `scales` and `flip` the views that were averaged, at
    `size` (H, W) times each scale; `weights` multiplied the probabilities of classes; `stride` is that of the maps.
    """

    classes: list[dict[str, Any]]
    teachers: list[dict[str, str | None]]
    size: tuple[int, int]
    scales: tuple[float, ...]
    flip: bool
    weights: dict[str, float]
    stride: int


class SoftLabels:
    """An open store: a folder of `soft_labels.json` and one file per frame. Any number of processes may add to it."""

    def __init__(self, path: Path) -> None:
        """Raises SoftLabelError for a folder that is no store, or of another version."""
        self.path = path
        try:
            content = json.loads((path / INDEX).read_text(encoding="utf-8"))
            if content.pop("version", None) != VERSION:
                raise ValueError(f"its version is not {VERSION}")
            content["size"], content["scales"] = tuple(content["size"]), tuple(content["scales"])
            self.annotators = Annotators(**content)
            self.labels = LabelTable.from_json(self.annotators.classes)
        except (OSError, TypeError, ValueError, KeyError) as error:
            text = f"{path} is not a store of soft labels ({error}); make it with training/annotate.py"
            raise SoftLabelError(text) from error

    @classmethod
    def create(cls, path: Path, annotators: Annotators) -> SoftLabels:
        """A new store, or one there is of the same annotators, to go on with. Raises SoftLabelError for another's."""
        if (path / INDEX).exists():
            store = cls(path)
            there = asdict(store.annotators)
            if differs := [name for name, value in asdict(annotators).items() if value != there[name]]:
                raise SoftLabelError(
                    f"{path} holds soft labels of other {', '.join(differs)}; remove it, or choose another folder"
                )
            return store
        path.mkdir(parents=True, exist_ok=True)
        write_atomic(path / INDEX, json.dumps({"version": VERSION} | asdict(annotators), indent=2) + "\n")
        return cls(path)

    def has(self, image: np.ndarray) -> bool:
        """Whether the frame (H, W, 3) uint8 RGB is annotated."""
        return self._file(image).is_file()

    def add(self, image: np.ndarray, probabilities: np.ndarray, disagreement: float = 0.0) -> None:
        """Store `probabilities` (classes, h, w) of a frame, in half precision, and beside them how much those that made
        them disagreed. Raises OSError."""
        beside = {_DISAGREEMENT: f"{disagreement:.6f}"}
        write_atomic(self._file(image), save({_TENSOR: probabilities.astype(np.float16)}, beside))

    def of(self, image: np.ndarray) -> np.ndarray:
        """The probabilities (classes, h, w) float16 of a frame. Raises SoftLabelError where there are none."""
        try:
            return self.at(frame_hash(image))
        except FileNotFoundError:
            raise SoftLabelError(
                f"{self.path} has no soft labels of a {image.shape[1]}x{image.shape[0]} frame of these data: it is of "
                "other frames, or not complete; run training/annotate.py (again) with this recipe"
            ) from None

    def at(self, key: str) -> np.ndarray:
        """The same of the frame that is known by `key` (see `frame_hash`). Raises FileNotFoundError where it is not."""
        path = self.path / f"{key}.safetensors"
        try:
            found = load_file(path)[_TENSOR]
        except (SafetensorError, KeyError) as error:
            text = f"{path} is damaged ({error}); remove it and run training/annotate.py again"
            raise SoftLabelError(text) from error
        if found.ndim != 3 or len(found) != len(self.labels.names):
            raise SoftLabelError(f"{path} holds {found.shape}, not {len(self.labels.names)} maps; remove it")
        return found

    def disagreement(self, key: str) -> float:
        """How much those disagreed who annotated the frame, see `Committee.ask`; 0 where nobody has said."""
        with safe_open(self.path / f"{key}.safetensors", "numpy") as file:
            return float((file.metadata() or {}).get(_DISAGREEMENT, 0))

    def check(self, images: Iterable[np.ndarray]) -> None:
        """Raise SoftLabelError, before training starts, where one of these frames has no usable soft labels."""
        for image in images:
            self.of(image)

    def fingerprint(self) -> str:
        """A hash of what made it."""
        return hashlib.sha256(json.dumps(asdict(self.annotators), sort_keys=True).encode()).hexdigest()

    def _file(self, image: np.ndarray) -> Path:
        return self.path / f"{frame_hash(image)}.safetensors"


def frame_hash(image: np.ndarray) -> str:
    """What a frame (H, W, 3) uint8 RGB is known by: of its pixels, wherever it comes from."""
    digest = hashlib.sha256(str(image.shape).encode())
    digest.update(np.ascontiguousarray(image).data)
    return digest.hexdigest()[:32]


class StoredTeacher(nn.Module):
    """A teacher that was asked before: shows the soft labels that came with a batch, as logits, and nothing else."""

    def __init__(self, store: SoftLabels) -> None:
        super().__init__()
        self.store, self.labels, self.source = store, store.labels, str(store.path)
        self.network = nn.Identity()
        self.spec = NetworkSpec("soft labels", "none", len(store.labels.names))

    def fingerprint(self) -> str:
        return self.store.fingerprint()

    def forward(self, images: Tensor, soft: Tensor | None = None, logits: bool = True) -> Taps:
        """`soft` (B, classes, h, w) probabilities as log-probabilities; uniform ones where it is None."""
        if soft is None:
            stride = self.store.annotators.stride
            size = (len(images), self.spec.classes, *(side // stride for side in images.shape[-2:]))
            soft = torch.full(size, 1 / self.spec.classes, device=images.device)
        return Taps(soft.float().clamp_min(LEAST).log(), images, (), ())
