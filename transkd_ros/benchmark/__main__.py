"""Measure what the product promises, on this machine: `python -m transkd_ros.benchmark`."""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transkd_ros import cli

if TYPE_CHECKING:
    from transkd_ros.benchmark.measurement import Measurement, Settings
    from transkd_ros.model.bundle import Bundle

# name on the command line → module with its `measure`; in the order they run
MEASUREMENTS = {
    "naive": "rate",
    "node-cost": "node_cost",
    "engines": "engines",
    "baseline": "baseline",
    "startup": "startup",
    "freshness": "freshness",
    "memory": "memory",
    "evaluation": "offline_rate",
    "comparison": "pair_cost",
}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m transkd_ros.benchmark", description=(__doc__ or "").split(":")[0])
    parser.add_argument("--model", help="name of a shipped model, or folder of a bundle")
    parser.add_argument(
        "--size",
        type=cli.size,
        default=(512, 1024),
        metavar="WIDTHxHEIGHT",
        help="of frames and network input when compared with the naive peer (default 1024x512)",
    )
    parser.add_argument("--frames", type=cli.positive_int, help="how many per measurement (default: each its own)")
    parser.add_argument("--output", type=Path, default=Path("benchmark.json"), help="file (default benchmark.json)")
    parser.add_argument("--only", choices=MEASUREMENTS, nargs="+", metavar="NAME", help=", ".join(MEASUREMENTS))
    parser.add_argument(
        "--submit-row", action="store_true", help="only print this machine's line for the table in docs/cost.md"
    )
    parser.add_argument("--quick", action="store_true", help="a few frames each: whether it works, not how fast")
    return parser


def main() -> int:
    args = _parser().parse_args()

    # What is slow to import comes after the arguments are read.
    from transkd_ros.benchmark.measurement import Settings
    from transkd_ros.model.bundle import BundleError, load_bundle
    from transkd_ros.model.engines import RuntimeUnavailable
    from transkd_ros.resources import DEFAULT_MODEL, find_model

    try:
        bundle = load_bundle(find_model(args.model or DEFAULT_MODEL))
        if args.submit_row:
            from transkd_ros.benchmark.row import measured_row

            print(measured_row(bundle))
            return 0
        _check_size(args.size, bundle.manifest.size_divisor)
        settings = Settings(bundle, args.size, args.frames, args.quick)
        _measure(settings, args.only or list(MEASUREMENTS), args.output)
    except (BundleError, RuntimeUnavailable) as error:
        raise cli.CommandError(str(error)) from error
    return 0


def _check_size(size: tuple[int, int], divisor: int) -> None:
    if any(side % divisor or not 32 <= side <= 4096 for side in size):
        raise cli.CommandError(f"--size {size[1]}x{size[0]}: each side must be a multiple of {divisor} within 32..4096")


def _measure(settings: Settings, names: list[str], output: Path) -> None:
    from importlib import import_module

    from transkd_ros.benchmark.measurement import measure_all

    def run(module: str) -> Measurement:
        return import_module(f"transkd_ros.benchmark.{module}").measure(settings)

    chosen = {name: partial(run, module) for name, module in MEASUREMENTS.items() if name in names}
    measure_all(chosen, {"model": _model(settings.bundle), "quick": settings.quick}, output)


def _model(bundle: Bundle) -> dict[str, Any]:
    manifest = bundle.manifest
    keys = ("name", "architecture", "input_size", "parameters", "macs", "created")
    return {key: getattr(manifest, key) for key in keys} | {"files": manifest.files}


if __name__ == "__main__":
    cli.run(main)
