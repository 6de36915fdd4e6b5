"""What annotation tools export becomes a data set that trains: every format, under a table of one's own."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

pytest.importorskip("torch", reason="the training wing needs torch")
coco_mask = pytest.importorskip("pycocotools.mask", reason="COCO needs pycocotools, of the extra `training`")

from training.data.convert import __main__ as command  # noqa: E402
from training.data.convert.annotations import ConversionError, table_of  # noqa: E402
from training.data.convert.coco import read_coco  # noqa: E402
from training.data.folder import Folder  # noqa: E402
from transkd_ros.bags.image_folder import ImageFolderError  # noqa: E402
from transkd_ros.model.labels import LabelTable  # noqa: E402

pytestmark = pytest.mark.training
SIZE = (40, 60)
LABELMAP = """# label:color_rgb:parts:actions
background:0,0,0::
car:10,20,200::
truck:10,120,200::
road:128,64,128::
"""
NAMES = ("background", "car", "truck", "road")
COLORS = np.array([[0, 0, 0], [10, 20, 200], [10, 120, 200], [128, 64, 128]], np.uint8)
MERGED = """
classes:
  - {id: 0, name: road, color: [128, 64, 128]}
  - {id: 1, name: vehicle, color: [0, 0, 142]}
merge: {car: vehicle, truck: vehicle, background: ignore}
"""
TO_MERGED = np.array([255, 1, 1, 0], np.uint8)  # by the index in NAMES


def truth(index: int) -> np.ndarray:
    """(H, W) indices in NAMES: rectangles, so that polygons can say them exactly."""
    mask = np.zeros(SIZE, np.uint8)
    mask[20:] = 3
    mask[5:15, 4 + index : 20 + index] = 1
    mask[22:30, 30:50] = 2
    return mask


@pytest.fixture
def images(tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    for index in range(5):
        cv2.imwrite(str(folder / f"f{index}.jpg"), np.full((*SIZE, 3), 40 * index, np.uint8))
    return folder


@pytest.fixture
def merged(tmp_path):
    path = tmp_path / "merged.yaml"
    path.write_text(MERGED)
    return path


def convert(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["convert", *map(str, arguments)])
    command.main()


def labels_of(output: Path) -> dict[str, np.ndarray]:
    """The written masks by name, of both splits, as training reads them."""
    data = Folder(str(output), str(output / "classes.yaml"), workers=0)
    data.setup("fit")  # raises for what training could not use
    found = {}
    for samples in (data.train_set, data.val_set):
        found |= {pair.label.stem: samples[i][1] for i, pair in enumerate(samples.pairs)}
    return found


def assert_converted(output: Path, lut: np.ndarray, count: int = 5) -> None:
    found = labels_of(output)
    assert sorted(found) == [f"f{index}" for index in range(count)]
    for index in range(count):
        assert np.array_equal(found[f"f{index}"], lut[truth(index)]), index
    assert not list(output.glob(".*"))


# ---- masks ---------------------------------------------------------------------------------------


def write_masks(folder: Path, kind: str) -> Path:
    folder.mkdir()
    for index in range(5):
        mask = truth(index)
        if kind == "rgb":
            Image.fromarray(COLORS[mask]).save(folder / f"f{index}.png")
        elif kind == "palette":
            image = Image.fromarray(mask)
            image.putpalette(COLORS.ravel().tolist())
            image.save(folder / f"f{index}.png")
        else:
            cv2.imwrite(str(folder / f"f{index}.png"), mask)
    return folder


@pytest.mark.parametrize("kind", ["rgb", "palette"])
def test_masks_with_a_labelmap_become_the_classes_of_a_table(tmp_path, monkeypatch, images, merged, kind, capsys):
    labels = write_masks(tmp_path / "SegmentationClass", kind)
    (tmp_path / "labelmap.txt").write_text(LABELMAP)
    options = ("--images", images, "--labelmap", tmp_path / "labelmap.txt", "--output", tmp_path / "out")
    convert(monkeypatch, "masks", labels, *options, "--classes", merged)
    assert_converted(tmp_path / "out", TO_MERGED)
    assert LabelTable.load(tmp_path / "out" / "classes.yaml") == LabelTable.load(merged)
    text = capsys.readouterr().out
    assert "4 images" in text and "vehicle" in text and "(no class)" in text


def test_without_a_table_the_annotated_classes_are_the_table(tmp_path, monkeypatch, images):
    labels = write_masks(tmp_path / "labels", "rgb")
    (tmp_path / "labelmap.txt").write_text(LABELMAP)
    options = ("--images", images, "--labelmap", tmp_path / "labelmap.txt", "--output", tmp_path / "out")
    convert(monkeypatch, "masks", labels, *options, "--val", "0.4")
    assert_converted(tmp_path / "out", np.arange(4, dtype=np.uint8))
    table = LabelTable.load(tmp_path / "out" / "classes.yaml")
    assert table.names == NAMES and np.array_equal(table.colors, COLORS)
    assert len(list((tmp_path / "out" / "val" / "images").iterdir())) == 2


def test_stored_ids_get_their_names_on_the_command_line(tmp_path, monkeypatch, images, merged):
    labels = write_masks(tmp_path / "labels", "grey")
    names = ("--ids", "0=ignore", "1=vehicle", "2=truck", "3=road", "--classes", merged)
    convert(monkeypatch, "masks", labels, "--images", images, "--output", tmp_path / "out", *names)
    assert_converted(tmp_path / "out", TO_MERGED)


def test_images_without_a_label_are_left_out_and_labels_without_an_image_refused(
    tmp_path, monkeypatch, images, merged, capsys
):
    labels = write_masks(tmp_path / "labels", "grey")
    (labels / "f4.png").unlink()
    names = ("--ids", "0=ignore", "1=car", "2=truck", "3=road", "--classes", merged)
    convert(monkeypatch, "masks", labels, "--images", images, "--output", tmp_path / "out", *names)
    assert_converted(tmp_path / "out", TO_MERGED, count=4)
    assert "1 images without a label" in capsys.readouterr().out
    (images / "f0.jpg").unlink()
    with pytest.raises(ConversionError, match=r"f0.png: no image of that name"):
        convert(monkeypatch, "masks", labels, "--images", images, "--output", tmp_path / "other", *names)


def test_two_exports_can_be_the_two_splits(tmp_path, monkeypatch, images, merged):
    labels = write_masks(tmp_path / "labels", "grey")
    options = ("--images", images, "--classes", merged, "--output", tmp_path / "out")
    names = ("--ids", "0=ignore", "1=car", "2=truck", "3=road")
    for split in ("train", "val"):
        convert(monkeypatch, "masks", labels, *options, "--split", split, *names)
    assert len(list((tmp_path / "out" / "train" / "images").iterdir())) == 5
    with pytest.raises(ConversionError, match=r"val: exists already"):
        convert(monkeypatch, "masks", labels, *options, "--split", "val", *names)
    (tmp_path / "out" / "val").rename(tmp_path / "gone")
    with pytest.raises(ConversionError, match="another class table"):
        convert(monkeypatch, "masks", labels, *options, "--classes", "voc", "--split", "val", "--ids", "0=cat")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ((), "what do the labels hold"),
        (("--classes", "MERGED"), r"ids \[2, 3\] are no classes"),
        (("--ids", "0=background", "1=car", "2=truck"), r"ids \[3\] have no name in --ids; 3=ignore"),
        (("--ids", "0=sky", "1=car", "2=truck", "3=road", "--classes", "MERGED"), r"annotated as sky, .*\{sky: road\}"),
    ],
)
def test_classes_that_nobody_named_are_refused_and_nothing_is_written(
    tmp_path, monkeypatch, images, merged, options, words
):
    labels = write_masks(tmp_path / "labels", "grey")
    options = [merged if option == "MERGED" else option for option in options]
    with pytest.raises(ConversionError, match=words):
        convert(monkeypatch, "masks", labels, "--images", images, "--output", tmp_path / "out", *options)
    assert not (tmp_path / "out").exists() or not list((tmp_path / "out").iterdir())


@pytest.mark.parametrize("line", ["road", "road:1,2", "road:1,2,300", "road:0,0,0\nroad:1,1,1"])
def test_a_broken_labelmap_is_named(tmp_path, monkeypatch, images, line):
    labels = write_masks(tmp_path / "labels", "grey")
    (tmp_path / "labelmap.txt").write_text(line)
    options = ("--images", images, "--labelmap", tmp_path / "labelmap.txt", "--output", tmp_path / "out")
    with pytest.raises(ConversionError, match=r"labelmap\.txt"):
        convert(monkeypatch, "masks", labels, *options)


# ---- COCO ----------------------------------------------------------------------------------------


def box(mask: np.ndarray) -> list[float]:
    rows, columns = np.nonzero(mask)
    x0, x1, y0, y1 = columns.min(), columns.max() + 1, rows.min(), rows.max() + 1
    return [float(v) for v in (x0, y0, x1, y0, x1, y1, x0, y1)]


def segmentation(kind: str, mask: np.ndarray):
    if kind == "polygons":
        return [box(mask)]
    runs = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))
    if kind == "compressed":
        return {"size": list(SIZE), "counts": runs["counts"].decode()}
    flat = mask.ravel(order="F").astype(int)
    changes = np.flatnonzero(np.diff(np.concatenate([[0], flat, [1 - flat[-1]]])))
    return {"size": list(SIZE), "counts": np.diff(np.concatenate([[0], changes])).tolist()}


def coco_file(path: Path, kind: str) -> Path:
    """Categories 11 car, 12 truck, 13 road; the truck stands on the road and is annotated before it."""
    annotations = []
    for index in range(5):
        mask = truth(index)
        regions = {2: mask == 2, 1: mask == 1, 3: (mask == 3) | (mask == 2)}
        for i, region in regions.items():
            drawn = segmentation(kind, region)
            annotations.append({"image_id": 100 + index, "category_id": 10 + i, "segmentation": drawn, "iscrowd": 0})
    content = {
        "images": [{"id": 100 + i, "file_name": f"f{i}.jpg", "width": 60, "height": 40} for i in range(5)],
        "categories": [{"id": 11, "name": "car"}, {"id": 12, "name": "truck"}, {"id": 13, "name": "road"}],
        "annotations": annotations,
    }
    path.write_text(json.dumps(content))
    return path


@pytest.mark.parametrize("kind", ["polygons", "runs", "compressed"])
def test_coco_instances_are_drawn_small_ones_on_top(tmp_path, monkeypatch, images, merged, kind):
    file = coco_file(tmp_path / "instances.json", kind)
    convert(monkeypatch, "coco", file, "--images", images, "--classes", merged, "--output", tmp_path / "out")
    assert_converted(tmp_path / "out", TO_MERGED)


def test_unannotated_pixels_can_be_a_class_and_images_without_annotations_are_left_out_else(
    tmp_path, monkeypatch, images, capsys
):
    file = coco_file(tmp_path / "instances.json", "polygons")
    content = json.loads(file.read_text())
    content["annotations"] = [a for a in content["annotations"] if a["image_id"] != 104]
    file.write_text(json.dumps(content))
    convert(monkeypatch, "coco", file, "--images", images, "--output", tmp_path / "out")
    assert_converted(tmp_path / "out", np.array([255, 0, 1, 2], np.uint8), count=4)
    assert "1 images without annotations are left out" in capsys.readouterr().out
    convert(monkeypatch, "coco", file, "--images", images, "--output", tmp_path / "all", "--background", "else")
    found = labels_of(tmp_path / "all")
    assert np.array_equal(found["f0"], np.array([3, 0, 1, 2], np.uint8)[truth(0)]) and (found["f4"] == 3).all()


def test_coco_panoptic_pngs_are_read_by_their_segments(tmp_path, monkeypatch, images, merged):
    folder = tmp_path / "panoptic"
    folder.mkdir()
    annotations = []
    for index in range(5):
        segments = np.array([0, 70_001, 300, 9], np.uint32)  # ids of one, two and three bytes
        ids = segments[truth(index)]
        rgb = np.dstack([ids & 255, ids >> 8 & 255, ids >> 16]).astype(np.uint8)
        Image.fromarray(rgb).save(folder / f"f{index}.png")
        info = [{"id": int(segments[i]), "category_id": 10 + i} for i in (1, 2, 3)]
        annotations.append({"image_id": 100 + index, "file_name": f"f{index}.png", "segments_info": info})
    file = coco_file(tmp_path / "panoptic.json", "polygons")
    file.write_text(json.dumps(json.loads(file.read_text()) | {"annotations": annotations}))
    convert(monkeypatch, "coco", file, "--images", images, "--classes", merged, "--output", tmp_path / "out")
    assert_converted(tmp_path / "out", TO_MERGED)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda c: c.pop("categories"), "not a COCO file"),
        (lambda c: c["annotations"][0].update(image_id=7), "an annotation is of image 7"),
        (lambda c: c["images"][0].update(file_name="gone.jpg"), r"gone\.jpg: no such image"),
        (lambda c: c["annotations"][0].update(category_id=7), r"annotation of f0\.jpg cannot be drawn"),
        (lambda c: c["annotations"][0].update(segmentation={"size": [4, 6], "counts": [24]}), "cannot be drawn"),
        (lambda c: c["annotations"][0].update(segmentation=[]), "cannot be drawn .*a box without a segmentation"),
        (lambda c: c["annotations"][0].update(segmentation=[[1, 1, 2]]), "cannot be drawn"),
        (lambda c: c["images"][0].update(width=61), "60x40, but its labels 61x40"),
    ],
)
def test_a_broken_coco_file_is_named(tmp_path, monkeypatch, images, change, words):
    file = coco_file(tmp_path / "instances.json", "polygons")
    content = json.loads(file.read_text())
    change(content)
    file.write_text(json.dumps(content))
    with pytest.raises(ConversionError, match=words):
        convert(monkeypatch, "coco", file, "--images", images, "--output", tmp_path / "out")


def test_images_in_folders_keep_apart(tmp_path, images):
    file = coco_file(tmp_path / "instances.json", "polygons")
    content = json.loads(file.read_text())
    for place, image in enumerate(content["images"]):
        (images / f"cam{place}").mkdir()
        (images / image["file_name"]).rename(images / f"cam{place}" / "1.jpg")
        image["file_name"] = f"cam{place}/1.jpg"
    file.write_text(json.dumps(content))
    assert [image.name for image in read_coco(file, images).images] == [f"cam{i}_1" for i in range(5)]


# ---- Label Studio --------------------------------------------------------------------------------


def label_studio(tmp_path: Path) -> tuple[Path, Path]:
    """The PNGs and the tasks; task 3 was annotated twice, the first time with nothing but cars."""
    folder, tasks = tmp_path / "pngs", []
    folder.mkdir()
    urls = ["/data/upload/1/0a1b2c3d-f0.jpg", "/data/local-files/?d=set%2Ff1.jpg", "s3://b/f2.jpg", "f3.jpg", "f4.jpg"]
    for index, url in enumerate(urls):
        results = []
        for i, name in ((1, "car"), (2, "truck"), (3, "road")):
            region = np.where(truth(index) == i, 255, 0).astype(np.uint8)
            cv2.imwrite(str(folder / f"task-{index}-annotation-{20 + index}-by-1-tag-{name}-0.png"), region)
            results.append({"from_name": "tag", "value": {"brushlabels": [name]}})
        tasks.append({"id": index, "data": {"image": url}, "annotations": [{"id": 20 + index, "result": results}]})
    cv2.imwrite(str(folder / "task-3-annotation-4-by-1-tag-car-0.png"), np.full(SIZE, 255, np.uint8))
    (tmp_path / "tasks.json").write_text(json.dumps(tasks))
    return folder, tmp_path / "tasks.json"


def test_label_studio_s_regions_become_masks_of_their_images(tmp_path, monkeypatch, images, merged):
    folder, tasks = label_studio(tmp_path)
    options = ("--tasks", tasks, "--images", images, "--classes", merged, "--output", tmp_path / "out")
    convert(monkeypatch, "label-studio", folder, *options)
    assert_converted(tmp_path / "out", TO_MERGED)


def test_what_of_label_studio_does_not_fit_together_is_named(tmp_path, monkeypatch, images):
    folder, tasks = label_studio(tmp_path)
    options = ("--tasks", tasks, "--images", images, "--output", tmp_path / "out")
    (images / "f2.jpg").unlink()
    with pytest.raises(ConversionError, match="no image of task 2"):
        convert(monkeypatch, "label-studio", folder, *options)
    cv2.imwrite(str(folder / "task-1-annotation-4-by-1-tag-bus-0.png"), np.zeros(SIZE, np.uint8))
    with pytest.raises(ConversionError, match=r"tag-bus-0\.png: of no label"):
        convert(monkeypatch, "label-studio", folder, *options)
    tasks.write_text("{}")
    with pytest.raises(ConversionError, match=r"tasks\.json: not a JSON export"):
        convert(monkeypatch, "label-studio", folder, *options)


# ---- the whole -----------------------------------------------------------------------------------


def test_generated_tables_have_colours_of_their_own():
    colors = table_of(map(str, range(255))).colors
    assert len(set(colors)) == 255 and (0, 0, 0) not in colors
    with pytest.raises(ConversionError, match="256 classes"):
        table_of(map(str, range(256)))


def test_the_command_ends_with_one_line_and_code_2(tmp_path, images):
    arguments = ["masks", tmp_path / "gone", "--images", images, "--classes", "voc", "--output", tmp_path / "out"]
    program = [sys.executable, "-m", "training.data.convert", *map(str, arguments)]
    result = subprocess.run(program, capture_output=True, text=True, check=False)
    assert result.returncode == 2 and len(result.stderr.strip().splitlines()) == 1 and "gone" in result.stderr


def test_a_folder_of_another_layout_is_told_the_one_that_is_read(tmp_path, images):
    data = Folder(str(tmp_path), "voc", workers=0)
    with pytest.raises(ImageFolderError, match=r"train/images: no such folder; .*training\.data\.convert"):
        data.setup("fit")


# ---- what training reads as it is ----------------------------------------------------------------


@pytest.mark.parametrize("kind", ["rgb", "palette", "grey"])
def test_a_folder_of_labels_in_the_table_s_colours_or_ids_trains_as_it_is(tmp_path, images, kind):
    table = tmp_path / "own.yaml"
    entries = [{"id": i, "name": n, "color": c.tolist()} for i, (n, c) in enumerate(zip(NAMES, COLORS, strict=True))]
    table.write_text(json.dumps({"classes": entries}))
    for split in ("train", "val"):
        (tmp_path / split).mkdir()
        (tmp_path / split / "images").symlink_to(images)
        write_masks(tmp_path / split / "labels", kind)
    data = Folder(str(tmp_path), str(table), workers=0)
    data.setup("fit")
    assert all(np.array_equal(data.train_set[i][1], truth(i)) for i in range(5))
    cv2.imwrite(str(tmp_path / "val" / "labels" / "f3.png"), np.full((*SIZE, 3), (1, 2, 3), np.uint8))
    with pytest.raises(ImageFolderError, match=r"f3\.png: colours of no class: \(3, 2, 1\); .*road \(128, 64, 128\)"):
        data.setup("fit")
