"""A bundle is written whole, read back equal, and refused with one line when anything about it is wrong."""

from __future__ import annotations

import errno
import json
import shutil
from pathlib import Path

import pytest
from conftest import EMPTY_SAFETENSORS, TINY_FIELDS

from transkd_ros.model.bundle import BundleError, Manifest, load_bundle, write_bundle

ROOT = Path(__file__).resolve().parents[2]
FILES = {"model.onnx": b"graph", "weights.safetensors": EMPTY_SAFETENSORS}


@pytest.fixture
def bundle(tmp_path):
    return write_bundle(tmp_path / "tiny", TINY_FIELDS, FILES)


def edit_manifest(bundle, **changes):
    file = bundle.path / "manifest.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def error_of(path):
    with pytest.raises(BundleError) as caught:
        load_bundle(path)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_written_bundle_reads_back_equal(bundle):
    loaded = load_bundle(bundle.path)
    assert loaded == bundle
    assert {field: getattr(loaded.manifest, field) for field in TINY_FIELDS} == TINY_FIELDS
    assert loaded.model_onnx.read_bytes() == b"graph"
    assert loaded.weights.read_bytes() == EMPTY_SAFETENSORS
    assert loaded.exported_program is None


def test_the_manifest_names_the_sides_of_the_input_size(bundle):
    assert json.loads((bundle.path / "manifest.json").read_text())["input_size"] == {"width": 96, "height": 64}


def test_an_older_manifest_with_height_and_width_in_a_list_loads(bundle):
    edit_manifest(bundle, input_size=[32, 160])
    assert load_bundle(bundle.path).manifest.input_size == (32, 160)


@pytest.mark.parametrize("name", sorted(path.name for path in (ROOT / "models").iterdir()))
def test_a_shipped_bundle_names_the_sides_of_its_input_size(name):
    manifest = json.loads((ROOT / "models" / name / "manifest.json").read_text())
    assert manifest["input_size"].keys() == {"width", "height"}


def test_ignore_id_survives_the_manifest(bundle):
    edit_manifest(bundle, ignore_id=200)
    assert load_bundle(bundle.path).manifest.labels.ignore_id == 200


def test_files_are_copied_and_an_exported_program_is_found(tmp_path):
    (tmp_path / "x.pt2").write_bytes(b"program")
    bundle = write_bundle(tmp_path / "tiny", TINY_FIELDS, FILES | {"model.pt2": tmp_path / "x.pt2"})
    assert bundle.exported_program == tmp_path / "tiny" / "model.pt2"
    assert bundle.exported_program.read_bytes() == b"program"


def test_missing_folder_and_missing_manifest_are_told_apart(tmp_path):
    assert "is not a folder" in error_of(tmp_path / "absent")
    assert "has no manifest.json" in error_of(tmp_path)


def test_an_altered_file_is_refused_unless_verify_is_off(bundle):
    bundle.model_onnx.write_bytes(b"grapH")
    text = error_of(bundle.path)
    assert "model.onnx was altered: SHA-256" in text and "export it again" in text
    assert load_bundle(bundle.path, verify=False) == bundle


def test_a_missing_file_is_named(bundle):
    bundle.weights.unlink()
    assert "weights.safetensors is missing" in error_of(bundle.path)


@pytest.mark.parametrize("content", [b"{", b"\xff\xfe\x00", b"", b"[" * 100_000])
def test_a_manifest_that_is_not_json_is_named(bundle, content):
    (bundle.path / "manifest.json").write_bytes(content)
    assert "manifest.json is not JSON" in error_of(bundle.path)


def test_an_unknown_schema_is_refused(bundle):
    edit_manifest(bundle, schema_version=99)
    assert '"schema_version" is 99' in error_of(bundle.path)


