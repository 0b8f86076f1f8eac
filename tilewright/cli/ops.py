"""``tilewright ops``: the ONNX operators that are supported."""

from __future__ import annotations

from tilewright.cli import common

NAME = "ops"


def main(json: common.JsonFlag = False) -> None:
    """List the supported ONNX operators and the opset versions at which their meaning changed."""
    from tilewright.frontend.onnx.registry import supported_ops

    table = supported_ops()
    if json:
        common.write_json({name: list(versions) for name, versions in sorted(table.items())})
        return
    rows = [[name, " ".join(map(str, versions))] for name, versions in sorted(table.items())]
    common.table(f"{len(rows)} ONNX operators", ["operator", "since opset"], rows, text=range(2))
