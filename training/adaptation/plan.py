"""The plan of an adaptation, `training/adapt.py --dry-run`: sizes, and times measured on one frame and one step."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch

from training.adaptation.adaptation import Adaptation
from training.data.extraction import measure
from training.networks import NetworkSpec, build_network
from transkd_ros.model.bundle import Bundle


def show_plan(adaptation: Adaptation) -> None:
    """What would be done, with sizes and times measured on one frame and one step."""
    args, frames = adaptation.args, adaptation.frames
    there = {source: measure(frames, source) for source in frames.sources}
    expected = {source: found.expected(frames) for source, found in there.items()}
    total = sum(expected.values())
    for source, found in there.items():
        topics = ", ".join(f"{topic or 'images'} ({count})" for topic, count in found.topics.items())
        print(f"{source}: {found.duration_ns / 1e9:.0f} s, {topics}: at most {expected[source]} frames")
    committee, _ = adaptation.committee()
    height, width = (min(side, args.longest) for side in committee.size)
    stored = len(committee.labels.names) * -(-height // args.stride) * -(-width // args.stride) * 2
    noise = torch.randint(256, (height, width, 3), dtype=torch.uint8).numpy()
    look = _seconds(lambda: committee(noise, (-(-height // args.stride), -(-width // args.stride))))
    step = _seconds(lambda: _step(adaptation.student, args.batch))
    print(f"frames: {total}, about {total * height * width * 3 / 2e6:.0f} MB as PNG in {frames.cache}")
    asked = f"{look:.2f} s a frame: {total * look / 60:.0f} min, {total * stored / 1e6:.0f} MB"
    print(f"teachers: {len(args.teacher)}, {asked}")
    print(f"training: {args.steps} steps of {args.batch}, {step:.2f} s each: {args.steps * step / 60:.0f} min")
    print(f"student: {args.student}; bundle: {args.output}; working folder and report: {adaptation.folder}")


def _step(student: Bundle, batch: int) -> None:
    network = build_network(NetworkSpec(**student.manifest.architecture))
    height, width = student.manifest.input_size
    network(torch.rand(batch, 3, height * 3 // 4 // 32 * 32, width * 3 // 4 // 32 * 32)).square().mean().backward()


def _seconds(work: Callable[[], object]) -> float:
    work()  # the first time allocates
    start = time.perf_counter()
    work()
    return time.perf_counter() - start
