"""Every engine gives the same masks; which one is chosen, and why one cannot be, is said in one line."""

from __future__ import annotations

import re
import zipfile
from pathlib import Path

import numpy as np
import pytest
from conftest import EMPTY_SAFETENSORS, TINY_FIELDS

from transkd_ros.model import engines as runtimes
from transkd_ros.model.bundle import BundleError, load_bundle, write_bundle
from transkd_ros.model.engines import RuntimeUnavailable, describe_engines, open_runtime
from transkd_ros.model.engines.base import choose_precisions
from transkd_ros.model.engines.torch_program import read_program
from transkd_ros.resources import DEFAULT_MODEL, find_model
from transkd_ros.scenes import Drive


@pytest.fixture(scope="session")
def torch_bundle(tmp_path_factory, tiny_bundle):
    """The tiny bundle with a `model.pt2` that does the same."""
    torch = pytest.importorskip("torch", reason="torch exports the program")

    class BrightestChannel(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = torch.nn.Conv2d(3, 3, 1, bias=False)
            torch.nn.init.eye_(self.conv.weight.data[:, :, 0, 0])

        def forward(self, image):
            confidence, classes = self.conv(image.permute(0, 3, 1, 2).float()).float().max(1)
            return classes.to(torch.uint8), confidence.to(torch.uint8)

    batch, height, width = (torch.export.Dim(name, min=1, max=128) for name in ("batch", "height", "width"))
    program = torch.export.export(
        BrightestChannel().eval(),
        (torch.zeros(2, 64, 96, 3, dtype=torch.uint8),),
        dynamic_shapes={"image": {0: batch, 1: 32 * height, 2: 32 * width}},
    )
    file = tmp_path_factory.mktemp("program") / "model.pt2"
    torch.export.save(program, file)
    files = {name: tiny_bundle.path / name for name in ("model.onnx", "weights.safetensors")}
    return write_bundle(file.parent / "tiny_torch", TINY_FIELDS, files | {"model.pt2": file})


@pytest.fixture(params=["openvino", "onnxruntime", "torch"])
def engine(request):
    return request.param


@pytest.fixture
def bundle(engine, request):
    pytest.importorskip(engine, reason=f"{engine} is not installed")
    return request.getfixturevalue("torch_bundle" if engine == "torch" else "tiny_bundle")


@pytest.fixture
def no_gpu(monkeypatch):
    monkeypatch.setattr(runtimes, "_has_nvidia_gpu", lambda: False)


# ---- every engine --------------------------------------------------------------------------------
def test_mask_and_confidence_are_those_of_the_graph(bundle, engine, colours):
    runtime = open_runtime(bundle, engine, device="cpu", precision="fp32")
    mask, confidence = runtime.infer(colours, want_confidence=True)
    assert mask.dtype == confidence.dtype == np.uint8
    np.testing.assert_array_equal(mask, colours.argmax(2))
    np.testing.assert_array_equal(confidence, colours.max(2))
    assert (runtime.engine, runtime.device, runtime.input_size) == (engine, "CPU", (64, 96))
    assert runtime.reason == f"{engine} on CPU ({runtime.precision}): as asked"
    runtime.close()


def test_a_mask_stays_as_it_was_when_the_next_frame_is_inferred(bundle, engine, colours):
    runtime = open_runtime(bundle, engine, device="cpu")
    first = runtime.infer(colours, want_confidence=True)
    kept = first.mask.copy(), first.confidence.copy()
    runtime.infer(255 - colours, want_confidence=True)
    np.testing.assert_array_equal(first.mask, kept[0])
    np.testing.assert_array_equal(first.confidence, kept[1])


def test_another_input_size_gives_masks_of_that_size(bundle, engine):
    runtime = open_runtime(bundle, engine, device="cpu", input_size=(96, 160), threads=1)
    image = np.random.default_rng(1).integers(0, 256, (96, 160, 3), np.uint8)
    np.testing.assert_array_equal(runtime.infer(image).mask, image.argmax(2))


def test_a_share_of_the_cores_is_any_of_them_so_that_two_nodes_with_a_thread_each_do_not_share_one(
    tiny_bundle, colours, monkeypatch
):
    openvino_engine = pytest.importorskip("transkd_ros.model.engines.openvino_engine", reason="OpenVINO")
    compiled, compile_model = [], openvino_engine._compile
    monkeypatch.setattr(openvino_engine, "_compile", lambda *it: compiled.append(compile_model(*it)) or compiled[-1])
    open_runtime(tiny_bundle, "openvino", device="cpu", threads=1).infer(colours)
    assert compiled[0].get_property("INFERENCE_NUM_THREADS") == 1
    assert not compiled[0].get_property("ENABLE_CPU_PINNING")


def test_tensorrt_keeps_the_engines_of_each_graph_apart(monkeypatch, tmp_path):
    engine = pytest.importorskip("transkd_ros.model.engines.onnxruntime_engine", reason="ONNX Runtime")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(engine.ort, "get_available_providers", lambda: list(engine._PROVIDERS.values()))

    def cache(digest):
        name, options = engine._providers("TensorRT", "fp16", digest)[0]
        assert name == "TensorrtExecutionProvider" and options["trt_engine_cache_enable"]
        return options["trt_engine_cache_path"]

    assert cache("a" * 64) == cache("a" * 64) != cache("b" * 64)


def test_without_want_confidence_there_is_only_a_mask(bundle, engine, colours):
    for opened_with in (True, False):
        runtime = open_runtime(bundle, engine, device="cpu", want_confidence=opened_with)
        mask, confidence = runtime.infer(colours)
        np.testing.assert_array_equal(mask, colours.argmax(2))
        assert confidence is None


def test_the_masks_of_a_batch_are_those_of_its_images(bundle, engine, colours):
    runtime = open_runtime(bundle, engine, device="cpu", precision="fp32")
    assert runtime.takes_batches
    images = [colours, 255 - colours, np.ascontiguousarray(colours[::-1])]
    for want_confidence in (False, True):
        for image, (mask, confidence) in zip(images, runtime.infer_batch(images, want_confidence), strict=True):
            np.testing.assert_array_equal(mask, image.argmax(2))
            assert confidence is None if not want_confidence else np.array_equal(confidence, image.max(2))


@pytest.mark.parametrize("graph_engine", ["openvino", "onnxruntime"])
def test_the_shipped_model_gives_the_same_mask_with_its_confidence_and_without(graph_engine):
    pytest.importorskip(graph_engine)
    shipped = load_bundle(find_model(DEFAULT_MODEL))
    runtime = open_runtime(shipped, graph_engine, "cpu", "fp32", input_size=(96, 128), threads=1)
    image = np.ascontiguousarray(Drive(1, (96, 128)).frame(0)[0])
    alone, both = runtime.infer(image), runtime.infer(image, want_confidence=True)
    np.testing.assert_array_equal(alone.mask, both.mask)
    assert alone.confidence is None and both.confidence.max() > 128
    images = [image, np.ascontiguousarray(image[:, ::-1])]
    for each, answer in zip(images, runtime.infer_batch(images), strict=True):  # at once or not, as it was exported
        np.testing.assert_array_equal(answer.mask, runtime.infer(each).mask)


def test_an_onnx_graph_is_pruned_to_what_its_outputs_need(tiny_bundle):
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("google.protobuf")
    from transkd_ros.model.engines.onnx_pruning import pruned

    whole = onnx.load(tiny_bundle.model_onnx)
    mask = onnx.load_from_string(pruned(tiny_bundle.model_onnx.read_bytes(), ["mask"]))
    onnx.checker.check_model(mask)
    assert [output.name for output in mask.graph.output] == ["mask"]
    superfluous = ("brightest", "confidence")
    assert list(mask.graph.node) == [node for node in whole.graph.node if node.output[0] not in superfluous]
    assert onnx.load_from_string(pruned(tiny_bundle.model_onnx.read_bytes(), ["mask", "confidence"])) == whole


def test_an_image_of_another_shape_dtype_or_layout_is_refused(bundle, engine, colours):
    runtime = open_runtime(bundle, engine, device="cpu")
    for image in (colours[:32], colours.astype(np.float32), colours[:, :, ::-1], colours[..., 0]):
        with pytest.raises(ValueError, match=r"\(64, 96, 3\)"):
            runtime.infer(image)


def test_a_precision_the_device_lacks_is_refused_and_the_others_named(bundle, engine):
    """What a CPU lacks differs: none has all of bf16, fp16 and fp32 in ONNX Runtime, and newer ones do in OpenVINO."""
    refused = []
    for precision in ("fp32", "bf16", "fp16"):
        try:
            open_runtime(bundle, engine, device="cpu", precision=precision).close()
        except RuntimeUnavailable as error:
            refused.append((precision, str(error)))
    for precision, text in refused:
        assert re.search(rf"{engine} on CPU has no {precision}; it has .*fp32", text)
    assert "fp32" not in dict(refused)


def test_a_precision_that_no_device_has_is_refused_and_those_there_are_named():
    with pytest.raises(RuntimeUnavailable, match="openvino on CPU has no fp8; it has fp32, bf16"):
        choose_precisions("openvino", "CPU", "fp8", ("fp32", "bf16"))


def test_bf16_gives_the_same_classes_where_the_cpu_has_it(bundle, engine, colours):
    try:
        runtime = open_runtime(bundle, engine, device="cpu", precision="bf16")
    except RuntimeUnavailable as error:
        pytest.skip(str(error))
    assert runtime.precision == "bf16"
    np.testing.assert_array_equal(runtime.infer(colours).mask, colours.argmax(2))


def test_an_unknown_device_is_refused_and_the_devices_named(bundle, engine):
    with pytest.raises(RuntimeUnavailable, match=r"no device 'tpu' here; it has .*CPU"):
        open_runtime(bundle, engine, device="tpu")


# ---- files that do not run -----------------------------------------------------------------------
@pytest.mark.parametrize("graph_engine", ["openvino", "onnxruntime"])
def test_a_graph_that_is_no_onnx_is_one_clear_line(tmp_path, graph_engine):
    pytest.importorskip(graph_engine)
    files = {"model.onnx": b"garbage", "weights.safetensors": EMPTY_SAFETENSORS}
    broken = write_bundle(tmp_path / "broken", TINY_FIELDS, files)
    with pytest.raises(
        RuntimeUnavailable, match=f"{graph_engine} cannot run the model in .*broken"
    ) as caught:
        open_runtime(broken, graph_engine)
    assert "\n" not in str(caught.value)


def test_a_graph_whose_output_breaks_the_contract_is_refused(tmp_path, tiny_bundle):
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("openvino")
    model = onnx.load(tiny_bundle.model_onnx)
    next(node for node in model.graph.node if node.output == ["mask"]).attribute[0].i = onnx.TensorProto.INT32
    model.graph.output[0].type.tensor_type.elem_type = onnx.TensorProto.INT32
    files = {"model.onnx": model.SerializeToString(), "weights.safetensors": EMPTY_SAFETENSORS}
    with pytest.raises(BundleError, match="output mask is int32"):
        open_runtime(write_bundle(tmp_path / "int32", TINY_FIELDS, files), "openvino")


def test_torch_without_an_exported_program_names_the_export_option(tiny_bundle):
    with pytest.raises(RuntimeUnavailable, match=r"no model\.pt2.*export\.py .*--torch"):
        open_runtime(tiny_bundle, "torch")


# ---- the choice ----------------------------------------------------------------------------------
def test_untimed_auto_takes_openvino_where_there_is_no_gpu_and_says_why(tiny_bundle, no_gpu):
    pytest.importorskip("openvino")
    runtime = open_runtime(tiny_bundle, tune=False)
    assert runtime.reason == f"openvino on {runtime.device} ({runtime.precision}): no NVIDIA GPU found"


def test_auto_falls_back_to_the_next_engine_when_one_is_not_installed(tiny_bundle, no_gpu, monkeypatch):
    pytest.importorskip("onnxruntime")
    monkeypatch.setattr(runtimes, "_engine_module", without("openvino", runtimes._engine_module))
    reason = open_runtime(tiny_bundle, tune=False).reason
    assert reason == "onnxruntime on CPU (fp32): no NVIDIA GPU found; openvino not installed"


def without(missing, engine_module):
    def find(engine):
        if engine == missing:
            raise RuntimeUnavailable(f"{engine} not installed")
        return engine_module(engine)

    return find


def test_on_a_gpu_torch_comes_before_tensorrt_cuda_and_the_cpu(monkeypatch, torch_bundle):
    """The order in which candidates are timed, and taken where they are not."""
    tried = []

    def load(engine, bundle, options, want_confidence):
        tried.append((engine, options.device))
        raise RuntimeUnavailable("refused")

    class Library:
        def __init__(self, *names):
            self.devices, self.precisions = lambda: dict.fromkeys(names, ""), lambda device: ("fp32",)

    there = {"torch": Library("CUDA", "CPU"), "openvino": Library("CPU")}
    there["onnxruntime"] = Library("TensorRT", "CUDA", "CPU")
    monkeypatch.setattr(runtimes, "_has_nvidia_gpu", lambda: True)
    monkeypatch.setattr(runtimes, "_engine_module", there.__getitem__)
    monkeypatch.setattr(runtimes, "_load", load)
    with pytest.raises(RuntimeUnavailable, match=r"refused$"):
        open_runtime(torch_bundle, tune=False)
    gpu = [("torch", "CUDA"), ("onnxruntime", "TensorRT"), ("onnxruntime", "CUDA")]
    assert tried == [*gpu, ("openvino", "CPU"), ("onnxruntime", "CPU")]


# ---- int8 ----------------------------------------------------------------------------------------
@pytest.mark.parametrize("graph_engine", ["openvino", "onnxruntime"])
def test_int8_runs_the_quantised_graph_and_the_other_precisions_the_float_one(int8_bundle, graph_engine):
    pytest.importorskip(graph_engine)
    image = np.zeros((64, 96, 3), np.uint8)
    image[:] = (100, 101, 99)  # one step of the quantised graph
    float_mask = open_runtime(int8_bundle, graph_engine, "cpu", "fp32").infer(image).mask
    quantised = open_runtime(int8_bundle, graph_engine, "cpu", "int8")
    assert quantised.precision == "int8"
    assert np.all(float_mask == 1) and np.all(quantised.infer(image).mask == 0)


def test_int8_of_a_bundle_without_it_names_the_export_option(tiny_bundle):
    for engine in ("auto", "openvino", "onnxruntime"):
        with pytest.raises(RuntimeUnavailable, match=r"tiny has no model\.int8\.onnx.*--bundle .*tiny --int8"):
            open_runtime(tiny_bundle, engine, precision="int8")


def test_torch_has_no_int8(torch_bundle, int8_bundle):
    files = {name: int8_bundle.path / name for name in int8_bundle.manifest.files}
    files["model.pt2"] = torch_bundle.exported_program
    both = write_bundle(torch_bundle.path.parent / "both", TINY_FIELDS, files)
    with pytest.raises(RuntimeUnavailable, match="no int8; it has fp32"):
        open_runtime(both, "torch", "cpu", "int8")


# ---- devices -------------------------------------------------------------------------------------
def test_cuda_without_a_gpu_says_so(tiny_bundle, no_gpu):
    with pytest.raises(RuntimeUnavailable, match="no NVIDIA GPU found"):
        open_runtime(tiny_bundle, device="cuda")


@pytest.mark.parametrize("size", [(64, 100), (0, 64), (64, 8192), (64,), (-32, 64)])
def test_an_input_size_off_the_grid_or_out_of_range_is_refused(tiny_bundle, size):
    with pytest.raises(ValueError, match=r"multiples of 32 within 32\.\.4096"):
        open_runtime(tiny_bundle, input_size=size)


def test_unknown_arguments_are_refused_and_the_known_listed(tiny_bundle):
    with pytest.raises(ValueError, match=r"unknown engine 'tvm'; choose auto, .*openvino"):
        open_runtime(tiny_bundle, engine="tvm")
    with pytest.raises(ValueError, match="unknown precision 'int4'; choose auto"):
        open_runtime(tiny_bundle, precision="int4")
    with pytest.raises(ValueError, match="threads is -1"):
        open_runtime(tiny_bundle, threads=-1)


def test_every_engine_is_described_and_torch_is_not_imported_without_a_gpu(no_gpu, monkeypatch):
    imported = []
    find = runtimes._engine_module
    monkeypatch.setattr(runtimes, "_engine_module", lambda engine: (imported.append(engine), find(engine))[1])
    infos = describe_engines()
    assert {info.engine for info in infos} == set(runtimes.ENGINES)
    assert ("torch", "CUDA", False, "no NVIDIA GPU found") in infos
    assert "torch" not in imported


# ---- model.pt2 holds no code ---------------------------------------------------------------------
def rewritten(bundle, tmp_path, change) -> Path:
    """`model.pt2` of `bundle` with its members changed by `change(members)`, a dict of names and bytes."""
    with zipfile.ZipFile(bundle.exported_program) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    change(members)
    file = tmp_path / "changed.pt2"
    with zipfile.ZipFile(file, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return file


def only(members, ending):
    return next(name for name in members if name.endswith(ending))


def test_the_pickled_sample_inputs_of_a_program_are_never_read(torch_bundle):
    with zipfile.ZipFile(read_program(torch_bundle.exported_program)) as archive:
        contents = {name: archive.read(name) for name in archive.namelist()}
    assert contents[only(contents, "sample_inputs/model.pt")] == b""
    assert not any(content.startswith((b"PK", b"\x80")) for content in contents.values())


def replace_in_program(old, new):
    def change(members):
        name = only(members, "models/model.json")
        changed = members[name].replace(old, new)
        assert changed != members[name]
        members[name] = changed

    return change


def ask_for_a_pickle(members):
    name = only(members, "model_weights_config.json")
    members[name] = members[name].replace(b'"use_pickle": false', b'"use_pickle": true')


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (ask_for_a_pickle, "asks for a pickle"),
        (
            lambda members: members.update({"m/data/constants/custom_obj_0": b""}),
            "it holds m/data/constants/custom_obj_0",
        ),
        (
            lambda members: members.update({"m/data/aotinductor/model/x.so": b""}),
            "it holds m/data/aotinductor",
        ),
        (
            replace_in_program(b"torch.ops.aten.conv2d.default", b"torch.os.system"),
            r"it calls torch\.os\.system",
        ),
        (replace_in_program(b"Integer(32)", b"exec(chr(32))"), "it holds the expression"),
    ],
)
def test_a_program_that_carries_code_is_refused(torch_bundle, tmp_path, change, what):
    with pytest.raises(BundleError, match=what):
        read_program(rewritten(torch_bundle, tmp_path, change))


def test_a_program_that_is_no_archive_is_refused(tmp_path):
    (tmp_path / "model.pt2").write_bytes(b"garbage")
    with pytest.raises(BundleError, match=r"not a plain torch\.export program"):
        read_program(tmp_path / "model.pt2")


def test_a_program_that_announces_more_than_its_file_holds_is_refused_before_it_is_read(tmp_path, monkeypatch):
    with zipfile.ZipFile(tmp_path / "model.pt2", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("m/data/weights/weight_0", bytes(30 << 20))
    monkeypatch.setattr(zipfile.ZipFile, "read", lambda *_: pytest.fail("read"))
    with pytest.raises(BundleError, match="announce 31457280"):
        read_program(tmp_path / "model.pt2")


def test_a_program_nested_without_end_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "model.pt2", "w") as archive:
        archive.writestr("m/models/model.json", "[" * 100_000)
    with pytest.raises(BundleError, match=r"not a plain torch\.export program"):
        read_program(tmp_path / "model.pt2")
