"""The errors that this library raises on purpose, and the exit statuses of its commands.

::

    WaferError
    ├── ParameterError     an unknown key or an impossible value in params.yaml or in a call
    ├── SettingsError      an environment variable that cannot be used
    ├── ProjectError       a folder that cannot become a customer's project
    ├── AgreementError     a data sharing agreement or a suite in expectations/ that cannot be used
    ├── PreflightError     what a piece of work needs and does not find, told before it starts
    ├── EmptyError         nothing to work on: a folder without batch files, an empty selection
    ├── DeliveryError      a folder or file of deliveries that is not there
    │   └── UnreadError    a delivered file whose bytes cannot be had, or not those that were judged
    ├── StorageError       the folder or bucket of all outputs cannot be used, or lacks what it should hold
    ├── StoreError         the wafer database cannot be reached, started or trusted
    │   ├── LeaseError     somebody else holds what may be written by one process at a time, or took it over
    │   └── AlarmError     a move that an alarm cannot make, or that somebody else has made before
    ├── SnapshotError      a snapshot that is missing or changed
    │   └── UnfitError     a snapshot that no model may be trained on
    ├── ModelError         a model that cannot be fitted, loaded or trusted
    │   ├── TamperedError  an artefact whose bytes are not those that were registered
    │   └── HandOverError  a model of a study that production cannot keep or train again
    ├── RegistryError      the model registry cannot be reached, or has no such version
    ├── StackError         a server of the stack that cannot be started or stopped
    ├── ReportError        a notebook or page that cannot be made
    └── FetchError         the public data set cannot be downloaded or is not what it should be

A broken batch file is not an error: it is a verdict (`wafer.contract.suites.Verdict`). Every message is one sentence
that names what is concerned, what was expected and what came. `wafer.boundary` prints it for all entry points, without
a traceback, and ends with the error's exit status: 2, or 1 where it is a negative result.
"""

import signal
from collections.abc import Sequence
from typing import ClassVar

EXIT_NEGATIVE = 1
EXIT_WRONG_USE = 2
EXIT_FAULT = 70
EXIT_INTERRUPTED = 128 + signal.SIGINT
EXIT_BROKEN_PIPE = 128 + signal.SIGPIPE
EXIT_ENDED = 128 + signal.SIGTERM
EXIT_STATUS = {
    0: "done",
    EXIT_NEGATIVE: "a negative result",
    EXIT_WRONG_USE: "wrong use, or something that you can mend",
    EXIT_FAULT: "a fault of wafer",
    EXIT_INTERRUPTED: "interrupted",
    EXIT_BROKEN_PIPE: "nobody read the output to its end",
    EXIT_ENDED: "told to end by SIGTERM",
}
"""With what the command `wafer` ends, and what that means."""


class WaferError(Exception):
    """Base of every error that this library raises on purpose."""

    exit_status: ClassVar[int] = EXIT_WRONG_USE

    @property
    def sentences(self) -> tuple[str, ...]:
        """What a person is told, a line each."""
        return (str(self),)


class ParameterError(WaferError):
    """An unknown key or an impossible value in params.yaml or in a call."""


class SettingsError(WaferError):
    """An environment variable that cannot be used."""


class ProjectError(WaferError):
    """A folder that cannot become a customer's project."""


class AgreementError(WaferError):
    """A data sharing agreement or an expectation suite that cannot be used."""


class PreflightError(WaferError):
    """What a piece of work needs and does not find: all of it, told before anything starts."""

    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__("; ".join(problems))
        self.problems = tuple(problems)

    @property
    def sentences(self) -> tuple[str, ...]:
        """Each problem on a line of its own."""
        return self.problems


class EmptyError(WaferError):
    """Nothing to work on: a folder without batch files, an empty selection. A negative result, not a wrong use."""

    exit_status = EXIT_NEGATIVE


class DeliveryError(WaferError):
    """A folder or file of deliveries that is not there."""


class UnreadError(DeliveryError):
    """A delivered file whose bytes cannot be had, or not those that were judged."""


class StorageError(WaferError):
    """The folder or bucket of all outputs cannot be used, or lacks what it should hold."""


class StoreError(WaferError):
    """The wafer database cannot be reached, started or trusted."""


class LeaseError(StoreError):
    """Somebody else holds what may be written by one process at a time, or took it over."""


class AlarmError(StoreError):
    """A move that an alarm cannot make, or that somebody else has made before."""


class SnapshotError(WaferError):
    """A snapshot that is missing or changed."""


class UnfitError(SnapshotError):
    """A snapshot that no model may be trained on. A negative result, not a wrong use."""

    exit_status = EXIT_NEGATIVE


class ModelError(WaferError):
    """A model that cannot be fitted, loaded or trusted."""


class TamperedError(ModelError):
    """An artefact whose bytes are not those that were registered."""


class HandOverError(ModelError):
    """A model of a study that production cannot keep or train again."""


class RegistryError(WaferError):
    """The model registry cannot be reached, or has no such version."""


class RetuneError(RegistryError):
    """A version that cannot be given another policy, or has it already."""


class StackError(WaferError):
    """A server of the stack that cannot be started or stopped, with the last lines of its log."""

    @property
    def sentences(self) -> tuple[str, ...]:
        """What is wrong, then lines of a log."""
        return self.args


class ReportError(WaferError):
    """A notebook or page that cannot be made."""


class FetchError(WaferError):
    """The public data set cannot be downloaded or is not what it should be."""
