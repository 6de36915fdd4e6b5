"""Measure what distillation costs on this machine: `python -m training.benchmark`.

Ratios within one run: a distilled step against its parts in time and in memory, and how long a step waits for data.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from training.data.camvid import CamVid, find_camvid
from training.distillers import SKRPEA, Distiller, ResponseKD, TransKD
from training.module import IGNORE
from training.networks import NetworkSpec, build_network
from training.taps import run_tapped, widths
from training.teachers import Teacher
from transkd_ros import cli
from transkd_ros.benchmark.measurement import Measurement, Skipped, Target, measure_all, medians, table, take_turns
from transkd_ros.benchmark.memory import resident

METHODS: dict[str, Callable[[], Distiller]] = {
    "ResponseKD": ResponseKD,
    "SKR+PEA": SKRPEA,
    "TransKD-base": TransKD,
    "TransKD-GL": lambda: TransKD("gl"),
    "TransKD-EA": lambda: TransKD("ea"),
}
JUDGED = "TransKD-base"
CLASSES = 11
LOADING_CROP = (352, 480)  # CamVid's size, as networks take it


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
    """Training steps of one student on random pixels, alone or under a teacher, as the training loop makes them."""

    def __init__(self, settings: Settings, distiller: Distiller | None = None, teacher: Teacher | None = None) -> None:
        self.device = settings.device
        student = build_network(NetworkSpec("segformer", settings.student, CLASSES))
        self.student = student.to(memory_format=torch.channels_last).to(self.device).train()
        self.distiller, self.teacher = distiller, teacher
        parameters = list(self.student.parameters())
        if distiller is not None and teacher is not None:
            distiller.build(widths(self.student), widths(teacher.network))
            parameters += distiller.to(self.device).parameters()
        self.optimiser = torch.optim.AdamW(parameters, 1e-4)

    def __call__(self, batch: tuple[Tensor, Tensor]) -> None:
        images, labels = batch
        with torch.autocast(self.device.type, torch.bfloat16):
            taps = run_tapped(self.student, images.float().div(128).sub(1).to(memory_format=torch.channels_last))
            loss = F.cross_entropy(taps.logits.float(), labels, ignore_index=IGNORE)
            if self.distiller is not None and self.teacher is not None:
                loss = loss + torch.stack(list(self.distiller(taps, self.teacher(images), labels).values())).sum()
        self.optimiser.zero_grad()
        loss.backward()
        self.optimiser.step()
        _synchronise(self.device)


def random_teacher(settings: Settings) -> Teacher:
    """A teacher as the recipes have it, with random weights: they cost as much as trained ones."""
    spec = NetworkSpec("segformer", settings.teacher, CLASSES)
    return Teacher(build_network(spec), spec, None, precision="bf16").to(settings.device)


def random_batch(settings: Settings) -> tuple[Tensor, Tensor]:
    """Images (B, 3, H, W) uint8 and labels (B, H, W) int64."""
    shape = (settings.batch, *settings.size)
    images = torch.randint(256, (settings.batch, 3, *settings.size), dtype=torch.uint8, device=settings.device)
    return images, torch.randint(CLASSES, shape, device=settings.device)


def measure_steps(settings: Settings) -> Measurement:
    """Every method's step against (teacher forward + plain student step), in turns."""
    teacher = random_teacher(settings)

    def look(batch: tuple[Tensor, Tensor]) -> None:
        teacher(batch[0])
        _synchronise(settings.device)

    peers: dict[str, Any] = {"teacher forward": look, "student step": Step(settings)}
    peers |= {name: Step(settings, make(), teacher) for name, make in METHODS.items()}
    batch = random_batch(settings)
    for peer in peers.values():  # the first step of each allocates
        peer(batch)
    times = medians(take_turns(peers, [batch], settings.steps))
    parts = times["teacher forward"] + times["student step"]
    shown = table("", "ms", "of teacher forward + student step")
    for name, value in times.items():
        shown.add_row(name, f"{value:.0f}", f"{value / parts:.2f}" if name in METHODS else "")
    ratios = {name: times[name] / parts for name in METHODS}
    target = Target(f"{JUDGED} step over teacher forward + student step", ratios[JUDGED], "≤", 1.15, "×")
    return Measurement({"ms": times, "ratio": ratios}, shown, [target])


def measure_memory(settings: Settings) -> Measurement:
    """Peak memory of a distilled step against that of a teacher forward and of a student step, a process each."""
    spawn = multiprocessing.get_context("spawn")
    peaks: dict[str, float] = {}
    for name in ("imports", "teacher forward", "student step", JUDGED):
        with ProcessPoolExecutor(1, spawn) as pool:  # a new process: a peak is never forgotten
            peaks[name] = pool.submit(_peak, settings, name).result()
    grown = {name: peak - peaks["imports"] for name, peak in peaks.items() if name != "imports"}
    shown = table("", "MB above the imports")
    for name, value in grown.items():
        shown.add_row(name, f"{value:.0f}")
    ratio = grown[JUDGED] / (grown["teacher forward"] + grown["student step"])
    target = Target(f"peak memory of a {JUDGED} step over both parts'", ratio, "≤", 1.25, "×")
    return Measurement({"MB": grown, "ratio": ratio}, shown, [target])


def _peak(settings: Settings, name: str) -> float:
    """MB that this process has held at most, on the GPU if there is one, after three steps of a peer."""
    if name != "imports":
        teacher = None if name == "student step" else random_teacher(settings)
        batch = random_batch(settings)
        if name == "teacher forward":
            assert teacher is not None
            for _ in range(3):
                teacher(batch[0])
        else:
            step = Step(settings, METHODS[name]() if name in METHODS else None, teacher)
            for _ in range(3):
                step(batch)
    if settings.device.type == "cuda":
        return torch.cuda.max_memory_allocated() / 1e6
    return resident(os.getpid())["peak"]


def measure_loading(settings: Settings) -> Measurement:
    """The share of an epoch's time in which a plain student step waits for its batch, with 2 workers."""
    if find_camvid() is None:
        raise Skipped("CamVid is not at hand (see README, Data): reading and decoding real files is what counts")
    data = CamVid(crop=LOADING_CROP, batch_size=settings.batch, workers=2)
    data.setup("fit")
    step = Step(settings)
    batches = iter(data.train_dataloader())
    waited = worked = 0.0
    for index in range(settings.steps * 2 + 2):
        start = time.perf_counter()
        images, labels = next(batches)
        got = time.perf_counter()
        step((images.to(settings.device), labels.to(settings.device).long()))
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
