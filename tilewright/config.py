"""The options of one process: command-line flags, environment variables and their documentation.

There is one frozen :class:`Options`. Each field carries the name of its environment variable and one line
of help; the command line builds its global flags from the same fields. Nothing else in the package reads
an environment variable.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tilewright.errors import OptionError


def _parse_bool(text: str) -> bool:
    word = text.strip().lower()
    if word in ("1", "true", "yes", "on"):
        return True
    if word in ("", "0", "false", "no", "off"):
        return False
    raise ValueError("expected one of 1, 0, true, false, yes, no, on, off")


def _parse_count(text: str) -> int:
    number = int(text)
    if number < 1:
        raise ValueError("expected a number of at least 1")
    return number


def _parse_path(text: str) -> Path:
    if not text.strip():
        raise ValueError("expected a path")
    return Path(text).expanduser()


def _default_cache_dir() -> Path:
    import platformdirs

    return platformdirs.user_cache_path("tilewright")


def _default_jobs() -> int:
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # not on Linux
        return os.cpu_count() or 1


def _source(flag: str, env: str, parse: Callable[[str], Any], help: str, default: str) -> dict[str, Any]:
    return {"flag": flag, "env": env, "parse": parse, "help": help, "default": default}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    """Settings that hold for a whole process, as opposed to one call.

    Attributes:
        cache_dir: where compiled kernels and downloaded models are kept.
        jobs: how many kernels are compiled at the same time, each in a process of its own.
        cache: whether compiled kernels are looked up and kept there.
        fast_conv: whether 3x3 convolutions may be computed by Winograd's algorithm: faster, with other
            rounding errors and larger weights.
        debug: show Python tracebacks for expected errors, verify the program after every pass.
    """

    cache_dir: Path = dataclasses.field(
        default_factory=_default_cache_dir,
        metadata=_source(
            "--cache-dir",
            "TILEWRIGHT_CACHE_DIR",
            _parse_path,
            "Folder of the compile cache.",
            "the user's cache folder",
        ),
    )
    jobs: int = dataclasses.field(
        default_factory=_default_jobs,
        metadata=_source(
            "--jobs",
            "TILEWRIGHT_JOBS",
            _parse_count,
            "Kernels compiled at the same time.",
            "the number of usable cores",
        ),
    )
    cache: bool = dataclasses.field(
        default_factory=lambda: True,
        metadata=_source(
            "--no-cache", "TILEWRIGHT_CACHE", _parse_bool, "Do not use the compile cache.", "use it"
        ),
    )
    fast_conv: bool = dataclasses.field(
        default_factory=lambda: True,
        metadata=_source(
            "--no-fast-conv",
            "TILEWRIGHT_FAST_CONV",
            _parse_bool,
            "Compute every convolution directly, never by Winograd's algorithm.",
            "use it",
        ),
    )
    debug: bool = dataclasses.field(
        default_factory=bool,
        metadata=_source(
            "--debug",
            "TILEWRIGHT_DEBUG",
            _parse_bool,
            "Show Python tracebacks; verify programs after every pass.",
            "off",
        ),
    )

    @staticmethod
    def flags() -> dict[str, dataclasses.Field[Any]]:
        """The fields by their command-line flags."""
        return {field.metadata["flag"]: field for field in dataclasses.fields(Options)}

    @staticmethod
    def from_environment(environ: Mapping[str, str] | None = None, **overrides: Any) -> Options:
        """The defaults, changed by the environment, changed by ``overrides`` (those that are not None).

        Raises:
            OptionError: a variable or an override has a value outside its domain.
        """
        environ = os.environ if environ is None else environ
        values: dict[str, Any] = {}
        for field in dataclasses.fields(Options):
            variable = field.metadata["env"]
            if (given := overrides.pop(field.name, None)) is not None:
                values[field.name] = _parsed(field, str(given), f"option '{field.name}'")
            elif variable in environ:
                values[field.name] = _parsed(field, environ[variable], f"environment variable {variable}")
        if overrides:
            raise OptionError(f"unknown options: {', '.join(sorted(overrides))}")
        return Options(**values)

    def environment(self) -> dict[str, str]:
        """The environment variables that give a child process the same options."""
        return {
            field.metadata["env"]: str(int(value) if isinstance(value, bool) else value)
            for field in dataclasses.fields(self)
            if (value := getattr(self, field.name)) is not None
        }


def _parsed(field: dataclasses.Field[Any], text: str, where: str) -> Any:
    try:
        return field.metadata["parse"](text)
    except ValueError as error:
        raise OptionError(f"{where} has the bad value '{text}': {error}") from None


_current: Options | None = None


def options() -> Options:
    """The options in force: those set by :func:`use`, else the defaults changed by the environment."""
    global _current
    if _current is None:
        _current = Options.from_environment()
    return _current


def use(new: Options) -> None:
    """Put ``new`` in force for the whole process."""
    global _current
    _current = new


@contextmanager
def overriding(**changes: Any) -> Iterator[Options]:
    """Put the current options with ``changes`` in force inside a ``with`` block, for the whole process."""
    before = options()
    changed = dataclasses.replace(before, **changes)
    use(changed)
    try:
        yield changed
    finally:
        use(before)
