"""The distillation methods, each a subclass of `Distiller` that a recipe names, as `model.distiller.class_path`."""

from training.distillers.base import Distiller, DistillerError
from training.distillers.response import ResponseKD
from training.distillers.skr_pea import SKRPEA
from training.distillers.transkd import TransKD

__all__ = [
    "SKRPEA",
    "Distiller",
    "DistillerError",
    "ResponseKD",
    "TransKD",
]
