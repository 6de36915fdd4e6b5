"""The peer: what one would write first. Network in eager fp32 torch, every conversion of the whole frame, with copies.

The only module of the vehicle wing, beside the torch engine, that needs torch; import it only to compare.
"""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import segmentation_models_pytorch as smp
import torch
from safetensors.torch import load_file
from timm.models import get_pretrained_cfg

from transkd_ros.model.bundle import Bundle

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of encoders that timm does not know


class NaiveSegmenter:
    """Runs the bundle's trained weights at one input size (H, W), on the CPU.

    Raises KeyError or RuntimeError for an architecture that segmentation_models_pytorch does not build.
    """

    def __init__(self, bundle: Bundle, input_size: tuple[int, int], threads: int) -> None:
        torch.set_num_threads(threads)
        spec = bundle.manifest.architecture
        named = {
            "encoder_output_stride": spec.get("output_stride"),
            "decoder_segmentation_channels": spec.get("decoder_width"),
        }
        network = smp.create_model(
            spec["architecture"],
            encoder_name=spec["encoder"],
            encoder_weights=None,
            classes=spec["classes"],
            **{name: value for name, value in named.items() if value is not None},
        )
        network.load_state_dict(load_file(bundle.weights))
        self._network = network.eval()
        self._input_size = input_size
        config = get_pretrained_cfg(spec["encoder"].removeprefix("tu-"), allow_unregistered=True)
        mean, std = (config.mean, config.std) if config else (IMAGENET_MEAN, IMAGENET_STD)
        self._mean, self._std = np.array(mean, np.float32), np.array(std, np.float32)

    def segment(self, message: Any) -> np.ndarray:
        """The mask (H, W) uint8 of a bgr8 sensor_msgs/Image, of its size."""
        height, width = self._input_size
        frame = np.frombuffer(message.data, np.uint8).reshape(message.height, message.width, 3).copy()
        image = cv2.resize(cv2.cvtColor(frame, cv2.COLOR_BGR2RGB), (width, height))
        normalised = (image.astype(np.float32) / 255 - self._mean) / self._std
        with torch.no_grad():
            logits = self._network(torch.from_numpy(normalised.transpose(2, 0, 1)[None]))
        mask = logits.argmax(1)[0].cpu().numpy().astype(np.uint8)
        return cv2.resize(mask, (message.width, message.height), interpolation=cv2.INTER_NEAREST)


def mask_message(mask: np.ndarray) -> Any:
    """A sensor_msgs/Image (mono8), filled as cv_bridge fills it."""
    from sensor_msgs.msg import Image

    height, width = mask.shape
    message = Image(height=height, width=width, encoding="mono8", step=width)
    message.data.frombytes(mask.tobytes())
    return message
