"""`python -m flows`: the same as `wafer run`."""

import sys

from wafer.cli.main import main

if __name__ == "__main__":
    main(["run", *sys.argv[1:]])
