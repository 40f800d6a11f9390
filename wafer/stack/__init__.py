"""The stack: the real servers of a small production on this machine, started by one command and stopped by another.

`parts` says which programs those are, `keeper` is the process that they all live and end with, `control` starts, looks
at and stops it, and writes the variables that point to it. Not here: whether services that the settings name can be
used (`wafer.doctor`), and the database (`wafer.store.embedded`), which the stack only starts on a port of its own.
"""
