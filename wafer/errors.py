"""The errors that this library raises on purpose.

::

    WaferError
    ├── ParameterError     an unknown key or an impossible value in params.yaml or in a call
    ├── SettingsError      an environment variable that cannot be used
    ├── AgreementError     a data sharing agreement or a suite in expectations/ that cannot be used
    ├── DeliveryError      a folder or file of deliveries that is not there
    │   └── UnreadError    a delivered file whose bytes cannot be had, or not those that were judged
    ├── StoreError         the wafer database cannot be reached, started or trusted
    │   └── LeaseError     somebody else holds what may be written by one process at a time, or took it over
    ├── SnapshotError      a snapshot that is missing, changed or not fit to train on
    ├── ModelError         a model that cannot be fitted, loaded or trusted
    │   └── TamperedError  an artefact whose bytes are not those that were registered
    ├── RegistryError      the model registry cannot be reached, or has no such version
    ├── ReportError        a notebook or page that cannot be made
    └── FetchError         the public data set cannot be downloaded or is not what it should be

A broken batch file is not an error: it is a verdict (`wafer.contract.suites.Verdict`). Every message is one sentence
that names the thing concerned, what was expected and what came; entry points print it without a traceback and exit
with status 2.
"""


class WaferError(Exception):
    """Base of every error that this library raises on purpose."""


class ParameterError(WaferError):
    """An unknown key or an impossible value in params.yaml or in a call."""


class SettingsError(WaferError):
    """An environment variable that cannot be used."""


class AgreementError(WaferError):
    """A data sharing agreement or an expectation suite that cannot be used."""


class DeliveryError(WaferError):
    """A folder or file of deliveries that is not there."""


class UnreadError(DeliveryError):
    """A delivered file whose bytes cannot be had, or not those that were judged."""


class StoreError(WaferError):
    """The wafer database cannot be reached, started or trusted."""


class LeaseError(StoreError):
    """Somebody else holds what may be written by one process at a time, or took it over."""


class SnapshotError(WaferError):
    """A snapshot that is missing, changed or not fit to train on."""


class ModelError(WaferError):
    """A model that cannot be fitted, loaded or trusted."""


class TamperedError(ModelError):
    """An artefact whose bytes are not those that were registered."""


class RegistryError(WaferError):
    """The model registry cannot be reached, or has no such version."""


class ReportError(WaferError):
    """A notebook or page that cannot be made."""


class FetchError(WaferError):
    """The public data set cannot be downloaded or is not what it should be."""
