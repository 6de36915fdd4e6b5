"""Milliseconds against accuracy: `python training/frontier.py`, every bundle at several input sizes and precisions.

Writes OUTPUT.json, OUTPUT.md and OUTPUT.png, a point for each bundle, size and precision. A point's accuracy is
measured once, on the frames that `training/export.py` measures on, and kept in OUTPUT.json until the bundle's graph is
another. All points are timed in one process, by turns, whenever the command is called: only times of one run compare.
`--accuracy-only` and `--time-only` are its halves; the second wants a machine that does nothing else, for minutes.
"""

from __future__ import annotations

import argparse
import datetime
import json
import shlex
import signal
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import product
from pathlib import Path
from statistics import median
from typing import Any

if __name__ == "__main__":  # run as a script: this folder is not the package's parent
    sys.path[0] = str(Path(__file__).resolve().parents[1])
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C during the imports, which take seconds; see `cli.run`
    from training.requirements import require

    require()

from training.bundle_checks import ExportError, measure
from training.deploy import fold
from training.export_frames import Frames, checked_frames
from training.frontier_page import page, picture
from training.networks import NetworkError, NetworkSpec, build_network, count_macs
from transkd_ros import cli
from transkd_ros.bags.image_folder import ImageFolderError
from transkd_ros.benchmark.measurement import take_turns
from transkd_ros.files import write_atomic
from transkd_ros.frames import Frame
from transkd_ros.model.bundle import INT8_ONNX, MODEL_ONNX, Bundle, BundleError, load_bundle
from transkd_ros.model.choices import ENGINES
from transkd_ros.model.engines import Runtime, RuntimeUnavailable, open_runtime
from transkd_ros.reports.machine import machine, versions
from transkd_ros.resources import share_directory
from transkd_ros.scenes import Drive

SIZES = ((192, 256), (288, 384), (384, 512), (480, 640))
"""(H, W)"""
TIMED = 45
"""Inferences of a point."""
STREETS = 4


@dataclass(frozen=True)
class Point:
    """A bundle at an input size in a precision: where it is from, what it costs, and how good it is.

    `size` is [H, W]; `graph` the SHA-256 of the file that runs, of `megabytes`; `macs` None for a network that is not
    of `training.networks` at another size than its own; `miou` and `pixel_accuracy` fractions of 1 on `frames` frames.
    `ms` is the shortest inference of the last timing, because what disturbs one makes it longer, never shorter;
    `median_ms` the median; both None where it was not timed, or does not run on the machine that was.
    """

    bundle: str
    path: str
    network: str
    recipe: str
    size: list[int]
    precision: str
    graph: str
    megabytes: float
    parameters: int
    macs: int | None
    frames: int
    miou: float
    pixel_accuracy: float
    ms: float | None = None
    median_ms: float | None = None

    @property
    def place(self) -> tuple[str, tuple[int, ...], str]:
        """What it is a point of."""
        return self.bundle, tuple(self.size), self.precision

    def __str__(self) -> str:
        return f"{self.bundle} {self.size[1]}x{self.size[0]} {self.precision}"


@dataclass(frozen=True)
class Record:
    """What OUTPUT.json holds: the name of the frames, the points, and what accuracy and times were measured on."""

    frames: str
    points: tuple[Point, ...] = ()
    accuracy: dict[str, Any] | None = None
    timing: dict[str, Any] | None = None

    @classmethod
    def read(cls, path: Path) -> Record | None:
        """None where there is none yet. Raises CommandError for a file that is something else."""
        try:
            stored = json.loads(path.read_text(encoding="utf-8"))
            return cls(**stored | {"points": tuple(Point(**point) for point in stored["points"])})
        except FileNotFoundError:
            return None
        except (ValueError, TypeError, KeyError) as error:
            raise cli.CommandError(
                f"{path} is not what this command wrote ({cli.one_line(error)}): move it away"
            ) from error


