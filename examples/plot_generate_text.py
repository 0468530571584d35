"""
Write documentation, character by character
===========================================

A model of the next character, given all characters before: an
:class:`~sklstm.LSTMClassifier` with a label per time step, whose labels are the sequence
itself, one step later. It reads the docstrings of Python's standard library and is
judged on those of modules that it has not seen, beside a trigram model with Kneser-Ney
smoothing. Then it writes some of its own.
"""

import ast
import os
from collections import Counter, defaultdict
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from sklearn.pipeline import make_pipeline

from sklstm import LSTMClassifier, TokenSequences, generate

N_CHARACTERS = 120  # of a piece of text
N_PIECES = 2500


def docstrings(path):
    """Return all docstrings of a Python file."""
    tree = ast.parse(path.read_bytes())
    kinds = (ast.Module, ast.ClassDef, ast.FunctionDef)
    found = [ast.get_docstring(x) for x in ast.walk(tree) if isinstance(x, kinds)]
    return [text + "\n" for text in found if text and text.isascii()]


def pieces(paths):
    """Cut the docstrings of some files into pieces of equal length."""
    text = "\n".join(text for path in paths for text in docstrings(path))
    return [text[i : i + N_CHARACTERS] for i in range(0, len(text), N_CHARACTERS)]


# %%
# The text
# --------
# One module in eight is held out. The target of every character is the next one.

paths = sorted(Path(os.__file__).parent.glob("*.py"))
held_out = pieces(paths[::8])[:400]
rng = np.random.default_rng(0)
train = pieces([path for i, path in enumerate(paths) if i % 8])
train = [train[i] for i in rng.permutation(len(train))[:N_PIECES]]
X, y = [text[:-1] for text in train], [np.array(list(text[1:])) for text in train]
print(f"{sum(map(len, train))} characters to learn from:", repr(train[0][:60]))

# %%
# The model
# ---------
# Text in, labels out: the vocabulary is a part of the pipeline.

model = make_pipeline(
    TokenSequences("char"),
    LSTMClassifier(
        128,
        stem="embedding",
        target="sequence",
        alpha=0,
        dropout=0.1,
        batch_size=32,
        learning_rate_init=0.01,
        max_iter=8,
        n_iter_no_change=7,  # so short a plan is meant
        random_state=0,
    ),
)
model.fit(X, y)


# %%
# A baseline that counts
# ----------------------


class Trigram:
    """Interpolated Kneser-Ney: what follows the last two characters."""

    discount = 0.75

    def __init__(self, texts):
        self.tables = [defaultdict(Counter) for _ in range(3)]
        for text in texts:
            for i in range(1, len(text)):
                self.tables[2][("\0" + text)[i - 1 : i + 1]][text[i]] += 1
        # Shorter contexts count in how many longer ones a character follows.
        for order in (1, 0):
            for context, followers in self.tables[order + 1].items():
                self.tables[order][context[1:]].update(list(followers))

    def __call__(self, context, character):
        """Return the probability of a character after two others."""
        p = 1 / 128
        for order in range(3):
            followers = self.tables[order].get(context[2 - order :])
            if followers:
                kept = max(followers[character] - self.discount, 0)
                p = (kept + self.discount * len(followers) * p) / followers.total()
        return p


trigram = Trigram(train)

# %%
# Perplexity
# ----------
# The inverse of the geometric mean probability of what really came next.

known = set(model.classes_)
held_out = [text for text in held_out if len(text) == N_CHARACTERS and known >= set(text)]
log_proba = np.stack(model.predict_log_proba([text[:-1] for text in held_out]))
number = {character: i for i, character in enumerate(model.classes_)}
truth = np.array([[number[c] for c in text[1:]] for text in held_out])
surprise = -np.take_along_axis(log_proba, truth[:, :, None], axis=2)[:, :, 0]
surprise_of_trigram = -np.log(
    [
        [trigram(("\0" + text)[i - 1 : i + 1], text[i]) for i in range(1, N_CHARACTERS)]
        for text in held_out
    ]
)
perplexity = np.exp(surprise.mean())
print(f"Perplexity of {truth.size} characters of modules that were held out")
print(f"  LSTMClassifier: {perplexity:.2f}")
print(f"  trigrams (Kneser-Ney): {np.exp(surprise_of_trigram.mean()):.2f}")

# %%
# Writing
# -------
# The state is carried along: a character costs the same wherever it stands.

for temperature in (0.3, 0.7):
    text = generate(model, "Return ", 200, temperature=temperature, random_state=0)
    print(f"--- temperature {temperature}\nReturn {text}")

# %%
# Where the surprise is
# ---------------------
# After a dozen characters the LSTM has an idea what the text is about. Words are hard to
# guess at their start and easy at their end.

figure, (left, right) = plt.subplots(
    1, 2, figsize=(11, 4), width_ratios=[1, 1.4], layout="constrained"
)
for name, values in {"trigrams": surprise_of_trigram, "LSTM": surprise}.items():
    by_position = values.mean(axis=0) / np.log(2)
    smooth = np.convolve(by_position, np.ones(9) / 9, mode="valid")
    left.plot(np.arange(5, 5 + len(smooth)), smooth, label=name)
left.set(xlabel="position in the text", ylabel="bits per character", ylim=(0, None))
left.legend(frameon=False)

shown = int(np.argmin(np.abs(surprise.mean(axis=1) - surprise.mean())))
n_columns = 30
cells = np.append(np.nan, surprise[shown] / np.log(2)).reshape(-1, n_columns)
image = right.imshow(cells, cmap="OrRd", vmin=0, vmax=8, aspect=1.6)
for i, character in enumerate(held_out[shown]):
    right.text(
        i % n_columns,
        i // n_columns,
        "\N{RETURN SYMBOL}" if character == "\n" else character,
        ha="center",
        va="center",
        family="monospace",
    )
right.set(xticks=[], yticks=[], title="bits of surprise, a held-out text")
figure.colorbar(image, ax=right, shrink=0.6)
plt.show()
