"""What `wafer models` prints of metrics, comparisons, checks and decisions. It imports nothing that takes long."""

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from wafer.registry import Check, Comparison, Decision
    from wafer.registry.rebuild import Rebuilt

PROTOCOLS = ("shuffled", "forward", "permuted")


def print_json(value: Any) -> None:
    """Any plain value, as JSON and nothing else."""
    click.echo(json.dumps(value, indent=2, ensure_ascii=False))


def number(value: float | None) -> str:
    """A share with three digits; a dash for none."""
    return "–" if value is None else f"{value:.3f}"


def second(time: str) -> str:
    """An ISO time to the second, in UTC."""
    return f"{time[:19].replace('T', ' ')} UTC"


def minute(time: str) -> str:
    """An ISO time to the minute."""
    return time[:16].replace("T", " ")


def echo_pairs(title: str, values: dict[str, Any]) -> None:
    """Names and values below a title."""
    click.echo(title)
    for key, value in values.items():
        click.echo(f"    {key:<28}  {value}")


def echo_metrics(metrics: dict[str, float]) -> None:
    """Each metric of a protocol with its interval, where it has one."""
    for protocol in PROTOCOLS:
        own = {
            key.removeprefix(f"{protocol}."): value for key, value in metrics.items() if key.startswith(f"{protocol}.")
        }
        if not own:
            continue
        click.echo(protocol)
        for name, value in sorted(own.items()):
            if name.endswith(("_low", "_high")) and name.rpartition("_")[0] in own:
                continue
            low, high = own.get(f"{name}_low"), own.get(f"{name}_high")
            interval = "" if low is None or high is None else f"  [{low:.4g}, {high:.4g}]"
            click.echo(f"    {name:<28}  {value:.4g}{interval}")
    rest = {key: f"{value:.6g}" for key, value in sorted(metrics.items()) if not key.startswith(PROTOCOLS)}
    if rest:
        echo_pairs("counts", rest)


def echo_comparison(comparison: "Comparison", first: int, second: int) -> None:
    """Both versions beside each other, with the intervals of their differences."""
    c = comparison
    click.echo(f"{c.wafers:,} common wafers, {c.faulty:,} faulty, {c.batches} batches, stored forward scores")
    click.echo(f"{'':<22}{f'version {first}':>12}{f'version {second}':>12}  difference")
    if c.auc_difference is None:
        click.echo("ROC AUC               no common batch holds both faulty and good wafers")
    else:
        told = f"{c.auc_difference:+.3f} [{c.auc_low:+.3f}, {c.auc_high:+.3f}]"
        click.echo(f"{'ROC AUC':<22}{number(c.auc_challenger):>12}{number(c.auc_champion):>12}  {told}")
    told = f"{c.cost_difference:+.0f} [{c.cost_low:+.0f}, {c.cost_high:+.0f}]"
    click.echo(f"{'cost per 1,000 wafers':<22}{c.cost_challenger:>12.0f}{c.cost_champion:>12.0f}  {told}")


def echo_changes(changes: "Sequence[Mapping[str, str | None]]") -> None:
    """What was made differently, a line each."""
    click.echo("made differently" if changes else "both were made from the same data, parameters, code and libraries")
    for change in changes:
        first, second = (value if value is None else value[:16] for value in (change["first"], change["second"]))
        click.echo(f"    {change['name']:<28}  {first or '–':<16}  {second or '–'}")


def echo_checks(checks: "Iterable[Check]") -> None:
    """A line a check: passed or failed, and why."""
    for check in checks:
        passed = click.style("passed", fg="green") if check.passed else click.style("failed", fg="red")
        click.echo(f"    {passed}  {check.name}: {check.text}")


def echo_decision(decision: "Decision", as_json: bool) -> None:
    """Who is champion after a decision by hand."""
    if as_json:
        print_json(decision.as_dict())
        return
    before = f", version {decision.champion} was before" if decision.champion is not None else ""
    click.echo(f"version {decision.challenger} is champion{before}")


def echo_rebuilt(rebuilt: "Rebuilt") -> None:
    """What training a version again came to."""
    click.echo(f"version {rebuilt.version}")
    click.echo(f"    snapshot   {rebuilt.snapshot[:12]}, from {rebuilt.source}")
    click.echo(f"    code       {rebuilt.code}")
    for name, (then, present) in rebuilt.libraries.items():
        click.echo(f"    library    {name}: trained with {then or 'none'}, installed is {present or 'none'}")
    for note in rebuilt.notes:
        click.echo(f"    note       {note}")
    for part in rebuilt.parts:
        click.echo(f"    differs    {part}")
    if rebuilt.deviation is not None:
        click.echo(
            f"    scores     {rebuilt.wafers:,} wafers, largest deviation of a probability {rebuilt.deviation:.3g}"
        )
    told = "the same model, part by part" if rebuilt.identical else "not the same model"
    click.secho(f"    result     {told}", fg="green" if rebuilt.identical else "red")
