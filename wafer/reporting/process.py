"""Tables about the process beside the model: what left control, and which sensors are named by whom.

They are made from the files that `wafer.scoring.control.Control` writes.
"""

import numpy as np
import pandas as pd

from wafer.diagnosis.multivariate import FALSE_ALARM_RATE
from wafer.reporting.findings import KEYS, MOST_TOLD, NO_DETAILS, Findings
from wafer.reporting.frames import read_frame
from wafer.scoring.bundle import Bundle
from wafer.scoring.control import FRAMES, Control, file_name
from wafer.storage import AnyPath

ALARMS, DISTANCES, CHARTS = WAYS = ("alarms", "T² and SPE", "own charts")
DRAWS = 500  # of as many random sensors as were named
BY_CHANCE = 0.95  # of those draws name no sensor more often than the floor
LEAVING = 3  # rules, and sensors, that are named in a line


def read_control(folder: AnyPath) -> Control:
    """What left control in one run, from its details in `folder`, local or S3.

    Raises:
        ReportError: a file is not there, or lacks a column.
    """
    frames = {}
    for frame in FRAMES:
        name = file_name(frame)
        frames[frame] = read_frame(folder / name, f"details/{name}", NO_DETAILS)
    frames["wafers"] = frames["wafers"].astype({"out_of_control": bool})
    return Control(**frames)


def why_unknown(control: Control, bundle: Bundle, chart: str) -> str | None:
    """Why nobody knows whether wafers are beyond a limit, or sensors out of control; None where it is known.

    Args:
        chart: `DISTANCES` or `CHARTS`.
    """
    if bundle.monitor is None:
        return "The model was saved without what it needs to monitor the process."
    if control.wafers.empty:
        return "No wafer was looked at: none was scored."
    if chart == DISTANCES and bundle.monitor.pca is None:
        return "The good wafers were too few to learn limits of T² and SPE from."
    return None


def nothing_found(control: Control, bundle: Bundle, chart: str) -> str:
    """What is told in place of an empty table of `chart`, `DISTANCES` or `CHARTS`."""
    none = {DISTANCES: "No wafer lies beyond a limit.", CHARTS: "No sensor left control on its own chart."}
    return why_unknown(control, bundle, chart) or none[chart]


def control_sentence(control: Control, bundle: Bundle) -> str:
    """How many wafers and sensors left control, against what is expected without a change, as Markdown."""
    if (why := why_unknown(control, bundle, CHARTS)) is not None:
        return why
    wafers = control.wafers
    out, names = int(wafers["out_of_control"].sum()), control.sensors["sensor"].drop_duplicates().tolist()
    more = f" and {len(names) - LEAVING:,} more" if len(names) > LEAVING else ""
    left = f": {', '.join(names[:LEAVING])}{more}" if names else ""
    percent = f"{100 * FALSE_ALARM_RATE:g} %"
    limits = (
        why_unknown(control, bundle, DISTANCES)
        or f"**{out:,} of {len(wafers):,} wafers** lie beyond the limit of T² or SPE; by chance alone "
        f"{percent} would lie beyond each."
    )
    sensors = f"{len(names):,} of {len(bundle.classifier.sensor_names_):,} sensors"
    return f"{limits} **{sensors}** left control on their own charts{left}."


def out_of_control_table(judged: pd.DataFrame, control: Control) -> pd.DataFrame:
    """The wafers beyond a limit, the farthest first.

    Args:
        judged: as of `findings.with_findings`.
        control: of the same run.

    Returns: by wafer: batch, T² and SPE as multiples of their limits, alarm, and the sensors that add most to what is
        beyond its limit.
    """
    table = control.wafers.loc[control.wafers["out_of_control"]]
    times = pd.DataFrame(
        {"T² / limit": table["t2"] / table["t2_limit"], "SPE / limit": table["spe"] / table["spe_limit"]}
    )
    shown = pd.concat([table[KEYS], times.round(2)], axis=1)
    shown = shown.iloc[np.argsort(-times.max(axis=1).to_numpy(), kind="stable")]
    alarms = set(map(tuple, judged.loc[judged["Prediction"] == 1, KEYS].to_numpy().tolist()))
    parts = control.contributions.sort_values(["rank", "chart"], ascending=[True, False], kind="stable")
    named: dict[tuple[str, str], list[str]] = {}
    for batch, wafer, sensor in parts[[*KEYS, "sensor"]].drop_duplicates().to_numpy().tolist():
        named.setdefault((batch, wafer), []).append(sensor)
    keys = list(map(tuple, shown[KEYS].to_numpy().tolist()))
    shown["alarm"] = [key in alarms for key in keys]
    shown["sensors that add most"] = [", ".join(named[key][:LEAVING]) for key in keys]
    return shown.set_index(shown.pop("Wafer").rename("wafer"))


