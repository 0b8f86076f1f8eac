"""The public surface: compile, load, and the model that they give."""

from __future__ import annotations

import dataclasses
import functools
import logging
import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, TypeVar

import tilewright.ops  # noqa: F401 - registers the operators
from tilewright.backend import get_backend
from tilewright.build import Built, Progress, build_variant, by_default, compiler_epoch
from tilewright.build import Options as BuildOptions
from tilewright.cache import DiskCache
from tilewright.config import options
from tilewright.dims import Dims, Shapes
from tilewright.errors import MissingDependencyError, OptionError, ShapeError, StoreError
from tilewright.explaining import Machine, explain
from tilewright.graph.alternatives import Pick, all_alternatives, default_pick
from tilewright.kept import Kept, source_key
from tilewright.ops.alternatives import BUILT_IN
from tilewright.runtime.artifact import Artifact, WeightStore
from tilewright.runtime.model import Executable, MissingVariantError
from tilewright.runtime.plan import TensorSpec
from tilewright.runtime.profiler import Profile
from tilewright.runtime.special import Given
from tilewright.sources import OpenModel, Source, open_model
from tilewright.target import Target

if TYPE_CHECKING:
    from tilewright.tune.lookup import Lookup

#: Values of inputs by name, or several such mappings.
Values: TypeAlias = "Mapping[str, Any] | Sequence[Mapping[str, Any]]"

_log = logging.getLogger("tilewright")
_T = TypeVar("_T")
#: Compilations for one run, at most.
_ATTEMPTS = 8


