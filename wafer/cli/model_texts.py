"""What `wafer models` prints of metrics, comparisons, checks and decisions. It imports nothing that takes long."""

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from wafer.learning.worth import Worth
    from wafer.registry import Check, Comparison, Decision, Registry, Version
    from wafer.registry.rebuild import Rebuilt

PROTOCOLS = ("shuffled", "forward", "permuted", "plain")


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


def version_row(registry: "Registry", version: "Version", aliases: list[str]) -> dict[str, Any]:
    """What a list tells of a version."""
    metrics = registry.metrics(version)
    return {
        "version": version.version,
        "aliases": aliases,
        "stage": version.stage,
        "training": version.training,
        "trained": version.created,
        "shuffled_auc": metrics.get("shuffled.auc"),
        "forward_auc": metrics.get("forward.auc"),
        "threshold": version.threshold,
        "policy": version.policy,
        "retuned_from": version.retuned,
        "snapshot": version.tags.get("snapshot.digest", ""),
        "commit": version.tags.get("git.commit", ""),
    }


def echo_versions(rows: Iterable[Mapping[str, Any]]) -> None:
    """A line each; a threshold that rolls lies about the one that is told, which ~ says."""
    click.echo(
        f"version  {'alias':<10}  {'stage':<10}  {'trained':<16}  shuffled  forward  threshold  {'policy':<12}  "
        f"{'snapshot':<12}  commit"
    )
    for row in rows:
        shuffled, forward, threshold = (number(row[name]) for name in ("shuffled_auc", "forward_auc", "threshold"))
        threshold = f"{'~' if row['policy'].get('threshold') == 'rolling' else ''}{threshold}"
        line = f"{row['version']:>7}  {','.join(row['aliases']):<10}  {row['stage']:<10}  {minute(row['trained'])}"
        line += f"  {shuffled:>8}  {forward:>7}  {threshold:>9}  {policy_text(row['policy'], short=True):<12}"
        click.echo(f"{line}  {str(row['snapshot'])[:12]:<12}  {str(row['commit'])[:10]}".rstrip())


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


def echo_live(figures: Sequence[Mapping[str, Any]]) -> None:
    """A line a version of what it was worth in use."""
    click.echo(
        f"version   scored  {'alarm rate %':>16}  labelled  caught  missed  false  {'precision %':>16}  "
        f"{'observed/expected':>17}   Brier"
    )
    for one in figures:
        shares = [_share(one, name, 100.0, 1) for name in ("alarm_rate", "precision")]
        counts = f"{one['labelled']:>8,}  {one['caught']:>6,}  {one['missed']:>6,}  {one['false_alarms']:>5,}"
        click.echo(
            f"{one['version']:>7}  {one['wafers']:>7,}  {shares[0]:>16}  {counts}  {shares[1]:>16}  "
            f"{_share(one, 'observed_to_expected', 1.0, 2):>17}  {number(one['brier']):>6}"
        )


def _share(figures: Mapping[str, Any], name: str, unit: float, digits: int) -> str:
    if figures[name] is None:
        return "–"
    value, low, high = (unit * figures[key] for key in (name, f"{name}_low", f"{name}_high"))
    return f"{value:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"


def policy_text(policy: Mapping[str, Any], *, short: bool = False) -> str:
    """What alarms cost and how many there may be; a dash where it was not noted."""
    if not policy:
        return "–"
    missed, false, ceiling = (policy[name] for name in ("cost_missed_fault", "cost_false_alarm", "alarm_rate_ceiling"))
    if short:
        return f"{missed:g}:{false:g} ≤{100 * ceiling:g}%"
    return (
        f"a missed fault costs {missed:g}, a false alarm {false:g}, at most {100 * ceiling:g} % of wafers may raise one"
    )


def in_use(version: "Version") -> dict[str, Any]:
    """From which probability a version raises an alarm, and by which policy."""
    return {"version": version.version, "threshold": version.threshold, "policy": version.policy}


def echo_in_use(version: "Version", indent: int = 0) -> None:
    """The same as a line; none where it was not noted."""
    if version.threshold is not None:
        rolling = version.threshold_kind == "rolling"
        about = "about " if rolling else ""
        follows = ", as the wafers before each one say" if rolling else ""
        told = f"alarms from probability {about}{version.threshold:.4f}{follows}: {policy_text(version.policy)}"
        click.echo(f"{' ' * indent}{told}")


def echo_retuned(parent: "Version", made: "Version", decision: "Decision") -> None:
    """What a version with another policy does otherwise, and what the gate says to it."""
    click.echo(f"version {made.version} has the parts of version {parent.version} and another policy")
    for version in (parent, made):
        click.echo(f"version {version.version}")
        echo_in_use(version, indent=4)
    if (parent.threshold, parent.threshold_kind) == (made.threshold, made.threshold_kind):
        click.echo("the threshold stays: the ceiling of alarms sets it, or the ratio of the costs is the same")
    click.echo(decision.reason)


def echo_worth(version: "Version", policy: Mapping[str, Any], alarm_rate: float | None, worth: "Worth") -> None:
    """What a version's alarms cost beside ways to do without it."""
    costs = policy_text(policy)
    if alarm_rate is not None:
        share = f"{100 * alarm_rate:g} % of each batch are inspected"
        costs = f"{costs.rpartition(', ')[0]}, {share}"
    click.echo(f"version {version.version}: {costs}")
    if worth.ways.empty:
        click.echo("its scores are too few to tell: wafers of both kinds are needed")
        return
    click.echo(worth.table().rename_axis(None).to_string())
    for sentence in worth.sentences():
        click.echo(sentence)


def echo_comparison(comparison: "Comparison", one: "Version", other: "Version") -> None:
    """Both versions beside each other, with the intervals of their differences."""
    c, first, second = comparison, one.version, other.version
    click.echo(f"{c.wafers:,} common wafers, {c.faulty:,} faulty, {c.batches} batches, stored forward scores")
    click.echo(f"{'':<22}{f'version {first}':>12}{f'version {second}':>12}  difference")
    if c.auc_difference is None:
        click.echo("ROC AUC               no common batch holds both faulty and good wafers")
    else:
        told = f"{c.auc_difference:+z.3f} [{c.auc_low:+z.3f}, {c.auc_high:+z.3f}]"
        click.echo(f"{'ROC AUC':<22}{number(c.auc_challenger):>12}{number(c.auc_champion):>12}  {told}")
    told = f"{c.cost_difference:+z.0f} [{c.cost_low:+z.0f}, {c.cost_high:+z.0f}]"
    click.echo(f"{'cost per 1,000 wafers':<22}{c.cost_challenger:>12.0f}{c.cost_champion:>12.0f}  {told}")
    if one.threshold is not None and other.threshold is not None:
        about = (f"{'~' if each.threshold_kind == 'rolling' else ''}{each.threshold:.4f}" for each in (one, other))
        click.echo(f"{'alarms from':<22}" + "".join(f"{told:>12}" for told in about))


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


def echo_decision(registry: "Registry", decision: "Decision", as_json: bool) -> None:
    """Who is champion after a decision by hand, and from when on it raises alarms."""
    if as_json:
        print_json(decision.as_dict())
        return
    before = f", version {decision.champion} was before" if decision.champion is not None else ""
    click.echo(f"version {decision.challenger} is champion{before}")
    echo_in_use(registry.version(decision.challenger), indent=4)


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
