"""Run the benchmarks of intake and print their ratios: `python -m bench [--files N]`; writes bench/intake.json."""

import json
import sys
from pathlib import Path

import click

from bench.intake import measure
from wafer.boundary import bounded

RESULT = Path(__file__).with_name("intake.json")


@click.command(help=__doc__)
@click.option("--files", type=click.IntRange(1), default=400, show_default=True, help="Batch files of 100 wafers.")
def main(files: int) -> None:
    """Measure, print a line a figure, and keep them as JSON."""
    figures = measure(files)
    RESULT.write_text(json.dumps(figures, indent=2) + "\n")
    width = max(map(len, figures))
    print("\n".join(f"{name:<{width}}  {value:>12,.3f}" for name, value in figures.items()))


if __name__ == "__main__":
    sys.exit(bounded(lambda: main.main(prog_name="python -m bench", standalone_mode=False)))
