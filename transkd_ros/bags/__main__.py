"""Bags of camera frames from the command line: `python -m transkd_ros.bags`.

    python -m transkd_ros.bags from-images IMAGES --labels LABELS --classes TABLE --output BAG --rate 1
    python -m transkd_ros.bags info BAG
"""

from __future__ import annotations

import argparse
from pathlib import Path

from transkd_ros import cli
from transkd_ros.bags.conversion import from_images, info
from transkd_ros.bags.image_folder import ImageFolderError
from transkd_ros.bags.storage import STORAGES, BagError


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m transkd_ros.bags", description="Make and inspect rosbag2 bags of camera frames."
    )
    commands = parser.add_subparsers(dest="command", required=True)
    make = commands.add_parser("from-images", help="make a bag of a folder of frames, or of a video")
    make.add_argument("images", type=Path, help="folder of frames, taken in name order, or a video file")
    make.add_argument("--labels", type=Path, help="folder of label images of the same names")
    make.add_argument(
        "--classes", type=cli.class_table, metavar="TABLE", help="class table of the labels, kept in the bag: camvid, "
        "… or a YAML file"
    )  # fmt: skip
    make.add_argument("--output", type=Path, required=True, help="the bag, a folder that does not exist yet")
    make.add_argument("--rate", type=cli.positive_float, help="frames per second (default: the video's, or 1)")
    make.add_argument("--storage", choices=tuple(STORAGES), default="mcap", help="default mcap")
    make.add_argument("--camera", default="camera", help="namespace of the topics (default camera)")
    make.add_argument("--raw", action="store_true", help="decode to Image bgr8, do not copy JPEG and PNG")
    make.add_argument("--overwrite", action="store_true", help="replace an existing bag")
    show = commands.add_parser("info", help="list topics, counts and duration")
    show.add_argument("bag", type=Path)
    return parser


def main() -> None:
    args = _parser().parse_args()
    if args.command == "info":
        print(info(args.bag))
        return
    if args.classes and not args.labels:
        raise cli.CommandError("--classes belongs to --labels")
    count = from_images(
        args.images, args.output, args.labels, rate=args.rate, storage=args.storage,
        camera=args.camera.strip("/"), raw=args.raw, overwrite=args.overwrite,
        classes=args.classes,
    )  # fmt: skip
    print(f"{args.output}: {count} frames")
    if args.labels and not args.classes:
        print("note: the bag does not say of which classes its labels are; --classes TABLE keeps their names in it")


if __name__ == "__main__":
    cli.run(main, BagError, ImageFolderError)
