"""The commands about models: `wafer models …`. What takes long to import is imported by the commands that need it."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from wafer.cli.model_texts import (
    echo_changes,
    echo_checks,
    echo_comparison,
    echo_decision,
    echo_in_use,
    echo_live,
    echo_metrics,
    echo_pairs,
    echo_rebuilt,
    echo_retuned,
    echo_versions,
    echo_worth,
    in_use,
    minute,
    print_json,
    second,
    version_row,
)
from wafer.cli.params import params_file, params_in_use
from wafer.cli.store import as_json
from wafer.errors import EXIT_NEGATIVE, EmptyError
from wafer.records import SAME_MODEL
from wafer.shown import shown_text

if TYPE_CHECKING:
    from wafer.registry import Registry

reason = click.option("--why", required=True, metavar="TEXT", help="The reason, which the ledger keeps.")


@click.group()
def models() -> None:
    """See which models there are, compare them, put one into use, take it back, prove where it comes from.

    A VERSION is a number or an alias: champion (in use), challenger (the newest that did not become champion) or
    previous (the champion before).

    \b
    Who is in use, and why; another alarm threshold without training; and back to the one before:
      wafer models list
      wafer models log
      wafer models retune champion --cost-missed-fault 50 --why "faults slip through"
      wafer models rollback --why "misses the edge faults of week 30"
    And what alarms would be worth at other costs:
      wafer models what-if --cost-missed-fault 50
    """


@models.command("list")
@as_json
def list_versions(as_json: bool) -> None:
    """List all versions, newest last.

    Each with its alias, stage, when it was trained, both ROC AUCs, the probability from which it raises an alarm, the
    policy that this follows from, snapshot and commit. The forward ROC AUC is the one to look at: how well faults of
    the next batch are foreseen. The policy "20:1 ≤10%" says that a missed fault costs 20 times a false alarm, and that
    at most 10 % of wafers may raise an alarm.
    """
    registry = _registry()
    aliases = _aliases(registry)
    rows = [version_row(registry, version, aliases.get(version.version, [])) for version in registry.versions()]
    if as_json:
        print_json(rows)
        return
    if not rows:
        click.echo("no version yet: `wafer train` makes the first")
        return
    echo_versions(rows)


@models.command()
@click.argument("version")
@as_json
def show(version: str, as_json: bool) -> None:
    """Tell all that is recorded of a VERSION.

    That is its metrics with their intervals, its lineage (snapshot, commit, libraries), params, and decisions on it.

    \b
    Examples:
      wafer models show champion
      wafer models show 3 --json
    """
    registry = _registry()
    from wafer.registry.provenance import lineage
    from wafer.registry.records import WHY
    from wafer.registry.versions import PARAMS

    found = registry.version(version)
    aliases = _aliases(registry).get(found.version, [])
    record: dict[str, Any] = {
        **version_row(registry, found, aliases),
        "run_id": found.run_id,
        "digest": found.digest,
        "metrics": registry.metrics(found),
        "lineage": lineage(found.tags),
        "params": registry.stored_json(found, PARAMS),
        "decisions": [line.as_dict() for line in registry.ledger() if line.challenger == found.version],
    }
    if as_json:
        print_json(record)
        return
    click.echo(f"version {found.version}  {', '.join([*aliases, found.stage])}")
    click.echo(
        f"trained {minute(found.created)}, training {found.training}, run {found.run_id}, model {found.digest[:12]}"
    )
    echo_in_use(found)
    if found.retuned is not None:
        click.echo(f"retuned from version {found.retuned}: {found.tags[WHY]}")
    echo_metrics(record["metrics"])
    echo_pairs("lineage", record["lineage"])
    for section, values in (record["params"] or {}).items():
        echo_pairs(f"params: {section}", values if isinstance(values, dict) else {section: values})
    for line in record["decisions"]:
        click.echo(f"{minute(line['time'])}  {line['kind']}: {line['reason']}")


@models.command()
@as_json
def live(as_json: bool) -> None:
    """Tell what the versions were worth in use, by labels that came after their training.

    Of each version that scored wafers: its alarm rate, and of the wafers whose label it was not trained on, the faults
    that it caught and missed, false alarms, precision, and how many faults came for each that its probabilities had
    foretold, with 95 % intervals.

    \b
    Examples:
      wafer models live
      wafer models live --json
    """
    import wafer
    from wafer.registry.live import live_figures

    with wafer.open() as workspace:
        figures = [one.as_dict() for one in live_figures(workspace.registry, workspace.store)]
    if as_json:
        print_json(figures)
        return
    if not figures:
        click.echo("no version has scored a wafer yet: `wafer predict` lets the champion do so")
        return
    echo_live(figures)


@models.command()
@click.argument("first")
@click.argument("second", default="champion")
@params_file
@as_json
def compare(first: str, second: str, params_file: Path | None, as_json: bool) -> None:
    """Compare two versions on the wafers of both, with intervals.

    The stored forward scores are compared, wafer by wafer, and it is told what was made differently. A difference is
    FIRST minus SECOND (the champion where it is left out): a higher ROC AUC is better, a higher cost is worse. An
    interval that holds 0 says that they cannot be told apart.

    \b
    Examples:
      wafer models compare challenger
      wafer models compare 4 2 --json
    """
    from wafer.errors import RegistryError
    from wafer.params import read_params
    from wafer.registry import gate_rules

    settings = read_params(params_in_use(params_file))
    registry = _registry()
    one, other = registry.version(first), registry.version(second)
    comparison = registry.compare(one, other, gate_rules(settings.gate, settings.policy))
    if comparison is None:
        raise RegistryError(
            f"versions {one.version} and {other.version} cannot be compared: no wafer has a forward score of both"
        )
    changes = registry.changes(one, other)
    if as_json:
        print_json({"first": one.version, "second": other.version, **asdict(comparison), "changes": changes})
        return
    echo_comparison(comparison, one, other)
    echo_changes(changes)


@models.command()
@click.argument("version")
@reason
@as_json
def promote(version: str, why: str, as_json: bool) -> None:
    """Put a VERSION into use by hand, past the gate.

    It must still be what was registered: every digest is checked, and its probe wafers are scored.

    \b
    Example:
      wafer models promote challenger --why "the process was changed on 3 May, old batches count no longer"
    """
    with _deciding() as registry:
        echo_decision(registry, registry.promote(version, why), as_json)


@models.command()
@reason
@as_json
def rollback(why: str, as_json: bool) -> None:
    """Put the champion before this one into use again.

    A champion before that was the same model, byte for byte, is passed over.
    A second rollback takes back the first: the version that was rolled back from is in use again. To go further back,
    promote a version by its number.

    \b
    Example:
      wafer models rollback --why "too many false alarms since yesterday"
    """
    with _deciding() as registry:
        echo_decision(registry, registry.rollback(why), as_json)


@models.command()
@click.argument("version")
@click.option("--cost-missed-fault", type=float, metavar="COST", help="Cost of a faulty wafer without alarm.")
@click.option("--cost-false-alarm", type=float, metavar="COST", help="Cost of an alarm on a good wafer, same unit.")
@click.option("--alarm-rate-ceiling", type=float, metavar="SHARE", help="Largest share of wafers that may raise one.")
@click.option("--threshold", type=click.Choice(["fixed", "rolling"]), help="One for all wafers, or by recent ones.")
@params_file
@reason
@as_json
def retune(version: str, params_file: Path | None, why: str, as_json: bool, **policy: Any) -> None:
    """Give a VERSION another alarm threshold, without training again.

    The threshold follows from what alarms cost and from scores that are stored with the model. A version with the same
    parts and that threshold is registered, and the gate decides on it by the new costs. What is not named stays as the
    VERSION has it. `wafer models rollback` takes it back.
    The next training follows the section `policy` of the parameters, so write there what shall last.
    Exit status: 0 it is champion, 1 the gate refused it, 2 wrong use, or nothing to change.

    \b
    Examples:
      wafer models retune champion --cost-missed-fault 50 --why "a missed fault costs us a whole lot"
      wafer models retune champion --alarm-rate-ceiling 0.05 --why "review can look at one wafer in twenty"
    """
    from dataclasses import replace

    from wafer.params import read_params
    from wafer.registry import gate_rules

    named = {name: value for name, value in policy.items() if value is not None}
    if not named:
        every = "--cost-missed-fault, --cost-false-alarm, --alarm-rate-ceiling or --threshold"
        raise click.UsageError(f"name what changes: {every}")
    params = params_in_use(params_file)
    settings = read_params(params)
    with _deciding() as registry:
        parent = registry.version(version)
        other = replace(registry.load(parent).classifier.policy_, **named)
        decision = registry.retune(parent, other, why, gate_rules(settings.gate, settings.policy))
        made = registry.version(decision.challenger)
    if as_json:
        print_json({**decision.as_dict(), "before": in_use(parent), "now": in_use(made)})
    else:
        echo_retuned(parent, made, decision)
        written = settings.policy.model_dump()
        lasting = [
            f"{name}: {value if isinstance(value, str) else format(value, 'g')}"
            for name, value in named.items()
            if written[name] != value
        ]
        if decision.promoted and lasting:
            told = f"the next training follows {shown_text(params)}: to keep it, write there under policy: "
            click.echo(told + ", ".join(lasting))
    sys.exit(0 if decision.promoted else EXIT_NEGATIVE)


@models.command("what-if")
@click.argument("version", default="champion")
@click.option("--cost-missed-fault", type=float, metavar="COST", help="Cost of a faulty wafer without alarm.")
@click.option("--cost-false-alarm", type=float, metavar="COST", help="Cost of an alarm on a good wafer, same unit.")
@click.option("--alarm-rate", type=float, metavar="SHARE", help="Share of each batch that is inspected, come what may.")
@as_json
def what_if(version: str, alarm_rate: float | None, as_json: bool, **costs: float | None) -> None:
    """Tell what the alarms of a VERSION are worth, and what they would be at other costs; nothing is changed.

    The answer comes from the scores that are stored with the VERSION (the champion where it is left out), and stands
    beside what no inspection, inspecting every wafer or a random tenth, and a plain forest would cost. The alarms are
    those that a policy of these costs and the VERSION's ceiling would have raised; with --alarm-rate they are so many
    wafers of each batch, those with the highest probability. What is not named stays as the VERSION has it.

    \b
    Examples:
      wafer models what-if
      wafer models what-if champion --cost-missed-fault 50 --alarm-rate 0.05
    """
    from dataclasses import replace

    from wafer.learning.decision import Policy
    from wafer.learning.worth import highest, worth
    from wafer.registry.retunes import rescored

    registry = _registry()
    found = registry.version(version)
    named: dict[str, Any] = {name: value for name, value in costs.items() if value is not None}
    policy = replace(Policy(**{"threshold": found.threshold_kind, **found.policy}), **named)
    scores = registry.scores(found)
    if alarm_rate is None:
        scores = rescored(scores, policy, found.version)
    else:
        scores = scores.assign(alarm=highest(scores, "probability", alarm_rate))
    told = worth(scores, policy)
    if as_json:
        print_json({"version": found.version, "policy": asdict(policy), "alarm_rate": alarm_rate, **told.as_dict()})
    else:
        echo_worth(found, asdict(policy), alarm_rate, told)


@models.command()
@as_json
def log(as_json: bool) -> None:
    """Tell every decision ever taken, newest last.

    With --json each with all its numbers: checks, limits, both sides of the comparison, the rules that were applied.

    \b
    Example:
      wafer models log --json
    """
    lines = _registry().ledger()
    if as_json:
        print_json([line.as_dict() for line in lines])
        return
    for line in lines:
        what = "promoted" if line.promoted else "refused" if line.kind != SAME_MODEL else "not needed"
        click.echo(f"{minute(line.time)}  {line.kind:<10}  version {line.challenger} {what}")
        click.echo(f"    {line.reason}")
    if not lines:
        click.echo("no decision yet")


@models.command("at")
@click.argument("time", callback=lambda _context, _option, value: _moment(value))
@as_json
def in_use_at(time: datetime, as_json: bool) -> None:
    """Tell which version was in use at a TIME, since and until when, and why.

    TIME is written as in ISO 8601, with or without a time zone; without one UTC is meant. The answer is the ledger's.
    Exit status: 0 a version was in use, 1 none was yet, 2 wrong use.

    \b
    Examples:
      wafer models at 2026-05-01T12:00
      wafer models at 2026-05-01T12:00+02:00 --json
    """
    registry = _registry()
    from wafer.registry.ledger import reign_at

    lines = registry.ledger()

    found = reign_at(lines, time)
    known = {version.version: version for version in registry.versions()} if found else {}
    asked = time.astimezone(UTC).isoformat(timespec="seconds")
    if found is None:
        first = next((f"the first is in use since {second(line.time)}" for line in lines if line.promoted), None)
        none = f"no version was in use at {second(asked)}: {first or 'there has been no champion yet'}"
    if as_json:
        nobody = {"version": None, "since": None, "until": None, "kind": None, "why": None}
        used = in_use(known[found.version]) if found and found.version in known else None
        print_json({"at": asked, **(nobody if found is None else asdict(found)), "in_use": used})
    elif found is None:
        click.echo(none)
    else:
        until = "now" if found.until is None else second(found.until)
        click.echo(f"version {found.version} was in use at {second(asked)}, from {second(found.since)} until {until}")
        click.echo(f"    {found.kind}: {found.why}")
        if found.version in known:
            echo_in_use(known[found.version], indent=4)
    sys.exit(EXIT_NEGATIVE if found is None else 0)


@models.command()
@click.argument("version", required=False)
@as_json
def verify(version: str | None, as_json: bool) -> None:
    """Check that a VERSION is what was registered.

    Every file's digest is compared, and the probe wafers must score as they did. Without a VERSION all are checked; one
    that cannot be fetched has failed.
    Exit status: 0 all is as registered, 1 something is not, or there is no version.

    \b
    Examples:
      wafer models verify
      wafer models verify champion --json
    """
    registry = _registry()
    wanted = registry.versions() if version is None else [registry.version(version)]
    if not wanted:
        raise EmptyError("there is no version to check yet: `wafer train` makes the first")
    found = {one.version: registry.verify(one) for one in wanted}
    if as_json:
        print_json({number: [asdict(check) for check in checks] for number, checks in found.items()})
    else:
        for number, checks in found.items():
            click.echo(f"version {number}")
            echo_checks(checks)
    sys.exit(0 if all(check.passed for checks in found.values() for check in checks) else EXIT_NEGATIVE)


@models.command()
@click.argument("version")
@as_json
def rebuild(version: str, as_json: bool) -> None:
    """Train a VERSION again and prove that the same model comes out.

    It is trained from its recorded snapshot, commit and params. The snapshot is taken from the storage, else from DVC's
    cache or remote, else exported from the database again. The code is checked out beside your own tree, which stays as
    it is. Every installed library whose version is another than then is named. It takes as long as the training took.
    Exit status: 0 the same model, 1 another one.

    \b
    Examples:
      wafer models rebuild champion
      wafer models rebuild 3 --json
    """
    import wafer

    with wafer.open() as workspace:
        from wafer.registry.rebuild import rebuild as train_again

        rebuilt = train_again(workspace.settings, version)
    if as_json:
        print_json(rebuilt.as_dict())
    else:
        echo_rebuilt(rebuilt)
    sys.exit(0 if rebuilt.identical else EXIT_NEGATIVE)


@contextmanager
def _deciding() -> "Iterator[Registry]":
    """The registry, while nobody else decides."""
    import wafer

    with wafer.open() as workspace, workspace.lease("gate"):
        yield workspace.registry


def _registry() -> "Registry":
    import wafer

    return wafer.open().registry  # which needs no closing


def _aliases(registry: "Registry") -> dict[int, list[str]]:
    names: dict[int, list[str]] = {}
    for alias, version in sorted(registry.aliases().items()):
        names.setdefault(version, []).append(alias)
    return names


def _moment(text: str) -> datetime:
    """A moment with its time zone."""
    try:
        found = datetime.fromisoformat(text)
        found = (found if found.tzinfo else found.replace(tzinfo=UTC)).astimezone(UTC)
    except (ValueError, OverflowError) as error:
        raise click.BadParameter(f"{shown_text(text, 40)!r} is no time: expected one like 2026-05-01T12:00") from error
    if found > datetime.now(UTC):
        raise click.BadParameter(f"{shown_text(text, 40)!r} has not come yet")
    return found
