"""Thin Prefect flows around the steps of the library.

Prefect reads its settings from the environment when it is imported, so its quiet, private and patient defaults are set
here, before any flow imports it; variables that are set already stay.
"""

from wafer.settings import prepare_environment

prepare_environment()
