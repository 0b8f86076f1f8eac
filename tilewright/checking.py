"""``tilewright check``: does a compiled model agree with onnxruntime, and if not, from which node on?"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from tilewright import api
from tilewright.build import Progress
from tilewright.compare import Difference, compare
from tilewright.dims import Dims, Shapes
from tilewright.errors import CheckFailed
from tilewright.feeds import complete_inputs, integer_bounds, model_inputs, require_steering
from tilewright.frontend.onnx.reader import Source, read
from tilewright.peers import open_peer, parsed, specialized
from tilewright.runtime.plan import Range
from tilewright.target import Target

if TYPE_CHECKING:
    import onnx

#: Intermediate values compared in one compilation while the first wrong node is looked for.
PROBES = 16


@dataclasses.dataclass(frozen=True)
class Divergence:
    """The first node, in the model's order, whose outputs are wrong although its inputs are right.

    Attributes:
        node, op_type: its name in the model and its operator.
        output: the value that differs.
        difference: by how much.
        inputs: the node's computed inputs, all of which agree.
        exact: False when the difference vanished once intermediate values were kept: then the named node is
            the last of the fused ones between two values that agree.
    """

    node: str
    op_type: str
    output: str
    difference: Difference
    inputs: tuple[str, ...]
    exact: bool = True

    def describe(self) -> str:
        """One or two lines in words."""
        where = f"first diverging node: {self.node or '(unnamed)'} ({self.op_type}), output '{self.output}'"
        if not self.exact:
            where = (
                "the difference vanishes when intermediate values are kept, so a fused kernel is wrong; "
                + where
            )
        return f"{where}: {self.difference.describe()}"


@dataclasses.dataclass(frozen=True)
class CheckReport:
    """What :func:`check` found.

    Attributes:
        outputs: one comparison for each output of the model, in its order.
        divergence: where the error starts, if there is one and it was looked for.
        reference: name and version of the engine compared with.
        shapes: the input shapes used.
    """

    outputs: tuple[Difference, ...]
    divergence: Divergence | None
    reference: str
    shapes: dict[str, tuple[int, ...]]

    @property
    def ok(self) -> bool:
        """Every output agrees."""
        return all(output.ok for output in self.outputs)

    def require(self) -> None:
        """Raise CheckFailed, with everything that is known, unless every output agrees."""
        if not self.ok:
            wrong = [f"'{output.name}': {output.describe()}" for output in self.outputs if not output.ok]
            raise CheckFailed(
                "the outputs differ from " + self.reference + "".join(f"\n  - {line}" for line in wrong),
                location=self.divergence.describe() if self.divergence else None,
            )

    def to_dict(self) -> dict[str, Any]:
        """A JSON-able mapping."""
        divergence = None
        if self.divergence:
            divergence = {
                **dataclasses.asdict(self.divergence),
                "inputs": list(self.divergence.inputs),
                "difference": self.divergence.difference.to_dict(),
            }
        return {
            "ok": self.ok,
            "reference": self.reference,
            "shapes": {name: list(shape) for name, shape in self.shapes.items()},
            "outputs": [output.to_dict() for output in self.outputs],
            "divergence": divergence,
        }


def check(
    source: Source,
    *,
    shapes: Mapping[str, Sequence[int]] | None = None,
    inputs: Mapping[str, np.ndarray] | None = None,
    seed: int = 0,
    rtol: float | None = None,
    atol: float | None = None,
    target: str | Target = "native",
    threads: int | None = None,
    locate: bool = True,
    progress: Progress | None = None,
) -> CheckReport:
    """Run an ONNX model here and in onnxruntime, on the same data, and compare.

    Args:
        shapes: for inputs with open dimensions; a batch that is left open is 1.
        inputs: data for some or all inputs; the others are sampled (:mod:`tilewright.feeds`) with ``seed``,
            but for those that steer.
        rtol, atol: tolerances; the defaults and the rule are those of :mod:`tilewright.compare`.
        locate: on a difference, look for the node where it starts (some more compilations).
        progress: called with (step, done, total); a total of 0 is unknown.

    Raises:
        ModelFileError, UnsupportedError, ShapeError, InputError: as :func:`tilewright.compile` and the feeds.
        MissingDependencyError: onnxruntime is not installed.
    """
    say = progress or (lambda step, done, total: None)
    raw = read(source)
    feeds = complete_inputs(model_inputs(raw), inputs, shapes, seed, integer_bounds(raw))
    concrete = {name: tuple(array.shape) for name, array in feeds.items()}
    proto = parsed(source)
    peer = open_peer("onnxruntime", specialized(proto, feeds), feeds)
    say("compiling", 0, 0)
    model = api.compile(source, target=target, threads=threads, shapes=concrete, progress=progress)
    require_steering(model.steering, inputs or ())
    say("running onnxruntime", 0, 0)
    expected = peer.run()
    say("running the compiled model", 0, 0)
    got = model.run(feeds)
    outputs = tuple(compare(name, got[name], expected[name], rtol, atol) for name in expected)
    divergence = None
    if locate and not all(output.ok for output in outputs):

        def build(probed: onnx.ModelProto) -> dict[str, np.ndarray]:
            return api.compile(
                probed, target=target, threads=threads, shapes=concrete, progress=progress
            ).run(feeds)

        divergence = _locate(proto, feeds, build, rtol, atol, say)
    return CheckReport(outputs, divergence, f"{peer.name} {peer.version}", concrete)


def check_sizes(
    source: Source,
    *,
    dims: Dims,
    shapes: Shapes | None = None,
    sizes: Sequence[Mapping[str, int]] = (),
    inputs: Mapping[str, np.ndarray] | None = None,
    seed: int = 0,
    rtol: float | None = None,
    atol: float | None = None,
    target: str | Target = "native",
    threads: int | None = None,
    progress: Progress | None = None,
) -> list[CheckReport]:
    """Compile an ONNX model once for ranges of sizes, and compare it with onnxruntime at several of them.

    Args:
        dims, shapes: as for :func:`tilewright.compile`.
        sizes: which sizes to check, by dimension; by default the smallest, the largest, and two between.
        inputs: data of inputs that are the same at all sizes, such as those that steer.

    Raises as :func:`check`.
    """
    say = progress or (lambda step, done, total: None)
    say("compiling", 0, 0)
    model = api.compile(source, target=target, threads=threads, shapes=shapes, dims=dims, progress=progress)
    require_steering(model.steering, inputs or ())
    ranges = model.artifact.signature.dims
    names = [spec.name for spec in model.outputs]
    raw, proto = read(source), parsed(source)
    reports = []
    for number, at in enumerate(sizes or sample_sizes(ranges)):
        say("checking sizes", number, len(sizes) or 4)
        concrete = {s.name: tuple(at[d] if isinstance(d, str) else d for d in s.shape) for s in model.inputs}
        feeds = complete_inputs(model_inputs(raw), inputs, concrete, seed, integer_bounds(raw))
        peer = open_peer("onnxruntime", specialized(proto, feeds), feeds)
        expected, got = peer.run(), model.run(feeds)
        outputs = tuple(compare(name, got[name], expected[name], rtol, atol) for name in names)
        reports.append(CheckReport(outputs, None, f"{peer.name} {peer.version}", concrete))
    return reports


def sample_sizes(ranges: Mapping[str, Range]) -> list[dict[str, int]]:
    """The smallest sizes, the largest, and two mixtures between, without repetitions."""
    found = []
    for part in (0.0, 1.0, 0.31, 0.62):
        sizes = {}
        for n, (name, limits) in enumerate(ranges.items()):
            step, high = limits.multiple_of, limits.hi if limits.hi is not None else limits.lo + 64
            place = part if part in (0.0, 1.0) or n % 2 == 0 else 1 - part
            steps = (high - limits.lo) // step
            sizes[name] = limits.lo + round(steps * place) * step
        if sizes not in found:
            found.append(sizes)
    return found


def _with_outputs(proto: onnx.ModelProto, values: Mapping[str, np.ndarray | None]) -> onnx.ModelProto:
    """A copy of the model that also returns ``values``, declared like the arrays where they are known."""
    import onnx

    probed = onnx.ModelProto()
    probed.CopyFrom(proto)
    present = {value.name for value in probed.graph.output}
    for name, array in values.items():
        if name in present:
            continue
        info = onnx.ValueInfoProto(name=name)
        if array is not None:
            kind = onnx.helper.np_dtype_to_tensor_dtype(array.dtype)
            info = onnx.helper.make_tensor_value_info(name, kind, array.shape)
        probed.graph.output.append(info)
    return probed


def _computed_values(proto: onnx.ModelProto) -> dict[str, int]:
    """Values that depend on the data of the inputs (not only on shapes), each with its node's index."""
    initialized = {tensor.name for tensor in proto.graph.initializer}
    live = {value.name for value in proto.graph.input} - initialized
    computed: dict[str, int] = {}
    for index, node in enumerate(proto.graph.node):
        reads = set(node.input) | _outer_reads(node)
        if node.op_type not in ("Shape", "Size") and reads & live:
            outputs = [name for name in node.output if name]
            live.update(outputs)
            computed.update(dict.fromkeys(outputs, index))
    return computed


