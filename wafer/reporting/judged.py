"""What a prediction report is made from, of wafers that were judged in a notebook: without a run and without files."""

import pandas as pd

from wafer.records import with_units
from wafer.reporting.findings import Findings, with_findings
from wafer.scoring.batches import result_rows
from wafer.scoring.bundle import Bundle
from wafer.scoring.details import REASON_COLUMNS, Details, describe_reasons
from wafer.scoring.judge import Judgement


def as_reported(
    bundle: Bundle, wafers: pd.DataFrame, judgement: Judgement, batch: str = ""
) -> tuple[pd.DataFrame, Findings]:
    """The predictions with what was found besides, and the findings, as `PredictionSources` reads them of a run.

    Parameters:
        bundle: that judged.
        wafers: the wafers that were judged, in their sequence; columns wafer, order and label.
        judgement: of them.
        batch: what they are called together.
    """
    details = Details(bundle)
    details.add(batch, wafers, judgement)
    reasons = details.reasons.get(batch, pd.DataFrame(columns=REASON_COLUMNS))
    drift = {"reasons": describe_reasons(bundle), "batches": details.drift}
    findings = Findings(
        details.wafers[batch].assign(batch=batch),
        with_units(reasons.assign(batch=batch), "details/reasons.csv"),
        drift,
    )
    return with_findings(result_rows(wafers, judgement).assign(batch=batch), findings), findings
