"""The recipe that an adaptation writes out: the student's own network and weights, the drives, and the soft labels."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import yaml

from training.data.extraction import Unlabelled
from transkd_ros import sizes
from transkd_ros.model.bundle import Bundle
from transkd_ros.sizes import Size

CHECKS = 8
"""How often a run is validated."""
SPAN = 6
"""A run over the steps that its moving average remembers: of the first weights exp(-SPAN) is left at the end."""


@dataclass(frozen=True)
class Budget:
    """`steps` of `batch` samples each, peak learning rate `lr`; pixels below `trust` do not count.

    `class_weights` of the labelled images' cross-entropy, by name; a class that is not named has 1.
    """

    steps: int
    batch: int
    lr: float
    trust: float
    class_weights: Mapping[str, float]


def recipe_text(
    command: str, student: Bundle, source: str, frames: Unlabelled, val_part: tuple[float, float], train_frames: int,
    labelled: Path | None, folder: Path, budget: Budget,
) -> str:  # fmt: skip
    """The recipe as YAML. `train_frames` is how many samples an epoch has, `source` what names the student's bundle."""
    table, soft_labels = folder / "classes.yaml", folder / "soft_labels"
    manifest = student.manifest
    architecture = {name: value for name, value in manifest.architecture.items() if name != "classes"}
    batch = min(budget.batch, train_frames)
    epochs = max(1, round(budget.steps * batch / train_frames))
    decay = round(max(0.0, 1 - SPAN / budget.steps), 4)
    model: dict[str, Any] = architecture | {
        "initial_weights": source,
        "labels": str(table),
        "distiller": {"class_path": "ResponseKD", "init_args": {"trust": budget.trust}},
        "teacher": {"source": str(soft_labels)},
        "lr": budget.lr,
        "encoder_lr_scale": 0.5,
        "warmup_steps": max(1, budget.steps // 20),
    }
    if budget.class_weights:
        model["class_weights"] = [budget.class_weights.get(name, 1.0) for name in manifest.labels.names]
    named = asdict(frames) | {"part": list(frames.part)}
    data: dict[str, Any] = {"unlabelled": named, "val_part": list(val_part)}
    if labelled:
        data["labelled"] = str(labelled)
    else:
        del named["ratio"]  # there is nothing to mix them with
    shown = manifest.input_size
    data |= {"crop": sizes.named(_crop(shown)), "val_size": sizes.named(shown), "batch_size": batch}
    trainer = {
        "default_root_dir": str(folder),
        "max_epochs": epochs,
        "check_val_every_n_epoch": max(1, epochs // CHECKS),
        "num_sanity_val_steps": 0,
        "log_every_n_steps": 10,
        "precision": "bf16-mixed",
        "gradient_clip_val": 1.0,
        "callbacks": [{"class_path": "EMAWeightAveraging", "init_args": {"decay": decay}}],
    }
    recipe = {
        "seed_everything": 1,
        "model": model,
        "data": {"class_path": "training.data.drives.Drives", "init_args": data},
        "trainer": trainer,
    }
    head = f"# Written by {command}\n# Edit it and run that again, or: python training/distill.py --config {folder}"
    return f"{head}/recipe.yaml\n{yaml.safe_dump(recipe, sort_keys=False)}"


def trust_of(recipe: Path) -> float:
    """The least probability that teaches, as the recipe has it by now; 0 where its method has no such threshold."""
    distiller = yaml.safe_load(recipe.read_text(encoding="utf-8"))["model"].get("distiller") or {}
    return float(distiller.get("init_args", {}).get("trust", 0.0))


def _crop(size: Size) -> Size:
    """Three quarters of what the vehicle's network sees, in multiples of 32, and no less than two of them."""
    height, width = (max(64, side * 3 // 4 // 32 * 32) for side in size)
    return height, width
