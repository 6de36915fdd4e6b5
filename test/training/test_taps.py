"""Taps: what forward hooks show of an unmodified network, and that they leave no trace."""

import pytest

torch = pytest.importorskip("torch", reason="the training wing needs torch")
pytest.importorskip("segmentation_models_pytorch")

from torch import nn  # noqa: E402

from training.networks import NetworkSpec, build_network  # noqa: E402
from training.taps import TapError, Widths, compile_parts, run_tapped, widths  # noqa: E402

pytestmark = pytest.mark.training

HEIGHT, WIDTH = 64, 96
TRANSFORMERS = {"mit_b0": (32, 64, 160, 256), "tu-pvt_v2_b0": (32, 64, 160, 256)}
CNN = NetworkSpec("fpn", "tu-tf_efficientnet_lite0", 11)


def network_of(encoder):
    return build_network(NetworkSpec("segformer", encoder, 11)).eval()


def images():
    return torch.rand(2, 3, HEIGHT, WIDTH)


def hooks_of(network):
    return [hook for module in network.modules() for hook in module._forward_hooks.values()]


@pytest.fixture(scope="module", params=TRANSFORMERS)
def transformer(request):
    return network_of(request.param), TRANSFORMERS[request.param]


@pytest.fixture(scope="module")
def student():
    return network_of("mit_b0")


def test_a_transformer_shows_stage_maps_patches_and_logits(transformer):
    network, channels = transformer
    batch = images()
    taps = run_tapped(network, batch)
    sizes = [(HEIGHT // stride, WIDTH // stride) for stride in (4, 8, 16, 32)]
    shapes = list(zip(channels, sizes, strict=True))
    assert [tuple(stage.shape) for stage in taps.stages] == [(2, c, h, w) for c, (h, w) in shapes]
    assert [tuple(tokens.shape) for tokens in taps.patches] == [(2, h * w, c) for c, (h, w) in shapes]
    assert taps.logits.shape == (2, 11, HEIGHT, WIDTH)
    assert taps.image is batch
    assert widths(network) == Widths(11, channels, channels)


def test_a_cnn_shows_stage_maps_and_no_patches():
    network = build_network(CNN).eval()
    taps = run_tapped(network, images())
    assert widths(network) == Widths(11, tuple(stage.shape[1] for stage in taps.stages), ())
    assert [stage.shape[-1] for stage in taps.stages] == [WIDTH // stride for stride in (4, 8, 16, 32)]
    assert taps.patches == ()


def test_taps_are_what_the_network_itself_computes(transformer):
    network, _ = transformer
    batch = images()
    with torch.no_grad():
        taps = run_tapped(network, batch)
        assert torch.equal(taps.logits, network(batch))
        own = [stage for stage in network.encoder(batch)[1:] if stage.shape[1]]
    for stage, expected in zip(taps.stages, own, strict=True):
        assert torch.equal(stage, expected)


def test_patches_are_tokens_row_by_row(transformer):
    """Token r·w + c of stage 1 is what the embedding says at row r, column c."""
    network, channels = transformer
    batch = images()
    with torch.no_grad():
        tokens = run_tapped(network, batch).patches[0]
        name = "patch_embed1" if hasattr(network.encoder, "patch_embed1") else "model.patch_embed"
        embedding = network.encoder.get_submodule(name)
        norm, projected = embedding.norm, embedding.proj(batch)
        expected = norm(projected[:, :, 3, 5].unsqueeze(1))[:, 0]
    assert torch.allclose(tokens[:, 3 * (WIDTH // 4) + 5], expected, atol=1e-5)
    assert tokens.shape == (2, HEIGHT // 4 * (WIDTH // 4), channels[0])


def test_taps_are_no_copies(transformer):
    network, _ = transformer
    seen = []
    embeddings = [module for module in network.encoder.modules() if type(module).__name__ == "OverlapPatchEmbed"]
    handles = [e.register_forward_hook(lambda module, inputs, output: seen.append(output)) for e in embeddings]
    handles.append(network.encoder.register_forward_hook(lambda module, inputs, output: seen.extend(output)))
    taps = run_tapped(network, images())
    for handle in handles:
        handle.remove()
    storages = {tensor.untyped_storage().data_ptr() for tensor in seen}
    for tensor in (*taps.stages, *taps.patches):
        assert tensor.untyped_storage().data_ptr() in storages


def test_hooks_are_gone_after_the_call(transformer):
    network, _ = transformer
    run_tapped(network, images())
    assert hooks_of(network) == []


def test_hooks_are_gone_after_a_forward_that_raised(student):
    with pytest.raises(RuntimeError):
        run_tapped(student, torch.rand(1, 4, HEIGHT, WIDTH))  # four channels
    assert hooks_of(student) == []


def test_gradients_flow_from_the_patches_to_the_embeddings(student):
    taps = run_tapped(student, images())
    sum(tokens.square().sum() for tokens in taps.patches).backward()
    for stage in (1, 2, 3, 4):
        gradient = student.encoder.get_submodule(f"patch_embed{stage}").proj.weight.grad
        assert gradient.abs().sum() > 0, stage
    student.zero_grad()


@pytest.mark.slow
@pytest.mark.parametrize("spec", [NetworkSpec("segformer", "mit_b0", 11), CNN], ids=["transformer", "cnn"])
def test_a_network_compiled_in_its_parts_shows_the_same(spec):
    graphs = []

    def backend(graph, inputs):  # runs it as it is: what matters here is what is captured
        graphs.append(graph)
        return graph.forward

    network, batch = build_network(spec).eval(), images()
    names = list(network.state_dict())
    with torch.no_grad():
        expected = run_tapped(network, batch)
        compile_parts(network, backend=backend)
        taps = run_tapped(network, batch)
    assert len(graphs) >= 3  # encoder, decoder, head
    assert list(network.state_dict()) == names
    assert torch.allclose(taps.logits, expected.logits, atol=1e-5)
    assert len(taps.patches) == len(expected.patches)
    for own, other in zip((*taps.stages, *taps.patches), (*expected.stages, *expected.patches), strict=True):
        assert torch.allclose(own, other, atol=1e-5)


def test_a_compiled_network_is_refused(student):
    with pytest.raises(TapError, match=r"torch\.compile"):
        run_tapped(torch.compile(student), images())


@pytest.mark.parametrize("part", ["", "encoder", "encoder.patch_embed1"])
def test_a_network_compiled_in_place_in_whole_or_part_is_refused(part):
    network = network_of("mit_b0")
    network.get_submodule(part).compile()
    with pytest.raises(TapError, match=r"torch\.compile"):
        run_tapped(network, images())


def test_an_encoder_of_three_stages_is_refused():
    network = nn.Module()
    network.encoder = nn.Module()
    network.encoder.out_channels = (3, 16, 24, 40)
    with pytest.raises(TapError, match="3 stages"):
        widths(network)
