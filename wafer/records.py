"""What steps hand to each other: small immutable records of paths, digests and counts, never frames."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Delivered:
    """Folders of raw batch files."""

    training: str
    prediction: str


@dataclass(frozen=True)
class Ingested:
    """What a delivery came to; `report` is the path of the whole story as JSON, `page` of the one for reviewers."""

    report: str
    page: str
    files: int
    accepted: int
    quarantined: int
    unread: int
    wafers_stored: int


@dataclass(frozen=True)
class Frozen:
    """A snapshot: its folder and digest."""

    folder: str
    digest: str
    wafers: int
    faulty: int


@dataclass(frozen=True)
class Fitted:
    """A saved model: its folder and the digest of its manifest."""

    folder: str
    digest: str


@dataclass(frozen=True)
class Evaluated:
    """Paths of the metrics and of the out-of-fold scores that they were computed from."""

    metrics: str
    scores: str


@dataclass(frozen=True)
class Registered:
    """A version in the registry."""

    version: int
    run_id: str


@dataclass(frozen=True)
class Decided:
    """What the gate said; `decision` is the path of all its numbers."""

    decision: str
    promoted: bool
    reason: str


@dataclass(frozen=True)
class Predicted:
    """What scoring came to: one CSV a batch in `folder`, named by `files`; doubts, reasons and drift in `details`."""

    folder: str
    files: tuple[str, ...]
    wafers: int
    alarms: int
    details: str
    model_folder: str
    model_version: int


@dataclass(frozen=True)
class Reported:
    """An executed notebook and its page."""

    notebook: str
    page: str
