"""Looking at generated code: assembly text and spill counts."""

from __future__ import annotations

import functools
from typing import Any

from tilewright.target import Target


@functools.cache
def target_machine(target: Target, opt: int = 2) -> Any:
    """LLVM's code generator for ``target``, position-independent. It is shared: do not hand it to an
    execution engine.
    """
    import llvmlite.binding as llvm

    llvm.initialize_all_targets()
    llvm.initialize_all_asmprinters()
    machine = llvm.Target.from_triple(target.triple).create_target_machine(
        cpu=target.cpu, features=target.features, opt=opt, reloc="pic", codemodel="default"
    )
    machine.set_asm_verbosity(True)
    return machine


def assembly(text: str, target: Target) -> str:
    """The assembly that LLVM IR ``text`` becomes."""
    import llvmlite.binding as llvm

    machine = target_machine(target)
    with llvm.parse_assembly(text) as module:
        module.triple = target.triple
        module.data_layout = str(machine.target_data)
        return str(machine.emit_assembly(module))


def count_spills(asm: str) -> int:
    """Vector registers written to the stack or read back in ``asm`` (from :func:`assembly`).

    A static sign of too large a register tile, on every architecture: LLVM comments each such access.
    """
    return sum(1 for line in asm.splitlines() if line.endswith((" Spill", " Reload")) and _of_vector(line))


def _of_vector(line: str) -> bool:
    """Whether a line commented ``N-byte [Folded] Spill`` moves a whole vector register."""
    words = line.split()
    size = int(next(w for w in words if w.endswith("-byte")).split("-")[0])
    return size >= 16 and ("mm" in line or words[1].startswith("q"))
