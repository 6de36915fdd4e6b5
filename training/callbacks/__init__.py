"""What a run measures, shows and leaves behind, beside the losses and the mIoU of `training.module`."""

from training.callbacks.checkpoints import average_on_its_device, checkpoints
from training.callbacks.folder import RunFolder
from training.callbacks.gradients import GradientLog
from training.callbacks.pictures import Pictures
from training.callbacks.progress import CostTable, Progress
from training.callbacks.record import RunRecord
from training.callbacks.scores import TeacherScore, ValidationScores

__all__ = [
    "CostTable",
    "GradientLog",
    "Pictures",
    "Progress",
    "RunFolder",
    "RunRecord",
    "TeacherScore",
    "ValidationScores",
    "average_on_its_device",
    "checkpoints",
]
