"""OpenVINO: the embedded default, for CPUs and for Intel GPUs and NPUs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import openvino as ov

from transkd_ros.model.bundle import Bundle
from transkd_ros.model.cache import machine_folder
from transkd_ros.model.engines.base import Graph, Kind, LoadOptions, Runtime

ENGINE = "openvino"
_FLOATS = {"fp32": ov.Type.f32, "bf16": ov.Type.bf16, "fp16": ov.Type.f16}
_core = ov.Core()


def devices() -> dict[str, str]:
    """Device name → note, preferred first: an Intel GPU or NPU where the machine has one, then the CPU."""
    names = sorted(_core.available_devices, key=lambda name: (name == "CPU", not name.startswith("GPU")))
    return {
        name: f"{_core.get_property(name, 'FULL_DEVICE_NAME')}: {', '.join(precisions(name))}"
        for name in names
    }


def load(bundle: Bundle, options: LoadOptions) -> OpenVinoRuntime:
    return OpenVinoRuntime(bundle, options)


def precisions(device: str) -> list[str]:
    """What the device computes in, its own default first; int8 needs a quantised graph.

    OpenVINO lists BF16 also for CPUs that only emulate it; its default is bf16 only where the CPU has the
    instructions, which is what "auto" wants.
    """
    capabilities = _core.get_property(device, "OPTIMIZATION_CAPABILITIES")
    default = _core.get_property(device, "INFERENCE_PRECISION_HINT")
    names = [name for name in _FLOATS if name == "fp32" or name.upper() in capabilities]
    names.sort(key=lambda name: _FLOATS[name] != default)
    return [*(["int8"] if "INT8" in capabilities else []), *names]


class OpenVinoRuntime(Runtime):
    """Graphs compiled by OpenVINO for one image size."""

    engine = ENGINE

    def __init__(self, bundle: Bundle, options: LoadOptions) -> None:
        super().__init__(bundle, options)
        quantised = options.precision == "int8"
        self._file = (quantised and bundle.int8_onnx) or bundle.model_onnx
        self._config: dict[str, Any] = {"PERFORMANCE_HINT": "LATENCY"}
        if not quantised:  # there, what is not int8 is in the device's default
            self._config["INFERENCE_PRECISION_HINT"] = _FLOATS[self.precision]
        if self.device == "CPU" and options.threads:
            self._config["INFERENCE_NUM_THREADS"] = options.threads
            # Else they are bound to the first cores, and two nodes that take one thread each share a single core.
            self._config["ENABLE_CPU_PINNING"] = False

    def compile_graph(self, kind: Kind) -> Graph:
        model = _core.read_model(self._file)
        self.takes_batches = model.input("image").get_partial_shape()[0].is_dynamic
        # Only the wanted outputs are compiled, so that an unwanted confidence map costs nothing.
        outputs = ("mask", "confidence") if kind.confidence else ("mask",)
        model = ov.Model([model.output(name).get_node() for name in outputs], model.get_parameters())
        model.reshape([kind.images, *self.input_size, 3])
        request = _compile(model, self.device, self._config).create_infer_request()

        def run(images: Sequence[np.ndarray]) -> list[np.ndarray]:
            # Copied: a tensor that shares memory cannot be made of a read-only view of a message.
            batch = request.get_input_tensor().data
            for place, image in zip(batch, images, strict=True):
                place[:] = image
            request.infer()
            return [request.get_tensor(name).data.copy() for name in outputs]

        return run


def _compile(model: ov.Model, device: str, config: dict[str, Any]) -> ov.CompiledModel:
    """Compiled, or read from the cache of what was compiled before; without a cache where there can be none."""
    try:
        return _core.compile_model(model, device, config | {"CACHE_DIR": str(machine_folder("openvino"))})
    except Exception:  # no folder, a full disk, a damaged file: the graph's own faults show again without a cache
        return _core.compile_model(model, device, config)