def left_control_table(control: Control) -> pd.DataFrame:
    """The sensors that left control on their own charts, by when they did.

    Returns: by sensor: rules that it broke, first wafer and its batch, last wafer, wafers (that signal, by the rule
        with most), batches.
    """
    order = {batch: place for place, batch in enumerate(control.batches["batch"])}
    rows = {key: row for row, key in enumerate(map(tuple, control.wafers[KEYS].to_numpy().tolist()))}
    ends = [rows[key] for key in map(tuple, control.sensors[["batch", "last"]].to_numpy().tolist())]
    signals = control.sensors.assign(place=control.sensors["batch"].map(order), end=ends)
    signals = signals.sort_values("place", kind="stable")  # within a batch they come by their first wafer
    grouped = signals.groupby("sensor", sort=False)
    counts = signals.groupby(["sensor", "batch"], sort=False)["wafers"].max().groupby("sensor", sort=False).sum()
    table = pd.DataFrame(
        {
            "rules": grouped["rule"].agg(lambda rules: _listed(list(dict.fromkeys(rules)))),
            "first at": grouped["first"].first(),
            "in batch": grouped["batch"].first(),
            "last at": signals.sort_values("end", kind="stable").groupby("sensor", sort=False)["last"].last(),
            "wafers": counts,
            "batches": grouped["batch"].nunique(),
        },
        index=counts.index,  # else columns of other sequences would be sorted by name
    )
    return table.rename_axis("sensor")


def named_by(judged: pd.DataFrame, findings: Findings, control: Control) -> pd.DataFrame:
    """Which sensor was named in which batch, and by whom: columns way, batch, sensor, one line each time.

    `alarms` names the first three reasons of each alarm; `T² and SPE` the sensors that add most to each wafer beyond a
    limit; `own charts` each sensor that left control, once a batch.
    """
    alarms = judged.loc[judged["Prediction"] == 1, KEYS]
    reasons = findings.reasons.loc[findings.reasons["rank"] <= MOST_TOLD].merge(alarms, on=KEYS)
    parts = {
        ALARMS: reasons.drop_duplicates([*KEYS, "sensor"]),
        DISTANCES: control.contributions.drop_duplicates([*KEYS, "sensor"]),
        CHARTS: control.sensors.drop_duplicates(["batch", "sensor"]),
    }
    told = [part[["batch", "sensor"]].assign(way=way) for way, part in parts.items()]
    return pd.concat(told, ignore_index=True)[["way", "batch", "sensor"]]


def named_most(named: pd.DataFrame, sensors: int, top: int = 10) -> pd.DataFrame:
    """The sensors that each way names most often, and how often the most named of as many random ones would be.

    Args:
        named: as of `named_by`.
        sensors: that there are.
        top: at most so many of each way.

    Returns: columns way, sensor, times, floor (that 95 % of draws do not exceed), beyond chance, share (of all that the
        way named) and batches.
    """
    lines = []
    for way in WAYS:
        own = named.loc[named["way"] == way]
        counts = own["sensor"].value_counts(sort=False)
        counts = counts.iloc[np.argsort(-counts.to_numpy(), kind="stable")]
        floor = _floor(len(own), sensors)
        for sensor, times in counts.head(top).items():
            batches = own.loc[own["sensor"] == sensor, "batch"].nunique()
            share = times / len(own)
            lines.append((way, sensor, int(times), floor, bool(times > floor), share, batches))
    return pd.DataFrame(lines, columns=["way", "sensor", "times", "floor", "beyond chance", "share", "batches"])


def _floor(times: int, sensors: int) -> int:
    """What 95 % of draws of so many random sensors do not exceed in the count of the sensor that is drawn most."""
    if not times:
        return 0
    chance = np.random.default_rng(0)
    most = [int(np.bincount(chance.integers(sensors, size=times)).max()) for _ in range(DRAWS)]
    return int(np.quantile(most, BY_CHANCE, method="higher"))


def named_by_week(named: pd.DataFrame, batches: "pd.Series[str]", top: int = 10) -> pd.DataFrame:
    """How often the sensors that are named most were named in each week, by all ways together.

    Args:
        named: as of `named_by`.
        batches: day of each batch, ISO, by its name; those without one are left out.
    """
    days = pd.to_datetime(batches.dropna())
    year_week = days.dt.isocalendar()
    weeks = year_week["year"].astype(str) + "-W" + year_week["week"].astype(str).str.zfill(2)
    table = named.assign(week=named["batch"].map(weeks)).dropna(subset="week")
    counts = table.groupby(["sensor", "week"]).size().unstack(fill_value=0)
    total = counts.sum(axis=1)
    first = total.index[np.argsort(-total.to_numpy(), kind="stable")][:top]
    return counts.loc[first].assign(**{"all weeks": total[first]}).rename_axis(columns=None)


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - LEAVING} more" if len(names) > LEAVING else ""
    return ", ".join(names[:LEAVING]) + more
