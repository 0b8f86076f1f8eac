"""What a session is made of can be replaced from one file of Python.

The file is run as a module, and registers what it defines: rules (``register_alternative``), sketches,
strategies, cost models and measurers, each by the decorator of its registry. Nothing else is asked of it.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Generic, Protocol, TypeVar

from tilewright.cost.model import CostModel
from tilewright.errors import OptionError, TilewrightError
from tilewright.measure.batch import Finals, Measurement, Measurer
from tilewright.measure.timing import Plan
from tilewright.records.record import Workload, digest
from tilewright.records.store import Store
from tilewright.target import Target
from tilewright.tune.strategy import Strategy, make_strategy, strategy_names


class Measures(Protocol):
    """What :class:`tilewright.measure.batch.Measurer` does: its own account of times must keep its promises,
    that samples have the reference kernel's times beside them, and that wrong results never have times."""

    def set_workload(self, workload: Workload) -> None:
        """What the next traces are schedules of."""
        ...

    def measure(self, traces: Sequence[str]) -> Iterator[tuple[int, Measurement]]:
        """Each trace's number and what came of it, in any order."""
        ...

    def final(self, traces: Sequence[str], plan: Plan | None = None) -> Finals:
        """A race of traces against each other."""
        ...

    @property
    def warnings(self) -> Sequence[str]:
        """What somebody who reads the times of the workload should know of the machine, in words."""
        ...

    def close(self) -> None:
        """Let go of processes."""
        ...


#: Makes a cost model for a machine, a number of threads and a store of measurements.
MakeModel = Callable[[Target, int, Store], CostModel]
#: Makes a measurer for a machine and a number of threads.
MakeMeasurer = Callable[[Target, int], Measures]

_T = TypeVar("_T")


class Registry(Generic[_T]):
    """Makers by name.

    Args:
        what: of what, for messages.
    """

    def __init__(self, what: str) -> None:
        self.what = what
        self._makers: dict[str, _T] = {}

    def register(self, name: str) -> Callable[[_T], _T]:
        """A decorator: makes a function known as ``name``. Raises OptionError when the name is taken."""

        def keep(maker: _T) -> _T:
            if name in self._makers:
                raise OptionError(f"there is a {self.what} '{name}' already", hint="choose another name")
            self._makers[name] = maker
            return maker

        return keep

    @property
    def names(self) -> tuple[str, ...]:
        """All of them, in order of registration."""
        return tuple(self._makers)

    def get(self, name: str) -> _T:
        """The maker of that name. Raises OptionError when there is none."""
        if name not in self._makers:
            known = ", ".join(self._makers)
            raise OptionError(f"there is no {self.what} '{name}'", hint=f"choose one of {known}, or a file")
        return self._makers[name]


MODELS: Registry[MakeModel] = Registry("cost model")
MEASURERS: Registry[MakeMeasurer] = Registry("measurer")
register_model = MODELS.register
register_measurer = MEASURERS.register


@register_measurer("local")
def _local(target: Target, threads: int) -> Measures:
    return Measurer(target, threads)


@dataclasses.dataclass(frozen=True)
class Plugin:
    """What a file has registered: names of strategies, cost models and measurers."""

    path: str
    strategies: tuple[str, ...]
    models: tuple[str, ...]
    measurers: tuple[str, ...]


_loaded: dict[Path, Plugin] = {}


def load_plugin(path: str | os.PathLike[str]) -> Plugin:
    """Run a file that registers parts of the tuner. A file that was run before is not run again.

    Raises OptionError when it does not exist, or fails.
    """
    file = Path(path).expanduser().resolve()
    if file in _loaded:
        return _loaded[file]
    if not file.is_file() or file.suffix != ".py":
        raise OptionError("there is no such plugin", location=str(path), hint="give a file named NAME.py")
    name = f"tilewright_plugin_{digest(str(file))[:16]}"
    spec = importlib.util.spec_from_file_location(name, file)
    assert spec is not None
    assert spec.loader is not None
    before = strategy_names(), MODELS.names, MEASURERS.names
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        del sys.modules[name]
        if isinstance(error, TilewrightError):
            raise
        said = f"{type(error).__name__}: {error}"
        raise OptionError(f"the plugin failed: {said}", location=str(path)) from error
    after = strategy_names(), MODELS.names, MEASURERS.names
    new = [tuple(n for n in names if n not in old) for old, names in zip(before, after, strict=True)]
    _loaded[file] = Plugin(str(file), *new)
    return _loaded[file]


def named(what: str, name: str, of_plugin: Callable[[Plugin], Sequence[str]]) -> str:
    """``name``; where it is that of a file, what this plugin registered last.

    Raises OptionError where it registers nothing of the kind, and as :func:`load_plugin`.
    """
    if not name.endswith(".py"):
        return name
    found = of_plugin(load_plugin(name))
    if not found:
        raise OptionError(f"the plugin registers no {what}", location=name)
    return found[-1]


def make_model(name: str, target: Target, threads: int, store: Store) -> CostModel:
    """The cost model of a name, or of a file. Raises OptionError where there is none."""
    return MODELS.get(named(MODELS.what, name, lambda p: p.models))(target, threads, store)


def make_measurer(name: str, target: Target, threads: int) -> Measures:
    """The measurer of a name, or of a file. Raises OptionError where there is none, else as it does."""
    return MEASURERS.get(named(MEASURERS.what, name, lambda p: p.measurers))(target, threads)


def find_strategy(name: str) -> Strategy:
    """The strategy of a name, or of a file. Raises OptionError where there is none."""
    return make_strategy(named("strategy", name, lambda p: p.strategies))
