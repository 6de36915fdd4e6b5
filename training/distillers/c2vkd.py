"""C2VKD: a transformer student under a CNN teacher, visual-linguistic features and decoupled pixels (arXiv 2310.07265).

The abstract is what we have of the paper: the forms here are this project's own, in its terms **[ours]**. Plain
response distillation is in `training.distillers.response`.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from training.data.samples import IGNORE
from training.distillers.base import Distiller
from training.distillers.maps import bounded_size, compared_logits
from training.networks import resize
from training.taps import Taps, Widths

MAX_TOKENS = 256


class C2VKD(Distiller):
    """Visual-linguistic feature distillation (VLFD) and pixel-wise decoupled distillation (PDD).

    VLFD matches the maps of the last stage, once as maps and once as token sequences. PDD matches the logits of the
    labelled pixels: the label's class against the rest, and the other classes among themselves.

    Meant for a transformer under a CNN (DeepLabV3+, FPN), and works between any two networks that know the same
    classes. `visual_weight` and `linguistic_weight` multiply the two parts of VLFD, `target_weight` (α) and
    `non_target_weight` (β) those of PDD; `temperature` T softens both sides of PDD, which is multiplied by T²;
    `relation_temperature` softens the relations between tokens. All defaults are **[ours]**, such that no part pulls
    the encoder much harder than the cross-entropy does; the target part repeats the labels and weighs little.

    The student's last map is projected to the teacher's channels by a 1×1 convolution that starts as the identity
    where the widths are equal, so that equal networks have no VLFD to begin with. With both weights of VLFD 0 no maps
    are read: PDD alone, which soft labels can teach.
    """

    reads_labels = True
    needs_classes = True

    def __init__(
        self,
        visual_weight: float = 8.0,
        linguistic_weight: float = 1.0,
        target_weight: float = 0.25,
        non_target_weight: float = 0.5,
        temperature: float = 1.0,
        relation_temperature: float = 0.1,
    ) -> None:
        super().__init__()
        self.visual_weight, self.linguistic_weight = visual_weight, linguistic_weight
        self.target_weight, self.non_target_weight = target_weight, non_target_weight
        self.temperature, self.relation_temperature = temperature, relation_temperature
        self.needs_stages = bool(visual_weight or linguistic_weight)

    def build(self, student: Widths, teacher: Widths) -> None:
        if not self.needs_stages:
            return
        self.projection = nn.Conv2d(student.stages[-1], teacher.stages[-1], 1, bias=False)
        if student.stages[-1] == teacher.stages[-1]:
            nn.init.dirac_(self.projection.weight)

    def forward(self, student: Taps, teacher: Taps, labels: Tensor) -> dict[str, Tensor]:
        """{"target", "non_target"}, scalars from logits and labels; with a weight on either of them {"visual",

        "linguistic"}, too, from the maps of the last stage.
        """
        own, wanted = (side / self.temperature for side in compared_logits(student, teacher))
        target, non_target = decoupled_divergences(own, wanted, resize_labels(labels, wanted.shape[-2:]))
        losses = {
            "target": self.target_weight * self.temperature**2 * target,
            "non_target": self.non_target_weight * self.temperature**2 * non_target,
        }
        if self.needs_stages:
            last, shown = student.stages[-1], teacher.stages[-1]
            losses["visual"] = self.visual_weight * visual_distance(self.projection(last), shown)
            losses["linguistic"] = self.linguistic_weight * relation_divergence(last, shown, self.relation_temperature)
        return losses


def visual_distance(student: Tensor, teacher: Tensor) -> Tensor:
    """The visual part of VLFD, a scalar in float32, 0 to 4, of maps (B, C, h, w) of any two sizes **[ours]**.

    At each position the vector over channels is scaled to length one; the squared L2 distance of the two vectors is
    averaged over positions and batch.
    """
    units = [F.normalize(maps.float(), dim=1) for maps in (resize(student, teacher.shape[-2:]), teacher)]
    return (units[0] - units[1]).square().sum(1).mean()


def relation_divergence(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """The linguistic part of VLFD, a scalar in float32, of maps (B, C, h, w) of any widths and sizes **[ours]**.

    KL(teacher || student) of the relations of each token to all, averaged over tokens and batch. Both maps are pooled
    to one grid: that of the smaller map, of at most 256 tokens.
    """
    grid = bounded_size(min(student.shape[-2:], teacher.shape[-2:], key=math.prod), MAX_TOKENS)
    relations = [token_relations(maps, grid, temperature) for maps in (student, teacher)]
    return F.kl_div(relations[0], relations[1], reduction="none", log_target=True).sum(-1).mean()


def token_relations(maps: Tensor, grid: tuple[int, int], temperature: float) -> Tensor:
    """log softmax(T Tᵀ/temperature), (B, n, n) float32, of the n tokens T of maps (B, C, …) average-pooled to a grid.

    Every token is scaled to length one: products of raw tokens are so large that each relates to itself alone.
    """
    tokens = F.normalize(F.adaptive_avg_pool2d(maps.float(), grid).flatten(2), dim=1).transpose(1, 2)
    with torch.autocast(maps.device.type, enabled=False):
        return (tokens @ tokens.mT / temperature).log_softmax(-1)


def resize_labels(labels: Tensor, size: torch.Size) -> Tensor:
    """Labels (B, H, W) int64 at `size`, each that of the nearest pixel."""
    if labels.shape[-2:] == size:
        return labels
    return F.interpolate(labels[:, None].float(), size=size, mode="nearest-exact")[:, 0].long()


def decoupled_divergences(student: Tensor, teacher: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """PDD's KL(teacher || student) of the target part and of the non-target part, each a scalar **[ours]**.

    `student` and `teacher` are logits (B, classes, H, W) float32, `labels` (B, H, W) int64. Averages over the labelled
    pixels, 0 where there are none. Where the teacher's arg-max is not the label, the target part follows the label.
    """
    labelled = labels != IGNORE
    target = labels.where(labelled, 0).unsqueeze(1)
    (student_pair, student_others), (teacher_pair, teacher_others) = (decouple(z, target) for z in (student, teacher))
    right = teacher.argmax(1, keepdim=True) == target
    label = teacher.new_tensor([1.0, 0.0]).view(2, 1, 1)
    pairs = F.kl_div(student_pair, teacher_pair.exp().where(right, label), reduction="none")
    others = F.kl_div(student_others, teacher_others, reduction="none", log_target=True)
    count = labelled.sum().clamp(min=1)
    target_part, non_target_part = (kl.sum(1).where(labelled, 0).sum() / count for kl in (pairs, others))
    return target_part, non_target_part


def decouple(logits: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Two distributions per pixel, as log-probabilities, of logits (B, classes, H, W) and a class (B, 1, H, W) int64:

    of the target class and the rest (B, 2, H, W), and of the others among themselves (B, classes - 1, H, W), in which
    class 0 stands in the target's place. Finite for finite logits: the rest is never computed as 1 - p.
    """
    others = logits.scatter(1, target, logits[:, :1])[:, 1:]
    rest = others.logsumexp(1, keepdim=True)
    pair = torch.cat([logits.gather(1, target), rest], 1)
    return pair.log_softmax(1), others - rest
