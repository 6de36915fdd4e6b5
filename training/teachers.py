"""Teachers: trained networks that only show what they see, from a checkpoint, a bundle, or a published name."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import segmentation_models_pytorch as smp
import torch
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
from torch import Tensor, nn

from training.networks import NetworkSpec, Normalise, commuted
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
            smp-hub/segformer-b2-1024x1024-city-160k.
        precision: what the teacher computes in, whatever the student does.
    """

    source: str
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"


class Teacher(nn.Module):
    """A trained network in eval mode for good: no gradients, a precision and a normalisation of its own.

    `labels` is its class table, None for a published network, which does not say. `source` is where it came from.
    """

    def __init__(
        self,
        network: nn.Module,
        spec: NetworkSpec,
        labels: LabelTable | None,
        source: str = "",
        precision: str = "fp32",
    ) -> None:
        super().__init__()
        self.network = network.to(memory_format=torch.channels_last).requires_grad_(False)
        self.normalise = Normalise(spec)
        self.spec, self.labels, self.source = spec, labels, source
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

    @torch.no_grad()
    def forward(self, images: Tensor) -> Taps:
        """What the teacher shows of images (B, 3, H, W) uint8."""
        with torch.autocast(images.device.type, dtype=self.dtype, enabled=self.dtype is not None):
            return run_tapped(self.network, self.normalise(images).to(memory_format=torch.channels_last))


def load_teacher(choice: TeacherSource) -> Teacher:
    """The teacher that a recipe names. Raises TrainedError or BundleError for one that cannot be had."""
    path = Path(choice.source)
    if path.suffix == ".ckpt":
        trained = read_checkpoint(path)
    elif path.is_dir() or "/" not in choice.source:
        try:
            trained = read_bundle(find_model(choice.source))
        except FileNotFoundError as error:
            raise TrainedError(f"teacher: {error}, a checkpoint (.ckpt), or a hub name (owner/name)") from error
    else:
        network = _published(choice.source)
        return Teacher(network, _spec_of(network), None, choice.source, choice.precision)
    return Teacher(trained.network, trained.spec, trained.labels, choice.source, choice.precision)


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
