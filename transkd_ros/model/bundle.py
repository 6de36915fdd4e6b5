"""The model bundle: the folder that training writes and the vehicle reads.

A bundle holds `manifest.json`, `model.onnx`, `weights.safetensors`, usually a model card `README.md`, and
optionally `model.int8.onnx`, the same graph quantised, and `model.pt2` for the torch engine. The hashes in the manifest
show that files are complete and unaltered; who wrote them they do not show, because the manifest is not signed. Here
are the manifest with its checks, the hashes, loading and writing. Running the graph is the business of
`transkd_ros.model.engines`.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transkd_ros import sizes
from transkd_ros.model.labels import LabelTable

SCHEMA_VERSION = 1
MANIFEST = "manifest.json"
MODEL_ONNX = "model.onnx"
INT8_ONNX = "model.int8.onnx"
WEIGHTS = "weights.safetensors"
EXPORTED_PROGRAM = "model.pt2"
REQUIRED_FILES = (MODEL_ONNX, WEIGHTS)
ROLES = ("student", "teacher")
OUTPUTS = (("mask",), ("mask", "confidence"))

_FILE_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*")
_SHA256 = re.compile(r"[0-9a-f]{64}")


class BundleError(ValueError):
    """A bundle is missing, incomplete, altered or of another schema; the text is one line with the remedy."""


# ---- the manifest --------------------------------------------------------------------------------
def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _is_size(value: Any) -> bool:
    try:
        return bool(sizes.read(value))
    except ValueError:
        return False


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_object(value: Any) -> bool:
    return isinstance(value, dict)


def _is_hash_table(value: Any) -> bool:
    return isinstance(value, dict) and all(
        isinstance(h, str) and _SHA256.fullmatch(h) for h in value.values()
    )


_FIELDS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "name": (lambda value: _is_text(value) and value != "", "a non-empty string"),
    "role": (lambda value: value in ROLES, " or ".join(ROLES)),
    "architecture": (_is_object, "an object"),
    "labels": (lambda value: isinstance(value, list), "a list of classes"),
    "ignore_id": (_is_count, "a class id"),
    "input_size": (_is_size, '{"width": …, "height": …} in pixels'),
    "size_divisor": (lambda value: _is_count(value) and value > 0, "a positive integer"),
    "parameters": (_is_count, "a non-negative integer"),
    "macs": (_is_count, "a non-negative integer"),
    "outputs": (
        lambda value: isinstance(value, list) and tuple(value) in OUTPUTS,
        '["mask"] or ["mask", "confidence"]',
    ),
    "files": (_is_hash_table, "an object of file names and SHA-256 hex digests"),
    "recipe": (_is_text, "a string"),
    "seed": (lambda value: value is None or _is_count(value), "null or a non-negative integer"),
    "metrics": (_is_object, "an object"),
    "agreement": (_is_object, "an object"),
    "licence": (_is_text, "a string"),
    "data_note": (_is_text, "a string"),
    "created": (_is_text, "a string"),
}


@dataclass(frozen=True)
class Manifest:
    """What `manifest.json` says about a model.

    `input_size` is (H, W) in pixels, the size the network was tuned for; any other size whose sides are
    multiples of `size_divisor` works too. `macs` counts multiply-accumulates of one frame of `input_size`.
    `metrics` are by data split, e.g. `{"camvid_val": {"miou": 0.69}}`, fractions of 1. `agreement` is the
    fraction of pixels whose class equals fp32's, by precision, e.g. `{"bf16": 0.9987}`. `files` maps file
    names to their SHA-256. `teaching` is {"method", "teachers"} of a distilled network, see docs/bundle.md, and empty
    for one that learned from labels only. In JSON the ignore id of `labels` stands beside it, as `ignore_id`.
    """

    name: str
    role: str
    architecture: dict[str, Any]
    labels: LabelTable
    input_size: tuple[int, int]
    size_divisor: int
    parameters: int
    macs: int
    outputs: tuple[str, ...]
    files: dict[str, str]
    recipe: str
    seed: int | None
    metrics: dict[str, Any]
    agreement: dict[str, float]
    licence: str
    data_note: str
    created: str
    teaching: dict[str, Any] = dataclasses.field(default_factory=dict)
    schema_version: int = SCHEMA_VERSION

    def to_json(self) -> dict[str, Any]:
        """The manifest as JSON-ready values."""
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return fields | {
            "labels": self.labels.to_json(),
            "ignore_id": self.labels.ignore_id,
            "input_size": sizes.named(self.input_size),
            "outputs": list(self.outputs),
        }

    @classmethod
    def from_json(cls, data: Any) -> Manifest:
        """Check parsed JSON field by field; unknown keys are ignored. Raises BundleError naming the key."""
        if not isinstance(data, dict):
            raise BundleError("the manifest is not a JSON object")
        if data.get("schema_version") != SCHEMA_VERSION:
            raise BundleError(
                f'"schema_version" is {data.get("schema_version")!r}, this version of transkd_ros reads '
                f"{SCHEMA_VERSION}; export the model again"
            )
        for key, (is_valid, expected) in _FIELDS.items():
            if key not in data:
                raise BundleError(f'"{key}" is missing; export the model again')
            if not is_valid(data[key]):
                raise BundleError(f'"{key}" must be {expected}, not {json.dumps(data[key])[:80]}')
        for file_name in data["files"]:
            if not _FILE_NAME.fullmatch(file_name):
                raise BundleError(
                    f'"files" names {file_name!r}; only plain names inside the bundle are allowed'
                )
        for file_name in REQUIRED_FILES:
            if file_name not in data["files"]:
                raise BundleError(f'"files" lacks {file_name}; export the model again')
        size = sizes.read(data["input_size"])
        if any(side % data["size_divisor"] for side in size):
            raise BundleError(
                f'"input_size" {sizes.text(size)} is no multiple of "size_divisor" {data["size_divisor"]}'
            )
        try:
            labels = LabelTable.from_json(data["labels"], data["ignore_id"])
        except ValueError as error:
            raise BundleError(f'"labels": {error}') from error
        if data["architecture"].get("classes", len(labels.names)) != len(labels.names):
            raise BundleError(
                f'the network has {data["architecture"]["classes"]} classes, "labels" {len(labels.names)}; '
                "export the model again with its own label table"
            )
        if not _is_object(teaching := data.get("teaching", {})):  # older bundles have none
            raise BundleError(f'"teaching" must be an object, not {json.dumps(teaching)[:80]}')
        values = {key: data[key] for key in _FIELDS if key != "ignore_id"}
        return cls(
            **values
            | {
                "labels": labels,
                "input_size": size,
                "outputs": tuple(data["outputs"]),
                "teaching": teaching,
            }
        )


# ---- the folder ----------------------------------------------------------------------------------
@dataclass(frozen=True)
class Bundle:
    """A bundle on disk: its folder and its checked manifest."""

    path: Path
    manifest: Manifest

    @property
    def model_onnx(self) -> Path:
        return self.path / MODEL_ONNX

    @property
    def int8_onnx(self) -> Path | None:
        """The quantised graph `model.int8.onnx`, or None where the bundle was exported without one."""
        return self.path / INT8_ONNX if INT8_ONNX in self.manifest.files else None

    @property
    def weights(self) -> Path:
        return self.path / WEIGHTS

    @property
    def exported_program(self) -> Path | None:
        """The torch.export program `model.pt2`, or None where the bundle was exported without one."""
        return self.path / EXPORTED_PROGRAM if EXPORTED_PROGRAM in self.manifest.files else None


def load_bundle(path: str | os.PathLike[str], verify: bool = True) -> Bundle:
    """Read the bundle in folder `path`; `verify` compares every file with its SHA-256.

    Raises BundleError, one line that names the file and the remedy.
    """
    path = Path(path)
    if not path.is_dir():
        raise BundleError(f"{path} is not a folder; give the folder of a model bundle")
    manifest_path = path / MANIFEST
    try:
        manifest = Manifest.from_json(json.loads(manifest_path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        raise BundleError(f"{path} has no {MANIFEST}: not a model bundle, or an incomplete copy") from None
    except OSError as error:
        raise BundleError(f"{manifest_path} cannot be read: {error.strerror}") from error
    except BundleError as error:
        raise BundleError(f"{manifest_path}: {error}") from error
    except (ValueError, RecursionError) as error:  # not JSON, not UTF-8, or nested without end
        raise BundleError(
            f"{manifest_path} is not JSON ({error}); restore the bundle or export it again"
        ) from error

    for name, expected in manifest.files.items():
        file = path / name
        if not file.is_file():
            raise BundleError(f"{file} is missing; restore the bundle or export it again")
        if verify and (actual := _sha256(file)) != expected:
            raise BundleError(
                f"{file} was altered: SHA-256 {actual[:12]}…, expected {expected[:12]}…; "
                "restore the bundle or export it again"
            )
    return Bundle(path, manifest)


def write_bundle(
    path: str | os.PathLike[str], manifest_fields: Mapping[str, Any], files: Mapping[str, bytes | Path]
) -> Bundle:
    """Write a bundle to folder `path` and load it back.

    `manifest_fields` are the fields of Manifest, less `schema_version` and `files`; `files` maps names to
    contents or to files to copy. The bundle is built in a hidden folder beside `path` and renamed, so that a
    reader never sees half of one; a writer that was killed leaves only a `.NAME.partial-*` folder, which the
    next write removes. A bundle already there is replaced. Not for several writers of one bundle at a time.
    Raises BundleError for bad fields, or where `path` holds something that is not a bundle.
    """
    path = Path(os.path.abspath(path))
    if path.exists() and not (path / MANIFEST).is_file():
        raise BundleError(f"{path} exists and is not a model bundle; remove it or choose another name")
    hashes = {name: _sha256(content) for name, content in files.items()}
    try:
        manifest = Manifest(files=hashes, **manifest_fields)
        manifest_text = json.dumps(manifest.to_json(), indent=2, allow_nan=False) + "\n"
    except (TypeError, ValueError) as error:  # a field lacks, or a value has no form in JSON, such as NaN
        raise BundleError(f"the manifest cannot be written: {error}") from error
    Manifest.from_json(json.loads(manifest_text))

    path.parent.mkdir(parents=True, exist_ok=True)
    new, old = path.parent / f".{path.name}.partial-new", path.parent / f".{path.name}.partial-old"
    if old.exists() and not path.exists():  # killed between the two renames: this is the only one there is
        old.rename(path)
    for leftover in path.parent.glob(f".{path.name}.partial-*"):
        shutil.rmtree(leftover)
    new.mkdir()
    try:
        for name, content in files.items():
            if isinstance(content, Path):
                shutil.copyfile(content, new / name)
            else:
                (new / name).write_bytes(content)
        (new / MANIFEST).write_text(manifest_text, encoding="utf-8")
    except BaseException:  # a full disk, Ctrl-C
        shutil.rmtree(new, ignore_errors=True)
        raise
    if path.exists():
        path.rename(old)
    new.rename(path)
    shutil.rmtree(old, ignore_errors=True)
    return load_bundle(path)


def _sha256(content: bytes | Path) -> str:
    if isinstance(content, bytes):
        return hashlib.sha256(content).hexdigest()
    digest = hashlib.sha256()
    with content.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
