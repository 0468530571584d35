"""Size, time and score of compressed models on bundled data, one seed.

    python benchmarks/compressed.py [--seed 0] [--data GunPoint digits]

Official splits, defaults. Sizes are of the pickled network and, of the pruned one, of
the file that joblib writes with compress=True. Times are of predicting one sequence
and of the whole test part. The student of `distill` has a quarter of the hidden size.
"""

import argparse
import io
import pickle
import time

import joblib
import numpy as np
from bundled import TARGETS
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from sklstm import LSTMClassifier, LSTMRegressor, compress, distill


def digits(split):
    X, y = load_digits(return_X_y=True)
    parts = train_test_split(X, y, random_state=0, stratify=y)
    return (parts[0], parts[2]) if split == "train" else (parts[1], parts[3])


def kilobytes(model):
    packed = io.BytesIO()
    joblib.dump(model.network_, packed, compress=True)
    return len(pickle.dumps(model.network_)) / 1000, packed.tell() / 1000


def milliseconds(model, X, repeats):
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        model.predict(X)
        times.append(time.perf_counter() - start)
    return 1000 * np.median(times)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=0)
    data = {name: load for name, (load, _) in TARGETS.items()} | {"digits": digits}
    parser.add_argument("--data", nargs="+", choices=data, default=list(data))
    options = parser.parse_args()
    seed = options.seed
    print("| data | model | pickle, kB | compressed file, kB | one row, ms | all, ms "
          "| accuracy or R2 |\n|---|---|---|---|---|---|---|")  # fmt: skip
    for name in options.data:
        load = data[name]
        X, y = load(split="train")
        X_test, y_test = load(split="test")
        if name == "Covid3Month":
            y, y_test = y.astype(float), y_test.astype(float)
            model = LSTMRegressor(random_state=seed)
        else:
            model = LSTMClassifier(n_channels=8 if name == "digits" else 1)
            model.set_params(random_state=seed)
        model.fit(X, y)
        variants = {
            "float32": model,
            "int8": compress(model),
            "int8, half pruned": compress(model, sparsity=0.5),
            "student": distill(model, X, hidden_size=model.hidden_size // 4),
        }
        for kind, variant in variants.items():
            plain, packed = kilobytes(variant)
            one, everything = (
                milliseconds(variant, rows, repeats)
                for rows, repeats in ((X_test[:1], 50), (X_test, 5))
            )
            score = variant.score(X_test, y_test)
            print(f"| {name} | {kind} | {plain:.1f} | {packed:.1f} | {one:.2f} | "
                  f"{everything:.1f} | {score:.4f} |", flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