class Model:
    """A compiled model. All methods may be called from several threads at a time.

    A model with open dimensions that have no range, or with inputs that steer it, compiles itself for each
    new combination of their sizes and values at the first run with it. The logger ``tilewright`` says so.
    """

    def __init__(self, executable: Executable, compiler: _Compiler | None = None) -> None:
        self._executable = executable
        self._compiler = compiler
        self._lock = threading.Lock()
        self._compilations = 0

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
    def steering(self) -> tuple[str, ...]:
        """The inputs for each of whose values code is compiled, as far as that is known yet: the axes of a
        reduction, say. See docs/dynamic_shapes.md."""
        compiled = (name for variant in self.artifact.variants for name in variant.values)
        known = () if self._compiler is None else self._compiler.model.steering
        return tuple(dict.fromkeys([*known, *compiled]))

    @property
    def compilations(self) -> int:
        """How often a run had to compile before it could begin, for new sizes or new values of inputs."""
        return self._compilations

    @property
    def artifact(self) -> Artifact:
        """The compiled form: variants, kernels, weights."""
        return self._executable.artifact

    def run(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        """Run the model on arrays by input name; returns the outputs, NumPy arrays, by name.

        Inputs are NumPy arrays or anything with ``__dlpack__``, of the dtypes and shapes that :attr:`inputs`
        says. They are not copied unless they are not contiguous. A sequence is a list of arrays, an optional
        value that is not there None.

        Raises:
            InputError: wrong names, dtypes or shapes.
            ShapeError: the model was loaded from an artifact that was not compiled for these sizes, or for
                these values of inputs that steer.
        """
        return self._with_variant(lambda: self._executable.run(inputs))

    def __call__(self, *inputs: Any) -> list[Any]:
        """Run with the inputs in the order of :attr:`inputs`; returns the outputs in their order. Raises as
        :meth:`run`."""
        return self._with_variant(lambda: self._executable(*inputs))

    def prepare(self, inputs: Mapping[str, Any]) -> None:
        """Compile for the sizes and values of these inputs, as a run does where it has to. Raises as
        :meth:`run`."""
        self._with_variant(lambda: self._executable.variant_for(inputs))

    def profile(self, inputs: Mapping[str, Any], runs: int = 20) -> Profile:
        """Median time of every kernel over ``runs`` runs, with the model's nodes that each computes. Raises
        as :meth:`run`."""
        return self._with_variant(lambda: self._executable.profile(inputs, runs))

    def explain(self, store: str | os.PathLike[str] | None = None) -> str:
        """Per kernel: its share of the time, what bounds it and how far it is from that, how its schedule was
        chosen, and the model's nodes (docs/choosing.md), as text.

        Args:
            store: the measurement store that knows how fast this machine is; by default that of the options.

        Raises StoreError for one that cannot be read.
        """
        return explain(self.artifact, self.machine(store))

    def machine(self, store: str | os.PathLike[str] | None = None) -> Machine:
        """What is known of the machine that the model was compiled for, as for :meth:`explain`. Raises as it
        does."""
        where = self.target, self._executable.threads
        address = os.fspath(options().store if store is None else store)
        try:
            return Machine.of(*where, address)
        except (StoreError, MissingDependencyError) as error:
            if store is not None:
                raise
            _log.warning("what bounds kernels is said without measurements: %s", error)
            return Machine.of(*where, None)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the model, with every variant compiled so far, to one file. Raises ArtifactError when it
        cannot be written.

        Raises ShapeError when it has open dimensions and no sizes were compiled yet: the file could not run
            anything.
        """
        if not self.artifact.variants:
            dims, steering = self._executable.signature.dims, self.steering
            open_parts = [f"open dimensions ({', '.join(dims)})"] if dims else []
            open_parts += [f"inputs that steer ({', '.join(steering)})"] if steering else []
            raise ShapeError(
                f"the model has {' and '.join(open_parts)} and nothing is compiled for any of them yet",
                hint="give compile the shapes and values (--shape, --input), or run the model once with them",
            )
        self.artifact.save(path)

    def close(self) -> None:
        """Release code, memory and threads as soon as no run is under way."""
        self._executable.close()

    def __enter__(self) -> Model:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _with_variant(self, call: Callable[[], _T]) -> _T:
        """The result of ``call``, after compiling what it needs. Other threads may have it dropped again
        before it runs, so it is tried several times.
        """
        for _ in range(_ATTEMPTS):
            try:
                return call()
            except MissingVariantError as missing:
                self._specialise(missing)
        return call()

    def _specialise(self, missing: MissingVariantError) -> None:
        if self._compiler is None:
            raise missing
        model = self._compiler.model
        binding = {name: missing.binding[name] for name in model.undeclared}
        if not binding and not model.steering:
            raise missing
        with self._lock:
            try:
                self._executable.variant_for(missing.inputs)  # by another thread in the meantime
                return
            except MissingVariantError:
                start = time.perf_counter()
                artifact = self._compiler.add_variants(self.artifact, binding, missing.inputs)
                seconds = time.perf_counter() - start
            self._compilations += 1
            _log.info("%s: %s; compiled it in %.2f s", model.name, missing.message, seconds)
            if artifact.cases > options().max_variants and (oldest := self._executable.oldest_values()):
                artifact = artifact.without_case(oldest)
                _log.warning(
                    "%s: inputs that steer (%s) had more than %d values; code for the one used longest ago "
                    "is dropped, and compiled again when it comes back (--max-variants raises the limit)",
                    model.name,
                    ", ".join(self.steering),
                    options().max_variants,
                )
            self._executable.extend(artifact)


class _Compiler:
    """Compiles one model for any sizes of its open dimensions and any values of inputs that steer."""

    def __init__(
        self, model: OpenModel, target: Target, threads: int, build: BuildOptions, lookup: Lookup | None
    ) -> None:
        self.model = model
        self.lookup = lookup
        self.target = target
        self.threads = threads
        self.build = build
        self.weights = WeightStore()

    def empty(self) -> Artifact:
        """An artifact without variants."""
        backend = get_backend(self.target)
        runtime = backend.compile([backend.emit_runtime(self.target)], self.target, cache=self.build.cache)[0]
        facts = {"name": self.model.name, "compiler": compiler_epoch()[:16]}
        return Artifact(
            self.target, self.threads, self.model.signature, (), {}, runtime, self.weights.pack(), facts
        )

    def add_variants(
        self, artifact: Artifact, binding: Mapping[str, int], inputs: Mapping[str, Given]
    ) -> Artifact:
        """``artifact`` with the variants for ``binding`` and for what steers in ``inputs`` compiled into it:
        one for all sizes of the dimensions that have ranges, and those for their points."""
        try:
            return self._with_variants(artifact, binding, inputs)
        finally:
            if self.lookup is not None:
                self.lookup.close()

    def _with_variants(
        self, artifact: Artifact, binding: Mapping[str, int], inputs: Mapping[str, Given]
    ) -> Artifact:
        for point in self.model.declared.points():
            case = self.model.case({**binding, **point}, inputs)
            if any(case.binding[name] != size for name, size in point.items()):
                continue  # the inputs that steer have other sizes
            built: Built = build_variant(
                case.graph, self.target, self.threads, case.binding, self.weights, self.build
            )
            values = {name: tuple(array.reshape(-1).tolist()) for name, array in case.values.items()}
            variant = dataclasses.replace(
                built.variant,
                values=values,
                input_counts=case.input_counts,
                output_counts=case.output_counts,
            )
            artifact = artifact.with_variant(variant, built.objects, self.weights.pack())
        return artifact

    def add_values(self, artifact: Artifact) -> Artifact:
        """``artifact`` with variants for the values that the user has given.

        Raises:
            InputError: a value of a shape that its input cannot have.
            OptionError: an input that does not steer, or more values than are kept.
            ShapeError: the inputs have open dimensions besides.
        """
        count = len(self.model.values)
        if count > options().max_variants:
            raise OptionError(
                f"{count} values are given; {options().max_variants} are kept",
                hint="--max-variants raises the limit",
            )
        for arrays in self.model.values:
            binding = self.model.sizes_of(arrays)
            if rest := [name for name in self.model.undeclared if name not in binding]:
                raise ShapeError(
                    f"values are given, but dimensions are open: {', '.join(rest)}",
                    hint="give shapes or dims as well",
                )
            artifact = self.add_variants(artifact, {n: binding[n] for n in self.model.undeclared}, arrays)
            self.model.require_steering(arrays)
        return artifact


def compile(
    source: Source,
    target: str | Target = "native",
    threads: int | None = None,
    shapes: Shapes | None = None,
    cache: bool = True,
    *,
    dims: Dims | None = None,
    values: Values | None = None,
    dump: str | os.PathLike[str] | None = None,
    progress: Progress | None = None,
    pick: Pick | None = None,
    store: str | os.PathLike[str] | Literal[False] | None = None,
) -> Model:
    """Compile a model.

    Args:
        source: path or bytes of an ONNX file, an ``onnx.ModelProto``, or a
            :class:`~tilewright.graph.graph.Graph`.
        target: ``native``, a preset's name (``tilewright doctor`` lists them), or a :class:`Target`.
        threads: threads of a run; by default the cores this process may use.
        shapes: sizes of inputs by name: a number, a range, a name for an open dimension, or None.
        dims: ranges (smallest, largest) or :class:`Dim` of open dimensions by name. One compiled model serves
            all sizes within them. Open dimensions without a range are compiled for at the first run with each
            combination of sizes (docs/dynamic_shapes.md).
        values: values of inputs that steer, such as ``{"axes": [1]}``, or several such mappings: what to
            compile for at once. Other values are compiled for at the first run with each.
        cache: whether to use the compile cache on disk.
        dump: folder for the graph after every pass and every kernel's program at every stage.
        progress: called with (stage, done, total).
        pick: how each operator is computed, by default by measured rules (docs/alternatives.md).
        store: the measurement store by which schedules are chosen (docs/choosing.md): a path or the URL of a
            database; by default the one of the options, if it is there; False: none.

    Raises:
        ModelFileError, UnsupportedError, GraphError: the model cannot be read or compiled.
        ShapeError: ``shapes`` or ``dims`` do not fit the model.
        InputError, OptionError: ``values`` do not.
        TargetError: unknown target, or no backend for it.
        CacheError: the cache cannot be read or written (full disk, permissions).
        StoreError: ``store`` is a path at which there is nothing. One that cannot be read is a warning.
    """
    chosen = Target.parse(target)
    count = chosen.cores if threads is None else threads
    if count < 1:
        raise OptionError(f"threads={threads} is not possible", hint="a run needs at least one thread")
    settings = options()
    address = _store_address(store)
    disk = DiskCache(settings.cache_dir) if cache and settings.cache else None
    folder = None if dump is None else Path(dump)

    @functools.cache
    def advice() -> Lookup:
        from tilewright.tune.lookup import Lookup

        assert address is not None
        return Lookup(address, chosen, count, models=settings.choose == "model")

    keep = disk is not None and not (folder or pick or values) and all_alternatives() == BUILT_IN
    key = source_key(source, shapes, dims, chosen, count, address) if keep else None
    kept = None if key is None or disk is None else Kept(disk, key, address)
    found = None if kept is None else kept.find(advice)
    if found is not None:
        return Model(Executable(found, foreign=True))
    lookup = None if address is None else advice()
    build = BuildOptions(
        choose=lookup or by_default,
        cache=disk,
        jobs=settings.jobs,
        progress=progress,
        dump=folder,
        check=settings.debug,
        fast_conv=settings.fast_conv,
        pick=pick or (default_pick if lookup is None else lookup.pick),
    )
    given = [] if not values else [values] if isinstance(values, Mapping) else list(values)
    compiler = _Compiler(open_model(source, shapes, dims, given), chosen, count, build, lookup)
    artifact = compiler.empty()
    if given:
        artifact = compiler.add_values(artifact)
    elif not compiler.model.undeclared and not compiler.model.steering:
        artifact = compiler.add_variants(artifact, {}, {})
        if kept is not None and not (lookup and lookup.failed):
            kept.keep(artifact, {} if lookup is None else lookup.evidence())
    return Model(Executable(artifact, foreign=True), compiler)


def _store_address(store: str | os.PathLike[str] | Literal[False] | None) -> str | None:
    """The measurement store to choose schedules by; None: by none. Raises StoreError for one that is asked
    for and does not exist."""
    if store is False or options().choose == "default":
        return None
    address = os.fspath(options().store if store is None else store)
    if "://" in address or os.path.exists(os.path.expanduser(address)):
        return address
    if store is not None:
        raise StoreError("there is no measurement store here", location=address, hint="tw.tune makes one")
    return None


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
