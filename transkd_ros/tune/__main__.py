"""Time a model on every engine, device and precision of this machine, and remember it: `python -m transkd_ros.tune`."""

from __future__ import annotations

import argparse

from transkd_ros import cli


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m transkd_ros.tune",
        description=(__doc__ or "").split(":")[0] + ". What `auto` then takes, in the node too, is the first line.",
    )
    parser.add_argument("--model", help="name of a shipped model, or folder of a bundle")
    parser.add_argument("--size", type=cli.size, metavar="WIDTHxHEIGHT", help="network input (default: the model's)")
    parser.add_argument("--threads", type=int, default=0, help="CPU threads (default 0: the engine's own choice)")
    parser.add_argument("--confidence", action="store_true", help="with it, as a `confidence_threshold` needs it")
    cli.add_engine_options(parser.add_argument_group("engine"))
    return parser


def main() -> int:
    args = _parser().parse_args()

    # What is slow to import comes after the arguments are read.
    from rich.console import Console
    from rich.table import Table

    from transkd_ros.model.bundle import BundleError, load_bundle
    from transkd_ros.model.engines import RuntimeUnavailable, tune
    from transkd_ros.resources import DEFAULT_MODEL, find_model

    asked = (args.engine, args.device, args.precision)
    try:
        bundle = load_bundle(find_model(args.model or DEFAULT_MODEL))
        choice = tune(bundle, *asked, args.size, args.threads, args.confidence)
    except (BundleError, RuntimeUnavailable, ValueError) as error:
        raise cli.CommandError(str(error)) from error
    height, width = choice.runtime.input_size
    choice.runtime.close()

    rows = Table(f"{bundle.manifest.name} at {width}x{height}")
    for heading in ("engine", "device", "precision", "ms"):
        rows.add_column(heading, justify="right" if heading == "ms" else "left")
    for rank, timing in enumerate(choice.timings, start=1):
        rows.add_row(str(rank), *timing.candidate, timing.note if timing.ms is None else f"{timing.ms:.2f}")
    Console().print(rows)
    print(choice.source)
    return 0


if __name__ == "__main__":
    cli.run(main)
