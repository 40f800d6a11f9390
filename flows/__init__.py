"""Thin Prefect flows around the steps of the library.

Prefect reads its settings from the environment when it is imported, so its quiet, private and patient defaults are set
here, before any flow imports it; variables that are set already stay. No folder is made: whoever runs a flow on
Prefect's own local server without the command `wafer` calls `wafer.settings.make_prefect_home` first. Not
here: what a step does (`wafer.steps`); a flow has no logic but the order.
"""

from contextlib import suppress

from wafer.errors import SettingsError
from wafer.settings import prepare_environment

with suppress(SettingsError):  # told by whoever reads the settings next, at the boundary or in a task
    prepare_environment()
