"""OpenVINO: the embedded default, for CPUs and for Intel GPUs and NPUs."""

from __future__ import annotations

from typing import Any

import numpy as np
import openvino as ov

from transkd_ros.model.bundle import Bundle
from transkd_ros.model.cache import machine_folder
from transkd_ros.model.engines.base import LoadOptions, Prediction, check_image

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


class OpenVinoRuntime:
    """A graph compiled by OpenVINO for one image size; implements `Runtime`."""

    engine = ENGINE
    reason = ""

    def __init__(self, bundle: Bundle, options: LoadOptions) -> None:
        self.device, self.precision, self.input_size = options.device, options.precision, options.input_size
        quantised = options.precision == "int8"
        model = _core.read_model(bundle.int8_onnx if quantised else bundle.model_onnx)
        # Only the wanted outputs are compiled, so that an unwanted confidence map costs nothing.
        model = ov.Model([model.output(name).get_node() for name in options.outputs], model.get_parameters())
        model.reshape([1, *options.input_size, 3])
        config: dict[str, Any] = {"PERFORMANCE_HINT": "LATENCY"}
        if not quantised:  # there, what is not int8 is in the device's default
            config["INFERENCE_PRECISION_HINT"] = _FLOATS[self.precision]
        if self.device == "CPU" and options.threads:
            config["INFERENCE_NUM_THREADS"] = options.threads
        self._request = _compile(model, self.device, config).create_infer_request()
        self._outputs = options.outputs

    def infer(self, image: np.ndarray) -> Prediction:
        check_image(image, self.input_size)
        # Copied: a tensor that shares memory cannot be made of a read-only view of a message.
        self._request.get_input_tensor().data[0] = image
        self._request.infer()
        maps = [self._request.get_tensor(name).data[0].copy() for name in self._outputs]
        return Prediction(maps[0], maps[1] if len(maps) > 1 else None)

    def close(self) -> None:
        del self._request


def _compile(model: ov.Model, device: str, config: dict[str, Any]) -> ov.CompiledModel:
    """Compiled, or read from the cache of what was compiled before; without a cache where there can be none."""
    try:
        return _core.compile_model(model, device, config | {"CACHE_DIR": str(machine_folder("openvino"))})
    except Exception:  # no folder, a full disk, a damaged file: the graph's own faults show again without a cache
        return _core.compile_model(model, device, config)
