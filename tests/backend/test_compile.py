from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import pytest

from tilewright.backend.llvm import compile as module
from tilewright.backend.llvm.compile import compile_many, object_key
from tilewright.backend.llvm.worker import emit_object
from tilewright.cache import DiskCache
from tilewright.errors import CompileError
from tilewright.target import PRESETS, Target

HOST = Target.host()


def _text(number: int) -> str:
    return f"define i32 @f{number}() {{\n  ret i32 {number}\n}}\n"


@pytest.fixture(autouse=True)
def _no_workers_left():  # type: ignore[no-untyped-def]
    yield
    assert not module._pool.busy


def test_in_process_and_in_workers_agree() -> None:
    texts = [_text(i) for i in range(7)]
    alone = [emit_object(text, HOST.triple, HOST.cpu, HOST.features) for text in texts]
    assert [compile_many([text], HOST)[0] for text in texts] == alone
    assert compile_many(texts, HOST, jobs=1) == alone
    assert compile_many(texts, HOST, jobs=2) == alone
    assert compile_many(texts, HOST, jobs=64) == alone
    assert all(f"f{i}".encode() in code for i, code in enumerate(alone))


def test_nothing_to_do() -> None:
    assert compile_many([], HOST, jobs=4) == []


def test_equal_texts_are_compiled_once_and_progress_is_told() -> None:
    seen: list[tuple[int, int]] = []
    texts = [_text(i % 4) for i in range(12)]
    codes = compile_many(texts, HOST, jobs=2, progress=lambda done, total: seen.append((done, total)))
    assert codes == codes[:4] * 3
    assert seen == [(i, 4) for i in range(1, 5)]


def test_targets() -> None:
    v4, v3, arm = (
        compile_many([_text(1)], PRESETS[name])[0] for name in ("x86-64-v4", "x86-64-v3", "aarch64")
    )
    assert arm[18:20] == (183).to_bytes(2, "little")  # e_machine of the ELF header: EM_AARCH64
    assert v3[18:20] == v4[18:20] == (62).to_bytes(2, "little")
    keys = {object_key(_text(1), target) for target in PRESETS.values()}
    assert len(keys) == len(PRESETS)


def test_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = DiskCache(tmp_path)
    texts = [_text(i) for i in range(5)]
    codes = compile_many(texts, HOST, jobs=2, cache=cache)

    def refuse(*_: object) -> bytes:
        raise AssertionError("compiled again")

    monkeypatch.setattr(module, "_compile_here", refuse)
    monkeypatch.setattr(module._Pool, "compile", refuse)
    seen: list[tuple[int, int]] = []
    again = compile_many(
        texts, HOST, jobs=2, cache=cache, progress=lambda done, total: seen.append((done, total))
    )
    assert again == codes
    assert seen == [(5, 5)]


@pytest.mark.parametrize("count", [1, 6])
def test_invalid_text_is_an_error(count: int) -> None:
    bad = "define i32 @tw_k_broken(ptr %a) {\n  ret i32 %nowhere\n}\n"
    with pytest.raises(CompileError, match=r"module of 'tw_k_broken'.*(?s:.)*%nowhere"):
        compile_many([_text(i) for i in range(count - 1)] + [bad], HOST, jobs=2)
    assert compile_many([_text(i) for i in range(4)], HOST, jobs=2)  # the next call works


@pytest.mark.parametrize("others", [0, 4])
def test_a_crash_of_the_code_generator_is_an_error(others: int) -> None:
    constraint = "{no-such-register}"  # LLVM ends the process over this
    fatal = (
        f'define void @tw_k_fatal(i32 %x) {{\n  call void asm "", "{constraint}"(i32 %x)\n  ret void\n}}\n'
    )
    with pytest.raises(
        CompileError, match=r"module of 'tw_k_fatal': the compile worker ended with exit status 1"
    ):
        compile_many([_text(i) for i in range(others)] + [fatal], HOST, jobs=2)


@pytest.mark.parametrize(
    ("where", "what"), [("subprocess.Popen", OSError(11, "no")), ("sys.executable", None)]
)
def test_without_workers_this_process_compiles(
    monkeypatch: pytest.MonkeyPatch, where: str, what: OSError | None
) -> None:
    def refuse(*_: object, **__: object) -> None:
        assert what is not None
        raise what

    module._pool.stop()
    monkeypatch.setattr(where, "" if what is None else refuse)
    texts = [_text(i) for i in range(3)]
    assert compile_many(texts, HOST, jobs=2) == [
        emit_object(text, HOST.triple, HOST.cpu, HOST.features) for text in texts
    ]
    assert not module._pool.idle


def test_without_threads_workers_leave_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: object) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Timer, "start", refuse)
    assert len(compile_many([_text(i) for i in range(3)], HOST, jobs=2)) == 3
    assert not module._pool.idle


