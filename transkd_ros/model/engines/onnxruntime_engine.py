"""ONNX Runtime: TensorRT and CUDA on NVIDIA GPUs where the installed build has them, and the CPU."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import onnxruntime as ort

from transkd_ros.model.bundle import Bundle
from transkd_ros.model.cache import CacheUnavailable, machine_folder
from transkd_ros.model.engines.base import Graph, Kind, LoadOptions, Runtime, RuntimeUnavailable, stacked
from transkd_ros.model.engines.onnx_pruning import pruned

ENGINE = "onnxruntime"
_PROVIDERS = {  # fastest first; what one cannot run, the next of them does
    "TensorRT": "TensorrtExecutionProvider",
    "CUDA": "CUDAExecutionProvider",
    "CPU": "CPUExecutionProvider",
}
# The CUDA and CPU providers compute in the graph's own arithmetic; TensorRT alone can lower it by itself.
_PRECISIONS = {"TensorRT": ("int8", "fp16", "fp32"), "CUDA": ("fp32",), "CPU": ("int8", "fp32")}


def devices() -> dict[str, str]:
    """Device name → note, fastest first, as this build has them; whether a GPU works, loading tells."""
    offered = ort.get_available_providers()
    return {device: ", ".join(_PRECISIONS[device]) for device, name in _PROVIDERS.items() if name in offered}


def precisions(device: str) -> tuple[str, ...]:
    """What the device computes in, the likely fastest first; int8 needs a quantised graph."""
    return _PRECISIONS[device]


def load(bundle: Bundle, options: LoadOptions) -> OnnxRuntime:
    return OnnxRuntime(bundle, options)


class OnnxRuntime(Runtime):
    """ONNX Runtime sessions on one execution provider.

    `fallen_back` names the nodes that the device cannot run, and who runs them; "" if there are none.
    """

    engine = ENGINE

    def __init__(self, bundle: Bundle, options: LoadOptions) -> None:
        super().__init__(bundle, options)
        quantised = bundle.int8_onnx if options.precision == "int8" else None
        self._file = quantised or bundle.model_onnx
        self._threads = options.threads
        self._providers = _providers(self.device, self.precision, bundle.manifest.files[self._file.name])

    def compile_graph(self, kind: Kind) -> Graph:
        session_options = ort.SessionOptions()
        session_options.intra_op_num_threads = self._threads
        session_options.log_severity_level = 3  # errors only
        session_options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
        outputs = ["mask", "confidence"] if kind.confidence else ["mask"]
        session = ort.InferenceSession(
            pruned(self._file.read_bytes(), outputs), session_options, providers=self._providers
        )
        # A provider whose libraries are missing is dropped silently in favour of the next.
        provider = _PROVIDERS[self.device]
        if session.get_providers()[0] != provider:
            raise RuntimeUnavailable(
                f"{ENGINE} lists {self.device} but cannot start it; check the NVIDIA libraries"
            )
        self.fallen_back = _fallen_back(session, provider)
        self.takes_batches = isinstance(session.get_inputs()[0].shape[0], str)  # the name of a free dimension

        def run(images: Sequence[np.ndarray]) -> Sequence[np.ndarray]:
            maps: Sequence[np.ndarray] = session.run(outputs, {"image": stacked(images)})
            return maps

        return run


def _providers(device: str, precision: str, digest: str) -> list[tuple[str, dict[str, Any]]]:
    """The device's provider and the slower ones, as far as this build has them, with their options.

    TensorRT's engines lie in a folder of the graph, by its SHA-256 `digest`: they are found again by the names in a
    graph, and would be taken for those of other weights.
    """
    names = list(_PROVIDERS)
    offered = ort.get_available_providers()
    from_here = [_PROVIDERS[name] for name in names[names.index(device) :]]
    providers: list[tuple[str, dict[str, Any]]] = [(name, {}) for name in from_here if name in offered]
    if device == "TensorRT":
        options = providers[0][1]
        options |= {"trt_fp16_enable": precision != "fp32", "trt_int8_enable": precision == "int8"}
        try:
            timings, engines = (str(machine_folder(name)) for name in ("tensorrt", f"tensorrt/{digest[:16]}"))
        except CacheUnavailable:  # then every start builds its engine anew
            return providers
        options |= {"trt_engine_cache_enable": True, "trt_engine_cache_path": engines}
        options |= {"trt_timing_cache_enable": True, "trt_timing_cache_path": timings}
    return providers


def _fallen_back(session: ort.InferenceSession, provider: str) -> str:
    """Which kinds of nodes run elsewhere than on `provider`, e.g. `CPU runs Shape, 2 Squeeze`; "" if none do."""
    if not hasattr(session, "get_provider_graph_assignment_info"):  # before 1.24
        return ""
    elsewhere: dict[str, Counter[str]] = {}
    for assignment in session.get_provider_graph_assignment_info():
        if assignment.ep_name != provider:
            nodes = elsewhere.setdefault(assignment.ep_name.removesuffix("ExecutionProvider"), Counter())
            nodes.update(node.op_type for node in assignment.get_nodes())
    counted = {
        name: ", ".join(f"{count} {kind}" if count > 1 else kind for kind, count in sorted(nodes.items()))
        for name, nodes in elsewhere.items()
    }
    return "; ".join(f"{name} runs {nodes}" for name, nodes in counted.items())
