"""Accuracy at the defaults on archives with official splits, beside published figures.

    python benchmarks/archives.py [--seeds 0 1 2] [--workers 2] [TABLE ...]

TABLE is one or more of ucr mtsc tser cmapss, read from ../shared/data. Every score is
written to benchmarks/results/archives.csv as soon as it is known; a run that is repeated
takes from there what was made with the same settings and version of the code, and
computes the rest. Defaults throughout, but for the layout of multivariate data.
"""

import argparse
import csv
import hashlib
import time
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
from joblib import Parallel, delayed
from sklearn.metrics import root_mean_squared_error

import sklstm
from sklstm import LSTMClassifier, LSTMRegressor

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
RESULTS = Path(__file__).resolve().parent / "results" / "archives.csv"
# Peers and what the file of published figures calls them, each on the official split.
PEERS = {
    "ucr": {
        "LSTM-FCN": "LSTM-FCN", "FCN": "dl4tsc-fcn", "ResNet": "dl4tsc-resnet",
        "InceptionTime": "InceptionTime(paper)", "ROCKET": "ROCKET(paper)", "HC2": "HC2",
    },
    "mtsc": {
        "MLSTM-FCN": "MLSTM-FCN (Disjoint-CNN paper)", "InceptionTime": "InceptionT",
        "ResNet": "ResNet", "ROCKET": "ROCKET",
    },
}  # fmt: skip
TASK = {"ucr": "univariate", "mtsc": "multivariate"}
MTSC = ["BasicMotions", "ERing", "Libras", "NATOPS", "JapaneseVowels"]
TSER = ["FloodModeling1", "Covid3Month"]
# Windows of the engines' sensors and the largest remaining life that is learnt. Sensors
# are smoothed exponentially with these weights of what is new.
CMAPSS_WINDOW, CMAPSS_STRIDE, CMAPSS_CAP = 30, 4, 125
CMAPSS_SMOOTHING = 0.3, 0.1, 0.02


def published(table):
    """Accuracies of the peers: a frame, data sets by methods."""
    figures = pd.read_csv(DATA / "published_tsc_accuracy.csv.gz")
    figures = figures[~figures.protocol.str.startswith("mean of")]
    figures = figures[figures.task == TASK[table]]
    frame = figures.pivot_table(index="dataset", columns="method", values="accuracy")
    peers = PEERS[table]
    return frame[list(peers.values())].set_axis(list(peers), axis=1)


def ucr_names():
    """Return the problems with a figure of LSTM-FCN; Trace's is surely a slip."""
    names = published("ucr")["LSTM-FCN"].dropna().index
    present = {path.stem for path in (DATA / "ucr").glob("*.npz")}
    return sorted(present & set(names) - {"Trace"})


def load(folder, name):
    archive = np.load(DATA / folder / f"{name}.npz")
    return [archive[f"{a}_{part}"] for part in ("train", "test") for a in "Xy"]


def cmapss():
    """Windows of FD001: the last values before each cycle, and the life that remains.

    A row of a window is its cycle, and the sensors that vary, smoothed on three scales.
    """
    archive = np.load(DATA / "cmapss" / "cmapss_FD001.npz")
    train, test = archive["train"], archive["test"]
    moving = 2 + np.flatnonzero(train[:, 2:].std(axis=0) > 1e-6)

    def windows(rows, ends):
        sensors = pd.DataFrame(rows[:, moving])
        smooth = [sensors.ewm(alpha=alpha).mean() for alpha in CMAPSS_SMOOTHING]
        features = np.column_stack([rows[:, 1], *smooth])
        return [features[max(end - CMAPSS_WINDOW, 0) : end] for end in ends]

    X, y, X_test = [], [], []
    for unit in np.unique(train[:, 0]):
        rows = train[train[:, 0] == unit]
        # Neighbouring windows say nearly the same.
        ends = np.arange(len(rows), 0, -CMAPSS_STRIDE)
        X += windows(rows, ends)
        y += np.minimum(len(rows) - ends, CMAPSS_CAP).tolist()
    for unit in np.unique(test[:, 0]):
        rows = test[test[:, 0] == unit]
        X_test += windows(rows, [len(rows)])
    return X, np.array(y, dtype=float), X_test, archive["rul_test"]


