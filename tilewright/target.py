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
import typing
from pathlib import Path
from typing import Any, TypeVar

from tilewright.errors import TargetError


@dataclasses.dataclass(frozen=True)
class Gpu:
    """The numbers of a GPU that runs grids of thread blocks; they bound what a schedule may ask for.

    Attributes:
        multiprocessors: how many thread blocks run at the same time at least (one each).
        warp: threads that run in step.
        block_threads, block_shared_bytes: threads and bytes of shared memory that one thread block may have.
        thread_registers: 32-bit registers that one thread may have.
        threads, blocks, registers, shared_bytes: what all thread blocks on one multiprocessor have together.
        bytes_per_second: peak bandwidth of global memory.
        fma_lanes: 32-bit multiply-adds per cycle and multiprocessor, outside of tensor cores.
        tensor_shapes: ``(element type, m, n, k)`` of the matrix products that one instruction does.
        async_copies: whether global memory can be copied to shared memory while threads go on.
    """

    multiprocessors: int
    warp: int
    block_threads: int
    block_shared_bytes: int
    thread_registers: int
    threads: int
    blocks: int
    registers: int
    shared_bytes: int
    bytes_per_second: float
    fma_lanes: int
    tensor_shapes: tuple[tuple[str, int, int, int], ...] = ()
    async_copies: bool = True


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
        gpu: where programs run on threads of a GPU, its numbers; then a "vector" is what one thread loads at
            once, and a "core" a multiprocessor.
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
    gpu: Gpu | None = None

    def lanes(self, bits: int = 32) -> int:
        """Elements of ``bits`` bits in one vector."""
        return self.vector_bits // bits

    @property
    def arch(self) -> str:
        """The first component of the triple."""
        return self.triple.split("-", 1)[0]

    def has(self, feature: str) -> bool:
        """Whether the instruction set has a feature, by LLVM's name for it, or is the architecture of that
        name; ``a|b`` asks for either."""
        if "|" in feature:
            return any(map(self.has, feature.split("|")))
        flags = self.features.split(",")
        if f"-{feature}" in flags:
            return False
        arch = "aarch64" if self.arch == "arm64" else self.arch
        return feature == arch or f"+{feature}" in flags or feature in _IMPLIED.get(self.cpu, ())

    def to_json(self) -> str:
        """A one-line JSON object; :meth:`from_json` is its inverse."""
        return json.dumps(dataclasses.asdict(self), sort_keys=True)

    @staticmethod
    def from_json(text: str) -> Target:
        """Rebuild a target from :meth:`to_json`. Raises TargetError for anything else."""
        try:
            fields = json.loads(text)
            gpu = fields.pop("gpu", None)
            if gpu is not None:
                gpu["tensor_shapes"] = tuple(map(tuple, gpu.get("tensor_shapes", ())))
                gpu = _checked(Gpu(**gpu))
            return _checked(Target(**fields, gpu=gpu))
        except (TypeError, ValueError, AttributeError) as error:
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


_T = TypeVar("_T", Target, Gpu)


def _checked(record: _T) -> _T:
    """``record``, when its fields have the types that they are declared with. Raises TypeError otherwise."""
    for name, kind in typing.get_type_hints(type(record)).items():
        value = getattr(record, name)
        allowed = tuple if typing.get_origin(kind) is tuple else int | float if kind is float else kind
        if not isinstance(value, allowed) or (isinstance(value, bool) and kind is not bool):
            raise TypeError(f"{name} cannot be {value!r}")
        if isinstance(value, int | float) and not 0 <= value < 1 << 63:
            raise ValueError(f"{name} cannot be {value}")
    return record


#: Features that are asked for and that a CPU's name stands for.
_IMPLIED = {
    "x86-64-v3": frozenset(["avx2", "fma"]),
    "x86-64-v4": frozenset(["avx2", "fma", "avx512f", "avx512vl", "avx512bw", "avx512dq"]),
}


def _preset(name: str, triple: str, cpu: str, features: str, bits: int, registers: int, **kw: Any) -> Target:
    return Target(name, "llvm", triple, cpu, features, bits, registers, **kw)


def _cuda(name: str, l2_bytes: int, gpu: Gpu) -> Target:
    """Loads of 16 bytes; the registers of a thread as vectors of that size."""
    return Target(
        name, "cuda", "nvptx64-nvidia-cuda", name, "", 128, gpu.thread_registers // 4, gpu.fma_lanes * 32,
        128 * 8, 0, l2_bytes, 0, gpu.multiprocessors, gpu,
    )  # fmt: skip


_MMA_SHAPES = (
    ("float16", 16, 8, 16), ("bfloat16", 16, 8, 16), ("tf32", 16, 8, 8), ("int8", 16, 8, 32),
)  # fmt: skip

#: One board for each compute capability. Limits: CUDA C++ Programming Guide, table "Technical Specifications
#: per Compute Capability"; bandwidth, L2 and multiprocessors: NVIDIA's data sheets of the A100 80 GB (sm_80),
#: RTX 3090 (sm_86), RTX 4090 (sm_89) and H100 SXM (sm_90).
_CUDA = (
    _cuda("sm_80", 40 << 20,
          Gpu(108, 32, 1024, 163 << 10, 255, 2048, 32, 65536, 164 << 10, 2039e9, 64, _MMA_SHAPES)),
    _cuda("sm_86", 6 << 20,
          Gpu(82, 32, 1024, 99 << 10, 255, 1536, 16, 65536, 100 << 10, 936e9, 128, _MMA_SHAPES)),
    _cuda("sm_89", 72 << 20,
          Gpu(128, 32, 1024, 99 << 10, 255, 1536, 24, 65536, 100 << 10, 1008e9, 128, _MMA_SHAPES)),
    _cuda("sm_90", 50 << 20,
          Gpu(132, 32, 1024, 227 << 10, 255, 2048, 32, 65536, 228 << 10, 3350e9, 128, _MMA_SHAPES)),
)  # fmt: skip

_LINUX_X86 = "x86_64-unknown-linux-gnu"
PRESETS: dict[str, Target] = {
    t.name: t
    for t in (
        _preset("x86-64-v3", _LINUX_X86, "x86-64-v3", "", 256, 16),
        _preset("x86-64-v4", _LINUX_X86, "x86-64-v4", "-prefer-256-bit", 512, 32),
        _preset("x86-64-v4-dot", _LINUX_X86, "x86-64-v4", "+avx512vnni,+avx512bf16,-prefer-256-bit", 512, 32),
        _preset("x86-64-v3-dot", _LINUX_X86, "x86-64-v3", "+avxvnni,+avxvnniint8", 256, 16),
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
        _preset(
            "aarch64-dot",
            "aarch64-unknown-linux-gnu",
            "generic",
            "+neon,+fp-armv8,+dotprod,+i8mm,+bf16",
            128,
            32,
            fma_bits=256,
            load_bits=256,
        ),
        *_CUDA,
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
