"""The thread pool that compiled models run on, as LLVM IR text.

The package ships no native code: the pool below is compiled once per target, cached, and packed into every
artifact next to the kernels that call it. What differs between systems (how to pause in a spin loop, how to
sleep on a word of memory) comes from :mod:`tilewright.runtime.system`.

How a region runs: ``tw_parallel`` cuts ``[0, n)`` into chunks of ``grain`` and gives every thread a
contiguous span of them, so that a thread finds in its own L2 cache what it wrote in the region before. Each
thread has a *slot* with the number of its chunks that are still unclaimed and a copy of the region's
description; one transfer of a line per thread both announces the region and describes it. A thread claims
chunks by atomic subtraction, first from its own slot, then from the others', so a thread that the system has
taken off its core delays nobody: the rest take its chunks over.

Only threads that claimed something are waited for. A thread that wakes late finds every counter at or below
zero and goes back to waiting; a claim that succeeds late is simply a valid claim of a newer region, because
a region cannot end (and its description cannot change) while one of its claimed chunks is unfinished. Hence
there are no epochs to compare.

Waiting is bounded: threads spin with a pause instruction (:data:`SPIN_NS`), then yield their core between
looks, then sleep in the kernel. Between ``tw_pool_enter`` and ``tw_pool_exit`` (one run of a model) the
yielding phase is longer (:data:`ACTIVE_NS`), so that threads stay awake from region to region, and
``tw_pool_enter`` wakes sleepers ahead of the first region. Threads note which processor they are on. One that
finds itself where another thread of the pool is moves to a free one; a caller that has had no help and shares
its processor yields, so that the other thread can see that. A second caller that finds the pool taken runs
its region alone, which is correct and never blocks.
"""

from __future__ import annotations

from tilewright.runtime.system import system_ir

SPIN_NS = 20_000
"""How long a waiting thread spins before it starts to yield its core, in ns."""
IDLE_NS = 200_000
"""How long a thread without work stays awake after a run, in ns."""
ACTIVE_NS = 1_000_000
"""How long a thread without work stays awake while a model runs, in ns."""

EXPORTS = (
    "tw_pool_create",
    "tw_pool_destroy",
    "tw_pool_threads",
    "tw_pool_enter",
    "tw_pool_exit",
    "tw_parallel",
    "tw_now",
)
"""The functions that other objects may call; see docs/runtime.md for their signatures."""


def thread_pool_ir(triple: str) -> str:
    """The pool for ``triple`` as LLVM IR text defining the functions in :data:`EXPORTS`.

    Raises:
        TargetError: the operating system is not known.
    """
    system, constants = system_ir(triple)
    text = _POOL + system
    for key, value in {
        **constants,
        "$TRIPLE": triple,
        "$SPIN_NS": str(SPIN_NS),
        "$IDLE_NS": str(IDLE_NS),
        "$ACTIVE_NS": str(ACTIVE_NS),
    }.items():
        text = text.replace(key, value)
    return text


