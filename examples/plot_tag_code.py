"""
Colour source code: a label per time step
=========================================

With ``target="sequence"`` an :class:`~sklstm.LSTMClassifier` says something of every time
step: here, which kind of token each character of a Python function belongs to. Whether a
word is code or part of a string or a comment is decided by a quote far away, so the
network has to remember. It learns from functions of the standard library and is judged
on modules that it has not seen.
"""

import ast
import io
import keyword
import os
import tokenize
from collections import Counter, defaultdict
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from sklearn.metrics import accuracy_score, classification_report
from sklearn.pipeline import make_pipeline

from sklstm import LSTMClassifier, TokenSequences

N_CHARACTERS = 240  # of a function; what follows is cut off
COLOURS = {
    "space": "white", "name": "black", "keyword": "tab:blue", "string": "tab:green",
    "comment": "tab:gray", "number": "tab:red", "operator": "tab:purple",
}  # fmt: skip


def tags(source):
    """Return the kind of token of every character, by Python's own tokenizer."""
    starts = np.cumsum([0, *map(len, source.splitlines(keepends=True))])
    found = np.full(len(source), "space", dtype="<U8")
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        name = tokenize.tok_name[token.type].lower()
        if name == "name" and keyword.iskeyword(token.string):
            name = "keyword"
        elif name == "op":
            name = "operator"
        elif name.startswith("fstring"):
            name = "string"
        if name in COLOURS:
            (line, column), (last_line, last_column) = token.start, token.end
            begin, end = starts[line - 1] + column, starts[last_line - 1] + last_column
            found[begin:end] = name
    return found


def functions(paths):
    """Return the functions at the top of some files, and the tags of their characters."""
    texts, labels = [], []
    for path in paths:
        source = path.read_text(encoding="utf-8")
        for node in ast.parse(source).body:
            if isinstance(node, ast.FunctionDef) and source.isascii():
                text = ast.get_source_segment(source, node) + "\n"
                texts.append(text[:N_CHARACTERS])
                labels.append(tags(text)[:N_CHARACTERS])
    return texts, labels


# %%
# The data
# --------
# One module in six is held out.

paths = sorted(Path(os.__file__).parent.glob("*.py"))
X_test, y_test = functions(paths[::6])
X_train, y_train = functions([path for i, path in enumerate(paths) if i % 6])
print(f"{len(X_train)} functions to learn from, {len(X_test)} held out")

# %%
# The model
# ---------

model = make_pipeline(
    TokenSequences("char"),
    LSTMClassifier(
        48,
        stem="embedding",
        target="sequence",
        bidirectional=True,
        alpha=0,
        dropout=0.1,
        batch_size=16,
        learning_rate_init=0.01,
        max_iter=11,
        random_state=0,
    ),
)
predicted = model.fit(X_train, y_train).predict(X_test)

# %%
# The score
# ---------
# Beside what a character most often is between its two neighbours.


def neighbourhoods(text):
    """Return each character with the ones before and after it."""
    padded = " " + text + " "
    return [padded[i : i + 3] for i in range(len(text))]


seen = defaultdict(Counter)
for text, labels in zip(X_train, y_train, strict=True):
    for near, label in zip(neighbourhoods(text), labels.tolist(), strict=True):
        seen[near][label] += 1
baseline = [
    seen[near].most_common(1)[0][0] if near in seen else "name"
    for text in X_test
    for near in neighbourhoods(text)
]
truth = np.concatenate(y_test)
print(f"Accuracy over {len(truth)} characters of modules that were held out")
print(f"  LSTMClassifier: {model.score(X_test, y_test):.4f}")
print(f"  three characters and a table: {accuracy_score(truth, baseline):.4f}")
print(classification_report(truth, np.concatenate(predicted), digits=3))

# %%
# In colour
# ---------
# Functions with strings and comments in them, as the network sees them; what it got
# wrong is on yellow.

rich = [i for i, labels in enumerate(y_test) if {"string", "comment"} <= set(labels)]
figure, axes = plt.subplots(1, 2, figsize=(12, 4.5), layout="constrained")
for axis, i in zip(axes, rich, strict=False):
    row, column = 0, 0
    for character, found, true in zip(X_test[i], predicted[i], y_test[i], strict=True):
        if character == "\n":
            row, column = row + 1, 0
            continue
        colour = "gold" if found != true else "none"
        axis.text(
            column, row, character, color=COLOURS[found], family="monospace",
            fontsize=9, va="center", bbox={"facecolor": colour, "lw": 0, "pad": 0},
        )  # fmt: skip
        column += 1
    axis.set(xlim=(0, 72), ylim=(row + 1, -1))
    axis.axis("off")
for name, colour in list(COLOURS.items())[1:]:
    axes[0].plot([], [], "s", color=colour, label=name)
figure.legend(loc="outside lower center", ncols=6, frameon=False)
plt.show()
