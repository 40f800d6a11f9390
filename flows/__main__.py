"""The main job in one go: ingest, train and predict in one process and on one Prefect server, then a short summary."""

import sys
from pathlib import Path

from flows.entry import command, run
from flows.ingest import ingest
from flows.predict import predict
from flows.train import train
from wafer import steps
from wafer.params import read_params
from wafer.reporting.summary import summarise_run
from wafer.settings import Settings


def main_job(raw: str | None, params_file: str) -> None:
    """Run the three flows on the folders training/ and prediction/ of `raw`, and print what came of it."""
    settings = Settings.read()
    if raw is None:
        raw = steps.deliver_where_empty(settings, read_params(params_file).deliver)
    ingest(str(Path(raw) / "training"), "training")
    reported = [train(params_file), predict(str(Path(raw) / "prediction"))]
    print(summarise_run(settings, reported))  # noqa: T201 - what the person came for


if __name__ == "__main__":
    parser = command("flows", __doc__)
    parser.add_argument(
        "--raw",
        help="folder that holds training/ and prediction/ "
        "(default: raw/ below WAFER_STORAGE, filled by the synthetic fab where it is empty)",
    )
    parser.add_argument("--params", default="params.yaml", help="parameter file (%(default)s)")
    options = parser.parse_args()
    sys.exit(run(lambda: main_job(options.raw, options.params)))
