"""OpenVINO: the embedded default, for CPUs and for Intel GPUs and NPUs."""

from __future__ import annotations

import numpy as np
import openvino as ov

from transkd_ros.model.bundle import Bundle
from transkd_ros.model.engines.base import LoadOptions, Prediction, check_image, choose_device, choose_precision

ENGINE = "openvino"
_PRECISIONS = {"fp32": ov.Type.f32, "bf16": ov.Type.bf16, "fp16": ov.Type.f16}
_core = ov.Core()


def devices() -> dict[str, str]:
    """Device name → note, preferred first: an Intel GPU or NPU where the machine has one, then the CPU."""
    names = sorted(_core.available_devices, key=lambda name: (name == "CPU", not name.startswith("GPU")))
    return {
        name: f"{_core.get_property(name, 'FULL_DEVICE_NAME')}: {', '.join(_precisions(name))}"
        for name in names
    }


def load(bundle: Bundle, options: LoadOptions) -> OpenVinoRuntime:
    return OpenVinoRuntime(bundle, options)


def _precisions(device: str) -> list[str]:
    """What the device computes in, its own default first.

    OpenVINO lists BF16 also for CPUs that only emulate it; its default is bf16 only where the CPU has the
    instructions, which is what "auto" wants.
    """
    capabilities = _core.get_property(device, "OPTIMIZATION_CAPABILITIES")
    default = _core.get_property(device, "INFERENCE_PRECISION_HINT")
    names = [name for name in _PRECISIONS if name == "fp32" or name.upper() in capabilities]
    return sorted(names, key=lambda name: _PRECISIONS[name] != default)


class OpenVinoRuntime:
    """A graph compiled by OpenVINO for one image size; implements `Runtime`."""

    engine = ENGINE
    reason = ""

    def __init__(self, bundle: Bundle, options: LoadOptions) -> None:
        self.device = choose_device(ENGINE, options.device, list(devices()))
        self.precision = choose_precision(ENGINE, self.device, options.precision, _precisions(self.device))
        self.input_size = options.input_size
        model = _core.read_model(bundle.model_onnx)
        # Only the wanted outputs are compiled, so that an unwanted confidence map costs nothing.
        model = ov.Model([model.output(name).get_node() for name in options.outputs], model.get_parameters())
        model.reshape([1, *options.input_size, 3])
        config = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": _PRECISIONS[self.precision]}
        if self.device == "CPU" and options.threads:
            config["INFERENCE_NUM_THREADS"] = options.threads
        self._request = _core.compile_model(model, self.device, config).create_infer_request()
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
