"""Label tables are read and checked, and masks drawn in their colours."""

from pathlib import Path

import numpy as np
import pytest

from transkd_ros.model.labels import LabelTable

ROOT = Path(__file__).resolve().parents[2]
CLASSES = [
    {"id": 0, "name": "road", "color": [128, 64, 128]},
    {"id": 1, "name": "sky", "color": [70, 130, 180]},
]


@pytest.mark.parametrize(
    ("name", "count", "some_id", "some_class", "color"),
    [
        ("camvid", 11, 10, "bicyclist", (0, 128, 192)),
        ("cityscapes", 19, 18, "bicycle", (119, 11, 32)),
        ("voc", 21, 15, "person", (192, 128, 128)),
        ("nyuv2", 40, 20, "clothes", (128, 64, 128)),
    ],
)
def test_shipped_tables_hold_the_classes_of_their_data_sets(name, count, some_id, some_class, color):
    table = LabelTable.load(name)
    assert len(table.names) == len(table.colors) == len(set(table.colors)) == count
    assert (table.names[some_id], table.colors[some_id]) == (some_class, color)
    assert table.ignore_id == 255


def test_camvid_table_equals_the_one_of_the_data_set():
    readme = ROOT.parent / "shared" / "data" / "camvid" / "README.md"
    if not readme.is_file():
        pytest.skip("needs ../shared/data/camvid")
    lines = readme.read_text().splitlines()
    rows = [line.strip("| ").split(" | ") for line in lines if line.startswith("| ")]
    expected = {name: tuple(map(int, color.split())) for number, name, color in rows[1:] if number != "255"}
    table = LabelTable.load("camvid")
    assert dict(zip(table.names, table.colors, strict=True)) == expected


def test_table_survives_the_way_through_the_manifest():
    table = LabelTable.load("camvid")
    assert LabelTable.from_json(table.to_json()) == table


def test_own_table_is_loaded_from_a_path(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("ignore_id: 254\nclasses:\n  - {id: 0, name: road, color: [1, 2, 3]}\n")
    assert LabelTable.load(path) == LabelTable(("road",), ((1, 2, 3),), 254)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"id": 2}, "entry 1"),
        ({"name": ""}, "class 1 has the name ''"),
        ({"name": "road"}, "several classes are called road"),
        ({"color": [0, 0, 256]}, "class 1 has the color"),
        ({"color": [0, 0]}, "class 1 has the color"),
        ({"color": "red"}, "class 1 has the color"),
        ({"color": None}, "class 1 has the color"),
    ],
)
def test_bad_class_is_named(change, complaint):
    with pytest.raises(ValueError, match=complaint):
        LabelTable.from_json([CLASSES[0], CLASSES[1] | change])


def test_a_table_that_counts_from_1_is_told_what_to_do():
    with pytest.raises(ValueError, match=r"first class has id 1; ids count from 0.*--ids 0=ignore 1=NAME"):
        LabelTable.from_json([CLASSES[1], CLASSES[0] | {"id": 2}])


def test_merge_names_classes_of_the_table_or_ignore(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("classes: [{id: 0, name: road, color: [1, 2, 3]}]\nmerge: {lane: road, sky: ignore}\n")
    table = LabelTable.load(path)
    assert table.merge == {"lane": "road", "sky": "ignore"}
    assert table == LabelTable(("road",), ((1, 2, 3),))  # a model knows its classes only


@pytest.mark.parametrize(
    ("merge", "complaint"),
    [
        (["a"], "merge is"),
        ({"a": 1}, "merge is"),
        ({"a": "cat"}, "a into cat, which is no class; there are road, sky"),
        ({"sky": "road"}, "sky is a class of the table itself"),
    ],
)
def test_a_bad_merge_is_named(merge, complaint):
    with pytest.raises(ValueError, match=complaint):
        LabelTable.from_json(CLASSES, merge=merge)


def test_masks_are_read_back_from_their_colours():
    table = LabelTable.load("voc")  # whose background is black
    mask = np.arange(21, dtype=np.uint8).reshape(3, 7)
    read, foreign = table.mask_of_colors(table.colorize(mask))
    assert np.array_equal(read, mask) and not foreign
    rgb = np.array([[[0, 0, 0], [70, 130, 180], [9, 8, 7]]], np.uint8)
    read, foreign = LabelTable.from_json(CLASSES).mask_of_colors(rgb)
    assert read.tolist() == [[255, 1, 255]] and foreign == [(9, 8, 7)]


@pytest.mark.parametrize("ignore_id", [1, 256, -1, "255", None])
def test_ignore_id_is_no_class_and_fits_a_byte(ignore_id):
    with pytest.raises(ValueError, match="ignore_id"):
        LabelTable.from_json(CLASSES, ignore_id)


@pytest.mark.parametrize("text", ["", "[]", "classes: 3", "classes: [", "classes: [3]", "classes: []"])
def test_bad_table_file_is_named(tmp_path, text):
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"mine\.yaml"):
        LabelTable.load(path)


def test_colorize_draws_every_class_and_leaves_the_rest_black():
    table = LabelTable.from_json(CLASSES)
    rgb = table.colorize(np.array([[0, 1, 2, 255]], np.uint8))
    assert rgb.dtype == np.uint8
    assert rgb.tolist() == [[[128, 64, 128], [70, 130, 180], [0, 0, 0], [0, 0, 0]]]


def test_overlay_blends_classes_and_leaves_other_pixels_alone():
    table = LabelTable.from_json(CLASSES)
    rgb = np.full((1, 3, 3), 200, np.uint8)
    before = rgb.copy()
    overlay = table.overlay(rgb, np.array([[0, 2, 255]], np.uint8), alpha=0.25)
    assert overlay.tolist() == [[[182, 166, 182], [200] * 3, [200] * 3]]
    assert np.array_equal(rgb, before)


def test_overlay_stretches_the_mask_of_a_smaller_model():
    table = LabelTable.from_json(CLASSES)
    overlay = table.overlay(np.zeros((4, 6, 3), np.uint8), np.array([[0, 1]], np.uint8), alpha=1.0)
    assert (overlay[:, :3] == CLASSES[0]["color"]).all()
    assert (overlay[:, 3:] == CLASSES[1]["color"]).all()


@pytest.mark.parametrize("name", ["camvid", "nyuv2"])
@pytest.mark.parametrize("size", [(360, 480), (720, 1280)])
def test_legend_shows_a_swatch_of_every_class(name, size):
    table = LabelTable.load(name)
    nothing = np.full(size, 255, np.uint8)
    overlay = table.overlay(np.zeros((*size, 3), np.uint8), nothing, legend=True)
    shown = {tuple(color) for color in np.unique(overlay.reshape(-1, 3), axis=0).tolist()}
    assert set(table.colors) <= shown


@pytest.mark.parametrize("size", [(1, 1), (16, 16)])
def test_legend_on_a_tiny_frame_does_no_harm(size):
    rgb = np.zeros((*size, 3), np.uint8)
    assert LabelTable.load("camvid").overlay(rgb, rgb[..., 0], legend=True).shape == rgb.shape
