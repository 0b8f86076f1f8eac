"""Other engines that run ONNX models, behind one interface: references for ``check``, peers for ``bench``.

Every engine gets the same number of threads, float32 arithmetic, one fixed set of inputs, and a model whose
input shapes are those of the inputs, so that it can specialise as our compiler does.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import os
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from tilewright.errors import InputError, MissingDependencyError, OptionError
from tilewright.frontend.onnx.reader import Source

if TYPE_CHECKING:
    import onnx


class Peer(Protocol):
    """One engine with one model loaded and its inputs bound.

    Attributes:
        name, version: of the engine.
        load_seconds: wall time from the model's bytes to an engine ready to run.
    """

    name: str
    version: str
    load_seconds: float

    def run(self) -> dict[str, np.ndarray]:
        """One inference; the model's outputs by name."""
        ...


def open_peer(
    name: str, model: bytes, inputs: Mapping[str, np.ndarray], threads: int = 1, optimize: bool = True
) -> Peer:
    """Load ``model`` (serialized ONNX) in the engine called ``name``.

    Args:
        optimize: False asks for the engine's plainest kernels, unfused, where it offers the choice.

    Raises:
        OptionError: no engine has that name.
        MissingDependencyError: the engine is not installed.
        InputError: the engine refuses the model or the inputs.
        UnsupportedError: torch has no counterpart for some of the model's operators.
    """
    if name not in PEERS:
        raise OptionError(f"unknown engine '{name}'", hint=f"known engines: {', '.join(PEERS)}")
    return PEERS[name](model, dict(inputs), threads, optimize)


def parsed(source: Source) -> onnx.ModelProto:
    """The protobuf form, weights included, of a model that the ONNX reader accepts.

    Raises:
        InputError: the ``onnx`` package does not load it: it follows no symbolic links to external data.
    """
    import onnx

    if isinstance(source, onnx.ModelProto):
        return source
    if isinstance(source, str | os.PathLike):
        try:
            return onnx.load(os.fspath(source))
        except (onnx.checker.ValidationError, OSError, ValueError) as error:
            raise InputError(f"the onnx package does not load the model: {error}") from None
    return onnx.load_from_string(bytes(source))


def specialized(model: onnx.ModelProto, inputs: Mapping[str, np.ndarray]) -> bytes:
    """``model``, serialized, with the shapes of ``inputs`` declared for its inputs.

    Raises:
        InputError: the model is larger than the 2 GiB that one protobuf message holds.
    """
    import onnx

    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    for value in copy.graph.input:
        if value.name in inputs:
            dims = value.type.tensor_type.shape.dim
            for dim, size in zip(dims, inputs[value.name].shape, strict=True):
                dim.dim_value = size
    try:
        return copy.SerializeToString()
    except Exception as error:  # EncodeError or ValueError, by protobuf's implementation
        raise InputError(f"the model is too large to hand to another engine: {error}") from None


def load_dependency(package: str, extra: str) -> Any:
    """Import ``package``. Raises MissingDependencyError naming the extra that installs it."""
    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise MissingDependencyError(
            f"{package} is not installed ({error})", hint=f"pip install 'tilewright[{extra}]'"
        ) from None


class OnnxRuntime:
    """onnxruntime's CPU provider: ``threads`` threads inside an operator, operators one by one.

    Products with dequantized weights of 4 bits take their other operand as it is; by default onnxruntime
    rounds it to 8 bits.
    """

    name = "onnxruntime"

    def __init__(self, model: bytes, inputs: dict[str, np.ndarray], threads: int, optimize: bool) -> None:
        ort = load_dependency("onnxruntime", "check")
        self.version = str(ort.__version__)
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        options.add_session_config_entry("session.qdq_matmulnbits_accuracy_level", "1")
        if not optimize:
            options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        start = time.perf_counter()
        try:
            self._session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # its exception classes are private
            raise InputError(f"onnxruntime does not accept the model: {error}") from None
        self.load_seconds = time.perf_counter() - start
        self._inputs = inputs
        self._outputs = [output.name for output in self._session.get_outputs()]

    def run(self) -> dict[str, np.ndarray]:
        """See :class:`Peer`."""
        try:
            values = self._session.run(None, self._inputs)
        except Exception as error:
            raise InputError(f"onnxruntime cannot run the model on these inputs: {error}") from None
        return dict(zip(self._outputs, values, strict=True))


class OpenVino:
    """OpenVINO's CPU plugin in float32 (it takes bfloat16 by itself where the CPU has it), one stream."""

    name = "openvino"

    def __init__(self, model: bytes, inputs: dict[str, np.ndarray], threads: int, optimize: bool) -> None:
        openvino = load_dependency("openvino", "bench")
        self.version = importlib.metadata.version("openvino")
        config = {
            "INFERENCE_PRECISION_HINT": "f32",
            "INFERENCE_NUM_THREADS": threads,
            "NUM_STREAMS": 1,
            "PERFORMANCE_HINT": "LATENCY",
        }
        start = time.perf_counter()
        try:
            core = openvino.Core()
            network = core.read_model(model)
            shapes = {name: openvino.PartialShape(list(array.shape)) for name, array in inputs.items()}
            network.reshape(shapes)
            compiled = core.compile_model(network, "CPU", config)
        except RuntimeError as error:
            raise InputError(f"OpenVINO does not accept the model: {_first_line(error)}") from None
        self.load_seconds = time.perf_counter() - start
        self._compiled = compiled  # keeps the plugin alive
        self._request = compiled.create_infer_request()
        self._inputs = inputs
        # A result is called after the value that feeds it, which may have several names.
        self._names = [sorted(port.get_names()) for port in compiled.outputs]

    def run(self) -> dict[str, np.ndarray]:
        """See :class:`Peer`."""
        results = self._request.infer(self._inputs, share_inputs=True, share_outputs=True)
        return {name: array for index, array in enumerate(results.values()) for name in self._names[index]}


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__


def _torch(engine: str) -> Callable[[bytes, dict[str, np.ndarray], int, bool], Peer]:
    """The engine of :mod:`tilewright.torch_peer` with that class name, imported when it is opened."""

    def load(model: bytes, inputs: dict[str, np.ndarray], threads: int, optimize: bool) -> Peer:
        load_dependency("torch", "torch")
        peer: Peer = getattr(importlib.import_module("tilewright.torch_peer"), engine)(
            model, inputs, threads, optimize
        )
        return peer

    return load


#: Engines by the name that ``--against`` takes.
PEERS: dict[str, Callable[[bytes, dict[str, np.ndarray], int, bool], Peer]] = {
    "onnxruntime": OnnxRuntime,
    "openvino": OpenVino,
    "torch": _torch("Torch"),
    "torch_compile": _torch("TorchCompile"),
}


def parse_peers(names: str | Sequence[str]) -> list[str]:
    """``"onnxruntime,openvino"`` or a sequence, as a list without repeats, in the given order."""
    parts = names.split(",") if isinstance(names, str) else list(names)
    return list(dict.fromkeys(part.strip() for part in parts if part.strip()))