def _outer_reads(node: onnx.NodeProto) -> set[str]:
    """Names that the subgraphs of ``node`` mention; a superset of what they take from outside."""
    names: set[str] = set()
    for attribute in node.attribute:
        for inner in attribute.g.node if attribute.HasField("g") else ():
            names |= set(inner.input) | _outer_reads(inner)
    return names


def _locate(
    proto: onnx.ModelProto,
    feeds: dict[str, np.ndarray],
    build: Callable[[onnx.ModelProto], dict[str, np.ndarray]],
    rtol: float | None,
    atol: float | None,
    say: Progress,
) -> Divergence:
    """Search the computed values, in the model's order, for the first wrong one.

    Keeping a value changes how the compiler fuses around it, so only :data:`PROBES` values are kept in one
    compilation, and the interval that holds the first wrong one shrinks by that factor each time.
    """
    computed = _computed_values(proto)
    names = list(computed)
    say("running onnxruntime with all intermediate values", 0, 0)
    exposed = specialized(_with_outputs(proto, dict.fromkeys(names)), feeds)
    reference = open_peer("onnxruntime", exposed, feeds, optimize=False).run()

    def probe(chosen: Sequence[str]) -> dict[str, Difference]:
        say(f"comparing {len(chosen)} intermediate values between '{chosen[0]}' and '{chosen[-1]}'", 0, 0)
        values = build(_with_outputs(proto, {name: reference[name] for name in chosen}))
        return {name: compare(name, values[name], reference[name], rtol, atol) for name in chosen}

    def divergence(name: str, difference: Difference, exact: bool) -> Divergence:
        node = proto.graph.node[computed[name]]
        inputs = tuple(value for value in node.input if value in computed)
        return Divergence(node.name, node.op_type, name, difference, inputs, exact)

    low, high = 0, len(names) - 1  # names[high] is taken for wrong, everything before names[low] for right
    worst: Difference | None = None
    while True:
        count = min(PROBES, high - low + 1)
        chosen = sorted({low + round(step * (high - low) / max(count - 1, 1)) for step in range(count)})
        found = probe([names[index] for index in chosen])
        wrong = next((index for index in chosen if not found[names[index]].ok), None)
        if wrong is None:  # keeping the values hid the error
            return divergence(names[high], worst or found[names[chosen[-1]]], False)
        worst, high = found[names[wrong]], wrong
        right = [index for index in chosen if index < wrong]
        low = right[-1] + 1 if right else low
        if low >= high:
            break
    # A wrong value of another branch may stand between the probes: follow wrong inputs up.
    name = names[high]
    for _ in names:
        inputs = [value for value in proto.graph.node[computed[name]].input if value in computed]
        wrong_input = next(
            (value for value, d in (probe(inputs) if inputs else {}).items() if not d.ok), None
        )
        if wrong_input is None:
            break
        name = wrong_input
    return divergence(name, probe([name])[name] if name != names[high] else worst, True)
