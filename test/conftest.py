"""Fixtures that several test files share."""

from __future__ import annotations

import os

# Before torch is imported, here and in child processes: its threads wait for each other by spinning, which takes the
# networks of the tests no further and on a busy machine minutes instead of seconds.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from transkd_ros.model.bundle import Bundle, write_bundle
from transkd_ros.model.labels import LabelTable
from transkd_ros.scenes import Drive


def ros_domain() -> int:
    """A ROS domain of this process's own, 1 to 100, which Linux allows without touching the ephemeral ports.

    The up to four workers of one run (pytest-xdist) have four neighbouring ones, and runs side by side other fours.
    """
    worker = os.environ.get("PYTEST_XDIST_WORKER", "")
    run = os.getppid() if worker else os.getpid()
    return 1 + run % 25 * 4 + int(worker.removeprefix("gw") or 0) % 4


# What is measured and compiled is kept apart from the user's own. Not matplotlib's list of fonts, which takes seconds.
_cache = tempfile.TemporaryDirectory(prefix="transkd_ros-cache-")
_fonts = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "matplotlib"
os.environ.setdefault("MPLCONFIGDIR", str(_fonts))
os.environ["XDG_CACHE_HOME"] = _cache.name

# Child processes inherit all of it.
os.environ["ROS_AUTOMATIC_DISCOVERY_RANGE"] = "LOCALHOST"
os.environ["ROS_DOMAIN_ID"] = str(ros_domain())

SLOWER = ("training", "ros", "slow")  # markers


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Fast tests first: a mistake shows within seconds."""
    items.sort(key=lambda item: any(item.get_closest_marker(marker) for marker in SLOWER))


TINY_FIELDS = {
    "name": "tiny",
    "role": "student",
    "architecture": {"network": "brightest_channel"},
    "labels": LabelTable(("red", "green", "blue"), ((255, 0, 0), (0, 255, 0), (0, 0, 255))),
    "input_size": (64, 96),
    "size_divisor": 32,
    "parameters": 9,
    "macs": 64 * 96 * 9,
    "outputs": ("mask", "confidence"),
    "recipe": "",
    "seed": None,
    "metrics": {},
    "agreement": {},
    "licence": "Apache-2.0",
    "data_note": "no data: the classes are the colour channels",
    "created": "2025-01-01",
}
EMPTY_SAFETENSORS = (2).to_bytes(8, "little") + b"{}"


def tiny_onnx() -> bytes:
    """A graph of the bundle contract whose answer is known: the class is the brightest channel.

    The class scores are a 1x1 convolution (the identity), so that the engines have a layer to lower to bf16;
    `confidence` is the brightest channel's value. Channel values below 256 are exact in bf16.
    """
    onnx = pytest.importorskip("onnx", reason="onnx builds the test bundle")
    types, make = onnx.TensorProto, onnx.helper

    def image_like(name, *channels):
        return make.make_tensor_value_info(name, types.UINT8, ["batch", "height", "width", *channels])

    weight = np.eye(3, dtype=np.float32).reshape(3, 3, 1, 1)
    nodes = [
        make.make_node("Cast", ["image"], ["pixels"], to=types.FLOAT),
        make.make_node("Transpose", ["pixels"], ["channels"], perm=[0, 3, 1, 2]),
        make.make_node("Conv", ["channels", "weight"], ["logits"]),
        make.make_node("ArgMax", ["logits"], ["classes"], axis=1, keepdims=0),
        make.make_node("Cast", ["classes"], ["mask"], to=types.UINT8),
        make.make_node("ReduceMax", ["logits", "axis"], ["brightest"], keepdims=0),
        make.make_node("Cast", ["brightest"], ["confidence"], to=types.UINT8),
    ]
    graph = make.make_graph(
        nodes,
        "tiny",
        [image_like("image", 3)],
        [image_like("mask"), image_like("confidence")],
        [onnx.numpy_helper.from_array(weight, "weight"), onnx.numpy_helper.from_array(np.array([1]), "axis")],
    )
    model = make.make_model(graph, opset_imports=[make.make_opsetid("", 18)], ir_version=9)
    onnx.checker.check_model(model)
    return model.SerializeToString()


@pytest.fixture(scope="session")
def tiny_bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A real bundle of three classes: mask = index of the brightest channel, confidence = its value."""
    files = {"model.onnx": tiny_onnx(), "weights.safetensors": EMPTY_SAFETENSORS}
    return write_bundle(tmp_path_factory.mktemp("models") / "tiny", TINY_FIELDS, files)


