"""The synthetic fab: its format, its determinism, and what makes its data hard."""

import re
import tracemalloc
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.cluster import KMeans
from sklearn.ensemble import RandomForestClassifier
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score, silhouette_score
from sklearn.model_selection import StratifiedKFold, cross_val_score
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits

from wafer.errors import ParameterError
from wafer.fab.simulate import SENSOR_NAMES, planted_sensors, simulate_batches, simulate_frame

SEED = 7


def simulated(batches: int = 12, wafers: int = 100, seed: int = SEED) -> pd.DataFrame:
    frames = [simulate_frame(batch, wafers=wafers, seed=seed).assign(batch=batch) for batch in range(batches)]
    return pd.concat(frames, ignore_index=True)


@pytest.fixture(scope="module")
def fab() -> pd.DataFrame:
    """The demo's training data: 12 batches of 100 wafers."""
    return simulated()


def test_same_arguments_give_same_bytes(tmp_path: Path) -> None:
    """Two runs with one seed write the same files; another seed writes others."""
    for folder, seed in (("a", 3), ("b", 3), ("c", 4)):
        list(simulate_batches(tmp_path / folder, batches=3, wafers=5, seed=seed))
    a, b, c = ({p.name: p.read_bytes() for p in (tmp_path / folder).iterdir()} for folder in "abc")
    assert a == b
    assert len(a) == 3
    assert not set(a.values()) & set(c.values())


def test_any_batch_can_be_made_alone(tmp_path: Path) -> None:
    """Batches that start in the middle are those of the whole run, so prediction goes on where training ended."""
    whole = [path.read_bytes() for path in simulate_batches(tmp_path / "a", batches=9, wafers=4, seed=1)]
    alone = list(simulate_batches(tmp_path / "b", batches=2, wafers=4, seed=1, first_batch=7))
    assert [path.read_bytes() for path in alone] == whole[7:]
    unlabelled = simulate_batches(tmp_path / "c", batches=1, wafers=4, seed=1, first_batch=8, labelled=False)
    lines = [line.rpartition(b",")[0] for line in whole[8].split(b"\r\n")]
    assert next(unlabelled).read_bytes() == b"\r\n".join(lines)


def test_files_have_the_header_and_line_ends_of_the_real_ones(tmp_path: Path, real_wafers: Path) -> None:
    """Header and line ends are byte for byte those of a real training file."""
    real = (real_wafers / "training" / "wafer_07012020_041011.csv").read_bytes()
    made = next(simulate_batches(tmp_path, batches=1, wafers=100, seed=SEED)).read_bytes()
    assert made.partition(b"\r\n")[0] == real.partition(b"\r\n")[0]
    assert made.count(b"\n") == made.count(b"\r\n") == real.count(b"\r\n") == 101
    assert made.endswith(b"\r\n")
    assert 0.8 < len(made) / len(real) < 1.2


def test_readings_are_plain_decimals(tmp_path: Path) -> None:
    """A reading is empty or a number of at most four decimals, without exponent, trailing zero or negative zero."""
    text = next(simulate_batches(tmp_path, batches=1, wafers=50, seed=SEED)).read_text()
    rows = [line.split(",") for line in text.splitlines()[1:]]
    assert {len(row) for row in rows} == {592}
    plain = re.compile(r"(?!-0$)-?(0|[1-9]\d*)(\.\d{0,3}[1-9])?")
    odd = [cell for row in rows for cell in row[1:-1] if cell and not plain.fullmatch(cell)]
    assert odd == []
    assert {row[-1] for row in rows} == {"1", "-1"}


def test_names_are_unique_real_dates_out_of_order(tmp_path: Path) -> None:
    """Each file has a day of its own, wafers are numbered through in production order, the dates are not."""
    names = [path.name for path in simulate_batches(tmp_path, batches=30, wafers=1, seed=SEED)]
    times = [datetime.strptime(name, "wafer_%d%m%Y_%H%M%S.csv") for name in names]
    assert len({time.date() for time in times}) == 30
    assert sorted(times) != times
    ids = [(tmp_path / name).read_text().splitlines()[1].partition(",")[0] for name in names]
    assert ids == [f"Wafer-{number}" for number in range(1, 31)]