@pytest.mark.parametrize("key", json.loads(json.dumps([*TINY_FIELDS, "ignore_id", "files"])))
def test_a_missing_key_is_named(bundle, key):
    file = bundle.path / "manifest.json"
    fields = json.loads(file.read_text())
    del fields[key]
    file.write_text(json.dumps(fields))
    assert f'"{key}" is missing' in error_of(bundle.path)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("name", ""),
        ("role", "assistant"),
        ("role", ["student"]),
        ("architecture", "segformer"),
        ("labels", {"id": 0}),
        ("labels", [{"id": 0, "name": "road"}]),
        ("ignore_id", "void"),
        ("input_size", [64]),
        ("input_size", [64, 96.5]),
        ("input_size", [64, 100]),
        ("input_size", {"width": 64}),
        ("input_size", {"width": 96, "height": 0}),
        ("input_size", {"width": 100, "height": 64}),
        ("size_divisor", 0),
        ("parameters", True),
        ("macs", -1),
        ("outputs", ["confidence"]),
        ("outputs", [{}]),
        ("files", {"model.onnx": "abc"}),
        ("files", {"model.onnx": "0" * 64}),
        ("recipe", None),
        ("seed", "1"),
        ("metrics", []),
        ("agreement", None),
        ("licence", 1),
        ("data_note", None),
        ("created", 2025),
    ],
)
def test_a_wrong_value_is_refused_and_its_key_named(bundle, key, value):
    edit_manifest(bundle, **{key: value})
    assert f'"{"labels" if key == "ignore_id" and value != "void" else key}"' in error_of(bundle.path)


def test_a_network_with_another_class_count_than_its_labels_is_refused(bundle):
    edit_manifest(bundle, architecture={"architecture": "segformer", "encoder": "mit_b0", "classes": 19})
    assert 'the network has 19 classes, "labels" 3' in error_of(bundle.path)


@pytest.mark.parametrize("name", ["../model.onnx", "/etc/passwd", "a/b", "..", ".hidden", "a\\b"])
def test_a_file_name_that_leaves_the_bundle_is_refused(bundle, name):
    edit_manifest(bundle, files=bundle.manifest.files | {name: "0" * 64})
    assert "only plain names" in error_of(bundle.path)


def test_a_rewritten_bundle_replaces_the_old_one_whole(bundle):
    write_bundle(bundle.path, TINY_FIELDS, FILES | {"README.md": b"card"})
    again = write_bundle(bundle.path, TINY_FIELDS | {"seed": 7}, FILES)
    assert again.manifest.seed == 7
    assert sorted(file.name for file in bundle.path.iterdir()) == ["manifest.json", *sorted(FILES)]
    assert [path.name for path in bundle.path.parent.iterdir()] == ["tiny"]


def test_leftovers_of_a_killed_writer_are_removed(tmp_path):
    (tmp_path / ".tiny.partial-new").mkdir()
    (tmp_path / ".tiny.partial-new" / "model.onnx").write_bytes(b"half")
    write_bundle(tmp_path / "tiny", TINY_FIELDS, FILES)
    assert [path.name for path in tmp_path.iterdir()] == ["tiny"]


def test_a_bundle_whose_replacement_was_killed_between_the_renames_is_not_lost(bundle, monkeypatch):
    card = bundle.path.parent / "card.md"
    card.write_bytes(b"card")
    bundle.path.rename(bundle.path.parent / ".tiny.partial-old")
    (bundle.path.parent / ".tiny.partial-new").mkdir()

    def full(*_):
        raise OSError(errno.ENOSPC, "no space left")

    monkeypatch.setattr(shutil, "copyfile", full)
    with pytest.raises(OSError, match="no space"):
        write_bundle(bundle.path, TINY_FIELDS, FILES | {"README.md": card})
    assert load_bundle(bundle.path) == bundle


def test_a_failed_write_leaves_the_old_bundle(bundle):
    with pytest.raises(FileNotFoundError):
        write_bundle(bundle.path, TINY_FIELDS, FILES | {"README.md": bundle.path / "absent"})
    for fields in (
        TINY_FIELDS | {"role": "x"},
        TINY_FIELDS | {"metrics": {"miou": float("nan")}},
        {"name": "x"},
    ):
        with pytest.raises(BundleError):
            write_bundle(bundle.path, fields, FILES)
    assert load_bundle(bundle.path) == bundle


def test_a_folder_that_is_no_bundle_is_never_replaced(tmp_path):
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "letter.txt").write_text("dear")
    with pytest.raises(BundleError, match="not a model bundle"):
        write_bundle(tmp_path / "home", TINY_FIELDS, FILES)
    assert (tmp_path / "home" / "letter.txt").exists()


def test_a_bundle_can_be_moved(bundle, tmp_path):
    shutil.move(bundle.path, tmp_path / "elsewhere")
    assert load_bundle(tmp_path / "elsewhere").manifest == bundle.manifest


def test_a_manifest_that_is_no_object_is_refused():
    with pytest.raises(BundleError, match="not a JSON object"):
        Manifest.from_json([])