def test_killed_workers_are_replaced() -> None:
    """One death is taken for bad luck: the text is compiled again."""
    slow = [_busy_text(i) for i in range(4)]
    codes: list[bytes] = []
    thread = threading.Thread(target=lambda: codes.extend(compile_many(slow, HOST, jobs=2)))
    thread.start()
    killed = False
    while thread.is_alive() and not killed:
        for worker in list(module._pool.busy):
            worker.process.send_signal(signal.SIGKILL)
            killed = True
            break
        time.sleep(0.001)
    thread.join(60)
    assert killed
    assert len(codes) == 4
    assert all(codes)


def test_idle_workers_leave(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "IDLE_SECONDS", 0.01)
    compile_many([_text(i) for i in range(4)], HOST, jobs=2)
    for _ in range(500):
        if not module._pool.idle:
            break
        time.sleep(0.01)
    assert not module._pool.idle
    assert compile_many([_text(i) for i in range(4)], HOST, jobs=2)


def test_a_forked_child_has_its_own_workers() -> None:
    texts = [_text(i) for i in range(6)]
    codes = compile_many(texts, HOST, jobs=2)
    ours = [worker.process.pid for worker in module._pool.idle]
    context = multiprocessing.get_context("fork")
    results, theirs = context.Pipe(duplex=False)

    def child() -> None:
        again = compile_many(texts, HOST, jobs=2)
        theirs.send((again == codes, [worker.process.pid for worker in module._pool.idle]))

    process = context.Process(target=child)
    process.start()
    assert results.poll(60)
    same, pids = results.recv()
    process.join(10)
    assert process.exitcode == 0
    assert same
    assert not set(pids) & set(ours)
    assert compile_many(texts, HOST, jobs=2) == codes
    assert {worker.process.pid for worker in module._pool.idle} == set(ours)


def test_workers_that_always_die(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    module._pool.stop()
    script = tmp_path / "worker.py"
    script.write_text("import sys; sys.exit('no code generator here')")
    monkeypatch.setattr(module.worker, "__file__", str(script))
    with pytest.raises(CompileError, match=r"exit status 1\n    no code generator here"):
        compile_many([_text(i) for i in range(4)], HOST, jobs=2)


def _busy_text(number: int) -> str:
    """A module that takes some tens of milliseconds."""
    body = "\n".join(f"  %x{i + 1} = mul i64 %x{i}, {i * 2 + number + 3}" for i in range(3000))
    return f"define i64 @busy{number}(i64 %x0) {{\n{body}\n  ret i64 %x3000\n}}\n"


SCRIPT = """
    import sys
    sys.path.insert(0, {root!r})
    from tilewright.backend.llvm.compile import compile_many
    from tilewright.target import Target
    from tests.backend.test_compile import _busy_text
    from tilewright.backend.llvm import compile as module

    def progress(done, total):
        print(*(w.process.pid for w in [*module._pool.busy, *module._pool.idle]), flush=True)

    compile_many([_busy_text(i) for i in range({count})], Target.host(), jobs=2, progress=progress)
    print("end", flush=True)
"""


def _start(tmp_path: Path, count: int) -> subprocess.Popen[str]:
    root = str(Path(__file__).parents[2])
    script = tmp_path / "user.py"  # without `if __name__ == "__main__"`
    script.write_text(textwrap.dedent(SCRIPT.format(root=root, count=count)))
    return subprocess.Popen(
        [sys.executable, str(script)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=tmp_path
    )


def _gone(pids: list[int]) -> bool:
    for _ in range(500):
        if not any(Path(f"/proc/{pid}").exists() for pid in pids):
            return True
        time.sleep(0.01)
    return False


@pytest.mark.skipif(not os.path.isdir("/proc"), reason="looks for processes in /proc")
@pytest.mark.parametrize("end", [None, signal.SIGINT, signal.SIGKILL])
def test_no_worker_outlives_the_script(tmp_path: Path, end: signal.Signals | None) -> None:
    process = _start(tmp_path, 4 if end is None else 500)
    assert process.stdout is not None
    assert process.stderr is not None
    pids = [int(word) for word in process.stdout.readline().split()]
    assert pids
    if end is not None:
        process.send_signal(end)
    output, errors = process.communicate(timeout=60)
    if end is None:
        assert process.returncode == 0
        assert output.endswith("end\n")
        assert errors == ""
    else:
        assert process.returncode != 0
        assert ("KeyboardInterrupt" in errors) == (end == signal.SIGINT)
    assert _gone(pids)


def test_texts_keep_the_targets_layout() -> None:
    code = emit_object(
        'target triple = "sparc64-unknown-linux-gnu"\n' + _text(1), HOST.triple, HOST.cpu, HOST.features
    )
    assert code == compile_many([_text(1)], HOST)[0]
