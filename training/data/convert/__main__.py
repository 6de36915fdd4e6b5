"""Annotations of other tools as a data set to train on: `python -m training.data.convert`.

    python -m training.data.convert masks LABELS --images IMAGES --labelmap labelmap.txt --output data/mine
    python -m training.data.convert coco instances.json --images IMAGES --output data/mine
    python -m training.data.convert label-studio PNGS --tasks tasks.json --images IMAGES --output data/mine

Leaves train/ and val/, each with images/ and labels/, and classes.yaml, the class table. With --classes the annotated
classes become those of a table, by name or by its `merge: {truck: vehicle, lane: ignore}`.
"""

from __future__ import annotations

import argparse
from pathlib import Path

if __name__ == "__main__":  # before the imports that may fail
    from training.requirements import require

    require()

from training.data.convert import layout
from training.data.convert.annotations import Annotations, ConversionError
from training.data.convert.coco import read_coco
from training.data.convert.label_studio import read_label_studio
from training.data.convert.masks import read_masks
from transkd_ros import cli
from transkd_ros.bags.image_folder import ImageFolderError
from transkd_ros.model.labels import IGNORE, LabelTable


def _parser() -> argparse.ArgumentParser:
    as_written = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(
        prog="python -m training.data.convert", description=__doc__, formatter_class=as_written
    )
    kinds = parser.add_subparsers(dest="kind", required=True)
    masks = kinds.add_parser("masks", help="label images: ids, palettes or colours (CVAT, VOC)")
    masks.add_argument("export", type=Path, metavar="LABELS", help="folder of label images")
    masks.add_argument("--labelmap", type=Path, help="labelmap.txt of CVAT or VOC: the names and colours of the labels")
    masks.add_argument(
        "--ids", nargs="+", type=_named_id, metavar="ID=NAME", help=f"what the stored ids are; {IGNORE} for no class"
    )
    coco = kinds.add_parser("coco", help="COCO: polygons, run lengths, or panoptic PNGs")
    coco.add_argument("export", type=Path, metavar="JSON", help="instances_….json or panoptic_….json")
    coco.add_argument("--panoptic", type=Path, help="folder of the panoptic PNGs (default: the JSON without .json)")
    studio = kinds.add_parser("label-studio", help="Label Studio's brush labels as PNG")
    studio.add_argument("export", type=Path, metavar="PNGS", help="folder of the export")
    studio.add_argument("--tasks", type=Path, required=True, help="JSON export of the same annotations")
    for kind in (coco, studio):
        kind.add_argument("--background", metavar="NAME", help="class of what nobody annotated (default: no class)")
    for kind in (masks, coco, studio):
        kind.add_argument("--images", type=Path, required=True, help="folder of the images")
        kind.add_argument("--output", type=Path, required=True, help="folder of the data set")
        kind.add_argument(
            "--classes", type=cli.class_table, metavar="TABLE", help="class table that the labels shall have: camvid, "
            "… or a YAML file (default: one of the annotated classes is made)"
        )  # fmt: skip
        division = kind.add_mutually_exclusive_group()
        division.add_argument("--val", type=_share, default=0.2, help="share for validation, drawn (default 0.2)")
        division.add_argument("--split", choices=("train", "val"), help="all of it is this split")
    return parser


def _named_id(text: str) -> tuple[int, str]:
    number, separator, name = text.partition("=")
    if not (separator and name and number.isdecimal() and int(number) < 256):
        raise argparse.ArgumentTypeError(f"{text} is not ID=NAME with an id of 0 to 255, e.g. 1=road")
    return int(number), name


def _share(text: str) -> float:
    value = cli.positive_float(text)
    if value >= 1:
        raise argparse.ArgumentTypeError(f"{text} is not a share between 0 and 1")
    return value


def main() -> None:
    args = _parser().parse_args()
    annotations = _read(args)
    table = args.classes or annotations.classes
    splits = {args.split: annotations.images} if args.split else layout.split(annotations.images, args.val)
    with cli.progress() as progress:
        task = progress.add_task("converting", total=len(annotations.images))
        written = layout.write(splits, annotations, table, args.output, lambda: progress.advance(task))
    _print_results(written, table, args.output)
    for remark in annotations.remarks:
        print(f"note: {remark}")


def _read(args: argparse.Namespace) -> Annotations:
    if args.kind == "masks":
        return read_masks(args.images, args.export, args.classes, args.labelmap, dict(args.ids) if args.ids else None)
    if args.kind == "coco":
        return read_coco(args.export, args.images, args.panoptic, args.background)
    return read_label_studio(args.export, args.tasks, args.images, args.background)


def _print_results(written: dict[str, layout.Written], table: LabelTable, output: Path) -> None:
    """The share of every class in the pixels of each split: one that is never there is not learnt, or not measured."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    shown = Table(box=box.SIMPLE_HEAD, padding=(0, 1), caption="share of all pixels in %")
    shown.add_column("class")
    for name, part in written.items():
        shown.add_column(f"{name}\n{part.images} images", justify="right")
    for i, name in [*enumerate(table.names), (table.ignore_id, "(no class)")]:
        shares = (part.pixels[i] / max(1, part.pixels.sum()) for part in written.values())
        shown.add_row(name, *(f"{100 * share:.2f}" if share else "none" for share in shares))
    Console().print(shown)
    print(f"{output}: data.init_args.root; {output / layout.TABLE}: labels")


if __name__ == "__main__":
    cli.run(main, ConversionError, ImageFolderError)
