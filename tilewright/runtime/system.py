"""What the thread pool needs of the operating system and the processor, as LLVM IR text: to pause in a spin
loop, to sleep on a word of memory, to name a thread, to know on which processor it runs, and to leave that to
another thread.
"""

from __future__ import annotations

import dataclasses

from tilewright.errors import TargetError


@dataclasses.dataclass(frozen=True)
class _System:
    """What differs between operating systems: the monotonic clock's number, signal numbers and the futex
    system call.
    """

    clock: int
    sig_setmask: int
    sigbus: int
    futex_call: int | None


def _system(triple: str) -> _System:
    arch = triple.split("-", 1)[0]
    if "linux" in triple:
        futex = {"x86_64": 202, "aarch64": 98, "riscv64": 98}.get(arch)
        return _System(clock=1, sig_setmask=2, sigbus=7, futex_call=futex)
    if "apple" in triple or "darwin" in triple or "macos" in triple:
        return _System(clock=6, sig_setmask=3, sigbus=10, futex_call=None)
    raise TargetError(
        f"the thread pool does not know the operating system of '{triple}'",
        hint="Linux and macOS are supported",
    )


def _pause(triple: str) -> tuple[str, str]:
    """(declaration, call) of the instruction that a spin loop should execute on this architecture."""
    arch = triple.split("-", 1)[0]
    if arch == "x86_64":
        return "declare void @llvm.x86.sse2.pause()", "call void @llvm.x86.sse2.pause()"
    if arch in ("aarch64", "arm64"):
        # `yield` is a no-op on most cores; a barrier on the instruction stream really gives the other units
        # a rest.
        return "declare void @llvm.aarch64.isb(i32)", "call void @llvm.aarch64.isb(i32 15)"
    return "", 'call void asm sideeffect "", "~{memory}"()'


def system_ir(triple: str) -> tuple[str, dict[str, str]]:
    """The functions ``wait``, ``wake``, ``sleep_init``, ``sleep_free``, ``name_thread``, ``here`` and
    ``spread`` of the pool for ``triple``, and the constants of its text.

    Raises:
        TargetError: the operating system is not known.
    """
    system = _system(triple)
    declaration, call = _pause(triple)
    linux = "linux" in triple
    sleeping = _FUTEX.replace("$FUTEX", str(system.futex_call)) if system.futex_call is not None else _CONDVAR
    constants = {
        "$PAUSE_DECLARATION": declaration,
        "$PAUSE": call,
        "$CLOCK": str(system.clock),
        "$SIG_SETMASK": str(system.sig_setmask),
        "$SIGBUS": str(system.sigbus),
    }
    return sleeping + (_NAME_THREAD + _SPREAD if linux else _NO_NAME + _NO_SPREAD), constants


# Sleeping on a word: @wait returns when woken, or at once if the word no longer has the expected value.
_FUTEX = r"""
declare i64 @syscall(i64, ...)

define internal void @wait(ptr %pool, ptr %word, i32 %expected) {
  %r = call i64 (i64, ...) @syscall(i64 $FUTEX, ptr %word, i32 128, i32 %expected, ptr null, ptr null, i32 0)
  ret void
}

define internal void @wake(ptr %pool, ptr %word, i32 %count) {
  %r = call i64 (i64, ...) @syscall(i64 $FUTEX, ptr %word, i32 129, i32 %count, ptr null, ptr null, i32 0)
  ret void
}

define internal void @sleep_init(ptr %pool) {
  ret void
}

define internal void @sleep_free(ptr %pool) {
  ret void
}
"""

_CONDVAR = r"""
declare i32 @pthread_mutex_init(ptr, ptr)
declare i32 @pthread_mutex_lock(ptr)
declare i32 @pthread_mutex_unlock(ptr)
declare i32 @pthread_mutex_destroy(ptr)
declare i32 @pthread_cond_init(ptr, ptr)
declare i32 @pthread_cond_wait(ptr, ptr)
declare i32 @pthread_cond_broadcast(ptr)
declare i32 @pthread_cond_destroy(ptr)

define internal void @wait(ptr %pool, ptr %word, i32 %expected) {
entry:
  %mutex = getelementptr %Pool, ptr %pool, i64 0, i32 12
  %cond = getelementptr %Pool, ptr %pool, i64 0, i32 13
  %l = call i32 @pthread_mutex_lock(ptr %mutex)
  %value = load atomic i32, ptr %word seq_cst, align 4
  %same = icmp eq i32 %value, %expected
  br i1 %same, label %sleep, label %done
sleep:
  %w = call i32 @pthread_cond_wait(ptr %cond, ptr %mutex)
  br label %done
done:
  %u = call i32 @pthread_mutex_unlock(ptr %mutex)
  ret void
}

define internal void @wake(ptr %pool, ptr %word, i32 %count) {
  %mutex = getelementptr %Pool, ptr %pool, i64 0, i32 12
  %cond = getelementptr %Pool, ptr %pool, i64 0, i32 13
  %l = call i32 @pthread_mutex_lock(ptr %mutex)
  %b = call i32 @pthread_cond_broadcast(ptr %cond)
  %u = call i32 @pthread_mutex_unlock(ptr %mutex)
  ret void
}

define internal void @sleep_init(ptr %pool) {
  %mutex = getelementptr %Pool, ptr %pool, i64 0, i32 12
  %cond = getelementptr %Pool, ptr %pool, i64 0, i32 13
  %m = call i32 @pthread_mutex_init(ptr %mutex, ptr null)
  %c = call i32 @pthread_cond_init(ptr %cond, ptr null)
  ret void
}

define internal void @sleep_free(ptr %pool) {
  %mutex = getelementptr %Pool, ptr %pool, i64 0, i32 12
  %cond = getelementptr %Pool, ptr %pool, i64 0, i32 13
  %c = call i32 @pthread_cond_destroy(ptr %cond)
  %m = call i32 @pthread_mutex_destroy(ptr %mutex)
  ret void
}
"""

