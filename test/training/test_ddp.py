"""Training by several processes: two over gloo, as torchrun starts them, end where one with the same batch does.

Run as a script, this file is one of the processes.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

torch = pytest.importorskip("torch", reason="the training wing needs torch")
L = pytest.importorskip("lightning")

pytestmark = [pytest.mark.training, pytest.mark.slow]
ROOT = Path(__file__).parents[2]
GLOBAL_BATCH = 2


def train(scene_tree, teacher, processes, output):
    from timm.layers import DropPath

    from training.data.camvid import CamVid
    from training.distillers import TransKD
    from training.module import SegmentationModule
    from training.teachers import TeacherSource

    class WithoutChance(L.Callback):
        """What depends on who is in the batch with whom is off: statistics of batches, and dropped paths."""

        def on_train_batch_start(self, trainer, module, batch, batch_idx):
            for layer in module.modules():
                if isinstance(layer, torch.nn.BatchNorm2d):
                    layer.eval()
                if isinstance(layer, DropPath):
                    layer.drop_prob = 0.0

    L.seed_everything(1)
    module = SegmentationModule(warmup_steps=2, distiller=TransKD(), teacher=TeacherSource(teacher))
    initial = {name: value.clone() for name, value in module.state_dict().items()}
    batch = GLOBAL_BATCH // processes
    data = CamVid(scene_tree, crop=(64, 64), val_size=(64, 96), batch_size=batch, scenes=0, workers=0)
    trainer = L.Trainer(
        max_epochs=2, callbacks=[WithoutChance()], logger=False, enable_checkpointing=False, accelerator="cpu",
        enable_progress_bar=False, enable_model_summary=False, num_sanity_val_steps=0, use_distributed_sampler=False,
        devices=processes, strategy="ddp" if processes > 1 else "auto",
    )  # fmt: skip
    trainer.fit(module, data)
    if trainer.is_global_zero:
        miou = trainer.callback_metrics["val_miou"]
        steps = trainer.global_step
        torch.save({"initial": initial, "weights": module.state_dict(), "steps": steps, "val_miou": miou}, output)


def run(launcher, *arguments):
    command = [sys.executable, *launcher, str(Path(__file__)), *map(str, arguments)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    result = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr[-2000:]


@pytest.mark.slow
def test_two_processes_end_with_the_weights_of_one_at_the_same_global_batch(
    shared_scene_tree, random_teacher, tmp_path
):
    teacher = random_teacher("mit_b0")
    run([], shared_scene_tree, teacher, 1, tmp_path / "one.pt")
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    run(torchrun, shared_scene_tree, teacher, 2, tmp_path / "two.pt")
    one, two = (torch.load(tmp_path / name, weights_only=True) for name in ("one.pt", "two.pt"))
    assert one["steps"] == two["steps"] == 4
    assert two["val_miou"] == pytest.approx(one["val_miou"].item(), abs=1e-3)  # three images, dealt out 2 and 1
    # Rounding differs, and AdamW takes a step of full length also where a gradient is next to nothing: what counts is
    # how far the two ends are apart, compared with how far both have gone.
    apart = distance(one["weights"], two["weights"])
    gone = distance(one["weights"], one["initial"])
    assert apart < 0.02 * gone


def distance(weights, others):
    return sum((value - others[name]).abs().sum() for name, value in weights.items() if value.is_floating_point())


if __name__ == "__main__":
    train(sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4])
