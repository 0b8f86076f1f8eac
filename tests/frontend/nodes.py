"""Models of one node."""

from __future__ import annotations

from typing import Any

import numpy as np
from onnx import helper, numpy_helper

from tests.frontend.models import model, value

rng = np.random.default_rng(5)


def floats(*shape: int) -> np.ndarray:
    return (rng.standard_normal(shape) * 0.5).astype(np.float32)


def node(
    op: str,
    arrays: dict[str, np.ndarray | None],
    outputs: tuple[str, ...] = ("y",),
    domain: str = "com.microsoft",
    fixed: tuple[str, ...] = (),
    **attrs: Any,
) -> tuple[Any, dict[str, np.ndarray]]:
    """A model of one node and its inputs; those ``fixed`` are weights."""
    given = {n: a for n, a in arrays.items() if a is not None}
    names = [n if a is not None else "" for n, a in arrays.items()]
    infos = [
        value(n, a.shape, helper.np_dtype_to_tensor_dtype(a.dtype))
        for n, a in given.items()
        if n not in fixed
    ]
    constants = [numpy_helper.from_array(given[n], n) for n in fixed]
    made = helper.make_node(op, names, list(outputs), domain=domain, **attrs)
    kinds = [value(n, None, 6 if n.startswith("int") else 1) for n in outputs if n]
    proto = model([made], infos, kinds, constants, domains={"com.microsoft": 1})
    return proto, {n: a for n, a in given.items() if n not in fixed}