def evaluate(table, name, seed):
    """Return the score on the test part and the seconds that fitting took."""
    warnings.simplefilter("error")
    settings = {"random_state": seed}
    if table == "cmapss":
        X, y, X_test, y_test = cmapss()
    else:
        X, y, X_test, y_test = load(table, name)
        if X.ndim == 3:
            settings |= {"layout": "channel-major", "missing": "mask"}
    estimator = LSTMClassifier if table in ("ucr", "mtsc") else LSTMRegressor
    start = time.perf_counter()
    model = estimator(**settings).fit(X, y)
    seconds = time.perf_counter() - start
    if table in ("ucr", "mtsc"):
        return model.score(X_test, y_test), seconds
    predicted = model.predict(X_test)
    if table == "cmapss":
        predicted = np.clip(predicted, 0, None)
    return root_mean_squared_error(y_test, predicted), seconds


def fingerprint():
    """Return what results depend on, as a short digest: the package's own files."""
    digest = hashlib.sha256()
    for path in sorted(Path(sklstm.__file__).parent.glob("*.[pc]*")):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:12]


def known():
    """Return earlier results: {(version, table, name, seed): (score, seconds)}."""
    if not RESULTS.exists():
        return {}
    with RESULTS.open(newline="") as file:
        return {
            (version, table, name, int(seed)): (float(score), float(seconds))
            for version, table, name, seed, score, seconds in csv.reader(file)
        }


def compute(version, table, name, seed):
    score, seconds = evaluate(table, name, seed)
    RESULTS.parent.mkdir(exist_ok=True)
    with RESULTS.open("a", newline="") as file:
        csv.writer(file).writerow([version, table, name, seed, score, seconds])


def show(table, names, seeds, results, version):
    of = {
        name: np.array([results[version, table, name, seed] for seed in seeds])
        for name in names
    }
    scores = pd.DataFrame({name: each[:, 0] for name, each in of.items()}, index=seeds).T
    frame = pd.DataFrame({"sklstm": scores.mean(axis=1), "sd": scores.std(axis=1)})
    frame["fit, s"] = [each[:, 1].mean() for each in of.values()]
    if table in PEERS:
        frame = frame.join(published(table))
        methods = ["sklstm", *PEERS[table]]
        each = frame[methods]
        frame.loc["mean"] = frame.mean()
        frame.loc["mean rank", methods] = each.rank(axis=1, ascending=False).mean()
        frame.loc["wins or ties", methods] = each.eq(each.max(axis=1), axis=0).sum()
        print(f"{table}: accuracy, mean of seeds {seeds}")
    else:
        print(f"{table}: RMSE, mean of seeds {seeds}")
    print(frame.round(4).to_string(na_rep=""))
    total = sum(each[:, 1].mean() for each in of.values())
    print(f"all fits of one seed: {total:.0f} s\n")


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("tables", nargs="*", default=["ucr", "mtsc", "tser", "cmapss"])
    arguments = parser.parse_args()
    if not DATA.exists():
        raise SystemExit(f"{DATA} is absent: nothing to measure on.")
    version = fingerprint()
    names = {"ucr": ucr_names(), "mtsc": MTSC, "tser": TSER, "cmapss": ["FD001"]}
    for table in arguments.tables:
        todo = [
            (version, table, name, seed)
            for seed in arguments.seeds
            for name in names[table]
            if (version, table, name, seed) not in known()
        ]
        Parallel(n_jobs=arguments.workers)(delayed(compute)(*job) for job in todo)
        show(table, names[table], arguments.seeds, known(), version)


if __name__ == "__main__":
    main()
