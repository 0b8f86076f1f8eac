"""The public surface: compile, load, and the model that they give."""

from __future__ import annotations

import hashlib
import json
import os
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, Union

import numpy as np

import tilewright.ops  # noqa: F401 - registers the operators
from tilewright.backend import get_backend
from tilewright.build import Built, Progress, build_variant, compiler_epoch
from tilewright.build import Options as BuildOptions
from tilewright.cache import DiskCache, cache_key
from tilewright.config import options
from tilewright.errors import ArtifactError, GraphError, OptionError, ShapeError, UnsupportedError
from tilewright.graph.alternatives import Pick, all_alternatives, default_pick
from tilewright.graph.graph import Graph, TensorType
from tilewright.graph.specialise import specialise
from tilewright.ir.expr import Const, Expr, Var
from tilewright.ops.alternatives import BUILT_IN
from tilewright.runtime.artifact import Artifact, WeightStore
from tilewright.runtime.model import Executable, MissingVariantError
from tilewright.runtime.plan import Dim, Signature, TensorSpec
from tilewright.runtime.profiler import Profile
from tilewright.schedule.default import default_schedule
from tilewright.target import Target

if TYPE_CHECKING:
    import onnx

Source: TypeAlias = Union[str, "os.PathLike[str]", bytes, bytearray, memoryview, "onnx.ModelProto", Graph]
#: Sizes by input name; None or a name leaves a dimension open.
Shapes: TypeAlias = Mapping[str, Sequence[int | str | None]]


