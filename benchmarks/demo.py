"""``make demo``: a real model, compiled, checked against onnxruntime, and timed side by side."""

from __future__ import annotations

import subprocess
import sys

from benchmarks import zoo


def main() -> None:
    """Show every command, then run it; stop at the first that fails."""
    print(
        "Fetching a text-line classifier (MobileNetV3, Apache-2.0) from the package rapidocr-onnxruntime ..."
    )
    model = str(zoo.fetch("cls"))
    shape = "x=1,3,48,192"
    for words in (
        ["check", model, "--shape", shape],
        ["bench", model, "--shape", shape, "--against", "onnxruntime,openvino", "--threads", "2"],
        ["profile", model, "--shape", shape, "--limit", "8"],
    ):
        print(f"\n$ tilewright {' '.join(words)}", flush=True)
        code = subprocess.run([sys.executable, "-m", "tilewright", *words], check=False).returncode
        if code:
            sys.exit(code)


if __name__ == "__main__":
    main()