def test_frame_is_what_the_file_says(tmp_path: Path) -> None:
    """The frame of a batch equals its file read back."""
    path = next(simulate_batches(tmp_path, batches=1, wafers=20, seed=5, first_batch=8))
    read = pd.read_csv(path).set_axis(["wafer", *SENSOR_NAMES, "label"], axis=1)
    pd.testing.assert_frame_equal(simulate_frame(8, wafers=20, seed=5), read, check_dtype=False)


def test_files_stream(tmp_path: Path) -> None:
    """Each file is complete when it is handed out, none is made ahead, and memory does not grow with their number."""
    files = simulate_batches(tmp_path, batches=40, wafers=20, seed=SEED)
    assert list(tmp_path.iterdir()) == []
    assert [next(files)] == list(tmp_path.iterdir())
    tracemalloc.start()
    peaks = []
    for _ in range(3):
        tracemalloc.reset_peak()
        for _ in range(13):
            next(files)
        peaks.append(tracemalloc.get_traced_memory()[1])
    tracemalloc.stop()
    assert peaks[2] < 1.2 * peaks[1]
    assert next(files, None) is None
    assert len(list(tmp_path.iterdir())) == 40


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"batches": 0}, "batches must be a whole number of at least 1, got 0"),
        ({"wafers": -5}, "wafers must be a whole number of at least 1, got -5"),
        ({"wafers": 10**24}, f"wafers must be at most 10000, got {10**24}"),
        ({"wafers": 2.5}, "wafers must be a whole number of at least 1, got 2.5"),
        ({"seed": -1}, "seed must be a whole number of at least 0, got -1"),
        ({"seed": True}, "seed must be a whole number of at least 0, got True"),
        ({"first_batch": -1}, "first_batch must be a whole number of at least 0, got -1"),
        ({"first_batch": 99_999}, "first_batch + batches - 1 must be at most 99999, got 100000"),
    ],
)
def test_impossible_arguments(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    """An argument out of range is refused by name at the call, before the folder exists."""
    arguments: dict[str, Any] = {"batches": 2, "wafers": 3, "seed": 1, **change}
    with pytest.raises(ParameterError) as caught:
        simulate_batches(tmp_path / "out", **arguments)
    assert str(caught.value) == message
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("seed", [0, SEED])
def test_missing_and_constant_sensors_are_as_in_real_data(seed: int) -> None:
    """116 sensors are constant, 28 are missing in more than half of the wafers, 16 arrive late, 6 % are faulty."""
    fab = simulated(seed=seed)
    readings = fab[list(SENSOR_NAMES)]
    missing = readings.isna()
    early = missing[fab["batch"] < 7].all()
    assert (readings.nunique() == 1).sum() == 116
    assert (missing.mean() > 0.5).sum() == 28
    assert early.sum() == 16
    assert all(missing[fab["batch"] == batch].all().sum() == (16 if batch < 7 else 0) for batch in range(12))
    assert missing.loc[fab["batch"] >= 7, early].mean().between(0.45, 0.85).all()
    assert 0.04 < missing.to_numpy().mean() < 0.05
    assert (fab["label"] == 1).sum() == 72
    assert fab.groupby("batch")["label"].apply(lambda label: (label == 1).sum()).between(1, 20).all()


def test_missing_readings_come_in_groups(fab: pd.DataFrame) -> None:
    """Sensors of one tool go missing together: there are far fewer patterns than sensors."""
    missing = fab[list(SENSOR_NAMES)].isna()
    sometimes = missing.loc[:, missing.any() & ~missing.all()]
    patterns = {column.tobytes() for column in sometimes.to_numpy().T}
    assert 10 < len(patterns) < sometimes.shape[1] / 5


def test_sensors_are_correlated_in_groups(fab: pd.DataFrame) -> None:
    """Some hundred pairs of sensors are nearly copies of each other (419 in real data), most pairs are unrelated."""
    readings = fab[list(SENSOR_NAMES)]
    varying = readings.loc[:, readings.nunique() > 1]
    pairs = np.abs(np.corrcoef(varying.fillna(varying.median()).to_numpy().T))[np.triu_indices(varying.shape[1], 1)]
    assert 80 < (pairs > 0.9).sum() < 800
    assert np.median(pairs) < 0.2


def common_readings(fab: pd.DataFrame) -> np.ndarray:
    """Every third of the sensors that are seldom missing, imputed and scaled."""
    readings = fab[list(SENSOR_NAMES[::3])].dropna(axis=1, thresh=1000)
    scaled: np.ndarray = make_pipeline(SimpleImputer(strategy="median"), StandardScaler()).fit_transform(readings)
    return scaled


def test_process_drifts(fab: pd.DataFrame) -> None:
    """The era of a wafer is predictable from its sensors, as in real data (AUC 0.99)."""
    with threadpool_limits(1):
        score = cross_val_score(LogisticRegression(C=0.001), common_readings(fab), fab["batch"] >= 6, scoring="roc_auc")
    assert score.mean() > 0.97


def test_recipes_make_clusters(fab: pd.DataFrame) -> None:
    """Wafers fall into three clear groups, one per recipe."""
    readings = common_readings(fab)
    with threadpool_limits(1):
        found = {k: KMeans(k, n_init=8, random_state=0).fit_predict(readings) for k in range(2, 6)}
        scores = {k: silhouette_score(readings, groups) for k, groups in found.items()}
    assert max(scores, key=scores.__getitem__) == 3
    assert np.allclose(np.sort(np.bincount(found[3])) / len(readings), [0.2, 0.3, 0.5], atol=0.05)


def test_planted_sensors_speak_of_faults(fab: pd.DataFrame) -> None:
    """Within batches, faulty wafers stand out in the planted sensors and, on average, in no others."""
    planted = list(planted_sensors(SEED))
    readings = fab[list(SENSOR_NAMES)].dropna(axis=1, thresh=1000)
    readings = readings.loc[:, readings.nunique() > 1]
    scaled = readings.groupby(fab["batch"]).transform(lambda sensor: (sensor - sensor.mean()) / sensor.std())
    unusual = (scaled[fab["label"] == 1] ** 2).mean()
    assert set(planted) <= set(readings.columns)
    assert unusual[planted].mean() > 1.5
    assert abs(unusual.drop(planted).mean() - 1) < 0.1


def forest() -> Pipeline:
    return make_pipeline(
        SimpleImputer(strategy="median", keep_empty_features=True),
        RandomForestClassifier(300, class_weight="balanced", random_state=0),
    )


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 3, 42, SEED])
def test_as_hard_as_real_data(seed: int) -> None:
    """A plain forest scores 0.70 to 0.80 in shuffled folds and at least 0.05 less on the batch after its training."""
    fab = simulated(seed=seed)
    readings, label, batch = fab[list(SENSOR_NAMES)].to_numpy(), fab["label"].to_numpy(), fab["batch"].to_numpy()
    folds = StratifiedKFold(5, shuffle=True, random_state=0)
    shuffled = cross_val_score(forest(), readings, label, cv=folds, scoring="roc_auc").mean()
    aucs, faults = [], []
    for now in range(3, 12):
        model = forest().fit(readings[batch < now], label[batch < now])
        score = model.predict_proba(readings[batch == now])[:, 1]
        aucs.append(roc_auc_score(label[batch == now], score))
        faults.append((label[batch == now] == 1).sum())
    forward = np.average(aucs, weights=faults)
    assert 0.70 <= shuffled <= 0.80
    assert forward <= shuffled - 0.05
