"""What the log says of how losses pull at the encoder, against gradients worked out apart."""

from types import SimpleNamespace

import pytest

torch = pytest.importorskip("torch", reason="the training wing needs torch")
L = pytest.importorskip("lightning")

from training.callbacks import GradientLog  # noqa: E402
from training.module import SegmentationModule  # noqa: E402

pytestmark = pytest.mark.training


class Kept:
    """A logger that keeps what it is given."""

    def __init__(self):
        self.seen = []

    def log_metrics(self, values, step):
        self.seen.append((step, values))


def trainer_of(step=0, scale=None):
    plugin = SimpleNamespace(scaler=None if scale is None else SimpleNamespace(get_scale=lambda: scale))
    strategy = SimpleNamespace(reduce=lambda tensor, reduce_op: tensor)
    return SimpleNamespace(global_step=step, precision_plugin=plugin, strategy=strategy, loggers=[Kept()])


@pytest.fixture
def module():
    """A module whose encoder is one weight of two numbers, and losses of known gradients by it."""
    module = SegmentationModule()
    module.network = torch.nn.Module()
    module.network.encoder = torch.nn.Linear(2, 1, bias=False)
    return module


def losses_of(module):
    first, second = module.network.encoder.weight.flatten()
    return {"cross_entropy": 3 * first, "feature": 4 * second + 4 * first, "apart": torch.tensor(1.0)}


def logged(log, module, trainer):
    module.step_losses = losses_of(module)
    log.on_before_backward(trainer, module, sum(module.step_losses.values()))
    return trainer.loggers[0].seen


def test_norms_and_the_cosine_with_the_cross_entropy_are_logged(module):
    ((step, values),) = logged(GradientLog(1), module, trainer_of(7))
    assert step == 7
    assert values == pytest.approx(
        {"gradient_norm/cross_entropy": 3, "gradient_norm/feature": 32**0.5, "gradient_cosine/feature": 0.5**0.5}
    )


def test_the_scale_of_fp16_is_not_in_the_numbers(module):
    plain, scaled = (logged(GradientLog(1), module, trainer_of(0, scale))[0][1] for scale in (None, 1024.0))
    assert plain == pytest.approx(scaled)


def test_it_looks_every_n_steps_and_never_when_told_so(module):
    log = GradientLog(3)
    assert [bool(logged(log, module, trainer_of(step))) for step in (0, 0, 1, 2, 3)] == [
        True,
        False,
        False,
        False,
        True,
    ]
    assert not logged(GradientLog(0), module, trainer_of(0))


def test_a_look_does_not_change_the_step(module):
    module.step_losses = losses_of(module)
    total = sum(module.step_losses.values())
    GradientLog(1).on_before_backward(trainer_of(), module, total)
    assert module.network.encoder.weight.grad is None
    total.backward()
    assert module.network.encoder.weight.grad.tolist() == [[7, 4]]


def test_a_frozen_encoder_has_nothing_to_say(module):
    module.step_losses = losses_of(module)
    module.network.encoder.requires_grad_(False)
    trainer = trainer_of()
    GradientLog(1).on_before_backward(trainer, module, torch.tensor(0.0))
    assert trainer.loggers[0].seen == [(0, {})]
