"""What `python -m bench.service` says of its figures."""

from typing import Any

from bench.service import ALIKE, CASES, MLFLOW, OWN, judged, tables


def lines(server: str, rate: float, ms: float) -> list[dict[str, Any]]:
    spent = {"ms_50": ms / 2, "ms_95": ms, "ms_99": ms}
    return [{"server": server, "wafers": w, "clients": c, "requests_a_second": rate, **spent} for w, c in CASES]


def test_what_misses_its_limit_is_told_and_what_meets_it_counts() -> None:
    """Each server is compared with the requests that it gets, and of the comparisons the misses alone are shown."""
    own = lines(OWN, 400.0, 20.0)
    own[-1]["ms_99"] = 90.0
    cases = [*own, *lines(ALIKE, 350.0, 30.0), *lines(MLFLOW, 100.0, 50.0), *lines("other", 300.0, 40.0)]
    lasting = {"requests_a_second": 90.0, "mb_before": 500.0, "mb_after": 505.0}
    found = judged(cases, lasting, {"ms_library": 10.0, "ms_http": 22.0})
    missed = [one["what"] for one in found if not one["met"]]
    assert missed == [
        "the same with reasons, one in ten an alarm",
        *(f"95th percentile to {MLFLOW}, {wafers} wafers, {clients} clients" for wafers, clients in CASES),
        "99th percentile to other, 100 wafers, 16 clients",
    ]
    assert {one["what"]: one["wanted"] for one in found}["ms for 100 wafers, library 1.3 times + 10"] == "<= 23"
    shown = tables({"cases": cases, "targets": found})
    assert shown["servers"].splitlines()[2] == f"| {OWN} | 400; 10 / 20 / 20 | " + " | ".join(
        ["400; 10 / 20 / 20", "400; 10 / 20 / 20", "400; 10 / 20 / 90 |"]
    )
    rows = shown["wanted"].splitlines()[2:]
    assert [row.split(" | ")[0][2:] for row in rows if row.endswith("missed |")] == missed
    assert rows[-1].endswith(f"| {len(found) - len(missed)} of {len(found)} | met |")
