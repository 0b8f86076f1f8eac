"""From LLVM IR text to an object file, and the process that does it for others.

Code generation holds a lock for the whole process, so kernels are compiled side by side in processes of
their own (see :mod:`tilewright.backend.llvm.compile`). This file is what such a process runs. It is started
by its path, not as a module of the package, so that it loads llvmlite and nothing else; for the same reason
it imports nothing of the package.

Frames on the pipes are a little-endian u32 length followed by that many bytes. A request is one JSON frame
with the target and the options, then one frame of IR text. A reply is one status byte (0 object, 1 error)
and the object or the error text.
"""

from __future__ import annotations

import functools
import json
import os
import struct
import sys
from typing import Any, BinaryIO

OBJECT, ERROR = b"\0", b"\1"


@functools.cache
def _target_machine(triple: str, cpu: str, features: str, opt: int) -> Any:
    import llvmlite.binding as llvm

    llvm.initialize_all_targets()
    llvm.initialize_all_asmprinters()
    # Settings for linking ahead of time also serve loading at once, and the small code model has short calls.
    return llvm.Target.from_triple(triple).create_target_machine(
        cpu=cpu, features=features, opt=opt, reloc="pic", codemodel="default"
    )


def emit_object(text: str, triple: str, cpu: str, features: str, opt: int = 2) -> bytes:
    """Run LLVM's code generator, without any middle-end pass, on one module.

    Args:
        text: LLVM IR text. Its triple and data layout are replaced by the target's.
        triple, cpu, features: as in :class:`tilewright.target.Target`.
        opt: the code generator's optimization level, 0 to 3.

    Raises:
        RuntimeError: the text is not valid IR, or the target does not exist.
    """
    import llvmlite.binding as llvm

    machine = _target_machine(triple, cpu, features, opt)
    with llvm.parse_assembly(text) as module:
        module.triple = triple
        module.data_layout = str(machine.target_data)
        module.verify()
        return bytes(machine.emit_object(module))


def read_frame(stream: BinaryIO) -> bytes | None:
    """The next frame, or None where the stream ends (also in the middle of a frame)."""
    head = stream.read(4)
    if len(head) < 4:
        return None
    (size,) = struct.unpack("<I", head)
    data = stream.read(size)
    return data if len(data) == size else None


def write_frame(stream: BinaryIO, data: bytes) -> None:
    """Write one frame and flush. Raises OSError if the other side is gone."""
    stream.write(struct.pack("<I", len(data)))
    stream.write(data)
    stream.flush()


def main() -> None:
    """Serve requests on standard input until it is closed."""
    requests, replies = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever LLVM prints must not get between the frames
    while (head := read_frame(requests)) is not None and (text := read_frame(requests)) is not None:
        try:
            reply = OBJECT + emit_object(text.decode(), **json.loads(head))
        except Exception as error:
            reply = ERROR + f"{type(error).__name__}: {error}".encode()
        try:
            write_frame(replies, reply)
        except OSError:
            return


if __name__ == "__main__":
    main()
