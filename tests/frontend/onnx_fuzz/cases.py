"""Numbered cases: each number is one file, always the same."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Mapping
from typing import Final

from tests.frontend.onnx_fuzz.hostile import external_data, hostile_graph
from tests.frontend.onnx_fuzz.mutate import mutate_bytes, mutate_structure

#: Kinds of cases with their shares.
KINDS: Final = {"bytes": 20, "structure": 68, "hostile": 8, "external": 4}


@dataclasses.dataclass(frozen=True)
class Case:
    """A file to try.

    Attributes:
        number: what made it.
        kind: one of :data:`KINDS`; files of the kind ``external`` have to lie in the folder that
            ``hostile.make_folder`` makes.
        seed: the model that was mutated.
        data: the file.
        run: whether to compile and run it, too.
    """

    number: int
    kind: str
    seed: str
    data: bytes
    run: bool


def make_case(
    number: int, seeds: Mapping[str, bytes], run_share: float, kinds: Mapping[str, int] = KINDS
) -> Case:
    """Case ``number`` from ``seeds``; ``run_share`` of all cases are to be run."""
    rng = random.Random(number)
    kind = rng.choices(list(kinds), list(kinds.values()))[0]
    run = rng.random() < run_share
    if kind == "hostile":
        return Case(number, kind, "", hostile_graph(rng), run)
    if kind == "external":
        return Case(number, kind, "", external_data(rng), run)
    name = rng.choice(list(seeds))
    others = [seeds[rng.choice(list(seeds))] for _ in range(3)]
    mutate = mutate_bytes if kind == "bytes" else mutate_structure
    try:
        data = mutate(rng, seeds[name], others)
    except (ValueError, TypeError):  # protobuf refuses to write what a mutation put together
        data = seeds[name]
    return Case(number, kind, name, data, run)
