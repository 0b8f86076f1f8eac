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
from typing import Any, Final

from tilewright.errors import OptionError

#: By what schedules may be chosen; each of them allows those behind it, too.
CHOOSE: Final = ("model", "record", "default")


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


_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}


def _parse_size(text: str) -> int:
    digits = text.strip().upper().removesuffix("B").removesuffix("I")
    unit = digits[-1:] if digits[-1:].isalpha() else ""
    if unit not in _UNITS or not digits.removesuffix(unit).isdecimal():
        raise ValueError("expected a number of at least 1, perhaps with one of the units K, M, G, T")
    return _parse_count(digits.removesuffix(unit)) * _UNITS[unit]


def _parse_path(text: str) -> Path:
    if not text.strip():
        raise ValueError("expected a path")
    return Path(text).expanduser()


def _default_cache_dir() -> Path:
    import platformdirs

    return platformdirs.user_cache_path("tilewright")


def _parse_address(text: str) -> str:
    if not text.strip():
        raise ValueError("expected a path or the URL of a database")
    return text


def _parse_choose(text: str) -> str:
    if text not in CHOOSE:
        raise ValueError(f"expected one of {', '.join(CHOOSE)}")
    return text


def _default_store() -> str:
    import platformdirs

    return str(platformdirs.user_data_path("tilewright") / "records.sqlite")


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
        follow_links: whether files of external data may be links that lead out of the model's folder.
        max_tensor_bytes: bytes of the largest tensor that a model may have.
        max_fold_bytes: bytes that results of constant folding may take beyond four times the model's weights.
        max_fold_work: operations on elements that constant folding may take for one model.
        max_nodes: nodes that a model may have, bodies of functions counted at every call.
        max_nesting: how deep subgraphs and functions may stand inside each other.
        max_computed: the largest size of a dimension that a model computes from data where nothing else
            limits it, such as the length of a range.
        max_steering: elements of an input for each of whose values a model may be compiled.
        max_variants: values of such inputs whose code one model keeps at a time.
        store: where measurements are kept: a path, or the URL of a database.
        choose: by what schedules are chosen where there is a store: measurements and models, measurements
            alone, or rules as if there were none.
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
    follow_links: bool = dataclasses.field(
        default_factory=bool,
        metadata=_source(
            "--follow-links",
            "TILEWRIGHT_FOLLOW_LINKS",
            _parse_bool,
            "External data may be links that lead out of the model's folder.",
            "off",
        ),
    )
    max_tensor_bytes: int = dataclasses.field(
        default_factory=lambda: 256 << 30,
        metadata=_source(
            "--max-tensor-bytes",
            "TILEWRIGHT_MAX_TENSOR_BYTES",
            _parse_size,
            "Largest tensor of a model.",
            "256G",
        ),
    )
    max_fold_bytes: int = dataclasses.field(
        default_factory=lambda: 1 << 30,
        metadata=_source(
            "--max-fold-bytes",
            "TILEWRIGHT_MAX_FOLD_BYTES",
            _parse_size,
            "Memory for constant folding, beyond four times the weights.",
            "1G",
        ),
    )
    max_fold_work: int = dataclasses.field(
        default_factory=lambda: 10**11,
        metadata=_source(
            "--max-fold-work",
            "TILEWRIGHT_MAX_FOLD_WORK",
            _parse_size,
            "Operations on elements that constant folding may take.",
            "100000000000",
        ),
    )
    max_nodes: int = dataclasses.field(
        default_factory=lambda: 500_000,
        metadata=_source(
            "--max-nodes",
            "TILEWRIGHT_MAX_NODES",
            _parse_size,
            "Nodes of a model, functions expanded.",
            "500000",
        ),
    )
    max_nesting: int = dataclasses.field(
        default_factory=lambda: 32,
        metadata=_source(
            "--max-nesting",
            "TILEWRIGHT_MAX_NESTING",
            _parse_size,
            "Depth of subgraphs and functions inside each other.",
            "32",
        ),
    )
    max_computed: int = dataclasses.field(
        default_factory=lambda: 1 << 20,
        metadata=_source(
            "--max-computed",
            "TILEWRIGHT_MAX_COMPUTED",
            _parse_size,
            "Largest size that a model computes from data where nothing else limits it.",
            "1M",
        ),
    )
    max_steering: int = dataclasses.field(
        default_factory=lambda: 256,
        metadata=_source(
            "--max-steering",
            "TILEWRIGHT_MAX_STEERING",
            _parse_size,
            "Elements of an input for each of whose values a model may be compiled.",
            "256",
        ),
    )
    max_variants: int = dataclasses.field(
        default_factory=lambda: 64,
        metadata=_source(
            "--max-variants",
            "TILEWRIGHT_MAX_VARIANTS",
            _parse_count,
            "Values of such inputs whose code one model keeps at a time.",
            "64",
        ),
    )
    store: str = dataclasses.field(
        default_factory=_default_store,
        metadata=_source(
            "--store",
            "TILEWRIGHT_STORE",
            _parse_address,
            "Path or database URL of the measurement store.",
            "records.sqlite in the user's data folder",
        ),
    )
    choose: str = dataclasses.field(
        default_factory=lambda: "record",
        metadata=_source(
            "--choose",
            "TILEWRIGHT_CHOOSE",
            _parse_choose,
            "Choose schedules by measurements and models (model), measurements (record) or rules (default).",
            "record",
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
