"""Random single nodes of the most used operators of the standard, on small tensors, against onnxruntime.

    python -m tests.frontend.random_nodes --count 2000

Attributes, versions, broadcasts, dtypes, negative axes, dimensions of size 0, NaN and infinities are drawn;
many nodes make one model, which takes one compilation.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from tests.frontend.random_nodes.compare import batch, findings
from tests.frontend.random_nodes.makers import OPSETS


def main(argv: Sequence[str] | None = None) -> int:
    """Try nodes; 1 when there were differences."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--size", type=int, default=40, help="nodes in one model")
    options = parser.parse_args(argv)
    total = 0
    for n, first in enumerate(range(options.first, options.first + options.count, options.size)):
        for finding in findings(batch(first, options.size, OPSETS[n % len(OPSETS)])):
            total += 1
            print(finding, flush=True)
    print(f"{options.count} nodes, {total} differences")
    return int(total > 0)


if __name__ == "__main__":
    sys.exit(main())
