"""The distillation methods, each a subclass of `Distiller` that a recipe names, as `model.distiller.class_path`."""

from training.distillers.base import Distiller, DistillerError
from training.distillers.c2vkd import C2VKD
from training.distillers.cwd import CWD
from training.distillers.knowledge_adaptation import KnowledgeAdaptation
from training.distillers.knowledge_review import KnowledgeReview
from training.distillers.response import ResponseKD
from training.distillers.spirit import SpiritDistillation
from training.distillers.transkd import SKRPEA, TransKD

__all__ = [
    "C2VKD",
    "CWD",
    "SKRPEA",
    "Distiller",
    "DistillerError",
    "KnowledgeAdaptation",
    "KnowledgeReview",
    "ResponseKD",
    "SpiritDistillation",
    "TransKD",
]
