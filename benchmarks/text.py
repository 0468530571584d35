"""Reviews and verse in Chinese, from characters.

    python benchmarks/text.py [reviews] [verse]

Read from ../shared/data; skipped with a message where that is absent. All settings were
chosen on a part of the training split: see docs/benchmarks.md.
"""

import gzip
import sys
import time
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
import pandas as pd
from sklearn.pipeline import make_pipeline

from sklstm import LSTMClassifier, TokenSequences, generate

DATA = Path(__file__).resolve().parents[2] / "shared" / "data" / "text"
START, UNKNOWN = "\n", "\ufffd"  # of a verse, and in place of rare characters
N_HELD_OUT = 3600  # last lines of verse


def log_odds_vectors(tokens, texts, labels, n_dimensions):
    """Vectors for tokens to start from: noise, and how much a token speaks for 1.

    The first dimension is the log-ratio of the token's shares in texts of either class,
    the feature of Wang & Manning (2012); it is trained on with the others.
    """
    n_tokens = len(tokens.vocabulary_) + 2
    vectors = np.random.default_rng(0).normal(scale=0.1, size=(n_tokens, n_dimensions))
    in_texts = np.full((2, n_tokens), 2.0)
    for row, label in zip(tokens.transform(texts), labels, strict=True):
        in_texts[label, np.unique(row)] += 1
    share = in_texts / in_texts.sum(axis=1, keepdims=True)
    vectors[:, 0] = np.log(share[1] / share[0])
    return vectors


def reviews():
    """ChnSentiCorp: is a review of a hotel, a book or a computer positive?"""
    train, dev = (
        pd.read_csv(DATA / f"chnsenticorp_{part}.csv.gz") for part in ("train", "dev")
    )
    start = time.perf_counter()
    tokens = TokenSequences("char", ngram_range=(1, 2), min_df=3, max_length=120)
    tokens.fit(train["text"])
    model = make_pipeline(
        tokens,
        LSTMClassifier(
            32,
            stem="embedding",
            bidirectional=True,
            embedding=log_odds_vectors(tokens, train["text"], train["label"], 32),
            token_dropout=0.5,
            dropout=0.5,
            alpha=0,
            batch_size=32,
            learning_rate_init=3e-3,
            max_iter=2,
            n_iter_no_change=1,  # so short a plan is meant
            random_state=0,
        ),
    )
    model.fit(train["text"], train["label"])
    seconds = time.perf_counter() - start
    return (
        f"accuracy {model.score(dev['text'], dev['label']):.4f} on {len(dev)} reviews "
        f"(PaddleNLP: Bi-LSTM 0.9098, bag of words 0.8970)  fit {seconds:.0f} s"
    )


class Trigram:
    """Interpolated Kneser-Ney: what follows the last two characters."""

    discount = 0.75

    def __init__(self, texts):
        self.tables = [defaultdict(Counter) for _ in range(3)]
        for text in texts:
            for i in range(1, len(text)):
                self.tables[2][(START + text)[i - 1 : i + 1]][text[i]] += 1
        # Shorter contexts count in how many longer ones a character follows.
        for order in (1, 0):
            for context, followers in self.tables[order + 1].items():
                self.tables[order][context[1:]].update(list(followers))
        self.n_characters = len(self.tables[0][""])

    def __call__(self, context, character):
        p = 1 / self.n_characters
        for order in range(3):
            followers = self.tables[order].get(context[2 - order :])
            if followers:
                kept = max(followers[character] - self.discount, 0)
                p = (kept + self.discount * len(followers) * p) / followers.total()
        return p


def verse():
    """Perplexity of the next character of Tang verse, held-out lines."""
    with gzip.open(DATA / "tang_poetry.txt.gz", "rt", encoding="utf-8") as file:
        lines = file.read().splitlines()
    count = Counter("".join(lines[:-N_HELD_OUT]))
    lines = ["".join(c if count[c] > 2 else UNKNOWN for c in line) for line in lines]
    # As many lines together as a quatrain has, each with a mark before and after it.
    texts = [
        START + START.join(lines[i : i + 4]) + START for i in range(0, len(lines), 4)
    ]
    n_held_out = N_HELD_OUT // 4
    train, held_out = texts[:-n_held_out], texts[-n_held_out:]
    start = time.perf_counter()
    model = make_pipeline(
        TokenSequences("char"),
        LSTMClassifier(
            128,
            stem="embedding",
            target="sequence",
            alpha=0,
            dropout=0.2,
            batch_size=64,
            learning_rate_init=5e-3,
            max_iter=4,
            n_iter_no_change=3,
            random_state=0,
        ),
    )
    model.fit([t[:-1] for t in train], [np.array(list(t[1:])) for t in train])
    seconds = time.perf_counter() - start
    log_proba = model.predict_log_proba([text[:-1] for text in held_out])
    number = {character: i for i, character in enumerate(model.classes_)}
    lstm = np.concatenate(
        [
            rows[np.arange(len(rows)), [number[c] for c in text[1:]]]
            for rows, text in zip(log_proba, held_out, strict=True)
        ]
    )
    trigram = Trigram(train)
    baseline = [
        np.log(trigram((START + text)[i - 1 : i + 1], text[i]))
        for text in held_out
        for i in range(1, len(text))
    ]
    print(generate(model, START, 100, temperature=0.7, top_p=0.9, random_state=0))
    return (
        f"perplexity {np.exp(-lstm.mean()):.1f} of {len(lstm)} characters; trigrams "
        f"(Kneser-Ney) {np.exp(-np.mean(baseline)):.1f}  fit {seconds:.0f} s"
    )


if __name__ == "__main__":
    if not DATA.exists():
        sys.exit(f"{DATA} is absent: nothing to measure.")
    for name in sys.argv[1:] or ("reviews", "verse"):
        print(f"{name}: {globals()[name]()}", flush=True)
