"""Compare a teacher and a student on the frames of a bag: `python -m transkd_ros.compare`. No ROS needed.

Every frame goes through both models, one after the other: no rate of the bag, no dropped frames. A latency is the
model's own time for a frame (resize, infer, upsize), a rate what it would reach alone.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transkd_ros import cli

if TYPE_CHECKING:
    from transkd_ros.bags.storage import BagReader
    from transkd_ros.compare.pair_page import Subject, View
    from transkd_ros.segmenter import Segmenter


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m transkd_ros.compare", description="Compare a teacher and a student on the frames of a bag."
    )
    parser.add_argument("--bag", type=Path, required=True, help="a rosbag2 bag, sqlite3 or MCAP")
    parser.add_argument("--topic", action="append", help="image topic; repeat for several (default: every camera)")
    parser.add_argument("--frames", type=cli.positive_int, help="how many of each camera (default: all)")
    for side in ("teacher", "student"):
        group = parser.add_argument_group(side)
        group.add_argument(f"--{side}", required=True, help="name of a shipped model, or folder of a bundle")
        cli.add_engine_options(group, f"{side}-")
        group.add_argument(f"--{side}-size", type=cli.size, help="WIDTHxHEIGHT the network sees (default: its own)")
    parser.add_argument("--output", type=Path, default=Path("comparison"), help="folder (default comparison)")
    return parser


def main() -> int:
    args = _parser().parse_args()

    # What is slow to import comes after the arguments are read.
    from transkd_ros.bags.storage import BagError, BagReader
    from transkd_ros.compare.agreement import common_labels
    from transkd_ros.compare.pair_page import Subject
    from transkd_ros.model.bundle import BundleError, load_bundle
    from transkd_ros.model.class_map import ClassTableError
    from transkd_ros.model.engines import RuntimeUnavailable, open_runtime
    from transkd_ros.resources import find_model
    from transkd_ros.segmenter import Segmenter

    try:
        bundles = {side: load_bundle(find_model(getattr(args, side))) for side in ("teacher", "student")}
        teacher, student = (bundle.manifest for bundle in bundles.values())
        subject = Subject(teacher.name, student.name, common_labels(teacher, student), student.labels)
        with BagReader(args.bag) as bag:
            topics = bag.chosen_topics(args.topic)
            segmenters = {}
            for side, bundle in bundles.items():
                engine, device, precision, size = (
                    getattr(args, f"{side}_{option}") for option in ("engine", "device", "precision", "size")
                )
                segmenters[side] = Segmenter(open_runtime(bundle, engine, device, precision, size))
                print(f"{side}: {bundle.manifest.name}, {segmenters[side].runtime.reason}")
            args.output.mkdir(parents=True, exist_ok=True)
            return _compare(bag, topics, segmenters, subject, args)
    except (BagError, BundleError, ClassTableError, RuntimeUnavailable, ValueError) as error:
        raise cli.CommandError(str(error)) from error


def _compare(
    bag: BagReader, topics: list[str], segmenters: dict[str, Segmenter], subject: Subject, args: argparse.Namespace
) -> int:
    """Run every frame through both models; what was compared is written, whatever ends it."""
    from transkd_ros.compare import pair_page
    from transkd_ros.compare.agreement import Comparison

    views = {topic: pair_page.View(Comparison(subject.labels, student=subject.student_labels)) for topic in topics}
    clocks = {topic: dict.fromkeys(segmenters, 0.0) for topic in topics}
    try:
        for topic, stamp_ns, message in _frames(bag, topics, args.frames):
            _hear(views[topic], stamp_ns, message, segmenters, clocks[topic])
    finally:
        compared = any(view.comparison.pairing.complete for view in views.values())
        if compared:
            pair_page.write(
                args.output,
                subject,
                views,
                f"Every frame of {args.bag} through both models; a latency is the model's own time for a frame",
            )
            _print_results(views, args.output)
    if not compared:
        broken = sum(sum(view.broken.values()) for view in views.values())
        raise cli.CommandError(f"{args.bag}: no frame of {', '.join(topics)} could be used, {broken} are broken")
    return 0


def _frames(bag: BagReader, topics: list[str], most: int | None) -> Iterator[tuple[str, int, Any]]:
    """(topic, stamp in ns, message) of every frame, camera after camera, under a progress bar."""
    from transkd_ros.bags.messages import header_stamp

    with cli.progress() as progress:
        for topic in topics:
            count = min(bag.counts[topic], most or bag.counts[topic])
            for recorded_ns, message in progress.track(islice(bag.frames(topic), count), count, description=topic):
                yield topic, header_stamp(message) or recorded_ns, message


def _hear(view: View, stamp_ns: int, message: Any, segmenters: dict[str, Segmenter], clocks: dict[str, float]) -> None:
    """Show one frame to both models; each has a clock of its own in `clocks`, which runs while it works."""
    from transkd_ros.frames import FrameError, decode

    try:
        frame = decode(message)
    except FrameError as error:
        view.broken[error.cause] += 1
        return
    pair = None
    for side, segmenter in segmenters.items():
        segmentation = segmenter(frame)
        seconds = sum(segmentation.timings.values())
        clocks[side] += seconds
        pair = view.comparison.hear(side, stamp_ns, segmentation.mask, clocks[side], seconds)
    if pair is not None and pair is view.comparison.worst:
        view.worst_frame = frame


def _print_results(views: dict[str, View], folder: Path) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table

    from transkd_ros.compare.pair_page import HTML, JSON
    from transkd_ros.evaluate.bag_cameras import camera_name
    from transkd_ros.reports.html import number, percent

    caption = "mIoU and pixel accuracy of the student against the teacher; median time of a frame"
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1), caption=caption)
    table.add_column("camera", overflow="fold")
    for heading in ("frames", "mIoU\n%", "acc.\n%", "teacher\nms", "student\nms", "student\nfaster by"):
        table.add_column(heading, justify="right", no_wrap=True)
    for camera, view in views.items():
        summary = view.comparison.summary()
        total, ratio = summary["agreement"]["total"], summary["ratios"]["latency"]
        times = [summary[side]["latency_ms"].get("p50") for side in ("teacher", "student")]
        texts = [percent(total["miou"]), percent(total["pixel_accuracy"]), *map(number, times)]
        table.add_row(camera_name(camera), str(summary["pairs"]["complete"]), *texts, f"{ratio:.2f}×" if ratio else "–")
    Console().print(table)
    print(f"{folder / JSON}\n{folder / HTML}")


if __name__ == "__main__":
    cli.run(main)
