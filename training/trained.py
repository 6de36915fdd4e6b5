"""Networks that were trained before: read back from a checkpoint of `training.distill` or from a model bundle."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from training.deploy import fold
from training.networks import NetworkSpec, build_network
from transkd_ros.cli import one_line
from transkd_ros.model.bundle import load_bundle
from transkd_ros.model.labels import LabelTable
from transkd_ros.resources import find_model, share_directory


class TrainedError(ValueError):
    """A file that holds no network of ours; the text names it."""


@dataclass(frozen=True)
class Trained:
    """A network in eval mode, with what it takes to build it again, its classes, and the settings of its run."""

    network: torch.nn.Module
    spec: NetworkSpec
    labels: LabelTable
    settings: dict[str, Any]


@contextmanager
def opened_checkpoint(path: Path) -> Iterator[dict[str, Any]]:
    """The content of a Lightning checkpoint of `training.module`, read without unpickling code.

    Raises OSError where a file cannot be read, TrainedError where there is none, for one that is no such checkpoint,
    and for whatever the block finds wrong with it: of another project, or of another architecture.
    """
    if not path.exists():
        raise TrainedError(f"{path}: no such checkpoint{_how_to_make(path)}")
    try:
        yield torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except (OSError, TrainedError):
        raise
    except Exception as error:
        raise TrainedError(f"{path} is not a checkpoint of training/distill.py: {one_line(error)[:300]}") from error


def _how_to_make(path: Path) -> str:
    """The command that trains runs/NAME/checkpoints/…, where a recipe of that name ships; else nothing."""
    recipe = share_directory() / "config" / "recipes" / f"{path.parent.parent.name}.yaml"
    if not recipe.is_file():
        return ""
    shown = recipe.relative_to(Path.cwd()) if recipe.is_relative_to(Path.cwd()) else recipe
    return f"; train it first: python training/distill.py --config {shown}"


def labels_of(checkpoint: dict[str, Any]) -> LabelTable:
    """The classes of a checkpoint: as they were when it was written, whatever has become of their file since."""
    kept = checkpoint.get("label_table")
    if kept is None:  # an older one, which has the name of the table alone
        return LabelTable.load(checkpoint["hyper_parameters"]["labels"])
    return LabelTable.from_json(kept["classes"], kept["ignore_id"])


def read_checkpoint(path: Path, int8: bool = False) -> Trained:
    """The network of a checkpoint; with `int8`, the folded one of a run that fine-tuned for int8.

    Raises OSError and TrainedError as `opened_checkpoint` does, and TrainedError for the other kind of run.
    """
    with opened_checkpoint(path) as checkpoint:
        settings = checkpoint["hyper_parameters"]
        if settings.get("int8", False) != int8:
            if int8:
                raise TrainedError(f"{path} is of a run without model.int8: --checkpoint takes it")
            raise TrainedError(
                f"{path} was fine-tuned for int8, and goes into the bundle that it started from: "
                f"training/export.py --bundle NAME --overwrite --int8 --int8-checkpoint {path}"
            )
        labels = labels_of(checkpoint)
        spec = NetworkSpec.of(settings, len(labels.names))
        prefix = "network."
        weights = checkpoint["state_dict"].items()
        own = {key.removeprefix(prefix): value for key, value in weights if key.startswith(prefix)}
        network = _network(spec, own, folded=int8)
    return Trained(network, spec, labels, settings)


def read_bundle(path: Path) -> Trained:
    """The network of a model bundle. Raises BundleError, or TrainedError for weights of another architecture."""
    bundle = load_bundle(path)
    manifest = bundle.manifest
    try:
        spec = NetworkSpec(**manifest.architecture)
        network = _network(spec, load_file(bundle.weights))
    except Exception as error:
        raise TrainedError(f"{path}: its weights are of another architecture: {one_line(error)[:300]}") from error
    return Trained(network, spec, manifest.labels, {})


def read_trained(source: str) -> Trained:
    """The network of a checkpoint (.ckpt), of a bundle's folder, or of a shipped bundle by its name.

    Raises TrainedError, BundleError, OSError.
    """
    if Path(source).suffix == ".ckpt":
        return read_checkpoint(Path(source))
    try:
        return read_bundle(find_model(source))
    except FileNotFoundError as error:
        raise TrainedError(f"{error}, or a checkpoint (.ckpt)") from error


def _network(spec: NetworkSpec, weights: dict[str, torch.Tensor], folded: bool = False) -> torch.nn.Module:
    network = fold(build_network(spec)) if folded else build_network(spec)
    network.load_state_dict(weights)
    return network.eval()