# ---- accuracy ------------------------------------------------------------------------------------
def with_accuracy(record: Record, bundle: Bundle, size: tuple[int, int], frames: Frames) -> Record:
    """The record with the bundle's points of this size: as it has them, if they are of the same graphs, or measured."""
    points = {point.place: point for point in record.points}
    graphs = {precision: _graph(bundle, precision) for precision in _precisions(bundle)}
    known = (points.get((bundle.manifest.name, size, precision)) for precision in graphs)
    if _are_current([point for point in known if point], graphs):
        return record
    print(f"{bundle.manifest.name} at {size[1]}x{size[0]}", flush=True)
    for precision, accuracy in measure(bundle, frames, size)[0].items():
        point = _point(bundle, size, precision, accuracy)
        points[point.place] = point
    about = {"date": _now(), "machine": machine(), "versions": versions()}
    return replace(record, points=tuple(points.values()), accuracy=about)


def _are_current(known: list[Point], graphs: dict[str, str]) -> bool:
    """Whether all graphs were measured as they are. bf16 runs that of fp32, where there is a CPU for it."""
    measured = {point.precision: point.graph for point in known}
    return graphs.items() <= measured.items() | {("bf16", graphs["fp32"])}


def _precisions(bundle: Bundle) -> tuple[str, ...]:
    return ("fp32", "bf16", "int8") if bundle.int8_onnx else ("fp32", "bf16")


def _graph(bundle: Bundle, precision: str) -> str:
    return bundle.manifest.files[INT8_ONNX if precision == "int8" else MODEL_ONNX]


def _point(bundle: Bundle, size: tuple[int, int], precision: str, accuracy: dict[str, Any]) -> Point:
    manifest = bundle.manifest
    file = (bundle.int8_onnx if precision == "int8" else None) or bundle.model_onnx
    spec = _spec(manifest.architecture)
    return Point(
        bundle=manifest.name,
        path=_shown(bundle.path),
        network=str(spec or manifest.architecture.get("architecture", "")),
        recipe=manifest.recipe,
        size=list(size),
        precision=precision,
        graph=_graph(bundle, precision),
        megabytes=round(file.stat().st_size / 1e6, 1),
        parameters=manifest.parameters,
        macs=manifest.macs if size == manifest.input_size else _macs(spec, size),
        frames=accuracy["frames"],
        miou=accuracy["miou"],
        pixel_accuracy=accuracy["pixel_accuracy"],
    )


def _spec(architecture: dict[str, Any]) -> NetworkSpec | None:
    try:
        return NetworkSpec(**architecture)
    except TypeError:
        return None


def _macs(spec: NetworkSpec | None, size: tuple[int, int]) -> int | None:
    try:
        return count_macs(fold(build_network(spec)), size) if spec else None
    except NetworkError:
        return None


def _shown(path: Path) -> str:
    """A path that means the same in another checkout, where there is one."""
    path = path.resolve()
    return str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)


# ---- time ----------------------------------------------------------------------------------------
def with_times(record: Record, engine: str, frames: int) -> Record:
    """The record with all points timed anew, by turns in this process; one that does not run here has no time."""
    bundles: dict[str, Bundle] = {}
    runtimes: dict[tuple[Any, ...], Runtime] = {}
    for point in record.points:
        try:
            bundle = bundles.setdefault(point.path, load_bundle(point.path))
            if _graph(bundle, point.precision) != point.graph:
                raise BundleError(f"{point.path} is another one by now: measure its accuracy first")
            height, width = point.size
            runtime = open_runtime(bundle, engine, "cpu", point.precision, (height, width))
            runtimes[point.place] = runtime
        except (BundleError, RuntimeUnavailable, KeyError) as error:
            print(f"{point} not timed: {cli.one_line(error)}", flush=True)
    if not runtimes:
        raise cli.CommandError("there is no point to time: measure the accuracy of a bundle first")
    print(f"timing {len(runtimes)} points by turns", flush=True)
    times = take_turns({place: _peer(runtime) for place, runtime in runtimes.items()}, range(STREETS), frames)  # type: ignore[misc]
    for runtime in runtimes.values():
        runtime.close()
    about = {"date": _now(), "machine": machine(), "versions": versions(), "engine": engine, "inferences": frames}
    points = (_timed(point, times.get(point.place)) for point in record.points)  # type: ignore[call-overload]
    return replace(record, points=tuple(points), timing=about)


def _peer(runtime: Runtime) -> Callable[[int], Any]:
    streets = [Frame(Drive(seed).frame(0)[0], "rgb8").rgb(runtime.input_size) for seed in range(STREETS)]
    return lambda index: runtime.infer(streets[index])


