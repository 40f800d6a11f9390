"""What is drawn of a run, once its results are kept: a figure or notebook that fails, fails its own task alone."""

from flows.entry import link_page, opened, progress_artifact, step
from wafer import steps
from wafer.progress import heard_by
from wafer.records import Reported


@step()
def draw_figures(run_id: str) -> None:
    """Draw the figures of a training."""
    with opened(run_id) as (workspace, run):
        steps.draw(workspace, run)


@step("report-{name}")
def report(run_id: str, name: str) -> Reported:
    """Run the notebook `name` about a run."""
    with opened(run_id) as (workspace, run), heard_by(progress_artifact):
        reported = steps.report(workspace, run, name)
    link_page(workspace, reported.page)
    return reported
