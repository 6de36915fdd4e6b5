"""The whole product at work on this machine: `python -m transkd_ros.demo`.

A real ROS 2 graph: the segmentation node in a process of its own, and here a player that publishes frames and
a listener that hears the masks. Leaves an overlay video, a contact sheet and timing.json. This file conducts;
frames come from `sources`, numbers and pictures from `run` and `reports.album`.
"""

from __future__ import annotations

import argparse
import contextlib
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transkd_ros import cli
from transkd_ros.demo.graph import ANSWER_LIMIT, NodeGraph, await_node, open_graph, set_environment

# What is slow to import or brings rclpy in comes after the arguments are read and the ROS environment is set.
if TYPE_CHECKING:
    from rich.console import Console

    from transkd_ros.demo.listener import MaskListener
    from transkd_ros.demo.run import Run
    from transkd_ros.demo.sources import Source

LAST_ANSWERS = 2.0  # seconds for the masks still on their way when the last frame is out
LEAST_SPACE = 50_000_000  # bytes free on the disk
SCENE_FRAMES = 100


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m transkd_ros.demo", description=(__doc__ or "").split("\n")[0])
    source = parser.add_argument_group("frames (default: rendered scenes)")
    source.add_argument("--bag", type=Path, help="replay a rosbag2 bag, sqlite3 or MCAP")
    source.add_argument("--topic", help="image topic of the bag, where it has several")
    source.add_argument("--images", type=Path, help="play the images of a folder, or a video file")
    source.add_argument("--video", type=_video, help="number of a webcam, e.g. 0, or a video file")
    source.add_argument("--labels", type=Path, help="label images of the same names")
    source.add_argument(
        "--classes", type=cli.class_table, metavar="TABLE", help="class table of the labels: camvid, … or a YAML file "
        "(default: the model's)"
    )  # fmt: skip
    source.add_argument("--frames", type=cli.positive_int, help="how many (default: all, or 100 scenes)")
    source.add_argument(
        "--rate",
        type=cli.positive_float,
        help="Hz, waiting for nobody (default: the bag's rate, else 10, but no faster than the masks come)",
    )
    source.add_argument("--size", type=cli.size, help="WIDTHxHEIGHT of rendered scenes (default 640x480)")
    node = parser.add_argument_group("segmentation node")
    node.add_argument("--model", help="name of a shipped model, or folder of a bundle")
    cli.add_engine_options(node)
    parser.add_argument("--output", type=Path, default=Path("demo_output"), help="folder (default demo_output)")
    return parser


def main() -> int:
    args = _parser().parse_args()
    _check_arguments(args)
    set_environment()

    from transkd_ros.bags.image_folder import ImageFolderError
    from transkd_ros.bags.storage import BagError
    from transkd_ros.demo.run import TruthError
    from transkd_ros.model.bundle import BundleError
    from transkd_ros.model.class_map import ClassTableError

    try:
        return _demo(args)
    except (BagError, BundleError, ClassTableError, ImageFolderError, TruthError) as error:
        raise cli.CommandError(str(error)) from error


def _demo(args: argparse.Namespace) -> int:
    """Everything from the model to the results; returns the exit code."""
    from rich.console import Console

    from transkd_ros.demo.run import Run
    from transkd_ros.demo.sources import ENDLESS
    from transkd_ros.model.bundle import load_bundle
    from transkd_ros.resources import DEFAULT_MODEL, find_model

    model = find_model(args.model or DEFAULT_MODEL)
    bundle = load_bundle(model, verify=False)  # the node verifies
    labels = bundle.manifest.labels
    source, mapping = _open_source(args, labels.names).scored_as(labels, bundle.manifest.name)
    _prepare_folder(args.output)
    console = Console()
    frames = "until Ctrl-C" if source.length == ENDLESS else f"{source.length} frames"
    console.print(f"{source.name}, {frames} → {bundle.manifest.name}", highlight=False)

    if source.classes and (remark := mapping.remark("the labels", bundle.manifest.name)):
        print(remark)

    details = {"source": source.name, "model": bundle.manifest.name}
    code = 0
    with Run(args.output, labels, args.rate or source.rate, mapping.scored) as run:
        with _graph(source, model, args) as graph:
            try:
                await_node(graph)
                with _display(console, run, graph.listener) as show:
                    _play(source, graph, run, show, args.rate)
            except KeyboardInterrupt:
                code = 130
            except SystemExit as end:  # SIGTERM, see `cli`
                code = int(end.code or 0)
            diagnostics = graph.listener.diagnostics
        if run.sent.count:
            run.finish(f"{bundle.manifest.name} on {source.name}", details, diagnostics)
            _print_results(console, run, diagnostics, args.rate)
    return code


# --------------------------------------------------------------------------------------------- before it runs


def _video(text: str) -> int | Path:
    """An argparse type: the number of a webcam, or a file."""
    return int(text) if text.isdecimal() else Path(text)


def _check_arguments(args: argparse.Namespace) -> None:
    if isinstance(args.video, Path) and not args.images:
        args.images, args.video = args.video, None
    if sum(given is not None for given in (args.bag, args.images, args.video)) > 1:
        raise cli.CommandError("--bag, --images and --video exclude each other")
    from transkd_ros.demo.run import VIDEO

    if args.images and args.images.resolve() == (args.output / VIDEO).resolve():
        raise cli.CommandError(f"{args.images} is what this run would replace; give another folder with --output")
    if args.labels and not args.images:
        raise cli.CommandError("--labels belongs to --images; a bag brings its labels on <camera>/ground_truth")
    if args.classes and not args.labels:
        raise cli.CommandError("--classes belongs to --labels; a bag brings those of its labels")
    if args.topic and not args.bag:
        raise cli.CommandError("--topic belongs to --bag")
    if args.size and (args.bag or args.images or args.video is not None):
        raise cli.CommandError("--size is that of rendered scenes; --bag, --images and --video keep their own")


