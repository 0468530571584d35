"""Sequences that go on: tokens drawn one after the other from a fitted classifier."""

from __future__ import annotations

from numbers import Integral, Real

import numpy as np
from sklearn.base import clone
from sklearn.pipeline import Pipeline
from sklearn.utils import check_random_state

from sklstm.base import check_sequence_estimator
from sklstm.sequences import UNKNOWN
from sklstm.streaming import stream
from sklstm.text import TokenSequences


def generate(
    model,
    prompt,
    length,
    *,
    temperature=1.0,
    top_k=None,
    top_p=None,
    random_state=None,
):
    """Continue a prompt by tokens drawn from a model of the next token.

    The state is carried from token to token: a step costs the same however long the text
    has become, and its probabilities are those of `predict_proba` for all of it.

    Parameters
    ----------
    model : LSTMClassifier, or Pipeline of TokenSequences and LSTMClassifier
        Fitted with ``target="sequence"``, ``stem="embedding"`` and not bidirectional, to
        tell from the tokens so far the next: ``y[i]`` is ``X[i]`` one step later. In a
        pipeline y holds tokens (characters or words), not their numbers.
    prompt : str, or array-like of int of shape (n_tokens,)
        What to continue: a text for a pipeline, else tokens; at least one. It is read to
        its end, whatever `max_length` is, but for padding (0) at either end.
    length : int
        Tokens to draw.
    temperature : float, default=1.0
        Log-probabilities are divided by it: below 1 likely tokens become likelier; 0
        takes the likeliest always.
    top_k : int, default=None
        Draw from the `top_k` likeliest tokens only [1]_.
    top_p : float in (0, 1], default=None
        Draw only from the smallest set of likeliest tokens whose probabilities, relative
        to those that `top_k` leaves, reach `top_p` [2]_.
    random_state : int, RandomState instance or None, default=None
        None: a fresh seed from the operating system.

    Returns
    -------
    continuation : str, or ndarray of shape (length,), int64
        Without the prompt. A text from a pipeline (with a callable `analyzer` a list of
        tokens), else tokens.

    Raises
    ------
    TypeError
        If the model is no estimator of this package, nor a pipeline.
    NotFittedError
        Before `fit`.
    ValueError
        If the model cannot be used so, a regressor or another pipeline, say, or the
        prompt holds no known token; says why.

    References
    ----------
    .. [1] Fan, A., Lewis, M., Dauphin, Y. (2018). Hierarchical neural story generation.
       ACL.
    .. [2] Holtzman, A., et al. (2020). The curious case of neural text degeneration.
       ICLR.

    Examples
    --------
    >>> from sklearn.pipeline import make_pipeline
    >>> from sklstm import LSTMClassifier, TokenSequences, generate
    >>> texts = ["abcabcabcabc", "bcabcabcabca", "cabcabcabcab"]
    >>> model = make_pipeline(
    ...     TokenSequences("char"),
    ...     LSTMClassifier(16, stem="embedding", target="sequence", random_state=0),
    ... )
    >>> model = model.fit([t[:-1] for t in texts], [list(t[1:]) for t in texts])
    >>> generate(model, "ca", 7, temperature=0)
    'bcabcab'
    """
    tokens, classifier = _parts(model)
    _check_number("length", length, Integral, least=0)
    _check_number("temperature", temperature, Real, least=0)
    temperature = float(temperature)
    if top_k is not None:
        _check_number("top_k, unless None,", top_k, Integral, least=1)
    if top_p is not None and not (isinstance(top_p, Real) and 0 < top_p <= 1):
        raise ValueError(f"top_p must be None or a number in (0, 1]; got {top_p!r}.")
    live = stream(classifier, method="predict_log_proba")
    for number in _read_prompt(prompt, tokens, classifier.encoder_):
        log_proba = live.push(number)
    if random_state is None:
        random = np.random.default_rng()
    else:
        random = check_random_state(random_state)
    labels = classifier.classes_.tolist()
    drawn, read = [], [] if tokens is None else _whole(prompt, tokens)
    # As `tokenize` does with texts; given as lists, tokens stay as they are.
    lowers = (
        isinstance(prompt, str) and tokens.lowercase and not callable(tokens.analyzer)
    )
    for _ in range(length):
        label = labels[_draw(log_proba, temperature, top_k, top_p, random)]
        drawn.append(label)
        number = label
        if tokens is not None:
            # What it is read as may depend on the tokens before it.
            read = [*read, str(label).lower() if lowers else label]
            read = read[-tokens.ngram_range[1] :]
            number = tokens.numbers(read)[-1]
        log_proba = live.push(number)
    return np.array(drawn, dtype=np.int64) if tokens is None else tokens.join(drawn)


