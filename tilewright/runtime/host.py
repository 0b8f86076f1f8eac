"""Whether this machine can run code for a target."""

from __future__ import annotations

import functools

from tilewright.errors import TargetError
from tilewright.target import Target

_V3 = ("avx", "avx2", "bmi", "bmi2", "f16c", "fma", "lzcnt", "movbe", "xsave")
_CPU_FEATURES = {
    "x86-64-v3": _V3,
    "x86-64-v4": (*_V3, "avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"),
}
"""Features that a CPU name implies without the target listing them (x86-64 psABI, micro-architecture
levels).
"""
_ARM_BASELINE = ("neon", "fp-armv8")


@functools.cache
def _host() -> tuple[str, dict[str, bool]]:
    import llvmlite.binding as llvm

    return llvm.get_process_triple(), dict(llvm.get_host_cpu_features())


def missing_features(target: Target) -> list[str]:
    """Names of the instruction-set extensions that code for ``target`` may use and this CPU does not have."""
    _, features = _host()
    wanted = {f[1:] for f in target.features.split(",") if f.startswith("+")}
    wanted.update(_CPU_FEATURES.get(target.cpu, ()))
    x86 = target.arch == "x86_64"
    # LLVM lists every x86 extension, so a name it does not list is a tuning flag; on Arm it lists those
    # that are there.
    return sorted(f for f in wanted if not features.get(f, x86 or f in _ARM_BASELINE))


def check_host(target: Target) -> None:
    """Raise TargetError unless this process can run code for ``target``; the message says what is missing."""
    triple, _ = _host()
    if _platform(triple) != _platform(target.triple):
        raise TargetError(
            f"the code is for {target.triple}, this machine is {triple}",
            hint="compile the model for this machine",
        )
    missing = missing_features(target)
    if missing:
        raise TargetError(
            f"the code is for target '{target.name}' ({target.cpu}); this CPU has no {', '.join(missing)}",
            hint="compile the model on this machine, or for an older level such as --target x86-64-v3",
        )


def _platform(triple: str) -> tuple[str, str]:
    arch = triple.split("-", 1)[0]
    system = (
        "linux" if "linux" in triple else "darwin" if ("darwin" in triple or "macos" in triple) else triple
    )
    return {"arm64": "aarch64"}.get(arch, arch), system
