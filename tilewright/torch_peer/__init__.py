"""torch as an engine for ONNX models, of which it has no importer: ours reads the model, and torch runs the
graph as it was imported, operator by operator, with its own kernels.

Needs torch (the extra ``torch``); :mod:`tilewright.peers` imports this package when the engine is asked for.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable

import numpy as np
import torch

from tilewright.errors import InputError, MissingDependencyError
from tilewright.frontend.onnx import read_model
from tilewright.torch_peer.module import GraphModule
from tilewright.torch_peer.registry import to_numpy, to_torch

__all__ = ["GraphModule", "Torch", "TorchCompile"]


class Torch:
    """torch in eager mode: float32, NCHW, no autograd; ``threads`` threads in every operator of the process.

    Raises UnsupportedError naming all operators without a counterpart in torch.
    """

    name = "torch"

    def __init__(self, model: bytes, inputs: dict[str, np.ndarray], threads: int, optimize: bool) -> None:
        self.version = str(torch.__version__)
        start = time.perf_counter()
        graph = read_model(model).to_graph({name: array.shape for name, array in inputs.items()})
        self._inputs = [to_torch(inputs[value.name]) for value in graph.inputs]
        self._outputs = graph.output_names
        torch.set_num_threads(threads)
        try:
            with torch.inference_mode():
                self._call = self._prepare(GraphModule(graph).eval())
        except (RuntimeError, TypeError, ValueError) as error:
            raise InputError(f"torch does not accept the model: {_first_line(error)}") from error
        self.load_seconds = time.perf_counter() - start

    def _prepare(self, module: GraphModule) -> Callable[..., tuple[torch.Tensor, ...]]:
        return module

    def run(self) -> dict[str, np.ndarray]:
        """See :class:`tilewright.peers.Peer`."""
        try:
            with torch.inference_mode():
                results = self._call(*self._inputs)
        except (RuntimeError, TypeError, ValueError) as error:
            raise InputError(f"torch cannot run the model on these inputs: {_first_line(error)}") from error
        return {name: to_numpy(value) for name, value in zip(self._outputs, results, strict=True)}


class TorchCompile(Torch):
    """The same module through ``torch.compile``: inductor with the weights frozen, for these sizes.

    The code is compiled when the model is loaded, by the C++ compiler that ``CXX`` names or ``g++``. Raises
    MissingDependencyError when there is none.
    """

    name = "torch_compile"

    def __init__(self, model: bytes, inputs: dict[str, np.ndarray], threads: int, optimize: bool) -> None:
        compiler = os.environ.get("CXX", "g++")
        if shutil.which(compiler) is None:
            raise MissingDependencyError(
                f"torch.compile needs a C++ compiler, and there is no '{compiler}'",
                hint="install g++, or name another compiler in the variable CXX; `torch` needs none",
            )
        super().__init__(model, inputs, threads, optimize)

    def _prepare(self, module: GraphModule) -> Callable[..., tuple[torch.Tensor, ...]]:
        compiled = torch.compile(module, dynamic=False, options={"freezing": True})
        compiled(*self._inputs)
        return compiled


def _first_line(error: Exception) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
