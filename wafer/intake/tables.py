"""Batch files as one table, judged as at an ingest but neither stored nor quarantined: for work in a notebook."""

from collections.abc import Sequence

import pandas as pd

from wafer.contract.suites import Contract, Verdict, judge_files
from wafer.delivered import list_files
from wafer.errors import EmptyError
from wafer.intake.ingest import production_order
from wafer.progress import shown
from wafer.records import TABLE, with_units
from wafer.storage import AnyPath


def read_wafers(paths: Sequence[AnyPath], contract: Contract) -> tuple[pd.DataFrame, list[Verdict]]:
    """The wafers of the accepted files among `paths`, and the verdict on each file.

    Parameters:
        paths: batch files, and folders of them.
        contract: what the files must keep.

    Returns:
        A table as a snapshot has it, in production order: wafer, order, batch, label (-1 good, 1 faulty; missing where
        the agreement has none) and the sensors, NaN for missing. Of a wafer that comes again the first readings stay.

    Raises:
        EmptyError: no wafer is left.
        DeliveryError: a path is not there.
        AgreementError: as `Contract.judge` does.
    """
    parts, verdicts = [], []
    with shown("read") as progress:
        for delivery, verdict in judge_files(list_files(paths).files, contract, progress=progress):
            verdicts.append(verdict)
            if verdict.accepted and delivery.table is not None:
                part = delivery.table.to_pandas()
                order = production_order(contract.order, contract.form.wafer_id, part["wafer"].tolist(), delivery.file)
                parts.append(part.assign(order=order, batch=delivery.file, label=part.get("label")))
    if not any(map(len, parts)):
        raise EmptyError(f"no wafer is left: of {len(verdicts)} files {len(parts)} were accepted")
    table = pd.concat(parts, ignore_index=True).drop_duplicates("wafer").sort_values("order", ignore_index=True)
    return with_units(table[[*TABLE, *contract.sensors]], "wafers.parquet"), verdicts
