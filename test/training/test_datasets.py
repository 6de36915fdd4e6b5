"""Each data set is read from its official layout, its labels become class ids, and what is missing is named."""

import cv2
import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the training wing needs torch")
pytest.importorskip("lightning")

from PIL import Image  # noqa: E402

from training.data.acdc import ACDC  # noqa: E402
from training.data.base import SegmentationData  # noqa: E402
from training.data.camvid import CamVid  # noqa: E402
from training.data.cityscapes import Cityscapes  # noqa: E402
from training.data.folder import Folder  # noqa: E402
from training.data.nyuv2 import NYUv2  # noqa: E402
from training.data.transforms import Resized  # noqa: E402
from training.data.voc import VOC  # noqa: E402
from transkd_ros.bags.image_folder import ImageFolderError  # noqa: E402

pytestmark = pytest.mark.training
SIZE = (48, 64)
SMALL = {"crop": (32, 32), "val_size": (32, 64), "batch_size": 1, "workers": 0}


def write(path, *values):
    """A PNG or JPEG of SIZE: an image of one colour without `values`, else a label file of stripes of them."""
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = np.resize(np.repeat(values, 8), SIZE).astype(np.uint8) if values else np.full((*SIZE, 3), 90, np.uint8)
    assert cv2.imwrite(str(path), picture)


def write_palette(path, *values):
    """A label file as Pascal VOC stores it: palette indices, with void (255) in a colour of its own."""
    path.parent.mkdir(parents=True, exist_ok=True)
    file = Image.fromarray(np.resize(np.repeat(values, 8), SIZE).astype(np.uint8), mode="P")
    file.putpalette([0, 0, 0, 128, 0, 0, 0, 128, 0, *[60] * 756, 224, 224, 192][:768])
    file.save(path)


def cityscapes(root):
    for split, city in (("train", "aachen"), ("train", "ulm"), ("val", "munster")):
        write(root / "leftImg8bit" / split / city / f"{city}_000000_000019_leftImg8bit.png")
        # unlabelled, road, car, bicycle, licence plate's neighbours
        write(root / "gtFine" / split / city / f"{city}_000000_000019_gtFine_labelIds.png", 0, 7, 26, 33, 4, 30)
    return Cityscapes(str(root), **SMALL)


def acdc(root, **options):
    for condition in ("fog", "night", "rain", "snow"):
        for split in ("train", "val"):
            name = f"{condition}/{split}/GOPR0475/GOPR0475_frame_000041"
            write(root / "rgb_anon" / f"{name}_rgb_anon.png")
            write(root / "gt" / f"{name}_gt_labelTrainIds.png", 0, 13, 18, 255)
    return ACDC(str(root), **SMALL, **options)


def nyuv2(root):
    for split in ("train", "test"):
        write(root / split / "image" / "0003.png")
        write(root / split / "label" / "0003.png", 0, 1, 40)
    return NYUv2(str(root), **SMALL)


def voc(root, **options):
    for name in ("2007_000032", "2007_000033", "2007_000039"):
        write(root / "JPEGImages" / f"{name}.jpg")
        write_palette(root / "SegmentationClass" / f"{name}.png", 0, 1, 20, 255)
    lists = root / "ImageSets" / "Segmentation"
    lists.mkdir(parents=True, exist_ok=True)
    (lists / "train.txt").write_text("2007_000032\n")
    (lists / "val.txt").write_text("2007_000033\n2007_000039\n")
    return VOC(str(root), **SMALL, **options)


def folder(root):
    for split in ("train", "val"):
        write(root / split / "images" / "a.jpg")
        write(root / split / "labels" / "a.png", 0, 20, 255)
    return Folder(str(root), "voc", **SMALL)


def camvid(root):
    for split in ("train", "val"):
        write(root / split / "images" / "0001TP_006690.png")
        write(root / split / "labels" / "0001TP_006690.png", 0, 10, 255)
    return CamVid(str(root), scenes=0, **SMALL)


TREES = [  # what writes the tree; class table; its training and validation images; the classes in a label
    (cityscapes, "cityscapes", 2, 1, {0, 13, 18, 255}),
    (acdc, "cityscapes", 4, 4, {0, 13, 18, 255}),
    (nyuv2, "nyuv2", 1, 1, {0, 39, 255}),
    (voc, "voc", 1, 2, {0, 1, 20, 255}),
    (folder, "voc", 1, 1, {0, 20, 255}),
    (camvid, "camvid", 1, 1, {0, 10, 255}),
]
NAMES = [tree.__name__ for tree, *_ in TREES]
every_data_set = pytest.mark.parametrize("tree", [tree for tree, *_ in TREES], ids=NAMES)


@pytest.mark.parametrize(("tree", "table", "train", "val", "ids"), TREES, ids=NAMES)
def test_the_official_layout_is_read_and_its_labels_become_class_ids(tmp_path, tree, table, train, val, ids):
    data = tree(tmp_path)
    data.setup("fit")
    assert isinstance(data, SegmentationData)
    assert data.labels == table
    assert (len(data.train_set), len(data.val_set)) == (train, val)
    image, labels = data.val_set[0]
    assert (image.shape, image.dtype, labels.shape, labels.dtype) == ((*SIZE, 3), np.uint8, SIZE, np.uint8)
    assert set(np.unique(labels).tolist()) == ids
    images, labels = next(iter(data.train_dataloader()))
    assert images.shape == (1, 3, 32, 32)
    assert set(labels.unique().tolist()) <= ids


