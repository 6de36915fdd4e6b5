"""Knowledge Adaptation: the student follows a compressed code of a fine teacher's map (arXiv 1903.04688).

The auto-encoder that makes the code is in `auto_encoder`; here are the student's adapters and the two losses.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from training.distillers import auto_encoder as translator
from training.distillers.base import Distiller, DistillerError, Preparation
from training.distillers.maps import bounded_size
from training.taps import Taps, Widths

FILE = "auto_encoder.safetensors"
NORM_FLOOR = 1e-4
"""A vector shorter than this is not made a unit vector but divided by it; a zero vector stays zero. **[ours]**"""


class KnowledgeAdaptation(Distiller):
    """An auto-encoder of the teacher's last map, trained before the first step; then adaptation and affinity losses.

    For a CNN teacher of a small output stride (8 or 4) and a student of a large one (16). The encoder is frozen and
    kept as `auto_encoder.safetensors` in the run's folder, where a resumed run finds it; its decoder is not kept.

    Args:
        width: channels of the code **[ours]**.
        strides: of the encoder's three convolutions **[ours]**. Their product should bring the teacher's output stride
            to the student's: (2, 1, 1) for 8 to 16, (2, 2, 1) for 4 to 16.
        epochs: of the auto-encoder's training; the paper's is about one.
        auto_encoder: a file that another run left behind, of the same teacher and settings, instead of training one.
        adapt_weight: multiplies the adaptation loss; the paper's, for SGD without clipping. Under AdamW and clipped
            gradients 50 drowns the labels: take 1 there **[ours]**.
        affinity_weight: multiplies the affinity loss; the paper's.
        positions: of a map that has more, the affinity loss compares so many at most **[ours]**. It holds matrices of
            at most positions² float32 values for every image: 4 MB each for 1024.
    """

    def __init__(
        self,
        width: int = 128,
        strides: tuple[int, int, int] = (2, 1, 1),
        epochs: int = 1,
        auto_encoder: str | None = None,
        adapt_weight: float = 50.0,
        affinity_weight: float = 1.0,
        positions: int = 1024,
    ) -> None:
        super().__init__()
        if min(width, epochs, positions, *strides) < 1:
            raise DistillerError("KnowledgeAdaptation: width, strides, epochs and positions have to be at least 1")
        self.width, self.strides, self.epochs, self.auto_encoder = width, strides, epochs, auto_encoder
        self.adapt_weight, self.affinity_weight, self.positions = adapt_weight, affinity_weight, positions

    def build(self, student: Widths, teacher: Widths) -> None:
        self.encoder = translator.Encoder(teacher.stages[-1], self.width, self.strides).requires_grad_(False).eval()
        self.adapt, self.relate = (
            translator.block(nn.Conv2d(student.stages[-1], self.width, 3, padding=1, bias=False)) for _ in range(2)
        )

    def prepare(self, run: Preparation) -> None:
        """Stage one: read the encoder from its file, else train it and write that; nothing without a run's folder."""
        warnings.filterwarnings("ignore", r"Found \d+ module\(s\) in eval mode")  # Lightning's, of the frozen encoder
        path = Path(self.auto_encoder) if self.auto_encoder else run.folder and run.folder / FILE
        identity = {
            "teacher": run.teacher.fingerprint(),
            "channels": str(self.encoder.channels),
            "width": str(self.width),
            "strides": str(tuple(self.strides)),
            "epochs": str(self.epochs),
        }
        if path and (self.auto_encoder or path.exists()):
            translator.read(path, self.encoder, identity)
            print(f"auto-encoder: read {path}")
            return
        first, last = translator.train(self.encoder, run, self.epochs)
        if path:
            about = {"source": run.teacher.source, "first_error": f"{first:.6g}", "last_error": f"{last:.6g}"}
            translator.write(path, self.encoder, identity, about)
        kept = f"; wrote {path}" if path else ""
        print(f"auto-encoder: reconstruction error {first:.3f} at the first batch, {last:.3f} at the last{kept}")

    def forward(self, student: Taps, teacher: Taps, labels: Tensor) -> dict[str, Tensor]:
        """{"adapt": scalar, "affinity": scalar} from the last stage maps; labels are not read."""
        code, last = self.encoder(teacher.stages[-1]), student.stages[-1]
        return {
            "adapt": self.adapt_weight * adaptation_loss(self.adapt(last), code),
            "affinity": self.affinity_weight * affinity_loss(self.relate(last), code, self.positions),
        }


def adaptation_loss(student: Tensor, code: Tensor) -> Tensor:
    """The mean over positions of the distance (L2 norm) between the unit vectors of two maps (B, C, ·, ·), float32.

    A student's map of another size is first brought to the code's by adaptive average pooling **[ours]**.
    """
    found, wanted = (unit_vectors(maps, code.shape[-2:]) for maps in (student, code))
    return torch.linalg.vector_norm(found - wanted, dim=1).mean()


def affinity_loss(student: Tensor, code: Tensor, positions: int) -> Tensor:
    """The mean squared difference of the `affinity` of two maps (B, C, ·, ·), a scalar in float32.

    Both maps are first brought by adaptive average pooling to the code's size, or to one of about its aspect with at
    most `positions` positions **[ours]**.
    """
    size = bounded_size(code.shape[-2:], positions)
    found, wanted = (affinity(unit_vectors(maps, size)) for maps in (student, code))
    return F.mse_loss(found, wanted)


def unit_vectors(maps: Tensor, size: Sequence[int]) -> Tensor:
    """The vectors at all positions of maps (B, C, h, w) pooled to `size`, of length one: (B, C, positions) float32."""
    height, width = size
    return F.normalize(F.adaptive_avg_pool2d(maps.float(), (height, width)).flatten(2), dim=1, eps=NORM_FLOOR)


def affinity(vectors: Tensor) -> Tensor:
    """The cosines (B, n, n) of n unit vectors (B, C, n) float32; 0 for a zero vector."""
    with torch.autocast(vectors.device.type, enabled=False):  # which would multiply in half precision
        return vectors.mT @ vectors
