"""ONNX Runtime: TensorRT and CUDA on NVIDIA GPUs where the installed build has them, and the CPU."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnxruntime as ort

from transkd_ros.model.bundle import Bundle
from transkd_ros.model.engines.base import (
    LoadOptions,
    Prediction,
    RuntimeUnavailable,
    check_image,
    choose_device,
    choose_precision,
)

ENGINE = "onnxruntime"
_PROVIDERS = {  # fastest first
    "TensorRT": "TensorrtExecutionProvider",
    "CUDA": "CUDAExecutionProvider",
    "CPU": "CPUExecutionProvider",
}
# The CUDA and CPU providers compute in the graph's own fp32; TensorRT alone can lower it by itself.
_PRECISIONS = {"TensorRT": ("fp16", "fp32"), "CUDA": ("fp32",), "CPU": ("fp32",)}


def devices() -> dict[str, str]:
    """Device name → note, fastest first, as this build has them; whether a GPU works, loading tells."""
    offered = ort.get_available_providers()
    return {device: ", ".join(_PRECISIONS[device]) for device, name in _PROVIDERS.items() if name in offered}


def load(bundle: Bundle, options: LoadOptions) -> OnnxRuntime:
    return OnnxRuntime(bundle, options)


class OnnxRuntime:
    """An ONNX Runtime session on one execution provider; implements `Runtime`."""

    engine = ENGINE
    reason = ""

    def __init__(self, bundle: Bundle, options: LoadOptions) -> None:
        self.device = choose_device(ENGINE, options.device, list(devices()))
        self.precision = choose_precision(ENGINE, self.device, options.precision, _PRECISIONS[self.device])
        self.input_size = options.input_size
        session_options = ort.SessionOptions()
        session_options.intra_op_num_threads = options.threads
        session_options.log_severity_level = 3  # errors only
        provider = _PROVIDERS[self.device]
        provider_options: dict[str, Any] = {"trt_fp16_enable": True} if self.precision == "fp16" else {}
        self._session = ort.InferenceSession(
            bundle.model_onnx, session_options, providers=[(provider, provider_options)]
        )
        # A provider whose libraries are missing is dropped silently in favour of the CPU.
        if self._session.get_providers()[0] != provider:
            raise RuntimeUnavailable(
                f"{ENGINE} lists {self.device} but cannot start it; check the NVIDIA libraries"
            )
        self._outputs = options.outputs

    def infer(self, image: np.ndarray) -> Prediction:
        check_image(image, self.input_size)
        maps = [output[0] for output in self._session.run(self._outputs, {"image": image[np.newaxis]})]
        return Prediction(maps[0], maps[1] if len(maps) > 1 else None)

    def close(self) -> None:
        del self._session