_NAME_THREAD = r"""
@thread_name = private unnamed_addr constant [11 x i8] c"tilewright\00"
declare i32 @pthread_setname_np(i64, ptr)

define internal void @name_thread(i64 %thread) {
  %r = call i32 @pthread_setname_np(i64 %thread, ptr @thread_name)
  ret void
}
"""

_NO_NAME = r"""
define internal void @name_thread(i64 %thread) {
  ret void
}
"""

# Two threads of a pool on one processor while another has nothing to do: the system notices late, since each
# of the two gives way to the other, and what should take half as long takes as long as on one thread.
# @spread lets a thread that is between two looks for work see that and move to a processor that it may use
# and that no thread of the pool was on; then it may run everywhere again.
_SPREAD = r"""
declare i32 @sched_getcpu()
declare i32 @sched_getaffinity(i32, i64, ptr)
declare i32 @sched_setaffinity(i32, i64, ptr)
declare void @llvm.memcpy.p0.p0.i64(ptr, ptr, i64, i1)

define internal i32 @here() {
  %cpu = call i32 @sched_getcpu()
  ret i32 %cpu
}

define internal void @spread(ptr %pool, i64 %tid) {
entry:
  %allowed = alloca [128 x i8], align 8             ; one bit a processor
  %free = alloca [128 x i8], align 8
  %cpu = call i32 @note(ptr %pool, i64 %tid)
  %crowded = call i1 @shares(ptr %pool, i64 %tid, i32 %cpu)
  br i1 %crowded, label %ask, label %done
ask:
  %r = call i32 @sched_getaffinity(i32 0, i64 128, ptr %allowed)
  %refused = icmp slt i32 %r, 0
  br i1 %refused, label %done, label %copy
copy:
  call void @llvm.memcpy.p0.p0.i64(ptr align 8 %free, ptr align 8 %allowed, i64 128, i1 false)
  %t32 = load atomic i32, ptr %pool monotonic, align 4
  %threads = sext i32 %t32 to i64
  br label %strike
strike:
  %i = phi i64 [ 0, %copy ], [ %i.next, %struck ]
  %taken.p = getelementptr %Pool, ptr %pool, i64 0, i32 14, i64 %i, i32 11
  %taken = load atomic i32, ptr %taken.p monotonic, align 4
  %known = icmp ult i32 %taken, 1024
  br i1 %known, label %clear, label %struck
clear:
  %word = lshr i32 %taken, 6
  %word.i = zext i32 %word to i64
  %word.p = getelementptr i64, ptr %free, i64 %word.i
  %bit = and i32 %taken, 63
  %bit.i = zext i32 %bit to i64
  %one = shl i64 1, %bit.i
  %rest = xor i64 %one, -1
  %old = load i64, ptr %word.p
  %new = and i64 %old, %rest
  store i64 %new, ptr %word.p
  br label %struck
struck:
  %i.next = add i64 %i, 1
  %more = icmp slt i64 %i.next, %threads
  br i1 %more, label %strike, label %any
any:
  %set = load <16 x i64>, ptr %free, align 8
  %some = call i64 @llvm.vector.reduce.or.v16i64(<16 x i64> %set)
  %none = icmp eq i64 %some, 0
  br i1 %none, label %done, label %move
move:
  %m = call i32 @sched_setaffinity(i32 0, i64 128, ptr %free)
  %back = call i32 @sched_setaffinity(i32 0, i64 128, ptr %allowed)
  %now = call i32 @note(ptr %pool, i64 %tid)
  br label %done
done:
  ret void
}

declare i64 @llvm.vector.reduce.or.v16i64(<16 x i64>)
"""

_NO_SPREAD = r"""
define internal i32 @here() {
  ret i32 -1
}

define internal void @spread(ptr %pool, i64 %tid) {
  ret void
}
"""