def int8_onnx() -> bytes:
    """The tiny graph in int8: its classes differ where the channels of a pixel differ by less than a step of 4."""
    from onnx import helper, load_from_string, numpy_helper

    model = load_from_string(tiny_onnx())
    scale, zero = np.array(4, np.float32), np.array(0, np.uint8)
    model.graph.initializer.extend([numpy_helper.from_array(scale, "scale"), numpy_helper.from_array(zero, "zero")])
    at = next(index for index, node in enumerate(model.graph.node) if "logits" in node.output)
    model.graph.node[at].output[0] = "float_logits"
    for offset, (kind, source, made) in enumerate(
        (("QuantizeLinear", "float_logits", "stored"), ("DequantizeLinear", "stored", "logits")), start=1
    ):
        model.graph.node.insert(at + offset, helper.make_node(kind, [source, "scale", "zero"], [made]))
    return model.SerializeToString()


@pytest.fixture(scope="session")
def int8_bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """The tiny bundle with a quantised graph beside the float one."""
    files = {"model.onnx": tiny_onnx(), "model.int8.onnx": int8_onnx(), "weights.safetensors": EMPTY_SAFETENSORS}
    return write_bundle(tmp_path_factory.mktemp("models") / "tiny_int8", TINY_FIELDS, files)


def renamed(bundle: Bundle, folder: Path, classes: tuple[str, ...]) -> Bundle:
    """The same bundle in another folder with other names of its classes."""
    labels = LabelTable(classes, bundle.manifest.labels.colors)
    files = {name: (bundle.path / name).read_bytes() for name in bundle.manifest.files}
    return write_bundle(folder, TINY_FIELDS | {"name": "other", "labels": labels}, files)


@pytest.fixture
def colours() -> np.ndarray:
    """(64, 96, 3) uint8 RGB, read-only like a view of a message; no two channels of a pixel are equal."""
    rng = np.random.default_rng(0)
    image = np.array([30, 120, 250], np.uint8)[rng.permuted(np.tile(np.arange(3), (64, 96, 1)), axis=2)]
    image.flags.writeable = False
    return image


def write_scenes(root: Path) -> Path:
    """A tiny data set laid out as CamVid is, of rendered scenes 128 pixels wide: 5 to train on, 3 to validate."""
    for split, seeds in (("train", range(5)), ("val", range(5, 8))):
        for kind in ("images", "labels"):
            (root / split / kind).mkdir(parents=True)
        for seed in seeds:
            image, labels = Drive(seed, (96, 128)).frame(0)
            cv2.imwrite(str(root / split / "images" / f"{seed:03}.png"), cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
            cv2.imwrite(str(root / split / "labels" / f"{seed:03}.png"), labels)
    return root


@pytest.fixture(scope="session")
def shared_scene_tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a data set in CamVid's layout, for tests that only read it."""
    return write_scenes(tmp_path_factory.mktemp("data") / "camvid")


@pytest.fixture
def scene_tree(shared_scene_tree: Path, tmp_path: Path) -> Path:
    """The same, the test's own to damage."""
    return shutil.copytree(shared_scene_tree, tmp_path / "camvid")


@pytest.fixture(scope="session")
def random_teacher(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """A function: encoder → checkpoint of a network (a SegFormer by default) with random weights and CamVid's classes,
    as a run leaves it."""
    folder = tmp_path_factory.mktemp("teachers")

    def checkpoint(encoder: str, architecture: str = "segformer", decoder_width: int | None = None) -> Path:
        import torch

        from training.networks import NetworkSpec, build_network

        path = folder / f"{architecture}_{encoder}_{decoder_width}.ckpt"
        if not path.exists():
            weights = build_network(NetworkSpec(architecture, encoder, 11, decoder_width=decoder_width)).state_dict()
            settings = {"architecture": architecture, "encoder": encoder, "decoder_width": decoder_width}
            settings["labels"] = "camvid"
            state = {f"network.{name}": value for name, value in weights.items()}
            torch.save({"hyper_parameters": settings, "state_dict": state}, path)
        return path

    return checkpoint


@pytest.fixture
def user():
    """A ROS node that talks to what is tested and listens to it, for tests that have rclpy."""
    from ros_graph import client

    with client() as other_end:
        yield other_end


@pytest.fixture
def diagnostics(user):
    """What `user` hears on /diagnostics."""
    from ros_graph import Diagnostics

    return Diagnostics(user)


@pytest.fixture
def bundle_path(tiny_bundle: Bundle) -> Path:
    return tiny_bundle.path


@pytest.fixture
def gated(monkeypatch: pytest.MonkeyPatch):
    """The engine of every segmentation node in this process: its inferences end when the test says so."""
    from segmentation_graph import GatedRuntime

    from transkd_ros.nodes.segmentation import engine

    runtime = GatedRuntime()
    monkeypatch.setattr(engine, "open_runtime", lambda *args, **kwargs: runtime)
    yield runtime
    runtime.close()
