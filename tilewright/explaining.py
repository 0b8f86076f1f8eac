"""What a compiled model consists of, for people: how each kernel's schedule was chosen, and its times."""

from __future__ import annotations

from collections.abc import Iterator

from tilewright.runtime.artifact import Artifact
from tilewright.runtime.chosen import Chosen
from tilewright.runtime.plan import KernelCall, Variant

_WORDS = {
    "default": "default schedule",
    "record": "recorded",
    "learned": "by the learned model",
    "draft": "by the draft model",
    "given": "given",
}


def explain(artifact: Artifact) -> str:
    """Per kernel: the work, how its schedule was chosen, and the model's nodes; at the end how many kernels
    were chosen in which way."""
    lines: list[str] = []
    for variant in artifact.variants:
        lines.append(_heading(variant))
        lines += [f"  {line}" for kernel in variant.kernels for line in _kernel(kernel)]
    return "\n".join([*lines, *_summary(artifact)])


def describe(chosen: Chosen) -> str:
    """How a schedule was chosen, in words: ``recorded 1.204 ms, 1.31x the default's speed (2026-01-02)``."""
    text = _WORDS[chosen.by]
    if chosen.seconds is not None:
        text += f" {chosen.seconds * 1e3:.4g} ms"
    if chosen.gain is not None:
        text += f", {chosen.gain:.2f}x the default's speed"
    if chosen.created:
        text += f" ({chosen.created[:10]})"
    return f"{text}; {chosen.note}" if chosen.note else text


def _heading(variant: Variant) -> str:
    cases = [*variant.binding.items(), *((name, list(v)) for name, v in variant.values.items())]
    open_dims = {k: r for k, r in variant.dims.items() if k not in variant.computed_dims}
    ranges = [f"{k}={r.lo}..{'' if r.hi is None else r.hi}" for k, r in open_dims.items()]
    sizes = ", ".join([*(f"{k}={v}" for k, v in cases), *ranges])
    count, scratch = len(variant.kernels), variant.arena_bytes
    return f"variant {sizes or 'fixed sizes'}: {count} kernels, {scratch} bytes of scratch"


def _kernel(kernel: KernelCall) -> Iterator[str]:
    nodes = ", ".join(kernel.origins) or "-"
    if not kernel.symbol:
        yield f"{kernel.name}: {kernel.bytes / 1e6:.3f} MB; computes {nodes}"
        return
    work = f"{kernel.flops / 1e6:.3f} MFLOP, {kernel.bytes / 1e6:.3f} MB"
    yield f"{kernel.name}: {work}, {describe(kernel.chosen)}; computes {nodes}"


def _summary(artifact: Artifact) -> Iterator[str]:
    """How many of the kernels were chosen in which way, where there are any."""
    found = [kernel.chosen for kernel in artifact.kernels() if kernel.symbol]
    counts = {by: sum(c.by == by for c in found) for by in _WORDS}
    shown = [f"{count} {_WORDS[by]}" for by, count in counts.items() if count]
    if shown:
        yield f"kernels: {', '.join(shown)}"
