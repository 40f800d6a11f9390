"""Run the benchmarks of intake and print their ratios: `python -m bench [--files N]`; writes bench/intake.json."""

import argparse
import json
import sys
from pathlib import Path

from bench.intake import measure

RESULT = Path(__file__).with_name("intake.json")


def main() -> int:
    """Measure, print a line a figure, and keep them as JSON."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--files", type=int, default=400, help="batch files of 100 wafers (%(default)s)")
    options = parser.parse_args()
    figures = measure(options.files)
    RESULT.write_text(json.dumps(figures, indent=2) + "\n")
    width = max(map(len, figures))
    print("\n".join(f"{name:<{width}}  {value:>12,.3f}" for name, value in figures.items()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
