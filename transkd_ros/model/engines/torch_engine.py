"""torch: a bundle's torch.export program on an NVIDIA GPU with CUDA graphs; on the CPU only when asked for.

The only module of the vehicle wing that imports torch to run a model.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch

from transkd_ros.model.bundle import EXPORTED_PROGRAM, Bundle
from transkd_ros.model.engines.base import Graph, Kind, LoadOptions, Runtime, stacked
from transkd_ros.model.engines.torch_program import read_program

ENGINE = "torch"
_PRECISIONS = {"CUDA": ("fp16", "bf16", "fp32"), "CPU": ("fp32", "bf16")}
_Model = Callable[[torch.Tensor], tuple[torch.Tensor, ...]]
_DTYPES = {"fp16": torch.float16, "bf16": torch.bfloat16, "fp32": torch.float32}


def devices() -> dict[str, str]:
    """Device name → note, fastest first. The CPU is for checks: OpenVINO is several times faster there."""
    gpu = {"CUDA": torch.cuda.get_device_name()} if torch.cuda.is_available() else {}
    return gpu | {"CPU": "eager, for checks only"}


def precisions(device: str) -> tuple[str, ...]:
    """What the device computes in, the likely fastest first. Quantised graphs are not torch's."""
    return _PRECISIONS[device]


def load(bundle: Bundle, options: LoadOptions) -> TorchRuntime:
    return TorchRuntime(bundle, options)


class TorchRuntime(Runtime):
    """An exported program run by torch."""

    engine = ENGINE

    def __init__(self, bundle: Bundle, options: LoadOptions) -> None:
        super().__init__(bundle, options)
        self._torch_device = torch.device(self.device.lower())
        exported = torch.export.load(read_program(bundle.path / EXPORTED_PROGRAM))
        (image,) = (node for node in exported.graph.nodes if node.name in exported.graph_signature.user_inputs)
        self.takes_batches = isinstance(image.meta["val"].shape[0], torch.SymInt)
        program = exported.module()
        _drop_dtype_assertions(program)
        self._program = program.to(self._torch_device)
        if self.device == "CPU" and options.threads:
            torch.set_num_threads(options.threads)

    def compile_graph(self, kind: Kind) -> Graph:
        model: _Model = _Outputs(self._program, 2 if kind.confidence else 1)
        if self.device == "CUDA":
            with self._mode():
                model = _cuda_graph(model, (kind.images, *self.input_size, 3))

        def run(images: Sequence[np.ndarray]) -> list[np.ndarray]:
            with self._mode():
                return [output.cpu().numpy() for output in model(torch.tensor(stacked(images)))]

        return run

    @contextmanager
    def _mode(self) -> Iterator[None]:
        autocast = torch.autocast(self._torch_device.type, _DTYPES[self.precision], self.precision != "fp32")
        with torch.inference_mode(), autocast:
            yield

    def close(self) -> None:
        super().close()
        del self._program
        if self.device == "CUDA":
            torch.cuda.empty_cache()


class _Outputs(torch.nn.Module):
    """The first `count` outputs of a program; the compiler then leaves out what only the others need."""

    def __init__(self, program: torch.nn.Module, count: int) -> None:
        super().__init__()
        self.program = program
        self.count = count

    def forward(self, image: torch.Tensor) -> tuple[torch.Tensor, ...]:
        outputs = self.program(image)
        return (outputs,) if isinstance(outputs, torch.Tensor) else tuple(outputs[: self.count])


def _cuda_graph(model: _Model, shape: tuple[int, ...]) -> _Model:
    """`model` compiled and captured in a CUDA graph for one shape (images, H, W, 3) of its input.

    Captured by hand, not by torch.compile's "reduce-overhead": that one keeps its graphs per thread, and the
    node loads in one thread and infers in another.
    """
    compiled = torch.compile(model, dynamic=False)
    image = torch.zeros(shape, dtype=torch.uint8, device="cuda")
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):  # compiles, then lets the libraries allocate their workspaces
            compiled(image)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    # Other threads may use the GPU meanwhile: another graph may be at work.
    with torch.cuda.graph(graph, capture_error_mode="thread_local"):
        outputs = compiled(image)

    def replay(frame: torch.Tensor) -> tuple[torch.Tensor, ...]:
        image.copy_(frame)
        graph.replay()
        return outputs

    return replay


def _drop_dtype_assertions(program: torch.fx.GraphModule) -> None:
    """Remove the checks that tensors are fp32 as when exported, which autocast breaks on purpose."""
    for node in list(program.graph.nodes):
        if node.target is torch.ops.aten._assert_tensor_metadata.default:
            program.graph.erase_node(node)
    program.recompile()
