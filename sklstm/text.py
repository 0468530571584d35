"""Texts -> ragged integer sequences, for ``stem="embedding"``."""

from __future__ import annotations

import math
import re
import unicodedata
from collections import Counter
from collections.abc import Mapping, Set
from numbers import Integral, Real

import numpy as np
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.utils._param_validation import (
    Interval,
    StrOptions,
    validate_parameter_constraints,
)
from sklearn.utils.validation import check_is_fitted

from sklstm.sequences import N_RESERVED_TOKENS, PADDING, UNKNOWN, unmasked

REPLACEMENT = "\N{REPLACEMENT CHARACTER}"  # stands for what is unknown


class TokenSequences(TransformerMixin, BaseEstimator):
    r"""Number the characters or words of texts, in any language, keeping their order.

    `CountVectorizer` for sequences: what comes out has an integer per token, for an
    `LSTMClassifier` with ``stem="embedding"``. 0 is padding and never comes out, 1 a
    token that is not in the vocabulary; the vocabulary is numbered from 2.

    Parameters
    ----------
    analyzer : {"char", "word"} or callable, default="char"
        What a token is: every character; what `token_pattern` finds; or what the
        callable returns for a text, a list of hashable tokens.
    lowercase : bool, default=False
        Whether to lower the case first. Ignored with a callable, and for lists of tokens.
    token_pattern : str, default=r"\w+|[^\w\s]"
        Regular expression of a token: a word, or a mark; of one with a group, what the
        group finds. Accents and vowel signs that combine with a character count as that
        character. Only used with ``analyzer="word"``.
    ngram_range : tuple of two int, default=(1, 1)
        Shortest and longest run of characters or words to have a number of its own. Each
        position gets one number, that of the longest run that ends there and is in the
        vocabulary. Runs of two help with Chinese, whose words mostly have two characters.
        Ignored with a callable.
    max_features : int, default=None
        Size of the vocabulary: only the most frequent tokens are kept. None: all.
    min_df : int or float in [0, 1], default=1
        Tokens in fewer texts than this (a float: than this share of them) are left out.
    max_length : int, default=None
        Tokens after this many of a text are cut off. None: never.
    vocabulary : array-like of tokens, set or dict, default=None
        The vocabulary: tokens in the order of their numbers, a set of them, which is
        sorted, or the number of each, from 2 and without gaps, as `vocabulary_` of
        another has them. `max_features` and `min_df` are then ignored and `fit`, which
        learns nothing, may be left out. None: learnt.

    Attributes
    ----------
    vocabulary_ : dict
        Number of each token, from 2; sorted by token, unless `vocabulary` is given.

    See Also
    --------
    sklearn.feature_extraction.text.CountVectorizer : Counts instead of sequences.

    Examples
    --------
    >>> from sklearn.pipeline import make_pipeline
    >>> from sklstm import LSTMClassifier, TokenSequences
    >>> TokenSequences("word").fit_transform(["so good", "so, so"]).tolist()
    [array([4, 3]), array([4, 2, 4])]
    >>> texts = ["很好", "不好", "very good", "not good"] * 5
    >>> model = make_pipeline(
    ...     TokenSequences("char"),
    ...     LSTMClassifier(16, stem="embedding", bidirectional=True, random_state=0),
    ... )
    >>> model.fit(texts, ["yes", "no", "yes", "no"] * 5).predict(["很好", "not good"])
    array(['yes', 'no'], dtype='<U3')
    """

    _parameter_constraints = {
        "analyzer": [StrOptions({"char", "word"}), callable],
        "lowercase": ["boolean"],
        "token_pattern": [str],
        "ngram_range": [tuple],
        "max_features": [Interval(Integral, 1, None, closed="left"), None],
        "min_df": [
            Interval(Integral, 1, None, closed="left"),
            Interval(Real, 0, 1, closed="both"),
        ],
        "max_length": [Interval(Integral, 1, None, closed="left"), None],
        "vocabulary": ["array-like", None],
    }

    def __init__(
        self,
        analyzer="char",
        *,
        lowercase=False,
        token_pattern=r"\w+|[^\w\s]",
        ngram_range=(1, 1),
        max_features=None,
        min_df=1,
        max_length=None,
        vocabulary=None,
    ):
        self.analyzer = analyzer
        self.lowercase = lowercase
        self.token_pattern = token_pattern
        self.ngram_range = ngram_range
        self.max_features = max_features
        self.min_df = min_df
        self.max_length = max_length
        self.vocabulary = vocabulary

    def fit(self, X, y=None):
        """Learn the vocabulary.

        Parameters
        ----------
        X : iterable of str
            Texts; or, in place of any, a list of its tokens.
        y : None
            Ignored.

        Returns
        -------
        self : object

        Raises
        ------
        ValueError
            If X is not as said, no token is left for the vocabulary, or `vocabulary`
            holds a token twice or numbers that are not 2, 3, ...
        """
        validate_parameter_constraints(
            self._parameter_constraints, self.get_params(deep=False), type(self).__name__
        )
        shortest, longest = self.ngram_range
        if not 1 <= shortest <= longest:
            raise ValueError(
                "ngram_range must be two numbers, 1 <= shortest <= longest; got "
                f"{self.ngram_range}."
            )
        if self.vocabulary is not None:
            kept = self._given_tokens()
        else:
            texts = [self._runs(tokens) for tokens in self.tokenize(X)]
            count, in_texts = Counter(), Counter()
            for runs in texts:
                found = [run for ending in runs for run in ending]
                count.update(found)
                in_texts.update(set(found))
            # A share is compared with shares: 0.07 * 100 is more than 7.
            total = 1 if isinstance(self.min_df, Integral) else len(texts)
            kept = _in_order(t for t, n in in_texts.items() if n / total >= self.min_df)
            if self.max_features is not None:
                kept.sort(key=lambda token: -count[token])  # stable: ties as sorted
                kept = _in_order(kept[: self.max_features])
        if not kept:
            raise ValueError(
                "The vocabulary is empty: no token of the texts is in at least "
                f"min_df={self.min_df} of them. Lower min_df, or check that the texts "
                "hold what the analyzer looks for."
            )
        self.vocabulary_ = {
            token: number for number, token in enumerate(kept, N_RESERVED_TOKENS)
        }
        return self

    def _given_tokens(self):
        """Return the tokens of `vocabulary`, in the order of their numbers."""
        given = self.vocabulary
        if not len(given):
            raise ValueError("vocabulary is empty. Give it tokens, or None to learn it.")
        if isinstance(given, Mapping):
            numbers = range(N_RESERVED_TOKENS, N_RESERVED_TOKENS + len(given))
            if set(given.values()) != set(numbers):
                raise ValueError(
                    f"vocabulary must number its {len(given)} tokens from "
                    f"{N_RESERVED_TOKENS} without gaps (0 is padding, 1 what is unknown);"
                    f" got {list(given.items())[:3]}. Pass a list of the tokens, to have "
                    "them numbered."
                )
            return sorted(given, key=given.get)
        kept = sorted(given) if isinstance(given, Set) else list(given)
        if len(set(kept)) < len(kept):
            twice = Counter(kept).most_common(1)[0][0]
            raise ValueError(f"vocabulary holds {twice!r} more than once.")
        return kept

    def fit_transform(self, X, y=None):
        """Learn the vocabulary and number the texts, which are read once.

        Parameters
        ----------
        X : iterable of str
            As in `fit`.
        y : None
            Ignored.

        Returns
        -------
        sequences : ndarray of shape (n_samples,), object
            As `transform` returns them.

        Raises
        ------
        ValueError
            As in `fit`.
        """
        X = X if hasattr(X, "__len__") else list(X)
        return self.fit(X).transform(X)

    def transform(self, X):
        """Return the numbers of the tokens of each text.

        Parameters
        ----------
        X : iterable of str
            As in `fit`.

        Returns
        -------
        sequences : ndarray of shape (n_samples,), object
            Arrays of shape (n_tokens_i,), int64. A text without tokens becomes one
            unknown token, since a sequence has at least one step.

        Raises
        ------
        NotFittedError
            Before `fit`, unless `vocabulary` is given.
        ValueError
            If X is not as said.
        """
        self._number_vocabulary()
        texts = self.tokenize(X)
        sequences = np.empty(len(texts), dtype=object)
        for i, tokens in enumerate(texts):
            sequences[i] = np.array(self.numbers(tokens) or [UNKNOWN], dtype=np.int64)
        return sequences

    def numbers(self, tokens):
        """Return the numbers of the tokens of a text, as `transform` does.

        Parameters
        ----------
        tokens : list
            As `tokenize` has them.

        Returns
        -------
        numbers : list of int
            Of each token that of the longest known run that ends with it.
        """
        self._number_vocabulary()
        number = self.vocabulary_
        return [
            next((number[run] for run in ending if run in number), UNKNOWN)
            for ending in self._runs(tokens)
        ]

    def inverse_transform(self, X):
        """Return the texts of sequences of numbers.

        Parameters
        ----------
        X : iterable of sequences of int
            Padding (0) is left out; an unknown token (1) becomes U+FFFD.

        Returns
        -------
        texts : list of str
            With ``analyzer="word"`` joined with spaces, also of lists of words, with
            "char" without. With a callable `analyzer`, or of tokens that are not strings,
            a list of lists of tokens.

        Raises
        ------
        NotFittedError
            Before `fit`, unless `vocabulary` is given.
        ValueError
            If X holds the number of no token, or a row is no sequence of numbers.
        """
        self._number_vocabulary()
        token = {number: token for token, number in self.vocabulary_.items()}
        if self.ngram_range[1] > 1 and not callable(self.analyzer):
            # A run stands for the token that it ends with.
            is_char = self.analyzer == "char"
            token = {
                number: run[-1] if is_char else run.rsplit(" ", 1)[-1]
                for number, run in token.items()
            }
        token[UNKNOWN] = REPLACEMENT
        texts = []
        for i, row in enumerate(X):
            numbers = np.asarray(unmasked(row))
            if numbers.ndim != 1:
                raise ValueError(
                    f"Row {i} is {row!r}; expected the numbers of a text, of shape "
                    "(n_tokens,). Put those of a single text in a list."
                )
            foreign = sorted(set(numbers.tolist()) - {PADDING, *token})
            if foreign:
                raise ValueError(f"Row {i} holds {foreign[0]}, the number of no token.")
            texts.append(self.join([token[n] for n in numbers.tolist() if n != PADDING]))
        return texts

    def _number_vocabulary(self):
        """Raise if there is no vocabulary; one that was given needs no `fit`."""
        if self.vocabulary is not None and not hasattr(self, "vocabulary_"):
            self.fit([])
        check_is_fitted(self)

    def tokenize(self, X):
        """Return the tokens of each text, as a list of lists; needs no `fit`.

        Parameters
        ----------
        X : iterable of str
            As in `fit`.

        Returns
        -------
        tokens : list of list

        Raises
        ------
        ValueError
            If X is a string, a table, or holds what is no text, or `token_pattern` has
            several groups.
        """
        if isinstance(X, str):
            raise ValueError(
                "Iterable over raw text documents expected, string object received. Put "
                "it in a list."
            )
        if hasattr(X, "columns"):
            raise ValueError(
                f"X is a table with the columns {list(X.columns)}; expected texts. Pass "
                "one of them, as X[column]."
            )
        if getattr(X, "ndim", 1) == 2 and X.shape[1] == 1:
            raise ValueError(
                f"X is an array of shape {X.shape}, each row of which would be a list of "
                "one token; expected texts. Pass them as X.ravel()."
            )
        pattern = re.compile(self.token_pattern)
        if self.analyzer == "word" and pattern.groups > 1:
            raise ValueError(
                "More than 1 capturing group in token pattern: token_pattern="
                f"{self.token_pattern!r} has {pattern.groups}, and only a single one can "
                "be the token. Write the others as (?:...)."
            )
        return [
            self._tokens(i, text, pattern)[: self.max_length] for i, text in enumerate(X)
        ]

    def _tokens(self, i, text, pattern):
        if callable(self.analyzer):
            return list(self.analyzer(text))
        if isinstance(text, (list, tuple)) or np.ndim(text) == 1:
            tokens = list(text)
            for k, token in enumerate(tokens):
                if token is None or (isinstance(token, float) and math.isnan(token)):
                    raise ValueError(
                        f"Text {i} has {token!r} as token {k}. Leave out what is "
                        "missing, or give it a name, such as '<missing>'."
                    )
            return self._require_joinable(i, tokens, "replace such tokens")
        if not isinstance(text, str):
            raise ValueError(
                f"Text {i} is {text!r}, of type {type(text).__name__}; expected str. Put "
                "'' where a text is missing."
            )
        if self.lowercase:
            text = text.lower()
        if self.analyzer == "char":
            return list(text)
        return self._require_joinable(i, _found(pattern, text), "change token_pattern")

    def _require_joinable(self, i, tokens, remedy):
        """Return the tokens; raise where runs of them could not be told apart again."""
        is_char = self.analyzer == "char"
        if self.ngram_range[1] > 1:
            for token in tokens:
                is_text = isinstance(token, str)
                if not is_text or (len(token) != 1 if is_char else " " in token):
                    kind = "single characters" if is_char else "words without a space"
                    raise ValueError(
                        f"Text {i} has the token {token!r}; "
                        f"ngram_range={self.ngram_range} joins {kind}. Set "
                        f"ngram_range=(1, 1), or {remedy}."
                    )
        return tokens

    def _runs(self, tokens):
        """Return the runs of tokens that end at each position, the longest first."""
        shortest, longest = self.ngram_range
        if longest == 1 or callable(self.analyzer):
            return [[token] for token in tokens]
        lengths = range(longest, shortest - 1, -1)
        return [
            [self.join(tokens[end - n : end]) for n in lengths if n <= end]
            for end in range(1, len(tokens) + 1)
        ]

    def join(self, tokens):
        """Return tokens as a text; as they are if not strings or of a callable.

        Parameters
        ----------
        tokens : list

        Returns
        -------
        text : str or list
        """
        if callable(self.analyzer) or not all(isinstance(t, str) for t in tokens):
            return list(tokens)
        return ("" if self.analyzer == "char" else " ").join(tokens)

    def vectors(self, mapping):
        """Arrange pretrained vectors as the `embedding` of an LSTMClassifier.

        Parameters
        ----------
        mapping : dict
            Vector of each token, arrays of shape (n_dimensions,); or anything else with
            ``token in mapping`` and ``mapping[token]``. Not all tokens need one.

        Returns
        -------
        embedding : ndarray of shape (len(`vocabulary_`) + 2, n_dimensions), float32
            Row i belongs to number i; rows of tokens without a vector are 0.

        Raises
        ------
        ValueError
            If no token has a vector, or vectors differ in length.

        Examples
        --------
        >>> from sklstm import LSTMClassifier, TokenSequences
        >>> pretrained = {"good": [1.0, 0.5], "bad": [-1.0, 0.5]}
        >>> tokens = TokenSequences("word", vocabulary=list(pretrained)).fit([])
        >>> model = LSTMClassifier(stem="embedding", embedding=tokens.vectors(pretrained))
        """
        self._number_vocabulary()
        found = {
            number: np.asarray(mapping[token], dtype=np.float32)
            for token, number in self.vocabulary_.items()
            if token in mapping
        }
        if not found:
            raise ValueError(
                "None of the tokens of the vocabulary has a vector. The first of them "
                f"are {list(self.vocabulary_)[:5]}."
            )
        shapes = {vector.shape for vector in found.values()}
        if len(shapes) > 1 or len(next(iter(shapes))) != 1:
            raise ValueError(
                "Vectors must be 1-D and of equal length; got the shapes "
                f"{sorted(shapes)[:5]}."
            )
        embedding = np.zeros(
            (len(self.vocabulary_) + N_RESERVED_TOKENS, *shapes.pop()), dtype=np.float32
        )
        embedding[list(found)] = list(found.values())
        return embedding

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.string = True
        tags.input_tags.two_d_array = False
        tags.requires_fit = self.vocabulary is None
        return tags


def _in_order(tokens):
    tokens = list(tokens)
    try:
        return sorted(tokens)
    except TypeError as error:
        kinds = sorted({type(token).__name__ for token in tokens})
        raise ValueError(
            f"The tokens are of types that have no order together: {', '.join(kinds)}. "
            "Make them of one type, as by map(str, tokens)."
        ) from error


def _found(pattern, text):
    """Return what a pattern finds in a text, accents read as what they stand on.

    A regular expression takes a combining mark (a vowel sign of Hindi, an accent by
    itself) for no part of a word.
    """
    if text.isascii():
        return pattern.findall(text)
    bases = []
    for character in text:
        is_mark = bases and unicodedata.category(character).startswith("M")
        bases.append(bases[-1] if is_mark else character)
    matches = pattern.finditer("".join(bases))
    return [text[slice(*match.span(pattern.groups))] for match in matches]
