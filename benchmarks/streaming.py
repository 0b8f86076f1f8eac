"""A detector of speech, step by step over a recording: state handed on, the sampling rate an input.

The model of the zoo is compiled once, with a variant for each of the two sizes of a step; which of its
branches a step takes is decided by the run. Answers are held against onnxruntime's, each engine with its own
state, and steps are timed in turns.

    python -m benchmarks.streaming
    python -m benchmarks.streaming --wav /usr/share/sounds/alsa/Front_Center.wav
"""

from __future__ import annotations

import argparse
import statistics
import time
import wave
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnxruntime

import tilewright as tw
from benchmarks import zoo

#: Sampling rate -> samples of a step, and of what is seen again before them.
STEPS = {16000: (512, 64), 8000: (256, 32)}
#: Answers and states may differ by this much.
TOLERANCE = 1e-3


def voice(rate: int, seconds: float = 4.0) -> np.ndarray:
    """Something like speech: syllables of a gliding tone with harmonics, and noise."""
    t = np.arange(int(rate * seconds)) / rate
    phase = np.cumsum(2 * np.pi * (120 + 20 * np.sin(4 * np.pi * t)) / rate)
    tone = sum(np.sin(k * phase) / k for k in range(1, 20)) * (np.sin(3 * np.pi * t) > 0)
    noise = np.random.default_rng(0).standard_normal(len(t))
    return (0.1 * tone + 0.005 * noise).astype(np.float32)


def recording(path: Path, rate: int) -> np.ndarray:
    """The first channel of a WAV file of 16-bit samples, at ``rate`` (by dropping samples)."""
    with wave.open(str(path)) as file:
        if file.getsampwidth() != 2 or file.getframerate() % rate:
            raise SystemExit(f"error: {path} must have 16 bits and a multiple of {rate} samples a second")
        data = np.frombuffer(file.readframes(file.getnframes()), np.int16)
        data = data[:: file.getnchannels()][:: file.getframerate() // rate]
    return data.astype(np.float32) / 32768


def compare(
    model: tw.Model, session: onnxruntime.InferenceSession, samples: np.ndarray, rate: int
) -> tuple[list[float], float, float, float]:
    """The answers, their largest difference from onnxruntime's, and the median seconds of a step of both."""
    window, before = STEPS[rate]
    states = [np.zeros((2, 1, 128), np.float32) for _ in range(2)]
    seen = np.zeros(before, np.float32)
    answers, worst = [], 0.0
    times: list[list[float]] = [[], []]
    for start in range(0, len(samples) - window, window):
        frame = np.concatenate([seen, samples[start : start + window]])[None]
        seen = frame[0, -before:]
        feeds = [{"input": frame, "state": state, "sr": np.array(rate)} for state in states]
        begun = time.perf_counter()
        mine = list(model.run(feeds[0]).values())
        between = time.perf_counter()
        peers = session.run(None, feeds[1])
        times[0].append(between - begun)
        times[1].append(time.perf_counter() - between)
        worst = max(worst, *(float(np.abs(a - b).max()) for a, b in zip(mine, peers, strict=True)))
        states = [mine[1], peers[1]]
        answers.append(float(mine[0].reshape(-1)[0]))
    return answers, worst, statistics.median(times[0]), statistics.median(times[1])


def main(argv: Sequence[str] | None = None) -> None:
    """Run the steps and print a line for each sampling rate."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.streaming", description=__doc__)
    parser.add_argument("--wav", type=Path, help="a recording (default: a made-up voice)")
    parser.add_argument("--model", type=Path, help="the model's file (default: from the zoo)")
    arguments = parser.parse_args(argv)
    path = arguments.model or zoo.fetch("vad")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    model = tw.compile(path, shapes={"input": (1, None), "state": (2, 1, 128)}, threads=1)
    for rate in STEPS:
        samples = voice(rate) if arguments.wav is None else recording(arguments.wav, rate)
        answers, worst, ours, peer = compare(model, session, samples, rate)
        print(
            f"{rate} Hz: {len(answers)} steps, speech {min(answers):.3f} to {max(answers):.3f}, "
            f"difference {worst:.1e}, {ours * 1e6:.0f} µs a step, onnxruntime {peer * 1e6:.0f} µs, "
            f"ratio {ours / peer:.2f}"
        )
        if worst > TOLERANCE:
            raise SystemExit("error: the answers differ")


if __name__ == "__main__":
    main()
