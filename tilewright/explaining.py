"""What a compiled model consists of, for people: how each kernel's schedule was chosen, its time, and what
bounds it (docs/choosing.md).

What bounds a kernel is said by the draft cost model from the numbers that the artifact keeps of each program,
with what the measurement store knows of the machine.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from tilewright.runtime.artifact import Artifact
from tilewright.runtime.plan import KernelCall, Variant
from tilewright.target import Target

if TYPE_CHECKING:
    from tilewright.cost.draft import Bound, DraftModel

#: Characters of a line of the table.
WIDTH: Final = 120
#: Characters of a kernel's name in it, at most.
NAME_WIDTH: Final = 28
_COLUMNS: Final = ("kernel", "share", "time ms", "floor ms", "x floor", "bound by", "chosen by", "computes")
#: The columns that hold numbers.
_NUMBERS: Final = range(1, 5)


@dataclasses.dataclass(frozen=True)
class Machine:
    """What is known of the machine that a model was compiled for.

    Attributes:
        model: the draft model; None for GPUs, of which it knows nothing.
        threads: of a run.
        calibrated: whether the model's coefficients were measured.
    """

    model: DraftModel | None
    threads: int
    calibrated: bool

    @staticmethod
    def of(target: Target, threads: int, store: str | None) -> Machine:
        """By the measurement store at an address, if there is one. Raises StoreError when it cannot be
        read, and MissingDependencyError for a database without its driver."""
        from tilewright.cost.draft import draft_model
        from tilewright.records.record import Device
        from tilewright.records.store import open_store

        if target.gpu is not None:
            return Machine(None, threads, False)
        if store is None or not ("://" in store or os.path.exists(os.path.expanduser(store))):
            return Machine(draft_model(target, threads), threads, False)
        with open_store(store, create=False, reading=True) as opened:
            model = draft_model(target, threads, opened)
            known = opened.latest_model("draft", Device.of(target).fingerprint, threads)
        return Machine(model, threads, known is not None)

    def to_json(self) -> dict[str, Any]:
        """A JSON-able dictionary, with the coefficients of the model."""
        coefficients = None if self.model is None else dataclasses.asdict(self.model.coefficients)
        return {"threads": self.threads, "calibrated": self.calibrated, "coefficients": coefficients}

    def __str__(self) -> str:
        if self.model is None:
            return "what bounds kernels of a GPU is not known"
        c, lanes = self.model.coefficients, self.model.target.lanes(32)
        peak = 2 * lanes * self.threads / (c.multiply_add * c.cycle) / 1e9
        numbers = f"{peak:.0f} GFLOP/s of float32, {c.memory / 1e9:.1f} GB/s from memory"
        where = "measured" if self.calibrated else "supposed (`tilewright calibrate` measures them)"
        return f"floors: {numbers} on {self.threads} threads, {where}"


@dataclasses.dataclass(frozen=True)
class Explained:
    """A kernel, or a copy.

    Attributes:
        call: the kernel as the artifact has it.
        seconds: of one call: as recorded; else as the model expects it that chose, or the draft model; None:
            not known.
        measured: whether that time is a record's.
        share: of the sum of the variant's known times; None where its own is not known.
        floor: seconds that no schedule is below; None: not known.
        bound: what limits it; None: not known, and ``unknown`` says why.
        unknown: see there.
        plain: whether it runs as plain loops: neither in vectors nor in tiles of registers.
    """

    call: KernelCall
    seconds: float | None
    measured: bool
    share: float | None
    floor: float | None
    bound: Bound | None
    unknown: str
    plain: bool

    @property
    def distance(self) -> float | None:
        """How many times longer it takes than its floor; None: not known."""
        return self.seconds / self.floor if self.seconds and self.floor else None

    def to_json(self) -> dict[str, Any]:
        """A JSON-able dictionary."""
        call = self.call
        return {
            "kernel": call.name,
            "nodes": list(call.origins),
            "flops": call.flops,
            "bytes": call.bytes,
            "workload": call.workload,
            "chosen": {"by": call.chosen.by, **call.chosen.to_json()},
            "seconds": self.seconds,
            "measured": self.measured,
            "share": self.share,
            "floor": self.floor,
            "distance": self.distance,
            "bound": None if self.bound is None else dataclasses.asdict(self.bound),
            "unknown": self.unknown,
            "plain_loops": self.plain,
        }


def explained(variant: Variant, machine: Machine) -> list[Explained]:
    """The kernels and copies of a variant, in order; steps that run others are left out."""
    found = [_kernel(c, machine, bool(variant.dims)) for c in variant.kernels if c.control is None]
    total = sum(k.seconds for k in found if k.seconds is not None)
    return [
        k if k.seconds is None else dataclasses.replace(k, share=k.seconds / total if total else None)
        for k in found
    ]


def report(artifact: Artifact, machine: Machine) -> dict[str, Any]:
    """What :func:`explain` says, as a JSON-able dictionary."""
    variants = [
        {"variant": _sizes(v), "kernels": [k.to_json() for k in explained(v, machine) if k.call.symbol]}
        for v in artifact.variants
    ]
    return {"target": artifact.target.name, "machine": machine.to_json(), "variants": variants}


def explain(artifact: Artifact, machine: Machine) -> str:
    """A table for each variant: of each kernel the share of the time, the time, its floor, what bounds it,
    how its schedule was chosen and which nodes of the model it computes; then notes and sums."""
    lines: list[str] = []
    for variant in artifact.variants:
        lines += [*_variant(variant, machine), ""]
    kernels = [k for v in artifact.variants for k in explained(v, machine) if k.call.symbol]
    if kernels:
        lines += _summary(kernels, machine)
    return "\n".join(lines).rstrip("\n")


def _kernel(call: KernelCall, machine: Machine, ranges: bool) -> Explained:
    from tilewright.cost.draft import bound, least_seconds
    from tilewright.schedule.features import FEATURES, VERSION

    recorded = call.chosen.by in ("record", "default", "given")
    seconds, traits, model = call.chosen.seconds, call.traits, machine.model
    measured = recorded and seconds is not None
    unknown = ""
    if not call.symbol:
        unknown = "a copy"
    elif model is None:
        unknown = "for a GPU"
    elif traits is None:
        unknown = "a run decides its sizes" if ranges else "an older version compiled it"
    elif traits.version != VERSION or len(traits.features) != len(FEATURES):
        unknown = "another version compiled it"
    if unknown or traits is None or model is None:
        return Explained(call, seconds, measured, None, None, None, unknown, False)
    features = np.array(traits.features, np.float32)
    limit = bound(features, model, machine.threads, traits.cold)
    floor = least_seconds(features, model, machine.threads, traits.cold, traits.bits)
    plain = not any(features[FEATURES.index(name)] > 0 for name in ("lanes", "unrolled"))
    expected = limit.seconds if seconds is None else seconds
    return Explained(call, expected, measured, None, floor or None, limit, "", plain)


def _sizes(variant: Variant) -> str:
    cases = [*variant.binding.items(), *((name, list(v)) for name, v in variant.values.items())]
    open_dims = {k: r for k, r in variant.dims.items() if k not in variant.computed_dims}
    ranges = [f"{k}={r.lo}..{'' if r.hi is None else r.hi}" for k, r in open_dims.items()]
    return ", ".join([*(f"{k}={v}" for k, v in cases), *ranges]) or "fixed sizes"


def _variant(variant: Variant, machine: Machine) -> Iterator[str]:
    steps = explained(variant, machine)
    yield f"variant {_sizes(variant)}: {len(variant.kernels)} kernels, {variant.arena_bytes} bytes of scratch"
    notes: dict[str, int] = {}
    rows = [_row(step, notes) for step in steps]
    yield from _table(rows)
    known = [k.seconds for k in steps if k.seconds is not None]
    if known:
        about = "" if all(k.measured for k in steps if k.seconds is not None) else "~"
        text = f"kernels one after the other: {about}{_ms(sum(known))} ms"
        missing = sum(k.seconds is None for k in steps if k.call.symbol)
        yield text + (f", and {missing} of which no time is known" if missing else "")
    if variant.regions:
        yield "kernels of branches and loops count once"
    yield from (f"[{number}] {note}" for note, number in notes.items())


def _row(step: Explained, notes: dict[str, int]) -> tuple[str, ...]:
    """The cells of a kernel; numbers of notes that it has are new in ``notes`` or those that they have."""
    call = step.call
    marks = [] if not call.symbol or not step.unknown else [f"bound not known: {step.unknown}"]
    marks += [call.chosen.note] if call.chosen.note else []
    signs = "".join(f" [{notes.setdefault(text, len(notes) + 1)}]" for text in marks)
    return (
        _short(call.name, NAME_WIDTH),
        "" if step.share is None else f"{step.share:.1%}",
        "" if step.seconds is None else f"{'' if step.measured else '~'}{_ms(step.seconds)}",
        "" if step.floor is None else _ms(step.floor),
        "" if step.distance is None else f"{step.distance:.1f}",
        "" if step.bound is None else f"{step.bound.limit} {step.bound.share:.0%}",
        _chosen(step) + signs,
        ", ".join(call.origins) or "-",
    )


def _chosen(step: Explained) -> str:
    if not step.call.symbol:
        return "copy"
    chosen = step.call.chosen
    gain = "" if chosen.gain is None else f" {chosen.gain:.2f}x"
    return f"{chosen.by}{gain}{', plain loops' if step.plain else ''}"


def _table(rows: Sequence[tuple[str, ...]]) -> Iterator[str]:
    widths = [max(len(row[n]) for row in [_COLUMNS, *rows]) for n in range(len(_COLUMNS))]
    left = WIDTH - sum(widths[:-1]) - 2 * len(widths)
    widths[-1] = max(min(widths[-1], left), len(_COLUMNS[-1]))
    for row in [_COLUMNS, *rows]:
        cells = [
            cell.rjust(width) if n in _NUMBERS else _short(cell, width).ljust(width)
            for n, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        yield ("  " + "  ".join(cells)).rstrip()


def _summary(kernels: Sequence[Explained], machine: Machine) -> Iterator[str]:
    """How many of the kernels were chosen in which way, and where the numbers are from."""
    ways = [k.call.chosen.by for k in kernels]
    counts = ", ".join(f"{ways.count(by)} {by}" for by in dict.fromkeys(sorted(ways)))
    yield f"chosen by: {counts}"
    if any(not k.measured and k.seconds is not None for k in kernels):
        yield "~: expected by a cost model, not measured; it may be off by half"
    yield str(machine)


def _short(text: str, width: int) -> str:
    return text if len(text) <= width else f"{text[: width - 1]}…"


def _ms(seconds: float) -> str:
    digits = 1 if seconds >= 1 else 4 if seconds >= 1e-6 else 6
    return f"{seconds * 1e3:.{digits}f}"