def _timed(point: Point, times: list[float] | None) -> Point:
    if not times:
        return replace(point, ms=None, median_ms=None)
    return replace(point, ms=round(min(times), 2), median_ms=round(median(times), 2))


def _now() -> str:
    return datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")


# ---- the command ---------------------------------------------------------------------------------
def write(record: Record, output: Path) -> None:
    """OUTPUT.json."""
    output.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(asdict(record), indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    write_atomic(output.with_name(f"{output.name}.json"), text)


def write_page(record: Record, output: Path, command: str) -> None:
    """OUTPUT.md and OUTPUT.png."""
    text, image = (output.with_name(output.name + end) for end in (".md", ".png"))
    write_atomic(text, page(asdict(record), command, image.name))
    write_atomic(image, picture(asdict(record)))
    print(f"\n{text.read_text()}\nwrote {text} and {image}")


def main() -> None:
    args = _parser().parse_args()
    table = args.output.with_name(args.output.name + ".json")
    record = Record.read(table)
    if not args.time_only:
        bundles = [load_bundle(path) for path in args.bundle or _shipped()]
        _check(bundles, args.sizes)
        frames = checked_frames(None, args.images, args.labels, args.split, bundles[0].manifest.labels)
        if not frames.labelled:
            raise cli.CommandError("accuracy needs labelled frames, and there are none: give --images and --labels")
        if record and record.frames != frames.name:
            raise cli.CommandError(f"{table} is about {record.frames}, not {frames.name}: give another --output")
        record = record or Record(frames.name)
        for bundle, size in product(bundles, args.sizes):
            record = with_accuracy(record, bundle, size, frames)
            write(record, args.output)  # what is measured stays
    if record is None:
        raise cli.CommandError(f"{table} is not there: without it there is nothing to time")
    if not args.accuracy_only:
        record = with_times(record, args.engine, args.inferences)
        write(record, args.output)
    if any(point.ms for point in record.points):
        write_page(record, args.output, shlex.join(["python", "training/frontier.py", *sys.argv[1:]]))


def _shipped() -> list[Path]:
    return sorted(manifest.parent for manifest in (share_directory() / "models").glob("*/manifest.json"))


def _check(bundles: Iterable[Bundle], sizes: Sequence[tuple[int, int]]) -> None:
    """Raise CommandError where the bundles do not compare, or one does not take the sizes."""
    first, *others = (bundle.manifest for bundle in bundles)
    for manifest in others:
        if manifest.labels.names != first.labels.names:
            raise cli.CommandError(f"{manifest.name} has other classes than {first.name}: they do not compare")
    for manifest in (first, *others):
        for height, width in sizes:
            if height % manifest.size_divisor or width % manifest.size_divisor:
                raise cli.CommandError(
                    f"--sizes {width}x{height}: sides of {manifest.name} are multiples of {manifest.size_divisor}"
                )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--bundle", type=Path, nargs="+", metavar="FOLDER",
                        help="bundles to measure (those that ship); points of others stay")
    parser.add_argument("--sizes", type=cli.size, nargs="+", default=SIZES, metavar="WIDTHxHEIGHT",
                        help="of the network's input (256x192 384x288 512x384 640x480)")
    parser.add_argument("--engine", choices=ENGINES, default="openvino", help="that is timed (%(default)s)")
    parser.add_argument("--inferences", type=cli.positive_int, default=TIMED, help="timed of a point (%(default)s)")
    parser.add_argument("--images", type=Path, help="folder of frames to measure on (CamVid val, where it is found)")
    parser.add_argument("--labels", type=Path, help="folder of their label masks")
    parser.add_argument("--split", help="what to call these frames")
    parser.add_argument("--output", type=Path, default=Path("docs/results/frontier"),
                        help="path without ending (%(default)s)")
    half = parser.add_mutually_exclusive_group()
    half.add_argument("--accuracy-only", action="store_true", help="measure the accuracy that is not there yet")
    half.add_argument("--time-only", action="store_true", help="time the points that are there, and write the page")
    return parser


if __name__ == "__main__":
    cli.run(main, BundleError, ExportError, ImageFolderError, RuntimeUnavailable)
