"""Targets: what the compiler knows about the machine that will run the code.

A :class:`Target` is an immutable record of numbers (vector width, registers, caches) and of what LLVM needs
to select instructions. Presets name portable instruction-set levels; ``native`` is detected on the host.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import os
import platform
from pathlib import Path

from tilewright.errors import TargetError


@dataclasses.dataclass(frozen=True)
class Target:
    """One machine to compile for.

    Attributes:
        name: the name the user gave (``native``, ``x86-64-v3`` ...).
        backend: which backend generates code for it.
        triple, cpu, features: what LLVM is told. ``features`` is a comma-separated list of
            ``+name``/``-name``.
        vector_bits: width in bits of the vectors to use.
        vector_registers: architectural vector registers of that width.
        fma_bits: bits of multiply-add results per cycle and core, over all units.
        load_bits: bits loaded from L1 per cycle and core.
        l1d_bytes, l2_bytes, l3_bytes: cache sizes (L1 and L2 per core).
        cores: hardware cores to plan for.
    """

    name: str
    backend: str
    triple: str
    cpu: str
    features: str
    vector_bits: int
    vector_registers: int
    fma_bits: int = 512
    load_bits: int = 512
    l1d_bytes: int = 32 << 10
    l2_bytes: int = 1 << 20
    l3_bytes: int = 16 << 20
    cores: int = 1

    def lanes(self, bits: int = 32) -> int:
        """Elements of ``bits`` bits in one vector."""
        return self.vector_bits // bits

    @property
    def arch(self) -> str:
        """The first component of the triple."""
        return self.triple.split("-", 1)[0]

    def to_json(self) -> str:
        """A one-line JSON object; :meth:`from_json` is its inverse."""
        return json.dumps(dataclasses.asdict(self), sort_keys=True)

    @staticmethod
    def from_json(text: str) -> Target:
        """Rebuild a target from :meth:`to_json`. Raises TargetError for anything else."""
        try:
            return Target(**json.loads(text))
        except (TypeError, ValueError) as error:
            raise TargetError(f"not a target description: {error}") from error

    @staticmethod
    def parse(spec: str | Target) -> Target:
        """The target that ``spec`` names: ``native``, a preset, or a JSON object. Raises TargetError if
        unknown."""
        if isinstance(spec, Target):
            return spec
        if spec.lstrip().startswith("{"):
            return Target.from_json(spec)
        if spec == "native":
            return Target.host()
        if spec in PRESETS:
            return PRESETS[spec]
        known = ", ".join(["native", *sorted(PRESETS)])
        raise TargetError(f"unknown target '{spec}'", hint=f"known targets: {known}")

    @staticmethod
    def host() -> Target:
        """The machine this process runs on. Raises TargetError on an architecture without a backend."""
        return _detect_host()


def _preset(name: str, triple: str, cpu: str, features: str, bits: int, registers: int, **kw: int) -> Target:
    return Target(name, "llvm", triple, cpu, features, bits, registers, **kw)


_LINUX_X86 = "x86_64-unknown-linux-gnu"
PRESETS: dict[str, Target] = {
    t.name: t
    for t in (
        _preset("x86-64-v3", _LINUX_X86, "x86-64-v3", "", 256, 16),
        _preset("x86-64-v4", _LINUX_X86, "x86-64-v4", "-prefer-256-bit", 512, 32),
        _preset(
            "aarch64",
            "aarch64-unknown-linux-gnu",
            "generic",
            "+neon,+fp-armv8",
            128,
            32,
            fma_bits=256,
            load_bits=256,
        ),
    )
}


@functools.cache
def _detect_host() -> Target:
    import llvmlite.binding as llvm

    triple = llvm.get_process_triple()
    arch = triple.split("-", 1)[0]
    features = llvm.get_host_cpu_features()
    cpu = llvm.get_host_cpu_name()
    if arch == "x86_64":
        if features.get("avx512f") and features.get("avx512vl"):
            bits, registers = 512, 32
        elif features.get("avx2") and features.get("fma"):
            bits, registers = 256, 16
        else:
            raise TargetError(
                f"this x86-64 CPU ({cpu}) has no AVX2 and FMA",
                hint="x86-64-v3 is the oldest level that code is generated for",
            )
    elif arch in ("aarch64", "arm64"):
        bits, registers = 128, 32
    else:
        raise TargetError(f"no backend generates code for this machine ({platform.machine()})")
    text = ",".join(("+" if on else "-") + name for name, on in sorted(features.items()))
    if bits == 512:
        text += ",-prefer-256-bit"
    caches = _host_caches()
    # AMD's Zen 4 runs a 512-bit operation as two of 256; other cores with AVX-512 have units of full width.
    throughput = 1024 if bits == 512 and cpu != "znver4" else max(2 * bits, 256) if bits < 512 else 512
    return Target(
        "native", "llvm", triple, cpu, text, bits, registers, throughput, throughput,
        caches.get(1, 32 << 10), caches.get(2, 1 << 20), caches.get(3, 16 << 20), _host_cores(),
    )  # fmt: skip


def _host_cores() -> int:
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:
        return os.cpu_count() or 1


def _host_caches() -> dict[int, int]:
    """Data-cache sizes in bytes by level, read from sysfs; empty where there is none."""
    sizes: dict[int, int] = {}
    for index in Path("/sys/devices/system/cpu/cpu0/cache").glob("index*"):
        try:
            if (index / "type").read_text().strip() == "Instruction":
                continue
            level = int((index / "level").read_text())
            text = (index / "size").read_text().strip()
        except (OSError, ValueError):
            continue
        unit = {"K": 1 << 10, "M": 1 << 20}.get(text[-1:], 0)
        if unit and text[:-1].isdigit():
            sizes[level] = int(text[:-1]) * unit
    return sizes
