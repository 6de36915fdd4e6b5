"""The distillation methods, each a subclass of `Distiller` that a recipe names (`model.distiller.class_path: TransKD`)."""

from training.distillers.base import Distiller, DistillerError
from training.distillers.response import ResponseKD

__all__ = ["Distiller", "DistillerError", "ResponseKD"]
