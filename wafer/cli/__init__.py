"""The command `wafer`: arguments in, words and an exit status out.

Not here: any work; each command is a few lines around the library. What takes long to import is imported by the
commands that need it.
"""