def _open_source(args: argparse.Namespace, classes: tuple[str, ...]) -> Source:
    """The frames to play. Raises BagError, ImageFolderError or CommandError."""
    from dataclasses import replace

    from transkd_ros.demo import sources
    from transkd_ros.model.labels import LabelTable

    if args.bag:
        source = sources.bag(args.bag, args.topic)
    elif args.images:
        source = sources.images(args.images, args.labels, args.classes)
    elif args.video is not None:
        source = sources.webcam(args.video)
    else:
        size, rate = args.size or sources.SCENE_SIZE, args.rate or sources.SCENE_RATE
        if min(size) < 64 or max(size) > 8192:
            raise cli.CommandError(f"--size {size[1]}x{size[0]}: each side must be 64 to 8192 pixels")
        labelled = set(classes) <= set(LabelTable.load("camvid").names)
        source = sources.scenes(args.frames or SCENE_FRAMES, size, rate, labelled=labelled)
    return replace(source, length=min(source.length, args.frames or source.length))


def _prepare_folder(folder: Path) -> None:
    """Make it and try it, so that an unwritable one is known before the first frame."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=folder) as probe:
        probe.write(b"\0" * 4096)
        probe.flush()
    if (free := shutil.disk_usage(folder).free) < LEAST_SPACE:
        raise cli.CommandError(f"{folder}: only {free // 1_000_000} MB free, {LEAST_SPACE // 1_000_000} are needed")


# ---------------------------------------------------------------------------------------------- the graph


def _graph(source: Source, model: Path, args: argparse.Namespace) -> AbstractContextManager[NodeGraph]:
    """The graph of this source's camera, not yet active."""
    parameters = {
        "model": str(model.resolve()),
        "engine": args.engine,
        "device": args.device,
        "precision": args.precision,
    }
    return open_graph(source.camera, source.compressed, parameters, args.output / "node.log")


def _play(source: Source, graph: NodeGraph, run: Run, show: Any, rate: float | None) -> None:
    """Play every frame: at the user's `rate`, or else at the source's and not before the last one's mask."""

    def collect(until: float, stamp_ns: int | None = None) -> None:
        """Take masks until a time, or until the frame of that stamp is no longer waited for."""
        while stamp_ns is None or run.is_waiting(stamp_ns):
            remaining = until - time.monotonic()
            if answer := graph.listener.take(min(max(remaining, 0), 0.1)):
                run.answer(*answer)
            elif remaining <= 0:
                return
            graph.process.check()
            show()

    period = 1 / (rate or source.rate)
    due, stamp_ns = 0.0, 0
    for shot in islice(source.shots(), source.length):
        collect(due)
        now = time.monotonic()
        due = (due if now - due < period else now) + period  # a late frame is no reason for a burst
        stamp_ns = graph.player.play(shot.message)
        run.send(stamp_ns, shot)
        if rate is None:
            collect(time.monotonic() + ANSWER_LIMIT, stamp_ns)
    collect(time.monotonic() + LAST_ANSWERS, stamp_ns)
    time.sleep(0.3)  # one more message of diagnostics, which now counts all frames


# ---------------------------------------------------------------------------------------------- what is shown


@contextlib.contextmanager
def _display(console: Console, run: Run, listener: MaskListener) -> Iterator[Any]:
    """A function that shows the state of the run: a live table in a terminal, else a line per second."""
    from rich.console import Group
    from rich.live import Live

    def state() -> Group:
        return Group(run.line(), run.table(listener.diagnostics))

    if console.is_terminal:
        with Live(console=console, auto_refresh=False, transient=True) as live:
            yield _every(0.25, lambda: live.update(state(), refresh=True))
    else:
        yield _every(1.0, lambda: print(run.line(), flush=True))


def _every(seconds: float, show: Any) -> Any:
    """`show`, but at most once in that time."""
    shown = 0.0

    def throttled() -> None:
        nonlocal shown
        if time.monotonic() - shown >= seconds:
            shown = time.monotonic()
            show()

    return throttled


def _pace(diagnostics: Any) -> str:
    """Why the rates are below what the node's times promise, for a run that waited for every mask; "" if unknown."""
    from transkd_ros.timing import read_latencies

    milliseconds = read_latencies(diagnostics.get("node", {})).get("total", {}).get("p50")
    if not milliseconds:
        return ""
    return (
        "The Hz are the player's: it waits for every mask, and makes and draws frames in between. The node takes "
        f"{milliseconds:.1f} ms a frame, {1e3 / milliseconds:.0f} Hz if it were fed; --rate HZ plays without waiting."
    )


def _print_results(console: Console, run: Run, diagnostics: Any, rate: float | None) -> None:
    console.print(run.line(), highlight=False, soft_wrap=True)
    console.print(run.table(diagnostics))
    if not rate and (pace := _pace(diagnostics)):
        print(pace)
    if quality := run.quality_table():
        console.print(quality)
    if rate and run.sent.mean < 0.8 * rate:
        print(f"note: only {run.sent.mean:.1f} of the {rate:g} Hz asked for: making and drawing frames takes time")
    for path in run.files:
        print(path)


if __name__ == "__main__":
    cli.run(main)
