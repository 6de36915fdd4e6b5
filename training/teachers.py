"""Teachers: trained networks that only show what they see, from a checkpoint, a bundle, or a published name.

One that was asked before and shows what it said then is the subject of `training.soft_labels`.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from itertools import zip_longest
from pathlib import Path
from typing import Any, Literal

import segmentation_models_pytorch as smp
import torch
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
from torch import Tensor, nn

from training.class_maps import ClassMap, ClassMapError
from training.networks import NetworkSpec, Normalise, commuted
from training.soft_labels import INDEX, SoftLabels, StoredTeacher
from training.taps import Taps, run_tapped
from training.trained import TrainedError, read_bundle, read_checkpoint
from transkd_ros.model.labels import LabelTable
from transkd_ros.resources import find_model

PRECISIONS = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass
class TeacherSource:
    """Where a teacher comes from, as it stands in a recipe.

    Args:
        source: a checkpoint of training/distill.py, a model bundle (a folder, or the name of a shipped one), or a
            network that segmentation_models_pytorch loads from the Hugging Face hub, such as
            smp-hub/segformer-b2-1024x1024-city-160k; or a folder of soft labels that training/annotate.py has written.
        precision: what the teacher computes in, whatever the student does.
        labels: the class table of a published network, which does not say; a name of config/labels or a YAML file.
        class_map: how its classes become the student's, where they differ; a name of config/class_maps or a YAML file.
    """

    source: str
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    labels: str | None = None
    class_map: str | None = None


class Teacher(nn.Module):
    """A trained network in eval mode for good: no gradients, a precision and a normalisation of its own.

    `labels` is the class table of what it shows, None where nobody says; with a `class_map`, the map's student's.
    `source` is where it came from. Raises ClassMapError for a map that is not from its own classes.
    """

    def __init__(
        self,
        network: nn.Module,
        spec: NetworkSpec,
        labels: LabelTable | None,
        source: str = "",
        precision: str = "fp32",
        class_map: ClassMap | None = None,
    ) -> None:
        super().__init__()
        self.network = network.to(memory_format=torch.channels_last).requires_grad_(False)
        self.normalise = Normalise(spec)
        self.spec, self.labels, self.source = spec, labels, source
        self.class_map = class_map
        if class_map is not None:
            self._map_classes(class_map)
        self.dtype = PRECISIONS[precision]
        self.eval()

    def train(self, mode: bool = True) -> Teacher:
        return super().train(False)

    def fingerprint(self) -> str:
        """A hash of the weights: equal for equal teachers, wherever they came from."""
        found = hashlib.sha256()
        for name, tensor in self.network.state_dict().items():
            found.update(name.encode() + tensor.contiguous().cpu().numpy().tobytes())
        return found.hexdigest()

    def __deepcopy__(self, memo: dict[int, Any]) -> Teacher:
        """Itself: a student's copy, such as the average of its weights, has the same teacher, who does not change."""
        return self

    @torch.no_grad()
    def forward(self, images: Tensor, soft: Tensor | None = None, logits: bool = True) -> Taps:
        """What the teacher shows of images (B, 3, H, W) uint8; a network needs no soft labels. Without `logits` its
        decoder and head do not run."""
        with torch.autocast(images.device.type, dtype=self.dtype, enabled=self.dtype is not None):
            taps = run_tapped(self.network, self.normalise(images).to(memory_format=torch.channels_last), logits)
        if self.class_map is None or not logits:
            return taps
        return replace(taps, logits=self.class_map(taps.logits))

    def _map_classes(self, class_map: ClassMap) -> None:
        own = class_map.teacher.names
        names = self.labels.names if self.labels else ("",) * self.spec.classes
        for index, (name, expected) in enumerate(zip_longest(names, own)):
            if name is None or expected is None or (name and name != expected):
                differs = f"class {index} is {name}, in the map {expected}"
                raise ClassMapError(f"class map {class_map.name} is not of {self.source}: its {differs}")
        self.labels, self.spec = class_map.student, replace(self.spec, classes=len(class_map.student.names))


def load_teacher(choice: TeacherSource) -> Teacher | StoredTeacher:
    """The teacher that a recipe names.

    Raises TrainedError, BundleError or SoftLabelError for one that cannot be had, ClassMapError for a map that does not
    fit it.
    """
    path = Path(choice.source)
    if (path / INDEX).is_file():
        return StoredTeacher(SoftLabels(path))
    class_map = None if choice.class_map is None else ClassMap.load(choice.class_map)
    if path.suffix == ".ckpt":
        trained = read_checkpoint(path)
    elif path.is_dir() or "/" not in choice.source:
        try:
            trained = read_bundle(find_model(choice.source))
        except FileNotFoundError as error:
            raise TrainedError(f"teacher: {error}, a checkpoint (.ckpt), or a hub name (owner/name)") from error
    else:
        network = _published(choice.source)
        table = None if choice.labels is None else LabelTable.load(choice.labels)
        return Teacher(network, _spec_of(network), table, choice.source, choice.precision, class_map)
    return Teacher(trained.network, trained.spec, trained.labels, choice.source, choice.precision, class_map)


def _published(name: str) -> nn.Module:
    try:
        network: Any = smp.from_pretrained(name)
    except (LocalEntryNotFoundError, HfHubHTTPError, HFValidationError, OSError) as error:
        raise TrainedError(
            f"teacher {name}: could not be fetched from the Hugging Face hub and is not in its cache on this machine; "
            "go online once, or give a checkpoint (.ckpt) or a bundle's folder"
        ) from error
    return commuted(network)


def _spec_of(network: Any) -> NetworkSpec:
    """What a published network says of itself."""
    config = network.config
    return NetworkSpec(type(network).__name__.lower(), config["encoder_name"], config["classes"])