class Model:
    """A compiled model. All methods may be called from several threads at a time.

    A model with open dimensions compiles itself for each new combination of sizes at the first run with it.
    """

    def __init__(self, executable: Executable, compiler: _Compiler | None = None) -> None:
        self._executable = executable
        self._compiler = compiler
        self._lock = threading.Lock()

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        """Names, shapes (numbers and names of open dimensions) and dtypes of the inputs."""
        return self._executable.signature.inputs

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        """Names, shapes and dtypes of the outputs."""
        return self._executable.signature.outputs

    @property
    def target(self) -> Target:
        """The machine that the code is for."""
        return self._executable.artifact.target

    @property
    def artifact(self) -> Artifact:
        """The compiled form: variants, kernels, weights."""
        return self._executable.artifact

    def run(self, inputs: Mapping[str, Any]) -> dict[str, np.ndarray]:
        """Run the model on arrays by input name; returns the outputs by name.

        Inputs are NumPy arrays or anything with ``__dlpack__``, of the dtypes and shapes that :attr:`inputs`
        says. They are not copied unless they are not contiguous.

        Raises:
            InputError: wrong names, dtypes or shapes.
            ShapeError: the model was loaded from an artifact that was not compiled for these sizes.
        """
        try:
            return self._executable.run(inputs)
        except MissingVariantError as missing:
            self._specialise(missing)
        return self._executable.run(inputs)

    def __call__(self, *inputs: Any) -> list[np.ndarray]:
        """Run with the inputs in the order of :attr:`inputs`; returns the outputs in their order. Raises as
        :meth:`run`."""
        try:
            return self._executable(*inputs)
        except MissingVariantError as missing:
            self._specialise(missing)
        return self._executable(*inputs)

    def profile(self, inputs: Mapping[str, Any], runs: int = 20) -> Profile:
        """Median time of every kernel over ``runs`` runs, with the model's nodes that each computes. Raises
        as :meth:`run`."""
        try:
            return self._executable.profile(inputs, runs)
        except MissingVariantError as missing:
            self._specialise(missing)
        return self._executable.profile(inputs, runs)

    def explain(self) -> str:
        """Per kernel: the model's nodes, the work, and the schedule's origin, as text."""
        lines = []
        for variant in self.artifact.variants:
            sizes = ", ".join(f"{k}={v}" for k, v in variant.binding.items())
            count, scratch = len(variant.kernels), variant.arena_bytes
            lines.append(f"variant {sizes or 'fixed sizes'}: {count} kernels, {scratch} bytes of scratch")
            for kernel in variant.kernels:
                nodes = ", ".join(kernel.origins) or "-"
                work = f"{kernel.flops / 1e6:.3f} MFLOP, {kernel.bytes / 1e6:.3f} MB"
                lines.append(f"  {kernel.name}: {work}, default schedule; computes {nodes}")
        return "\n".join(lines)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the model, with every variant compiled so far, to one file. Raises ArtifactError when it
        cannot be written.

        Raises ShapeError when it has open dimensions and no sizes were compiled yet: the file could not run
            anything.
        """
        if not self.artifact.variants:
            dims = ", ".join(self._executable.signature.dims)
            raise ShapeError(
                f"the model has open dimensions ({dims}) and nothing is compiled for any sizes yet",
                hint="give shapes to compile, or run the model once with the sizes to be saved",
            )
        self.artifact.save(path)

    def close(self) -> None:
        """Release code, memory and threads as soon as no run is under way."""
        self._executable.close()

    def __enter__(self) -> Model:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _specialise(self, missing: MissingVariantError) -> None:
        if self._compiler is None:
            raise missing
        with self._lock:
            known = [dict(v.binding) for v in self.artifact.variants]
            if missing.binding not in known:
                self._executable.extend(self._compiler.add_variant(self.artifact, missing.binding))


class _Compiler:
    """Compiles one source for any sizes of its open dimensions.

    Args:
        graph_for: the graph with the given dimensions fixed.
        signature: inputs, outputs and open dimensions.
    """

    def __init__(
        self,
        graph_for: Callable[[Mapping[str, int]], Graph],
        signature: Signature,
        target: Target,
        threads: int,
        build: BuildOptions,
        name: str,
    ) -> None:
        self.graph_for = graph_for
        self.signature = signature
        self.target = target
        self.threads = threads
        self.build = build
        self.name = name
        self.weights = WeightStore()

    def empty(self) -> Artifact:
        """An artifact without variants."""
        backend = get_backend(self.target)
        runtime = backend.compile([backend.emit_runtime(self.target)], self.target, cache=self.build.cache)[0]
        facts = {"name": self.name, "compiler": compiler_epoch()[:16]}
        return Artifact(
            self.target, self.threads, self.signature, (), {}, runtime, self.weights.pack(), facts
        )

    def add_variant(self, artifact: Artifact, binding: Mapping[str, int]) -> Artifact:
        """``artifact`` with the variant for ``binding`` compiled into it."""
        graph = self.graph_for(binding)
        built: Built = build_variant(graph, self.target, self.threads, binding, self.weights, self.build)
        return artifact.with_variant(built.variant, built.objects, self.weights.pack())


def _graph_signature(graph: Graph) -> Signature:
    outputs = zip(graph.output_names, graph.outputs, strict=True)
    return _signature([(v.name, v.type) for v in graph.inputs], [(name, v.type) for name, v in outputs])


def _signature(
    inputs: Sequence[tuple[str, TensorType]], outputs: Sequence[tuple[str, TensorType]]
) -> Signature:
    dims: dict[str, tuple[int, int | None]] = {}
    for _, kind in inputs:
        for dim in kind.shape:
            if isinstance(dim, Var):
                dims[dim.name] = (dim.lo or 0, dim.hi)
    return Signature(tuple(_spec(*i) for i in inputs), tuple(_spec(*o) for o in outputs), dims)


def _spec(name: str, kind: TensorType) -> TensorSpec:
    return TensorSpec(name, _dims(kind.shape), kind.dtype)


def _dims(shape: Sequence[Expr]) -> tuple[Dim, ...]:
    return tuple(int(d.value) if isinstance(d, Const) else repr(d) for d in shape)


def compile(
    source: Source,
    target: str | Target = "native",
    threads: int | None = None,
    shapes: Shapes | None = None,
    cache: bool = True,
    *,
    dump: str | os.PathLike[str] | None = None,
    progress: Progress | None = None,
    pick: Pick | None = None,
) -> Model:
    """Compile a model.

    Args:
        source: path or bytes of an ONNX file, an ``onnx.ModelProto``, or a
            :class:`~tilewright.graph.graph.Graph`.
        target: ``native``, a preset's name (``tilewright doctor`` lists them), or a :class:`Target`.
        threads: threads of a run; by default the cores this process may use.
        shapes: sizes of inputs by name. Dimensions left open are compiled for at the first run with each
            combination of sizes.
        cache: whether to use the compile cache on disk.
        dump: folder for the graph after every pass and every kernel's program at every stage.
        progress: called with (stage, done, total).
        pick: how each operator is computed, by default by measured rules (docs/alternatives.md).

    Raises:
        ModelFileError, UnsupportedError, GraphError: the model cannot be read or compiled.
        ShapeError: ``shapes`` does not fit the model.
        TargetError: unknown target, or no backend for it.
        CacheError: the cache cannot be read or written (full disk, permissions).
    """
    chosen = Target.parse(target)
    count = chosen.cores if threads is None else threads
    if count < 1:
        raise OptionError(f"threads={threads} is not possible", hint="a run needs at least one thread")
    settings = options()
    store = DiskCache(settings.cache_dir) if cache and settings.cache else None
    folder = None if dump is None else Path(dump)
    build = BuildOptions(
        choose=default_schedule,
        cache=store,
        jobs=settings.jobs,
        progress=progress,
        dump=folder,
        check=settings.debug,
        fast_conv=settings.fast_conv,
        pick=pick or default_pick,
    )
    keep = store is not None and folder is None and pick is None and all_alternatives() == BUILT_IN
    key = _source_key(source, shapes, chosen, count) if keep else None
    kept = None if key is None or store is None else _kept_artifact(store, key)
    if kept is not None:
        return Model(Executable(kept, foreign=True))
    graph_for, signature, name = _frontend(source, shapes)
    compiler = _Compiler(graph_for, signature, chosen, count, build, name)
    artifact = compiler.empty()
    if not signature.dims:
        artifact = compiler.add_variant(artifact, {})
        if key is not None and store is not None:
            store.put_file(key, artifact.save)
    return Model(Executable(artifact, foreign=True), compiler)


def _source_key(source: Source, shapes: Shapes | None, target: Target, threads: int) -> str | None:
    """The cache key of a whole compiled model; None when its content is not all in one file.

    Models that mention external data are left out: their weights may change while the file stays.
    """
    if isinstance(source, str | os.PathLike):
        try:
            data = Path(source).read_bytes()
        except OSError:
            return None  # the importer says what is wrong with it
    elif isinstance(source, bytes | bytearray | memoryview):
        data = bytes(source)
    else:
        return None
    if b"location" in data:
        return None
    fast = str(options().fast_conv)
    sizes = json.dumps({name: list(shape) for name, shape in sorted((shapes or {}).items())}, default=str)
    digest = hashlib.sha256(data).hexdigest()
    return cache_key("model", compiler_epoch(), sizes, target.to_json(), str(threads), fast, digest)


def _kept_artifact(store: DiskCache, key: str) -> Artifact | None:
    path = store.get_file(key)
    if path is None:
        return None
    try:
        return Artifact.load(path)
    except ArtifactError:  # damaged by a crash of the machine: as if it had not been there
        store.drop_file(key)
        return None


def _frontend(
    source: Source, shapes: Shapes | None
) -> tuple[Callable[[Mapping[str, int]], Graph], Signature, str]:
    """How to get the source's graph for given sizes, its signature, and its name."""
    if isinstance(source, Graph):
        graph = _with_shapes(source, shapes or {})
        return (
            lambda binding: specialise(graph, binding) if binding else graph,
            _graph_signature(graph),
            graph.name,
        )
    from tilewright.frontend.onnx import read_model

    model = read_model(source)
    name = Path(source).name if isinstance(source, str | os.PathLike) else "model"
    fixed = {key: [d if isinstance(d, int) else None for d in shape] for key, shape in (shapes or {}).items()}
    try:
        opened = model.to_graph(fixed)
    except (GraphError, UnsupportedError):
        # What cannot be said of open dimensions may be plain for sizes: those of the first run decide.
        inputs, outputs = ([(v.name, v.type) for v in side] for side in model.declared(fixed))
        signature = _signature(inputs, outputs)
        if not signature.dims:
            raise
        return lambda binding: _with_types(model.to_graph(fixed, binding), signature), signature, name
    signature = _graph_signature(opened)
    if not signature.dims:
        return lambda binding: opened, signature, name
    return lambda binding: model.to_graph(fixed, binding), signature, name


