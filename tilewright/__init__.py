"""tilewright: an end-to-end optimizing compiler for deep learning.

    import tilewright as tw

    model = tw.compile("model.onnx", shapes={"x": (1, 3, 640, 640)})
    outputs = model.run({"x": x})
    model.save("model.tw")

Public names are imported when they are first used: ``import tilewright`` itself costs almost nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from tilewright.api import Model, compile, load
    from tilewright.benching import bench
    from tilewright.checking import check
    from tilewright.config import Options
    from tilewright.dims import Dim
    from tilewright.errors import TilewrightError
    from tilewright.graph import Graph
    from tilewright.scheduling import Workbench
    from tilewright.scheduling import Workbench as schedule  # noqa: N813
    from tilewright.target import Target
    from tilewright.tuning import TuningResult, tune

_HOME = {
    "Dim": "tilewright.dims",
    "Graph": "tilewright.graph",
    "Model": "tilewright.api",
    "Options": "tilewright.config",
    "Target": "tilewright.target",
    "TilewrightError": "tilewright.errors",
    "TuningResult": "tilewright.tuning",
    "Workbench": "tilewright.scheduling",
    "bench": "tilewright.benching",
    "check": "tilewright.checking",
    "compile": "tilewright.api",
    "load": "tilewright.api",
}

#: Subpackages that are public as they are; both can be called.
_PACKAGES = frozenset(["schedule", "tune"])

__all__ = [
    "Dim",
    "Graph",
    "Model",
    "Options",
    "Target",
    "TilewrightError",
    "TuningResult",
    "Workbench",
    "bench",
    "check",
    "compile",
    "load",
    "schedule",
    "tune",
]


def __getattr__(name: str) -> Any:
    if name in _PACKAGES:
        return importlib.import_module(f"tilewright.{name}")
    home = _HOME.get(name)
    if home is None:
        raise AttributeError(f"module 'tilewright' has no attribute '{name}'")
    value = getattr(importlib.import_module(home), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOME, *_PACKAGES])
