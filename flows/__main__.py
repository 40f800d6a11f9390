"""The main job in one go: ingest, train and predict in one process and on one Prefect server, then a short summary."""

import sys

import wafer
from flows.entry import command, run
from flows.ingest import ingest
from flows.predict import predict
from flows.train import train
from wafer import steps
from wafer.params import read_params
from wafer.reporting.summary import summarise_runs


def main_job(raw: str | None, params_file: str | None) -> tuple[str, ...]:
    """Run the three flows on the folders training/ and prediction/ of `raw`, and print what came of it."""
    with wafer.open() as workspace:
        if raw is None:
            steps.deliver_where_empty(workspace, read_params(params_file or workspace.params_file).deliver)
        folders = [None if raw is None else f"{raw.rstrip('/')}/{kind}" for kind in ("training", "prediction")]
        done = [ingest(folders[0], "training"), train(params_file), predict(folders[1])]
        print(summarise_runs(workspace, [workspace.runs.get(one.run_id) for one in done]))  # noqa: T201 - the result
    return tuple(complaint for one in done for complaint in one.complaints)


if __name__ == "__main__":
    parser = command("flows", __doc__)
    parser.add_argument(
        "--raw",
        help="folder that holds training/ and prediction/ "
        "(default: raw/ below WAFER_STORAGE, filled by the synthetic fab where it is empty)",
    )
    parser.add_argument("--params", default=None, help="parameter file (the project's params.yaml)")
    options = parser.parse_args()
    sys.exit(run(lambda: main_job(options.raw, options.params)))
