"""The frontier: accuracy is measured once a graph, times are of one run, and the page shows what nothing beats."""

import json
import sys

import cv2
import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the training wing needs torch")
pytest.importorskip("openvino", reason="accuracy is measured by OpenVINO")

from training import frontier  # noqa: E402
from training.frontier_page import front, page, picture  # noqa: E402
from transkd_ros.cli import CommandError  # noqa: E402
from transkd_ros.model.bundle import write_bundle  # noqa: E402

pytestmark = pytest.mark.training


def point(ms, miou, bundle="a", precision="fp32", size=(64, 96)):
    return {
        "bundle": bundle, "path": f"models/{bundle}", "network": "segformer", "recipe": f"recipes/{bundle}.yaml",
        "size": list(size), "precision": precision, "graph": "00", "megabytes": 1.5, "parameters": 10**6, "macs": 10**9,
        "frames": 3, "miou": miou, "pixel_accuracy": 0.9, "ms": ms, "median_ms": ms and ms + 1,
    }  # fmt: skip


ABOUT = {"date": "2026-01-01T00:00:00+00:00", "machine": {"cpu": "some CPU", "cpus": 2}, "versions": {"openvino": "1"}}


def a_record(*points):
    return {
        "frames": "camvid_val",
        "points": list(points),
        "accuracy": ABOUT,
        "timing": ABOUT | {"engine": "openvino", "inferences": 45},
    }


def test_the_front_is_what_no_point_beats_in_time_and_accuracy():
    fast, good, slow, bad = point(5.0, 0.6), point(9.0, 0.7), point(9.5, 0.65), point(6.0, 0.6)
    assert front([slow, bad, good, fast]) == [fast, good]
    assert front([point(5.0, 0.6), point(5.0, 0.7)]) == [point(5.0, 0.7)]


def test_the_page_names_every_point_its_recipe_and_what_it_was_measured_on():
    record = a_record(point(5.0, 0.6), point(9.0, 0.55, "b", "int8"), point(None, 0.7, "c"))
    text = page(record, "python training/frontier.py", "frontier.png")
    assert "| **a** | **96×64** | **fp32** | **5.0** | **6.0** | **60.00%** |" in text
    assert "| b | 96×64 | int8 | 9.0 | 10.0 | 55.00% |" in text
    assert "- c 96×64 fp32: not timed." in text
    assert "recipes/a.yaml" in text and "recipes/b.yaml" in text
    assert "some CPU, 2 CPUs" in text and "3 frames of camvid_val" in text and "frontier.png" in text


def test_the_picture_is_a_png_even_without_a_second_point():
    assert picture(a_record(point(5.0, 0.6))).startswith(b"\x89PNG")


# ---- the command -------------------------------------------------------------------------------------------------
@pytest.fixture
def labelled(tmp_path):
    """Options that name four frames of colours and what the tiny bundles make of them, less a corner."""
    rng = np.random.default_rng(0)
    for name in ("images", "labels"):
        (tmp_path / name).mkdir()
    for index in range(4):
        image = rng.permuted(np.tile(np.array([30, 120, 250], np.uint8), (64, 96, 1)), axis=2)
        label = image.argmax(2).astype(np.uint8)
        label[:16, :16] = 0
        cv2.imwrite(str(tmp_path / "images" / f"{index}.png"), image[..., ::-1])
        cv2.imwrite(str(tmp_path / "labels" / f"{index}.png"), label)
    return ["--images", tmp_path / "images", "--labels", tmp_path / "labels", "--split", "colours"]


def run(monkeypatch, tmp_path, *arguments):
    options = ["--output", tmp_path / "frontier", "--inferences", 2, *arguments]
    monkeypatch.setattr(sys, "argv", ["frontier.py", *map(str, options)])
    frontier.main()
    return json.loads((tmp_path / "frontier.json").read_text())


