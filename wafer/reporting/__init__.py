"""What people read: tables, plots in one style, executed notebooks and self-contained pages.

Not here: the numbers themselves (`wafer.learning`, `wafer.scoring`), and what a terminal is told (`wafer.cli`). Nothing
that is computed depends on this room.
"""
