"""Fine-tuning for int8: it computes what int8 computes, learns through it, and ends in the int8 graph of a bundle."""

import shutil
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the training wing needs torch")
pytest.importorskip("lightning")

from training import bundle_checks, distill, export  # noqa: E402
from training.deploy import DeployedNetwork, fold  # noqa: E402
from training.fake_int8 import DEPTHWISE, HALF, STEPS, FakeInt8, activation, weight  # noqa: E402
from training.module import SegmentationModule  # noqa: E402
from training.networks import NetworkError  # noqa: E402
from training.trained import TrainedError, read_bundle, read_checkpoint  # noqa: E402
from transkd_ros.model.bundle import load_bundle  # noqa: E402
from transkd_ros.model.engines import open_runtime  # noqa: E402
from transkd_ros.scenes import Drive  # noqa: E402

pytestmark = [
    pytest.mark.training,
    pytest.mark.filterwarnings("ignore:LightningCLI.s args parameter"),
]
ROOT = Path(__file__).parents[2]
RECIPE = ROOT / "config" / "recipes" / "camvid_student_int8.yaml"
MODEL = ROOT / "models" / "camvid_light"


class Net(torch.nn.Module):
    """A convolution, a depthwise one, a residual sum, and an enlarged sum behind a head."""

    def __init__(self, attention=False):
        super().__init__()
        self.first = torch.nn.Conv2d(3, 8, 3, padding=1)
        self.depthwise = torch.nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.norm = torch.nn.LayerNorm(8) if attention else torch.nn.Identity()
        self.segmentation_head = torch.nn.Sequential(torch.nn.Conv2d(8, 4, 1))

    def forward(self, image):
        maps = self.first(image)
        self.summed = maps + self.depthwise(maps)
        self.large = torch.nn.functional.interpolate(self.summed, scale_factor=2.0)
        self.enlarged = self.large + self.large
        return self.segmentation_head(self.enlarged)


@pytest.fixture
def net():
    torch.manual_seed(0)
    return Net()


IMAGE = torch.linspace(-2, 5, 2 * 3 * 8 * 8).view(2, 3, 8, 8).sin() * 3


def test_activations_have_256_values_zero_among_them_and_weights_as_many_on_either_side():
    values = activation(IMAGE)
    assert len(values.unique()) <= STEPS + 1 and (values - IMAGE).abs().max() <= 6 / STEPS
    assert activation(torch.tensor([0.0, 0.013, 2.55]))[0] == 0 == activation(torch.zeros(3)).abs().max()
    kernels = torch.randn(4, 3, 3, 3, generator=torch.manual_seed(0)) * torch.tensor([1e-3, 1, 1, 100]).view(4, 1, 1, 1)
    rounded = weight(kernels)
    assert all(len(kernel.unique()) <= 2 * HALF + 1 for kernel in rounded)
    assert ((rounded - kernels).abs().flatten(1).amax(1) <= kernels.abs().flatten(1).amax(1) / HALF).all()


def test_channels_may_have_ranges_of_their_own():
    maps = torch.stack([torch.linspace(0, 1, 64).view(8, 8), torch.linspace(0, 1000, 64).view(8, 8)])[None]
    assert (activation(maps, per_channel=True) - maps)[0, 0].abs().max() <= 1 / STEPS
    assert (activation(maps) - maps)[0, 0].abs().max() > 0.1


def test_a_gain_per_channel_that_is_folded_into_the_weights_changes_nothing():
    kernels, gain = torch.randn(4, 3, 3, 3), torch.tensor([0.5, -2.0, 3.0, 100.0]).view(4, 1, 1, 1)
    assert torch.allclose(weight(kernels * gain), weight(kernels) * gain, rtol=1e-4, atol=1e-5)


def test_a_network_computes_with_rounded_values_but_interpolates_and_sums_that_in_float(net):
    with torch.no_grad(), FakeInt8(net):
        logits = net(IMAGE)
        summed, large, enlarged = net.summed, net.large, net.enlarged
    with torch.no_grad():
        maps = torch.conv2d(activation(IMAGE), weight(net.first.weight), net.first.bias, padding=1)
        inner = torch.conv2d(
            activation(maps, per_channel=True), weight(net.depthwise.weight, DEPTHWISE), net.depthwise.bias, 1, 1, 1, 8
        )
        assert torch.allclose(summed, activation(maps) + activation(inner))
        assert torch.equal(enlarged, large + large)
        head = net.segmentation_head[0]
        assert torch.allclose(logits, torch.conv2d(activation(enlarged), weight(head.weight), head.bias))


def test_in_a_network_with_attention_the_classifier_stays_in_float():
    net = Net(attention=True)
    with torch.no_grad(), FakeInt8(net):
        logits = net(IMAGE)
        assert torch.equal(logits, net.segmentation_head(net.enlarged))


def test_gradients_pass_the_rounding_and_it_is_over_with_the_context(net):
    with FakeInt8(net):
        rounded = net(IMAGE)
    rounded.square().mean().backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in net.parameters())
    with torch.no_grad():
        assert not torch.equal(net(IMAGE), rounded)


