"""`python -m wafer`: the command `wafer` where its script is not on the path."""

from wafer.cli.main import main

main()
