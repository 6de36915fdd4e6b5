"""A bundle's graph in int8: post-training quantisation by NNCF, and what each part of a graph loses by it.

The quantised graph is ONNX with QuantizeLinear and DequantizeLinear, run by OpenVINO, ONNX Runtime and TensorRT alike.
`training.export` writes it into a bundle, if it passes the gate there.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort

_WEIGHTED = ("Conv", "Gemm", "MatMul")


class QuantisationError(Exception):
    """A graph that cannot be quantised as asked; the text is one line that says why and what to do."""


def quantise(graph: bytes, images: Sequence[np.ndarray], tuned: bool = False) -> bytes:
    """The ONNX graph in int8, its ranges those that `images` give rise to: (H, W, 3) uint8 RGB, of one size.

    Weights are symmetric per channel, activations asymmetric where they have both signs. Half of the weights'
    range is left out, because CPUs without VNNI add pairs of products in 16 bits, which saturate otherwise. Biases are
    corrected, unless the weights were `tuned` for int8. Raises QuantisationError for no images, and where NNCF is
    missing or refuses.
    """
    if not len(images):
        raise QuantisationError("no frames to calibrate int8 on: give a folder or a bag with --calibration")
    nncf = _import_nncf()
    from nncf.quantization import advanced_parameters as parameters

    model = onnx.load_from_string(graph)
    # Where tokens become maps on the way to a depthwise convolution, NNCF takes tokens for channels.
    per_tensor = parameters.QuantizationParameters(per_channel=False) if _has_attention(model.graph) else None
    try:
        quantised = nncf.quantize(
            model,
            nncf.Dataset(images, lambda image: {"image": image[np.newaxis]}),
            preset=nncf.QuantizationPreset.MIXED,
            subset_size=len(images),
            ignored_scope=nncf.IgnoredScope(names=_kept_in_float(model.graph)),
            advanced_parameters=parameters.AdvancedQuantizationParameters(
                overflow_fix=parameters.OverflowFix.ENABLE,
                disable_bias_correction=tuned,
                activations_quantization_params=per_tensor,
            ),
        )
    except nncf.ValidationError as error:
        raise QuantisationError(f"NNCF cannot quantise the graph: {' '.join(str(error).split())[:300]}") from error
    return quantised.SerializeToString()


def costs(graph: bytes, quantised: bytes, images: Sequence[np.ndarray]) -> dict[str, float]:
    """{part of the network: share of the pixels, 0–1, that get fp32's class again if its inputs stay in float}.

    Dearest first. A part is what its weights are named after up to the first number, such as `encoder.blocks.2`.
    """
    exact, model = _masks(graph, images), onnx.load_from_string(quantised)

    def agreement(candidate: onnx.ModelProto) -> float:
        masks = _masks(candidate.SerializeToString(), images)
        return float(np.mean([(a == b).mean() for a, b in zip(exact, masks, strict=True)]))

    whole, lost = agreement(model), {}
    for part in dict.fromkeys(part for _, part in _parts(model.graph)):
        relieved = onnx.ModelProto()
        relieved.CopyFrom(model)
        _leave_in_float(relieved.graph, part)
        lost[part] = agreement(relieved) - whole
    return dict(sorted(lost.items(), key=lambda item: -item[1]))


def _import_nncf() -> Any:
    os.environ.setdefault("NNCF_CI", "1")  # it reports how it is used otherwise
    try:
        import nncf
    except ImportError as error:
        raise QuantisationError("int8 needs NNCF: pip install nncf (it is in the extra `training`)") from error
    nncf.set_log_level(logging.ERROR)
    return nncf


def _kept_in_float(graph: onnx.GraphProto) -> list[str]:
    """Names of the nodes that NNCF would quantise, and should not.

    Bilinear interpolations and the sums of what they give: engines compute them in float all the same, so that a
    quantiser costs time on top of accuracy. In a network with attention, products of two activations and the
    classifier: without that, a MiT-B0 loses 3 points of mIoU.
    """
    kept: list[onnx.NodeProto] = []
    interpolated: set[str] = set()
    for node in graph.node:
        if node.op_type == "Resize" or (node.op_type == "Add" and interpolated.intersection(node.input)):
            kept.append(node)
            interpolated.update(node.output)
    if _has_attention(graph):
        constants = {initializer.name for initializer in graph.initializer}
        kept += [node for node in graph.node if node.op_type == "MatMul" and not constants.intersection(node.input)]
        kept.append(next(node for node in reversed(graph.node) if node.op_type == "Conv"))
    return [node.name for node in kept]


def _has_attention(graph: onnx.GraphProto) -> bool:
    return any(node.op_type == "LayerNormalization" for node in graph.node)


def _parts(graph: onnx.GraphProto) -> Iterator[tuple[onnx.NodeProto, str]]:
    """The nodes with weights, and the part that each belongs to: that of the last weight with a module's name
    (constants that were folded have lost theirs)."""
    produced = {output: node for node in graph.node for output in node.output}
    part = ""
    for node in graph.node:
        for name in node.input:
            dequantiser = _of_type("DequantizeLinear", produced.get(name))
            stored = dequantiser.input[0].removeprefix("q_output_") if dequantiser else name
            if stored.startswith("network."):
                part = _part_of(stored)
        if part and node.op_type in _WEIGHTED:
            yield node, part


def _part_of(weight: str) -> str:
    """`network.encoder.blocks.2.0.conv.weight` → `encoder.blocks.2`"""
    words = weight.split(".")[1:]
    number = next((index for index, word in enumerate(words) if word.isdecimal()), len(words) - 2)
    return ".".join(words[: number + 1])


def _leave_in_float(graph: onnx.GraphProto, part: str) -> None:
    """Let the nodes of a part read their activations as they were before they were quantised."""
    produced = {output: node for node in graph.node for output in node.output}
    for node, belongs_to in list(_parts(graph)):
        for index, name in enumerate(node.input if belongs_to == part else ()):
            dequantiser = _of_type("DequantizeLinear", produced.get(name))
            quantiser = dequantiser and _of_type("QuantizeLinear", produced.get(dequantiser.input[0]))
            if quantiser:
                node.input[index] = quantiser.input[0]


def _of_type(op_type: str, node: onnx.NodeProto | None) -> onnx.NodeProto | None:
    return node if node is not None and node.op_type == op_type else None


def _masks(graph: bytes, images: Sequence[np.ndarray]) -> list[np.ndarray]:
    options = ort.SessionOptions()
    options.log_severity_level = 3  # errors only
    session = ort.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    return [session.run(["mask"], {"image": image[np.newaxis]})[0] for image in images]
