"""int8: a graph is quantised where it pays, calibrated on what it is given, and refused where it loses too much."""

import collections

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the training wing needs torch")
onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

from training import export, quantise  # noqa: E402
from training.bundle_checks import ExportError  # noqa: E402
from training.export_frames import Frames, calibration_images  # noqa: E402
from transkd_ros.bags.messages import image_message  # noqa: E402
from transkd_ros.bags.storage import BagWriter  # noqa: E402
from transkd_ros.model.labels import LabelTable  # noqa: E402

pytestmark = pytest.mark.training


def graph() -> bytes:
    """Two convolutions, an enlargement and an arg-max, named as the export names them."""
    make, array = onnx.helper, onnx.numpy_helper.from_array
    rng = np.random.default_rng(0)
    weights = {
        "network.encoder.blocks.0.conv.weight": rng.normal(size=(8, 3, 3, 3)),
        "network.encoder.blocks.1.conv.weight": rng.normal(size=(8, 8, 3, 3)),
        "network.head.0.weight": rng.normal(size=(3, 8, 1, 1)),
    }
    nodes = [
        make.make_node("Transpose", ["image"], ["planes"], perm=[0, 3, 1, 2]),
        make.make_node("Cast", ["planes"], ["x0"], to=onnx.TensorProto.FLOAT),
    ]
    for index, name in enumerate(weights):
        pads = [0] * 4 if "head" in name else [1] * 4
        nodes.append(make.make_node("Conv", [f"x{index}", name], [f"y{index}"], name=f"conv{index}", pads=pads))
        nodes.append(make.make_node("Relu", [f"y{index}"], [f"x{index + 1}"], name=f"relu{index}"))
    nodes += [
        make.make_node("Resize", ["y2", "", "scales"], ["logits"], name="resize", mode="linear"),
        make.make_node("ArgMax", ["logits"], ["classes"], axis=1, keepdims=0),
        make.make_node("Cast", ["classes"], ["mask"], to=onnx.TensorProto.UINT8),
    ]
    stored = [array(value.astype(np.float32), name) for name, value in weights.items()]
    stored.append(array(np.array([1, 1, 2, 2], np.float32), "scales"))
    image = make.make_tensor_value_info("image", onnx.TensorProto.UINT8, [1, 32, 32, 3])
    mask = make.make_tensor_value_info("mask", onnx.TensorProto.UINT8, [1, 64, 64])
    made = make.make_model(
        make.make_graph(nodes, "test", [image], [mask], stored),
        opset_imports=[make.make_opsetid("", 20)],
        ir_version=10,
    )
    onnx.checker.check_model(made)
    return made.SerializeToString()


@pytest.fixture(scope="module")
def images():
    return list(np.random.default_rng(1).integers(0, 256, (4, 32, 32, 3), np.uint8))


@pytest.fixture(scope="module")
def quantised(images):
    pytest.importorskip("nncf")
    return quantise.quantise(graph(), images)


def test_convolutions_are_quantised_and_what_engines_interpolate_in_float_is_not(quantised):
    nodes = onnx.load_from_string(quantised).graph.node
    made_by = {output: node.op_type for node in nodes for output in node.output}
    inputs = {node.name: {made_by.get(name) for name in node.input} for node in nodes}
    assert all(inputs[f"conv{index}"] == {"DequantizeLinear"} for index in range(3))
    assert "DequantizeLinear" not in inputs["resize"]
    assert collections.Counter(made_by.values())["QuantizeLinear"] == 3


def test_the_quantised_graph_still_does_what_the_float_one_does(quantised, images):
    masks = [quantise._masks(model, images) for model in (graph(), quantised)]
    assert np.mean([(a == b).mean() for a, b in zip(*masks, strict=True)]) > 0.95


def test_weights_leave_room_for_sums_in_16_bits(quantised):
    stored = map(onnx.numpy_helper.to_array, onnx.load_from_string(quantised).graph.initializer)
    weights = [value for value in stored if value.dtype == np.int8 and value.ndim == 4]
    assert len(weights) == 3 and max(np.abs(value).max() for value in weights) <= 64


def test_the_cost_of_every_part_is_told_dearest_first(quantised, images):
    costs = quantise.costs(graph(), quantised, images)
    assert set(costs) == {"encoder.blocks.0", "encoder.blocks.1", "head.0"}
    assert list(costs.values()) == sorted(costs.values(), reverse=True)


def test_without_frames_to_calibrate_on_the_option_is_named():
    with pytest.raises(quantise.QuantisationError, match="--calibration"):
        quantise.quantise(graph(), [])


def test_frames_of_a_bag_calibrate_at_the_size_of_the_network(tmp_path):
    with BagWriter(tmp_path / "bag") as bag:
        for stamp in range(1, 11):
            bag.write("/camera/image_raw", image_message(np.full((48, 64, 3), stamp, np.uint8), "bgr8", stamp), stamp)
    found = calibration_images(None, tmp_path / "bag", (32, 32), 4, LabelTable.load("camvid"))
    assert [image.shape for image in found] == [(32, 32, 3)] * 4
    assert [image[0, 0, 0] for image in found] == [1, 4, 7, 10]


def test_int8_that_loses_too_much_is_refused_and_what_costs_most_is_named(quantised, images, monkeypatch):
    lossy = {"fp32": {"miou": 0.70}, "int8": {"miou": 0.66}}
    monkeypatch.setattr(export, "write_bundle", lambda *arguments: None)
    monkeypatch.setattr(export, "check_parity", lambda *arguments: 1.0)
    monkeypatch.setattr(export, "measure", lambda *arguments: (lossy, {"int8": 0.9}))

    class Scenes(list):
        pass

    frames = Frames("scenes", Scenes((image, None) for image in images), True)
    files = {"model.onnx": graph(), "model.int8.onnx": quantised}
    with pytest.raises(ExportError, match=r"loses 4\.0 points of mIoU, 0\.5 are allowed.*blocks\.0 .*%"):
        export.check_and_measure(None, {"input_size": (32, 32)}, files, frames)