@pytest.mark.parametrize("model", ["camvid_student", "camvid_light"])
def test_it_errs_where_the_quantised_graph_errs(model):
    """Of the pixels that int8 takes from float, a good part goes to the same class here; by chance, none would."""
    pytest.importorskip("onnxruntime")
    from training.quantise import _masks

    bundle = load_bundle(ROOT / "models" / model)
    images = [Drive(seed, (128, 160)).frame(0)[0] for seed in range(4)]
    exact, quantised = (_masks(path.read_bytes(), images) for path in (bundle.model_onnx, bundle.int8_onnx))
    trained = read_bundle(bundle.path)
    deployed = DeployedNetwork(fold(trained.network), trained.spec)
    simulated = []
    for image in images:
        with torch.inference_mode(), FakeInt8(deployed.network):
            simulated.append(deployed(torch.from_numpy(image)[None])[0].numpy())
    errs = np.concatenate([(a != b).ravel() for a, b in zip(exact, quantised, strict=True)])
    follows = np.concatenate([(a == b).ravel() for a, b in zip(simulated, quantised, strict=True)])
    assert 0 < errs.mean() < 0.05 and follows.mean() > 0.95
    assert follows[errs].mean() > 0.2


# ---- runs --------------------------------------------------------------------------------------------------------
def test_statistics_of_batch_norms_stay_and_their_gains_learn():
    module = SegmentationModule(
        encoder="tu-tf_efficientnet_lite0", decoder_width=128, initial_weights="camvid_light", int8=True
    ).train()
    before = {name: value.clone() for name, value in module.network.state_dict().items() if "running" in name}
    images = torch.randint(256, (2, 3, 64, 64), dtype=torch.uint8, generator=torch.manual_seed(0))
    sum(module.losses(images, images[:, 0] % 11).values()).backward()
    assert before and all(torch.equal(module.network.state_dict()[name], value) for name, value in before.items())
    assert all(p.grad is not None for p in module.network.parameters())


@pytest.mark.parametrize(
    ("settings", "message"),
    [({}, "initial_weights"), ({"initial_weights": "camvid_student", "compile": True}, "model.compile")],
)
def test_what_cannot_be_fine_tuned_for_int8_is_refused(settings, message):
    with pytest.raises(NetworkError, match=message):
        SegmentationModule(int8=True, **settings)


@pytest.mark.slow
@pytest.mark.timeout(300)  # a fit and two exports
def test_a_run_by_the_recipe_becomes_the_int8_graph_of_its_bundle(shared_scene_tree, tmp_path, monkeypatch, capsys):
    pytest.importorskip("nncf")
    options = {
        "data.root": shared_scene_tree, "data.crop": "[64, 96]", "data.val_size": "[64, 96]", "data.batch_size": 2,
        "data.scenes": 0, "trainer.max_epochs": 1, "trainer.default_root_dir": tmp_path / "run",
        "trainer.logger": "false", "model.lr": 1e-3, "model.initial_weights": MODEL.name,
        "model.teacher.source": MODEL.name, "model.encoder": "tu-tf_efficientnet_lite0", "model.decoder_width": 128,
    }  # fmt: skip
    distill.main(["--config", str(RECIPE), *(f"--{name}={value}" for name, value in options.items())])
    checkpoint = tmp_path / "run" / "checkpoints" / "best.ckpt"
    said = capsys.readouterr().out
    assert f"--bundle models/camvid_light --overwrite --int8 --int8-checkpoint {checkpoint}" in said

    with pytest.raises(TrainedError, match="--int8-checkpoint"):
        read_checkpoint(checkpoint)
    tuned = read_checkpoint(checkpoint, int8=True)
    untuned = fold(read_bundle(MODEL).network).state_dict()
    assert any(not torch.equal(value, untuned[name]) for name, value in tuned.network.state_dict().items())

    output = shutil.copytree(MODEL, tmp_path / "camvid_light")
    before = load_bundle(output).manifest.files
    monkeypatch.setattr(bundle_checks, "MOST_LOST", 1.0)  # three scenes say nothing of the gate
    images, labels = (shared_scene_tree / "val" / kind for kind in ("images", "labels"))
    words = ["--bundle", output, "--overwrite", "--int8", "--int8-checkpoint", checkpoint, "--input-size", "96x64"]
    words += ["--calibration", images, "--images", images, "--labels", labels]
    export.export(export.parse_arguments([str(word) for word in words]))
    bundle = load_bundle(output)
    assert bundle.manifest.files["weights.safetensors"] == before["weights.safetensors"]
    assert bundle.manifest.files["model.int8.onnx"] != before["model.int8.onnx"]
    image = Drive(3, (64, 96)).frame(0)[0]
    masks = [open_runtime(bundle, "openvino", "cpu", precision).infer(image).mask for precision in ("fp32", "int8")]
    assert 0.5 < (masks[0] == masks[1]).mean() < 1


def test_a_checkpoint_of_another_network_or_kind_is_no_int8_graph(random_teacher):
    with pytest.raises(TrainedError, match=r"model\.int8"):
        export.int8_graph(random_teacher("mit_b1"), read_bundle(MODEL), (64, 96))