@pytest.mark.slow
def test_accuracy_is_measured_at_every_size_and_kept_and_all_is_timed(
    tiny_bundle, int8_bundle, labelled, tmp_path, monkeypatch, capsys
):
    half = ["--sizes", "96x64", "64x32", *labelled]
    record = run(monkeypatch, tmp_path, "--bundle", int8_bundle.path, "--accuracy-only", *half)
    points = {(tuple(p["size"]), p["precision"]): p for p in record["points"]}
    assert {((64, 96), "fp32"), ((64, 96), "int8"), ((32, 64), "fp32"), ((32, 64), "int8")} <= set(points)
    assert points[(64, 96), "fp32"]["miou"] > points[(32, 64), "fp32"]["miou"] > 0
    assert all(p["ms"] is None and p["frames"] == 4 for p in record["points"])
    assert not (tmp_path / "frontier.md").exists()

    files = {name: tiny_bundle.path / name for name in tiny_bundle.manifest.files}
    renamed = write_bundle(tmp_path / "other", _fields(tiny_bundle, name="other"), files)
    measured = []
    measure = frontier.measure
    monkeypatch.setattr(frontier, "measure", lambda *args: measured.append(args[0].manifest.name) or measure(*args))
    small = ["--sizes", "64x32", *labelled]
    record = run(monkeypatch, tmp_path, "--bundle", int8_bundle.path, renamed.path, *small)
    assert measured == ["other"]  # the other bundle's are known
    assert {p["bundle"] for p in record["points"]} == {int8_bundle.manifest.name, "other"}
    assert all(0 < p["ms"] <= p["median_ms"] for p in record["points"])
    assert record["timing"]["inferences"] == 2 and record["timing"]["machine"]["cpus"]
    assert "## The front" in (tmp_path / "frontier.md").read_text()
    assert (tmp_path / "frontier.png").stat().st_size > 1000


def _fields(bundle, **changes):
    manifest = {key: value for key, value in vars(bundle.manifest).items() if key not in ("files", "schema_version")}
    return manifest | changes


def test_a_point_whose_bundle_has_changed_or_gone_is_not_timed(tiny_bundle, labelled, tmp_path, monkeypatch, capsys):
    contents = {name: (tiny_bundle.path / name).read_bytes() for name in tiny_bundle.manifest.files}
    bundles = [write_bundle(tmp_path / name, _fields(tiny_bundle, name=name), contents) for name in ("a", "b", "c")]
    paths = [bundle.path for bundle in bundles]
    run(monkeypatch, tmp_path, "--bundle", *paths, "--accuracy-only", "--sizes", "96x64", *labelled)
    changed = contents | {"model.onnx": contents["model.onnx"] + b"\x42\x00"}  # an empty doc string
    write_bundle(paths[0], _fields(tiny_bundle, name="a"), changed)
    paths[1].rename(tmp_path / "gone")
    record = run(monkeypatch, tmp_path, "--time-only")
    assert {p["bundle"]: p["ms"] is not None for p in record["points"]} == {"a": False, "b": False, "c": True}
    told = capsys.readouterr().out
    assert "a 96x64 fp32 not timed" in told and "b 96x64 fp32 not timed" in told


def test_what_cannot_be_measured_or_compared_ends_in_a_line(tiny_bundle, labelled, tmp_path, monkeypatch):
    with pytest.raises(CommandError, match="nothing to time"):
        run(monkeypatch, tmp_path, "--time-only")
    with pytest.raises(CommandError, match="multiples of 32"):
        run(monkeypatch, tmp_path, "--bundle", tiny_bundle.path, "--sizes", "100x64", *labelled)
    with pytest.raises(CommandError, match="labelled frames"):
        run(monkeypatch, tmp_path, "--bundle", tiny_bundle.path, *labelled[:2])
    (tmp_path / "frontier.json").write_text("{}")
    with pytest.raises(CommandError, match=r"frontier\.json is not what"):
        run(monkeypatch, tmp_path, "--time-only")