def _with_types(graph: Graph, signature: Signature) -> Graph:
    """``graph``, whose outputs have the declared types. Raises GraphError where they have others."""
    for spec, value in zip(signature.outputs, graph.outputs, strict=True):
        if spec.dtype != value.dtype:
            raise GraphError(f"output '{spec.name}' is declared as {spec.dtype}, but it is {value.dtype}")
    return graph


def _with_shapes(graph: Graph, shapes: Shapes) -> Graph:
    """``graph`` with its open dimensions fixed where ``shapes`` gives a number."""
    binding: dict[str, int] = {}
    by_name = {v.name: v for v in graph.inputs}
    for name, shape in shapes.items():
        value = by_name.get(name)
        if value is None:
            raise ShapeError(f"the model has no input '{name}'", hint=f"its inputs: {', '.join(by_name)}")
        if len(shape) != value.rank:
            raise ShapeError(f"input '{name}' has {value.rank} dimensions, {len(shape)} were given")
        for dim, size in zip(value.shape, shape, strict=True):
            if not isinstance(size, int):
                continue
            if isinstance(dim, Const):
                if dim.value != size:
                    raise ShapeError(f"input '{name}' has size {dim.value} where {size} was given")
            elif binding.setdefault(repr(dim), size) != size:
                raise ShapeError(f"dimension '{dim!r}' is given as {binding[repr(dim)]} and as {size}")
    return specialise(graph, binding) if binding else graph


def load(path: str | os.PathLike[str], threads: int | None = None) -> Model:
    """Load a compiled model in milliseconds: its weights are mapped, not read.

    Args:
        path: a file that :meth:`Model.save` wrote.
        threads: threads of a run, at most the number it was compiled for (the default).

    Raises:
        ArtifactError: the file is missing, damaged, or of an unknown version.
        TargetError: this machine cannot run its code.
    """
    return Model(Executable(Artifact.load(path), threads))
