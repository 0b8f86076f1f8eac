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
    return llvm.Target.from_triple(target.triple).create_target_machine(
        cpu=target.cpu, features=target.features, opt=opt, reloc="pic", codemodel="default"
    )


def assembly(text: str, target: Target) -> str:
    """The assembly that LLVM IR ``text`` becomes."""
    import llvmlite.binding as llvm

    machine = target_machine(target)
    with llvm.parse_assembly(text) as module:
        module.triple = target.triple
        module.data_layout = str(machine.target_data)
        return str(machine.emit_assembly(module))


def count_spills(asm: str) -> int:
    """Vector registers written to or read back from the stack in ``asm``: a static sign of too large a
    register tile.

    LLVM's assembly printer comments these accesses, on every architecture.
    """
    return sum(
        1
        for line in asm.splitlines()
        if line.endswith((" Spill", " Folded Spill", " Reload", " Folded Reload")) and _touches_vector(line)
    )


def _touches_vector(line: str) -> bool:
    code = line.split("#")[0].split("//")[0]
    return any(f"%{kind}mm" in code for kind in "xyz") or " q" in code.replace("\t", " ") or ".16b" in code