_POOL = r"""
target triple = "$TRIPLE"

; One per thread, in pairs of cache lines, as prefetchers fetch them.
;  0 unclaimed chunks   1 end of the span (chunk index)   2 function   3 closure   4 n   5 grain
;  (second line, written once)   7 pool   8 thread number   9 thread handle
;  (a pair of its own, which others read while this one is used)   11 processor, -1: unknown
%Slot = type { i64, i64, ptr, ptr, i64, i64, [16 x i8], ptr, i64, i64, [40 x i8], i32, [124 x i8] }

; Each group on two cache lines of its own, so that writing one does not disturb readers of another.
;  0 threads   2 taken   4 epoch (slept on)   5 sleepers   6 stop   7 active runs
;  9 finished chunks (slept on)   10 the caller sleeps on 9
;  12 mutex   13 condition variable (only where there is no futex)
%Pool = type { i32, [124 x i8],
               i32, [124 x i8],
               i32, i32, i32, i32, [112 x i8],
               i32, i32, [120 x i8],
               [64 x i8], [64 x i8],
               [0 x %Slot] }

declare i32 @posix_memalign(ptr, i64, i64)
declare void @free(ptr)
declare i32 @pthread_create(ptr, ptr, ptr, ptr)
declare i32 @pthread_join(i64, ptr)
declare i32 @pthread_sigmask(i32, ptr, ptr)
declare i32 @sigfillset(ptr)
declare i32 @sigdelset(ptr, i32)
declare i32 @sched_yield()
declare i32 @clock_gettime(i32, ptr)
declare void @llvm.memset.p0.i64(ptr, i8, i64, i1)
declare i64 @llvm.smax.i64(i64, i64)
declare i64 @llvm.smin.i64(i64, i64)
declare i32 @llvm.smax.i32(i32, i32)
$PAUSE_DECLARATION

; Nanoseconds of a clock that never goes back.
define i64 @tw_now() {
  %t = alloca { i64, i64 }
  %r = call i32 @clock_gettime(i32 $CLOCK, ptr %t)
  %s = load i64, ptr %t
  %nsp = getelementptr { i64, i64 }, ptr %t, i64 0, i32 1
  %ns = load i64, ptr %nsp
  %sns = mul i64 %s, 1000000000
  %now = add i64 %sns, %ns
  ret i64 %now
}

; How many threads the pool really has: fewer than asked for if the system refused to start some.
define i32 @tw_pool_threads(ptr %pool) {
  %n = load atomic i32, ptr %pool monotonic, align 4
  ret i32 %n
}

define internal void @wake_all(ptr %pool) {
  %epoch = getelementptr %Pool, ptr %pool, i64 0, i32 4
  %e = atomicrmw add ptr %epoch, i32 1 seq_cst
  call void @wake(ptr %pool, ptr %epoch, i32 2147483647)
  ret void
}

; A run begins: keep the threads awake from here, and get the sleepers up before the first region needs them.
define void @tw_pool_enter(ptr %pool) {
  %active = getelementptr %Pool, ptr %pool, i64 0, i32 7
  %a = atomicrmw add ptr %active, i32 1 seq_cst
  %sleepers = getelementptr %Pool, ptr %pool, i64 0, i32 5
  %s = load atomic i32, ptr %sleepers seq_cst, align 4
  %any = icmp sgt i32 %s, 0
  br i1 %any, label %rouse, label %done
rouse:
  call void @wake_all(ptr %pool)
  br label %done
done:
  ret void
}

define void @tw_pool_exit(ptr %pool) {
  %active = getelementptr %Pool, ptr %pool, i64 0, i32 7
  %a = atomicrmw sub ptr %active, i32 1 seq_cst
  ret void
}

; Claim and run chunks until no slot has any left. Returns how many were run.
define internal i64 @work(ptr %pool, i64 %tid) {
entry:
  %t32 = load atomic i32, ptr %pool monotonic, align 4
  %threads = sext i32 %t32 to i64
  br label %victim
victim:
  %v = phi i64 [ 0, %entry ], [ %v.next, %next ]
  %count.v = phi i64 [ 0, %entry ], [ %count, %next ]
  %sum = add i64 %tid, %v
  %over = icmp sge i64 %sum, %threads
  %wrapped = sub i64 %sum, %threads
  %index = select i1 %over, i64 %wrapped, i64 %sum
  %slot = getelementptr %Pool, ptr %pool, i64 0, i32 14, i64 %index
  br label %look
look:
  %count = phi i64 [ %count.v, %victim ], [ %count.more, %run ]
  %left = load atomic i64, ptr %slot monotonic, align 8
  %some = icmp sgt i64 %left, 0
  br i1 %some, label %claim, label %next
claim:
  %old = atomicrmw sub ptr %slot, i64 1 acquire
  %mine = icmp sgt i64 %old, 0
  br i1 %mine, label %run, label %next
run:
  %end.p = getelementptr %Slot, ptr %slot, i64 0, i32 1
  %end = load i64, ptr %end.p
  %fn.p = getelementptr %Slot, ptr %slot, i64 0, i32 2
  %fn = load ptr, ptr %fn.p
  %closure.p = getelementptr %Slot, ptr %slot, i64 0, i32 3
  %closure = load ptr, ptr %closure.p
  %n.p = getelementptr %Slot, ptr %slot, i64 0, i32 4
  %n = load i64, ptr %n.p
  %grain.p = getelementptr %Slot, ptr %slot, i64 0, i32 5
  %grain = load i64, ptr %grain.p
  %chunk = sub i64 %end, %old
  %begin = mul i64 %chunk, %grain
  %full = add i64 %begin, %grain
  %stop = call i64 @llvm.smin.i64(i64 %full, i64 %n)
  call void %fn(ptr %closure, i64 %begin, i64 %stop, i64 %tid)
  %count.more = add i64 %count, 1
  br label %look
next:
  %v.next = add i64 %v, 1
  %again = icmp slt i64 %v.next, %threads
  br i1 %again, label %victim, label %done
done:
  ret i64 %count
}

define void @tw_parallel(ptr %pool, ptr %fn, ptr %closure, i64 %n, i64 %grain) {
entry:
  %any = icmp sgt i64 %n, 0
  br i1 %any, label %divide, label %exit
divide:
  ; No more than about a million chunks, which also keeps the 32-bit count of finished ones exact.
  %least = lshr i64 %n, 20
  %g0 = call i64 @llvm.smax.i64(i64 %grain, i64 %least)
  %g = call i64 @llvm.smax.i64(i64 %g0, i64 1)
  %n.last = add i64 %n, -1
  %chunks.last = udiv i64 %n.last, %g
  %chunks = add i64 %chunks.last, 1
  %t32 = load atomic i32, ptr %pool monotonic, align 4
  %threads = sext i32 %t32 to i64
  %several.chunks = icmp sgt i64 %chunks, 1
  %several.threads = icmp sgt i64 %threads, 1
  %several = and i1 %several.chunks, %several.threads
  br i1 %several, label %take, label %alone
take:
  %taken = getelementptr %Pool, ptr %pool, i64 0, i32 2
  %cas = cmpxchg ptr %taken, i32 0, i32 1 acquire monotonic
  %won = extractvalue { i32, i1 } %cas, 1
  br i1 %won, label %describe, label %alone
alone:
  call void %fn(ptr %closure, i64 0, i64 %n, i64 0)
  ret void
describe:
  %finished = getelementptr %Pool, ptr %pool, i64 0, i32 9
  store atomic i32 0, ptr %finished monotonic, align 4
  %base = udiv i64 %chunks, %threads
  %extra = urem i64 %chunks, %threads
  %cpu = call i32 @note(ptr %pool, i64 0)
  br label %publish
publish:                                            ; the others first, the caller's own slot last
  %left = phi i64 [ %threads, %describe ], [ %t, %publish ]
  %end = phi i64 [ %chunks, %describe ], [ %start, %publish ]
  %t = add i64 %left, -1
  %longer = icmp slt i64 %t, %extra
  %one = zext i1 %longer to i64
  %size = add i64 %base, %one
  %start = sub i64 %end, %size
  %slot = getelementptr %Pool, ptr %pool, i64 0, i32 14, i64 %t
  %end.p = getelementptr %Slot, ptr %slot, i64 0, i32 1
  store i64 %end, ptr %end.p
  %fn.p = getelementptr %Slot, ptr %slot, i64 0, i32 2
  store ptr %fn, ptr %fn.p
  %closure.p = getelementptr %Slot, ptr %slot, i64 0, i32 3
  store ptr %closure, ptr %closure.p
  %n.p = getelementptr %Slot, ptr %slot, i64 0, i32 4
  store i64 %n, ptr %n.p
  %grain.p = getelementptr %Slot, ptr %slot, i64 0, i32 5
  store i64 %g, ptr %grain.p
  store atomic i64 %size, ptr %slot release, align 8
  %more = icmp sgt i64 %t, 0
  br i1 %more, label %publish, label %announce
announce:
  ; Against @worker's "count myself a sleeper, look again, sleep": one of the two sees the other.
  fence seq_cst
  %sleepers = getelementptr %Pool, ptr %pool, i64 0, i32 5
  %s = load atomic i32, ptr %sleepers monotonic, align 4
  %asleep = icmp sgt i32 %s, 0
  br i1 %asleep, label %rouse, label %help
rouse:
  call void @wake_all(ptr %pool)
  br label %help
help:
  %mine = call i64 @work(ptr %pool, i64 0)
  %others = sub i64 %chunks, %mine
  %want = trunc i64 %others to i32
  %f0 = load atomic i32, ptr %finished acquire, align 4
  %ready = icmp eq i32 %f0, %want
  br i1 %ready, label %helped, label %wait
helped:
  %unhelped = icmp eq i64 %others, 0
  br i1 %unhelped, label %look, label %release
look:
  %crowded = call i1 @shares(ptr %pool, i64 0, i32 %cpu)
  br i1 %crowded, label %yield, label %release
yield:
  store atomic i32 0, ptr %taken release, align 4
  %y = call i32 @sched_yield()
  ret void
wait:
  call void @join(ptr %pool, i32 %want)
  br label %release
release:
  store atomic i32 0, ptr %taken release, align 4
  ret void
exit:
  ret void
}

; The processor that thread @tid, the caller, is on; written down where the others look.
define internal i32 @note(ptr %pool, i64 %tid) {
  %cpu.p = getelementptr %Pool, ptr %pool, i64 0, i32 14, i64 %tid, i32 11
  %cpu = call i32 @here()
  %before = load atomic i32, ptr %cpu.p monotonic, align 4
  %stayed = icmp eq i32 %cpu, %before
  br i1 %stayed, label %done, label %moved
moved:
  store atomic i32 %cpu, ptr %cpu.p monotonic, align 4
  br label %done
done:
  ret i32 %cpu
}

; Whether another thread was last seen on the processor @cpu, on which thread @tid is.
define internal i1 @shares(ptr %pool, i64 %tid, i32 %cpu) {
entry:
  %t32 = load atomic i32, ptr %pool monotonic, align 4
  %threads = sext i32 %t32 to i64
  %known = icmp sge i32 %cpu, 0
  br i1 %known, label %look, label %no
look:
  %i = phi i64 [ 0, %entry ], [ %i.next, %next ]
  %cpu.p = getelementptr %Pool, ptr %pool, i64 0, i32 14, i64 %i, i32 11
  %other = load atomic i32, ptr %cpu.p monotonic, align 4
  %same = icmp eq i32 %other, %cpu
  %else = icmp ne i64 %i, %tid
  %both = and i1 %same, %else
  br i1 %both, label %yes, label %next
next:
  %i.next = add i64 %i, 1
  %more = icmp slt i64 %i.next, %threads
  br i1 %more, label %look, label %no
yes:
  ret i1 true
no:
  ret i1 false
}

; Wait until @want chunks have been finished by other threads: spin, then yield, then sleep.
define internal void @join(ptr %pool, i32 %want) {
entry:
  %finished = getelementptr %Pool, ptr %pool, i64 0, i32 9
  %waiting = getelementptr %Pool, ptr %pool, i64 0, i32 10
  %t0 = call i64 @tw_now()
  br label %look
look:
  %i = phi i32 [ 0, %entry ], [ %i.next, %pause ], [ 0, %clock ], [ 31, %yield ]
  %f = load atomic i32, ptr %finished acquire, align 4
  %ready = icmp eq i32 %f, %want
  br i1 %ready, label %done, label %pause
pause:
  $PAUSE
  %i.next = add i32 %i, 1
  %read = icmp eq i32 %i.next, 32
  br i1 %read, label %clock, label %look
clock:
  %t = call i64 @tw_now()
  %elapsed = sub i64 %t, %t0
  %spin = icmp slt i64 %elapsed, $SPIN_NS
  br i1 %spin, label %look, label %slow
slow:
  %awake = icmp slt i64 %elapsed, $ACTIVE_NS
  br i1 %awake, label %yield, label %sleep
yield:
  %y = call i32 @sched_yield()
  br label %look
sleep:
  store atomic i32 1, ptr %waiting seq_cst, align 4
  %g = load atomic i32, ptr %finished seq_cst, align 4
  %late = icmp eq i32 %g, %want
  br i1 %late, label %up, label %doze
doze:
  call void @wait(ptr %pool, ptr %finished, i32 %g)
  br label %sleep
up:
  store atomic i32 0, ptr %waiting monotonic, align 4
  ret void
done:
  ret void
}

define internal ptr @worker(ptr %slot) {
entry:
  %pool.p = getelementptr %Slot, ptr %slot, i64 0, i32 7
  %pool = load ptr, ptr %pool.p
  %tid.p = getelementptr %Slot, ptr %slot, i64 0, i32 8
  %tid = load i64, ptr %tid.p
  %epoch = getelementptr %Pool, ptr %pool, i64 0, i32 4
  %sleepers = getelementptr %Pool, ptr %pool, i64 0, i32 5
  %stop.p = getelementptr %Pool, ptr %pool, i64 0, i32 6
  %active.p = getelementptr %Pool, ptr %pool, i64 0, i32 7
  %finished = getelementptr %Pool, ptr %pool, i64 0, i32 9
  %waiting = getelementptr %Pool, ptr %pool, i64 0, i32 10
  br label %work
work:
  %count = call i64 @work(ptr %pool, i64 %tid)
  %did = icmp sgt i64 %count, 0
  br i1 %did, label %report, label %idle
report:
  %c = trunc i64 %count to i32
  %f = atomicrmw add ptr %finished, i32 %c seq_cst
  %w = load atomic i32, ptr %waiting seq_cst, align 4
  %asleep = icmp ne i32 %w, 0
  br i1 %asleep, label %rouse, label %idle
rouse:
  call void @wake(ptr %pool, ptr %finished, i32 1)
  br label %idle
idle:
  %cpu = call i32 @note(ptr %pool, i64 %tid)
  %t0 = call i64 @tw_now()
  br label %look
look:
  %i = phi i32 [ 0, %idle ], [ %i.next, %pause ], [ 0, %clock ], [ 31, %yield ]
  %left = load atomic i64, ptr %slot acquire, align 8
  %some = icmp sgt i64 %left, 0
  br i1 %some, label %work, label %pause
pause:
  $PAUSE
  %i.next = add i32 %i, 1
  %read = icmp eq i32 %i.next, 32
  br i1 %read, label %control, label %look
control:
  %stop = load atomic i32, ptr %stop.p acquire, align 4
  %stopped = icmp ne i32 %stop, 0
  br i1 %stopped, label %exit, label %clock
clock:
  %t = call i64 @tw_now()
  %elapsed = sub i64 %t, %t0
  %spin = icmp slt i64 %elapsed, $SPIN_NS
  br i1 %spin, label %look, label %slow
slow:
  %active = load atomic i32, ptr %active.p monotonic, align 4
  %running = icmp sgt i32 %active, 0
  %limit = select i1 %running, i64 $ACTIVE_NS, i64 $IDLE_NS
  %awake = icmp slt i64 %elapsed, %limit
  br i1 %awake, label %yield, label %sleep
yield:
  %y = call i32 @sched_yield()
  call void @spread(ptr %pool, i64 %tid)
  br label %look
sleep:
  %s0 = atomicrmw add ptr %sleepers, i32 1 seq_cst
  %e = load atomic i32, ptr %epoch seq_cst, align 4
  %stop2 = load atomic i32, ptr %stop.p seq_cst, align 4
  %stopped2 = icmp ne i32 %stop2, 0
  br i1 %stopped2, label %up, label %check
check:
  %left2 = load atomic i64, ptr %slot seq_cst, align 8
  %some2 = icmp sgt i64 %left2, 0
  br i1 %some2, label %up, label %doze
doze:
  call void @wait(ptr %pool, ptr %epoch, i32 %e)
  br label %up
up:
  %s1 = atomicrmw sub ptr %sleepers, i32 1 seq_cst
  call void @spread(ptr %pool, i64 %tid)
  br label %work
exit:
  ret ptr null
}

; Start a pool of @threads (the caller of a region counts as one). Null if there is no memory.
define ptr @tw_pool_create(i32 %asked) {
entry:
  %memory = alloca ptr
  %all = alloca [128 x i8], align 16
  %before = alloca [128 x i8], align 16
  %n32 = call i32 @llvm.smax.i32(i32 %asked, i32 1)
  %n = sext i32 %n32 to i64
  %size.p = getelementptr %Pool, ptr null, i64 0, i32 14, i64 %n
  %size = ptrtoint ptr %size.p to i64
  %failed = call i32 @posix_memalign(ptr %memory, i64 128, i64 %size)
  %ok = icmp eq i32 %failed, 0
  br i1 %ok, label %init, label %none
none:
  ret ptr null
init:
  %pool = load ptr, ptr %memory
  call void @llvm.memset.p0.i64(ptr align 128 %pool, i8 0, i64 %size, i1 false)
  call void @sleep_init(ptr %pool)
  store atomic i32 %n32, ptr %pool monotonic, align 4
  %cpu.p = getelementptr %Pool, ptr %pool, i64 0, i32 14, i64 0, i32 11
  store i32 -1, ptr %cpu.p
  ; Signals belong to the program's own threads; only faults stay deliverable in ours.
  %f0 = call i32 @sigfillset(ptr %all)
  %f1 = call i32 @sigdelset(ptr %all, i32 4)
  %f2 = call i32 @sigdelset(ptr %all, i32 8)
  %f3 = call i32 @sigdelset(ptr %all, i32 11)
  %f4 = call i32 @sigdelset(ptr %all, i32 $SIGBUS)
  %m0 = call i32 @pthread_sigmask(i32 $SIG_SETMASK, ptr %all, ptr %before)
  br label %head
head:
  %i = phi i64 [ 1, %init ], [ %i.next, %named ]
  %more = icmp slt i64 %i, %n
  br i1 %more, label %start, label %done
start:
  %slot = getelementptr %Pool, ptr %pool, i64 0, i32 14, i64 %i
  %pool.p = getelementptr %Slot, ptr %slot, i64 0, i32 7
  store ptr %pool, ptr %pool.p
  %tid.p = getelementptr %Slot, ptr %slot, i64 0, i32 8
  store i64 %i, ptr %tid.p
  %own.p = getelementptr %Slot, ptr %slot, i64 0, i32 11
  store i32 -1, ptr %own.p
  %thread.p = getelementptr %Slot, ptr %slot, i64 0, i32 9
  %r = call i32 @pthread_create(ptr %thread.p, ptr null, ptr @worker, ptr %slot)
  %started = icmp eq i32 %r, 0
  br i1 %started, label %named, label %fewer
named:
  %thread = load i64, ptr %thread.p
  call void @name_thread(i64 %thread)
  %i.next = add i64 %i, 1
  br label %head
fewer:
  %i32 = trunc i64 %i to i32
  store atomic i32 %i32, ptr %pool monotonic, align 4
  br label %done
done:
  %m1 = call i32 @pthread_sigmask(i32 $SIG_SETMASK, ptr %before, ptr null)
  ret ptr %pool
}

; Stop the threads and free the pool. Nothing may be running on it.
define void @tw_pool_destroy(ptr %pool) {
entry:
  %stop.p = getelementptr %Pool, ptr %pool, i64 0, i32 6
  store atomic i32 1, ptr %stop.p seq_cst, align 4
  call void @wake_all(ptr %pool)
  %t32 = load atomic i32, ptr %pool monotonic, align 4
  %n = sext i32 %t32 to i64
  br label %head
head:
  %i = phi i64 [ 1, %entry ], [ %i.next, %join ]
  %more = icmp slt i64 %i, %n
  br i1 %more, label %join, label %done
join:
  %slot = getelementptr %Pool, ptr %pool, i64 0, i32 14, i64 %i
  %thread.p = getelementptr %Slot, ptr %slot, i64 0, i32 9
  %thread = load i64, ptr %thread.p
  %r = call i32 @pthread_join(i64 %thread, ptr null)
  %i.next = add i64 %i, 1
  br label %head
done:
  call void @sleep_free(ptr %pool)
  call void @free(ptr %pool)
  ret void
}
"""
