"""``tilewright doctor``: what this installation and this machine are."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
from pathlib import Path
from typing import Annotated, Any

import typer

from tilewright import __version__, config
from tilewright.cli import common

NAME = "doctor"

_NEEDED = ("numpy", "ml_dtypes", "llvmlite", "onnx", "typer", "rich", "platformdirs")
_OPTIONAL = {"onnxruntime": "check, bench", "openvino": "bench"}


def main(
    measure: Annotated[
        bool, typer.Option("--measure", help="Also measure the machine's limits (some seconds).")
    ] = False,
    json: common.JsonFlag = False,
) -> None:
    """Report versions, the host as a compile target, the cache, and what is missing; exit 2 on a problem."""
    facts, problems = _facts()
    if measure:
        from tilewright.roofline import measure_roofline

        cores = config.options().jobs
        for threads in sorted({1, cores}):
            with common.progress() as say:
                say(f"measuring with {threads} threads", 0, 0)
                limits = measure_roofline(threads, memory=True)
            facts[f"limits, {threads} threads"] = (
                f"{limits.gflops:.0f} GFLOP/s float32, reads {limits.cached_gbytes:.0f} GB/s from cache, "
                f"{limits.memory_gbytes:.0f} GB/s from memory"
            )
    if json:
        common.write_json({"facts": facts, "problems": problems})
    else:
        common.table("tilewright doctor", ["what", "value"], facts.items(), text=range(2))
        for problem in problems:
            common.console().print(f"problem: {problem}", markup=False)
        if not problems:
            common.console().print("no problems found")
    raise typer.Exit(2 if problems else 0)


def _facts() -> tuple[dict[str, Any], list[str]]:
    from tilewright.errors import TargetError
    from tilewright.target import PRESETS, Target

    problems: list[str] = []
    facts: dict[str, Any] = {
        "tilewright": __version__,
        "python": f"{platform.python_version()} ({platform.python_implementation()}, {platform.machine()})",
        "system": platform.platform(),
    }
    for package in _NEEDED:
        version = _version(package)
        facts[package] = version or "missing"
        if version is None:
            problems.append(f"{package} is not installed; reinstall tilewright")
    for package, use in _OPTIONAL.items():
        facts[package] = _version(package) or f"not installed (used by {use})"
    try:
        host = Target.host()
        facts["cpu"] = f"{host.cpu}, {host.cores} cores"
        facts["targets"] = ", ".join(["native", *sorted(PRESETS)])
        facts["vectors"] = f"{host.vector_bits} bits, {host.vector_registers} registers"
        caches = (host.l1d_bytes, host.l2_bytes, host.l3_bytes)
        facts["caches"] = ", ".join(f"L{n} {size >> 10} KiB" for n, size in enumerate(caches, 1))
    except TargetError as error:
        facts["cpu"] = platform.machine()
        problems.append(str(error))
    options = config.options()
    facts["options"] = f"jobs {options.jobs}, cache {_on(options.cache)}, debug {_on(options.debug)}"
    facts["cache"], problem = _cache(options.cache_dir)
    if problem:
        problems.append(problem)
    return facts, problems


def _on(value: bool) -> str:
    return "on" if value else "off"


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _cache(folder: Path) -> tuple[str, str | None]:
    """The cache's folder and size in words, and what is wrong with it."""
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    if not existing.is_dir() or not os.access(existing, os.W_OK | os.X_OK):
        return str(folder), f"the cache folder {folder} cannot be written; choose another with --cache-dir"
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) if folder.exists() else 0
    free = shutil.disk_usage(existing).free
    text = f"{folder}: {common.megabytes(size)} MiB used, {free / 2**30:.1f} GiB free"
    return text, "the disk of the cache is nearly full" if free < 64 << 20 else None