@every_data_set
def test_an_empty_folder_is_refused_with_its_name(tmp_path, tree):
    data = tree(tmp_path / "whole")
    data.hparams["root"] = str(tmp_path / "empty")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ImageFolderError, match=str(tmp_path / "empty")):
        data.setup("fit")


@every_data_set
def test_the_first_image_without_a_label_is_named_at_the_start(tmp_path, tree):
    data = tree(tmp_path)
    path = data.split("val").pairs[0].label
    path.unlink()
    with pytest.raises(ImageFolderError, match=rf"no label for .*{path.name}|{path.parent}: holds no images"):
        data.setup("fit")


@every_data_set
def test_a_label_of_another_size_is_refused_at_the_start_with_its_file(tmp_path, tree):
    data = tree(tmp_path)
    path = data.split("val").pairs[0].label
    cv2.imwrite(str(path), np.zeros((8, 8), np.uint8))
    with pytest.raises(ImageFolderError, match=f"{path}.*8x8.*64x48"):
        data.setup("fit")


@every_data_set
def test_a_class_outside_the_table_is_refused_at_the_start_with_its_file(tmp_path, tree):
    data = tree(tmp_path)
    path = data.split("train").pairs[-1].label
    write(path, 0, 77)
    with pytest.raises(ImageFolderError, match=rf"{path}: unknown class ids \[77\]"):
        data.setup("fit")


def test_cityscapes_takes_train_ids_where_a_split_has_them(tmp_path):
    data = cityscapes(tmp_path)
    write(tmp_path / "gtFine" / "val" / "munster" / "munster_000000_000019_gtFine_labelTrainIds.png", 5, 255)
    data.setup("fit")
    assert set(np.unique(data.val_set[0][1]).tolist()) == {5, 255}
    assert set(np.unique(data.train_set[0][1]).tolist()) == {0, 13, 18, 255}


def test_cityscapes_label_ids_become_the_train_ids_of_their_names():
    from training.data.cityscapes import class_of_label_id
    from transkd_ros.model.labels import LabelTable

    names = {7: "road", 11: "building", 17: "pole", 21: "vegetation", 23: "sky", 24: "person", 27: "truck", 31: "train"}
    table = LabelTable.load("cityscapes")
    assert {value: table.names[class_of_label_id()[value]] for value in names} == names
    assert sorted(set(class_of_label_id().values())) == [*range(19), 255]


def test_acdc_reads_the_conditions_that_are_asked_for(tmp_path):
    data = acdc(tmp_path, conditions=("night", "snow"))
    data.setup("fit")
    assert {pair.image.relative_to(tmp_path).parts[1] for pair in data.train_set.pairs} == {"night", "snow"}


def test_voc_augmented_trains_on_what_sbd_labels_and_never_on_val(tmp_path):
    data = voc(tmp_path, augmented=True)
    write(tmp_path / "JPEGImages" / "2008_000008.jpg")
    for name in ("2007_000032", "2007_000033", "2008_000008"):
        write(tmp_path / "SegmentationClassAug" / f"{name}.png", 0, 13)  # grey, as SBD's are
    data.setup("fit")
    assert [pair.image.stem for pair in data.train_set.pairs] == ["2007_000032", "2008_000008"]
    assert len(data.val_set) == 2


@pytest.mark.parametrize(
    ("own", "shown"),
    [((375, 500), (384, 512)), ((500, 333), (512, 352)), ((500, 500), (512, 512)), ((20, 900), (32, 512))],
)
def test_voc_is_validated_in_the_images_own_shape(own, shown):
    class Image(torch.utils.data.Dataset):
        def __getitem__(self, index):
            return np.zeros((*own, 3), np.uint8), np.zeros(own, np.uint8)

    image, labels = Resized(Image(), (512, 512), keep_aspect=True)[0]
    assert (tuple(image.shape[1:]), tuple(labels.shape)) == (shown, own)
    assert VOC("root").hparams["val_keep_aspect"] and not Folder("root", "voc").hparams["val_keep_aspect"]


def test_voc_names_a_listed_image_that_is_missing(tmp_path):
    data = voc(tmp_path)
    (tmp_path / "JPEGImages" / "2007_000039.jpg").unlink()
    with pytest.raises(ImageFolderError, match=r"2007_000039\.jpg"):
        data.setup("fit")


def test_nyuv2_folders_may_have_other_names(tmp_path):
    nyuv2(tmp_path)
    for split in ("train", "test"):
        (tmp_path / split / "image").rename(tmp_path / split / "rgb")
        (tmp_path / split / "label").rename(tmp_path / split / "labels_40")
    data = NYUv2(str(tmp_path), images="rgb", annotations="labels_40", **SMALL)
    data.setup("fit")
    assert len(data.train_set) == 1
