"""Measure what distillation costs on this machine: `python -m training.benchmark`.

Ratios within one run: a distilled step against its parts in time and in memory, and how long a step waits for data.
"""

from __future__ import annotations

import argparse
import math
import multiprocessing
import os
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

if __name__ == "__main__":  # before the imports that may fail
    from training.requirements import require

    require()

import torch
from torch import Tensor

from training.data.camvid import CamVid, find_camvid
from training.distillers import Distiller, KnowledgeAdaptation, ResponseKD, TransKD
from training.distillers.knowledge_adaptation import affinity_loss
from training.module import SegmentationModule
from training.networks import NetworkSpec, build_network
from training.soft_labels import StoredTeacher
from training.teachers import Teacher
from transkd_ros import cli
from transkd_ros.benchmark.measurement import Measurement, Skipped, Target, measure_all, medians, table, take_turns
from transkd_ros.benchmark.memory import resident
from transkd_ros.model.labels import LabelTable

METHODS: dict[str, Callable[[], Distiller]] = {
    "ResponseKD": ResponseKD,
    "SKR+PEA": lambda: TransKD("skr_pea"),
    "TransKD-base": TransKD,
    "TransKD-GL": lambda: TransKD("gl"),
    "TransKD-EA": lambda: TransKD("ea"),
}
JUDGED = "TransKD-base"
Batch = tuple[Tensor, Tensor]
CLASSES = 11
LOADING_CROP = (352, 480)  # CamVid's size, as networks take it
AFFINITY_MAP = (128, 512 // 16, 1024 // 16)  # channels, height, width


@dataclass(frozen=True)
class Settings:
    """`size` is (H, W) of a crop; `steps` are timed."""

    teacher: str
    student: str
    size: tuple[int, int]
    batch: int
    steps: int

    @property
    def device(self) -> torch.device:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")


class Step:
    """Training steps of a module, as the training loop makes them but at one learning rate."""

    def __init__(self, module: SegmentationModule, device: torch.device) -> None:
        self.module, self.device = module.to(device).train(), device
        for teacher in module.teachers:
            teacher.to(device)
        parameters = [parameter for parameter in module.parameters() if parameter.requires_grad]
        self.optimiser = torch.optim.AdamW(parameters, 1e-4)

    def __call__(self, batch: Batch) -> None:
        with torch.autocast(self.device.type, torch.bfloat16):
            loss = torch.stack(list(self.module.losses(*batch).values())).sum()
        self.optimiser.zero_grad()
        loss.backward()
        self.optimiser.step()
        _synchronise(self.device)


def student(settings: Settings, method: str | None = None, teacher: Teacher | None = None) -> SegmentationModule:
    """The student alone, or under a teacher by one of METHODS."""
    module = SegmentationModule(encoder=settings.student)
    if method is not None and teacher is not None:
        module.learn_from(teacher, METHODS[method]())
    return module


def random_teacher(settings: Settings) -> Teacher:
    """A teacher as the recipes have it, with random weights: they cost as much as trained ones."""
    spec = NetworkSpec("segformer", settings.teacher, CLASSES)
    return Teacher(build_network(spec), spec, LabelTable.load("camvid"), precision="bf16").to(settings.device)


def random_batch(count: int, size: tuple[int, int], device: torch.device) -> Batch:
    """Images (count, 3, *size) uint8 and labels (count, *size) uint8 of random values."""
    images = torch.randint(256, (count, 3, *size), dtype=torch.uint8, device=device)
    return images, torch.randint(CLASSES, (count, *size), dtype=torch.uint8, device=device)


def step_times(peers: dict[str, SegmentationModule], batch: Batch, steps: int) -> dict[str, float]:
    """Median ms of a training step of each peer, and of "forward SOURCE" of each teacher among them, in turns."""
    device = batch[0].device
    teachers = {teacher.source: teacher for module in peers.values() for teacher in module.teachers}
    work: dict[str, Callable[[Batch], None]] = {name: Step(module, device) for name, module in peers.items()}

    def look(teacher: Teacher | StoredTeacher, batch: Batch) -> None:
        teacher(batch[0])
        _synchronise(device)

    work |= {f"forward {source}": partial(look, teacher) for source, teacher in teachers.items()}
    for peer in work.values():  # the first step of each allocates
        peer(batch)
    return medians(take_turns(work, [batch], steps))


def measure_steps(settings: Settings) -> Measurement:
    """Every method's step against (teacher forward + plain student step), in turns."""
    teacher = random_teacher(settings)
    peers = {"student step": student(settings)} | {name: student(settings, name, teacher) for name in METHODS}
    times = step_times(peers, random_batch(settings.batch, settings.size, settings.device), settings.steps)
    times["teacher forward"] = times.pop(f"forward {teacher.source}")
    parts = times["teacher forward"] + times["student step"]
    ratios = {name: times[name] / parts for name in METHODS}
    shown = table("", "ms", "of teacher forward + student step")
    for name, value in times.items():
        shown.add_row(name, f"{value:.0f}", f"{ratios[name]:.2f}" if name in ratios else "")
    target = Target(f"{JUDGED} step over teacher forward + student step", ratios[JUDGED], "≤", 1.15, "×")
    return Measurement({"ms": times, "ratio": ratios}, shown, [target])


def measure_memory(settings: Settings) -> Measurement:
    """Peak memory of a distilled step against that of a teacher forward and of a student step, a process each."""
    peaks = {name: _alone(_peak, settings, name) for name in ("imports", "teacher forward", "student step", JUDGED)}
    grown = {name: peak - peaks["imports"] for name, peak in peaks.items() if name != "imports"}
    shown = table("", "MB above the imports")
    for name, value in grown.items():
        shown.add_row(name, f"{value:.0f}")
    ratio = grown[JUDGED] / (grown["teacher forward"] + grown["student step"])
    target = Target(f"peak memory of a {JUDGED} step over both parts'", ratio, "≤", 1.25, "×")
    return Measurement({"MB": grown, "ratio": ratio}, shown, [target])


def _alone(measure: Callable[..., float], *arguments: Any) -> float:
    """A measurement in a new process: a peak is never forgotten."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(measure, *arguments).result()


def _held(device: torch.device) -> float:
    """MB that this process has held at most, on the GPU if there is one."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated() / 1e6
    return resident(os.getpid())["peak"]


def _peak(settings: Settings, name: str) -> float:
    """What is held at most after three steps of a peer."""
    if name != "imports":
        teacher = None if name == "student step" else random_teacher(settings)
        batch = random_batch(settings.batch, settings.size, settings.device)
        if name == "teacher forward":
            assert teacher is not None
            for _ in range(3):
                teacher(batch[0])
        else:
            step = Step(student(settings, name if name in METHODS else None, teacher), settings.device)
            for _ in range(3):
                step(batch)
    return _held(settings.device)


def measure_affinity(settings: Settings) -> Measurement:
    """What the affinity loss of Knowledge Adaptation adds to a step's memory for one large image, a process each."""
    whole = math.prod(AFFINITY_MAP[1:])
    choices = {"pooled": KnowledgeAdaptation().positions, "unpooled": whole}
    added: dict[str, float] = {}
    shown = table(f"affinity loss of {whole} positions", "at most", "MB added")
    for name, positions in choices.items():
        added[name] = _alone(_affinity_peak, settings.device, positions)
        shown.add_row(name, str(positions), f"{added[name]:.1f}")
    notes = ["forward and backward for one image of 1024x512, the student's output stride 16, 128 channels, float32"]
    return Measurement({"MB": added, "positions": choices}, shown, notes=notes)


def _affinity_peak(device: torch.device, positions: int) -> float:
    """MB that the affinity loss and its gradient hold at most, beside the two maps."""
    student = torch.rand(1, *AFFINITY_MAP, device=device, requires_grad=True)
    code = torch.rand(1, *AFFINITY_MAP, device=device)
    affinity_loss(student, code, 16).backward()  # what the first call allocates for good
    before = _held(device)
    affinity_loss(student, code, positions).backward()
    return _held(device) - before


def measure_loading(settings: Settings) -> Measurement:
    """The share of an epoch's time in which a plain student step waits for its batch, with 2 workers."""
    if find_camvid() is None:
        raise Skipped("CamVid is not at hand (see docs/training.md): reading and decoding real files is what counts")
    data = CamVid(crop=LOADING_CROP, batch_size=settings.batch, workers=2)
    data.setup("fit")
    step = Step(student(settings), settings.device)
    batches = iter(data.train_dataloader())
    waited = worked = 0.0
    for index in range(settings.steps * 2 + 2):
        start = time.perf_counter()
        images, labels = next(batches)
        got = time.perf_counter()
        step((images.to(settings.device), labels.to(settings.device)))
        if index >= 2:  # the workers have started
            waited, worked = waited + got - start, worked + time.perf_counter() - got
    share = waited / (waited + worked)
    shown = table("", "s")
    shown.add_row("waiting for data", f"{waited:.2f}")
    shown.add_row("training", f"{worked:.2f}")
    target = Target("waiting for data", 100 * share, "<", 5.0, "%")
    return Measurement({"waiting_share": share, "workers": 2, "crop": list(LOADING_CROP)}, shown, [target])


def _synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


MEASUREMENTS: dict[str, Callable[[Settings], Measurement]] = {
    "step": measure_steps,
    "memory": measure_memory,
    "affinity": measure_affinity,
    "loading": measure_loading,
}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m training.benchmark", description=(__doc__ or "").split(":")[0])
    parser.add_argument("--teacher", default="mit_b2", help="encoder (%(default)s)")
    parser.add_argument("--student", default="mit_b0", help="encoder (%(default)s)")
    parser.add_argument("--size", type=cli.size, default=(256, 320), metavar="WIDTHxHEIGHT", help="of crops (320x256)")
    parser.add_argument("--batch", type=cli.positive_int, default=8, help="images a step (%(default)s)")
    parser.add_argument("--steps", type=cli.positive_int, default=12, help="timed (%(default)s)")
    parser.add_argument("--only", choices=MEASUREMENTS, nargs="+", metavar="NAME", help=", ".join(MEASUREMENTS))
    parser.add_argument("--output", type=Path, default=Path("training_benchmark.json"), help="file (%(default)s)")
    args = parser.parse_args()
    settings = Settings(args.teacher, args.student, args.size, args.batch, args.steps)
    names = args.only or MEASUREMENTS
    chosen = {name: partial(measure, settings) for name, measure in MEASUREMENTS.items() if name in names}
    measure_all(chosen, {"settings": vars(settings) | {"device": str(settings.device)}}, args.output)


if __name__ == "__main__":
    cli.run(main)