def _check_number(name, value, kind, least):
    if not (isinstance(value, kind) and least <= value < np.inf):  # NaN is neither
        what = "a whole number" if kind is Integral else "a finite number"
        raise ValueError(f"{name} must be {what}, at least {least}; got {value!r}.")


def _parts(model):
    """Return the TokenSequences (or None) and the classifier, checked."""
    tokens, classifier = None, model
    if isinstance(model, Pipeline):
        if len(model) != 2 or not isinstance(model[0], TokenSequences):
            raise ValueError(
                "A pipeline that generates has two steps, TokenSequences and "
                f"LSTMClassifier; got {[type(step).__name__ for _, step in model.steps]}."
            )
        tokens, classifier = model[0], model[1]
    check_sequence_estimator(classifier)
    if (
        not hasattr(classifier, "predict_proba")
        or classifier.network_.pooling is not None
        or not classifier.encoder_.tokens
        or classifier.head_.multilabel_
    ):
        raise ValueError(
            'generate needs an LSTMClassifier that was fitted with target="sequence" and '
            'stem="embedding", so that it tells the next token at every step; got '
            f"{classifier}."
        )
    if classifier.network_.recurrence.bidirectional:
        raise ValueError(
            "A bidirectional network cannot generate: it reads each sequence from its "
            "end, which is yet to come. Fit with bidirectional=False."
        )
    if tokens is None and classifier.classes_.dtype.kind not in "iu":
        raise ValueError(
            "The classes must be tokens, integers as in X, so that what is drawn can be "
            f"read; got {classifier.classes_[:5].tolist()}. Put TokenSequences and the "
            "classifier in a pipeline to generate from text."
        )
    labels = classifier.classes_.tolist()
    forms = labels + [str(label).lower() for label in labels]
    if tokens is not None and set(tokens.numbers(forms)) == {UNKNOWN}:
        raise ValueError(
            f"None of the classes, {labels[:5]} among them, is in the vocabulary: "
            "nothing that is drawn could be read. y must hold the tokens that X has one "
            "step later."
        )
    return tokens, classifier


def _read_prompt(prompt, tokens, encoder):
    """Return the tokens of the prompt as the classifier takes them."""
    if tokens is None:
        numbers = np.asarray(prompt)
        if numbers.ndim != 1 or numbers.dtype.kind not in "iu" or not len(numbers):
            raise ValueError(
                "The prompt must be at least one integer token, of shape (n_tokens,); "
                f"got {prompt!r}."
            )
        numbers = np.trim_zeros(numbers) if numbers.any() else numbers  # of padding
    else:
        if not hasattr(prompt, "__len__"):
            raise ValueError(
                f"The prompt must be a text, as those of fit; got {prompt!r}."
            )
        if not len(prompt):
            raise ValueError("The prompt is empty: there is nothing to continue.")
        numbers = np.array(tokens.numbers(_whole(prompt, tokens)) or [UNKNOWN])
    if not np.isin(numbers, encoder.vocabulary_).any() or (
        tokens is not None and (numbers == UNKNOWN).all()
    ):
        raise ValueError(
            f"The prompt {prompt!r} holds only tokens that were not seen in fit; begin "
            "with at least one that was."
        )
    return numbers


def _whole(prompt, tokens):
    """Return all tokens of a text: `max_length` is of those that are trained on."""
    return clone(tokens).set_params(max_length=None).tokenize([prompt])[0]


def _draw(log_proba, temperature, top_k, top_p, random):
    """Return the position of one class, drawn from log-probabilities (n_classes,)."""
    if temperature == 0:
        return int(log_proba.argmax())
    order = np.argsort(-log_proba, kind="stable")[:top_k]
    with np.errstate(over="ignore"):  # of the smallest temperatures, which exp makes 0
        share = np.exp((log_proba[order] - log_proba[order[0]]) / temperature)
    total = share.cumsum()  # of the likeliest 1, 2, ...
    if top_p is not None:
        total = total[: np.searchsorted(total, top_p * total[-1]) + 1]
    return int(order[np.searchsorted(total, random.random() * total[-1], side="right")])
