"""TokenSequences, and the vectors that tokens start from."""

import pickle

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GridSearchCV, KFold, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.utils import get_tags

from sklstm import LSTMClassifier, LSTMRegressor, TokenSequences
from sklstm.modules import EmbeddingStem

TEXTS = ["the cat sat.", "The dog", "", "a cat, a dog"]


def words(text):
    return text.split()


# ------------------------------------------------------------------------- tokenising
def test_what_a_token_is():
    def tokens(*args, **kwargs):
        return TokenSequences(*args, **kwargs).tokenize(["It's 好, ok"])[0]

    assert tokens() == list("It's 好, ok")
    assert tokens("char", lowercase=True, max_length=3) == list("it'")
    assert tokens("word") == ["It", "'", "s", "好", ",", "ok"]
    assert tokens("word", token_pattern=r"[a-z]+") == ["t", "s", "ok"]
    assert tokens(words) == ["It's", "好,", "ok"]
    # A text that is already a list of tokens is left as it is.
    assert TokenSequences("word").tokenize([["New York", "x"]]) == [["New York", "x"]]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("हिन्दी भाषा।", ["हिन्दी", "भाषा", "।"]),
        ("தமிழ் மொழி", ["தமிழ்", "மொழி"]),
        ("مُحَمَّد قال", ["مُحَمَّد", "قال"]),
        ("un cafe\u0301, s\u2019il", ["un", "cafe\u0301", ",", "s", "\u2019", "il"]),
        ("\u0301a", ["\u0301", "a"]),  # on nothing
        ("", []),
        ("<\u0301>", ["<", "\u0301", ">"]),
    ],
)
def test_words_keep_their_accents_and_vowel_signs(text, words):
    assert TokenSequences("word").tokenize([text]) == [words]


def test_numbers_start_after_padding_and_unknown():
    tokens = TokenSequences("word", lowercase=True)
    numbers = tokens.fit_transform(TEXTS)
    assert tokens.vocabulary_ == {
        ",": 2, ".": 3, "a": 4, "cat": 5, "dog": 6, "sat": 7, "the": 8
    }  # fmt: skip
    assert [row.tolist() for row in numbers] == [
        [8, 5, 7, 3], [8, 6], [1], [4, 5, 2, 4, 6]
    ]  # fmt: skip
    assert {row.dtype for row in numbers} == {np.dtype(np.int64)}
    assert tokens.transform([""])[0].dtype == np.int64
    assert tokens.transform(["the bird"])[0].tolist() == [8, 1]


def test_rare_tokens_are_left_out():
    def vocabulary(**kwargs):
        return set(
            TokenSequences("word", lowercase=True, **kwargs).fit(TEXTS).vocabulary_
        )

    assert vocabulary(min_df=2) == {"the", "cat", "dog"}  # in two texts each
    # Numbers are in the order of the tokens, not of how frequent they are.
    frequent = TokenSequences("word", max_features=2).fit(["b b b a a c"]).vocabulary_
    assert [*frequent] == ["a", "b"]
    # Half of four texts is two; 0.6 of them is 2.4, so three.
    assert vocabulary(min_df=0.5) == vocabulary(min_df=2)
    assert len(TEXTS) == 4
    texts = ["a b"] * 2 + ["a"] * 2
    for min_df, expected in [(0.5, ["a", "b"]), (0.51, ["a"]), (0.75, ["a"])]:
        assert [*TokenSequences("word", min_df=min_df).fit(texts).vocabulary_] == expected
    # In floats 0.07 * 100 is more than 7.
    texts = ["x a"] * 7 + ["x"] * 93
    assert [*TokenSequences("word", min_df=0.07).fit(texts).vocabulary_] == ["a", "x"]
    # "a" is as frequent as they are, and first of the four.
    assert vocabulary(max_features=1) == {"a"}
    frequent = (
        TokenSequences("word", lowercase=True, max_features=4).fit(TEXTS).vocabulary_
    )
    assert [*frequent] == sorted(frequent)
    assert vocabulary(max_features=4) == {"a", "cat", "dog", "the"}


def test_the_longest_known_run_that_ends_at_a_position():
    tokens = TokenSequences("char", ngram_range=(1, 2), min_df=2).fit(
        ["abc", "abd", "ba"]
    )
    assert tokens.vocabulary_ == {"a": 2, "ab": 3, "b": 4}
    assert tokens.transform(["abab", "bx"])[0].tolist() == [2, 3, 2, 3]
    assert tokens.transform(["abab", "bx"])[1].tolist() == [4, 1]
    tokens = TokenSequences("word", ngram_range=(2, 3)).fit(["not so good"])
    assert tokens.vocabulary_ == {"not so": 2, "not so good": 3, "so good": 4}
    assert tokens.transform(["not so good"])[0].tolist() == [1, 2, 3]


def test_what_a_callable_returns_is_not_joined_to_runs():
    tokens = TokenSequences(str.split, ngram_range=(1, 2)).fit(["a b", "b"])
    assert tokens.vocabulary_ == {"a": 2, "b": 3}
    assert tokens.inverse_transform(tokens.transform(["b a"])) == [["b", "a"]]


def test_only_a_vocabulary_that_is_learnt_asks_for_fit():
    assert get_tags(TokenSequences()).requires_fit
    assert not get_tags(TokenSequences(vocabulary=["a"])).requires_fit


def test_inverse_of_runs_gives_each_token_once():
    tokens = TokenSequences("char", ngram_range=(1, 2))
    assert tokens.inverse_transform(tokens.fit_transform(["abab", "ba"])) == [
        "abab",
        "ba",
    ]
    tokens = TokenSequences("word", ngram_range=(1, 3))
    numbers = tokens.fit_transform(["a b a b", "so a b"])
    assert tokens.inverse_transform(numbers) == ["a b a b", "so a b"]


def test_texts_are_read_once():
    found = TokenSequences().fit_transform(iter(["abc", "de"]))
    assert [row.tolist() for row in found] == [[2, 3, 4], [5, 6]]
    with pytest.raises(ValueError, match="string object received"):
        TokenSequences().fit_transform("abc")


def test_a_given_vocabulary_needs_no_fit():
    given = TokenSequences("word", vocabulary=["b", "a"])
    assert given.transform(["a b c"])[0].tolist() == [3, 2, 1]
    assert clone(given).inverse_transform([[3, 2]]) == ["a b"]
    assert clone(given).numbers(["b"]) == [2]
    with pytest.raises(NotFittedError):
        TokenSequences("word").numbers(["b"])


def test_inverse_gives_the_texts_back():
    tokens = TokenSequences().fit(TEXTS)
    assert tokens.inverse_transform(tokens.transform(["The cat"])) == ["The cat"]
    assert tokens.inverse_transform(tokens.transform(["cat好"])) == ["cat\ufffd"]
    padded = np.array([[*tokens.transform(["cat"])[0], 0, 0]])
    assert tokens.inverse_transform(padded) == ["cat"]
    by_word = TokenSequences("word").fit(TEXTS)
    assert by_word.inverse_transform(by_word.transform(["a  dog"])) == ["a dog"]
    called = TokenSequences(words).fit(TEXTS)
    assert called.inverse_transform(called.transform(["a dog"])) == [["a", "dog"]]


def test_what_a_group_finds_keeps_its_accents():
    quoted = TokenSequences("word", token_pattern=r"<(\w+)>|x")
    assert quoted.tokenize(["\u092d\u093e<\u092d\u093e>x"]) == [["\u092d\u093e", ""]]


def test_inverse_of_what_is_no_list_of_rows():
    tokens = TokenSequences("word").fit(["a b"])
    assert tokens.inverse_transform(torch.tensor([[2, 3]])) == ["a b"]
    with pytest.raises(ValueError, match=r"Row 0 is .*2.*; expected the numbers of a te"):
        tokens.inverse_transform(np.array([2, 3]))
    with pytest.raises(ValueError, match=r"Row 1 holds 2\.5, the number of no token"):
        tokens.inverse_transform([[2], [2.5]])


def test_copies_number_alike():
    tokens = TokenSequences("word", min_df=2).fit(TEXTS)
    twin = pickle.loads(pickle.dumps(tokens))
    for a, b in zip(tokens.transform(TEXTS), twin.transform(TEXTS), strict=True):
        np.testing.assert_array_equal(a, b)
    assert clone(tokens).get_params() == tokens.get_params()
    for kind in (pd.Series(TEXTS, index=[3, 5, 7, 9]), np.array(TEXTS), tuple(TEXTS)):
        assert tokens.transform(kind)[0].tolist() == tokens.transform(TEXTS)[0].tolist()


def test_a_vocabulary_given_as_a_mapping_or_a_set():
    numbers = {"good": 3, "bad": 2}
    given = TokenSequences("word", vocabulary=numbers)
    assert given.transform(["good bad"])[0].tolist() == [3, 2]
    assert given.vocabulary_ == numbers
    given = TokenSequences("word", vocabulary={"so", "good", "bad"})
    assert given.fit([]).vocabulary_ == {"bad": 2, "good": 3, "so": 4}
    with pytest.raises(ValueError, match=r"vocabulary is empty\. Give it tokens"):
        TokenSequences("word", vocabulary=[]).fit([])
    for wrong in ({"good": 1, "bad": 0}, {"good": 2, "bad": 4}, {"good": "x", "bad": 2}):
        with pytest.raises(ValueError, match="must number its 2 tokens from 2 without"):
            TokenSequences("word", vocabulary=wrong).fit([])


def test_lists_of_tokens():
    tokens = TokenSequences()
    numbers = tokens.fit_transform([[10, 20], [30]])
    assert [row.tolist() for row in numbers] == [[2, 3], [4]]
    assert tokens.inverse_transform(numbers) == [[10, 20], [30]]
    tokens = TokenSequences("word", ngram_range=(1, 2))
    numbers = tokens.fit_transform([["很好", "吃"], ["很好", "看"]])
    assert tokens.inverse_transform(numbers) == ["很好 吃", "很好 看"]
    with pytest.raises(ValueError, match="Text 1 has the token 'add to cart'"):
        tokens.fit([["buy"], ["add to cart", "buy"]])
    with pytest.raises(
        ValueError, match=r"token 'abc'; ngram_range=.* single characters"
    ):
        TokenSequences(ngram_range=(1, 2)).fit([["abc", "de"]])
    with pytest.raises(ValueError, match="Text 0 has the token 10"):
        TokenSequences(ngram_range=(1, 2)).fit([[10, 20]])


def test_a_table_is_refused_also_in_a_pipeline():
    table = pd.DataFrame({"text": ["so good", "bad"], "other": ["x", "y"]})
    model = make_pipeline(TokenSequences("word"), LSTMClassifier(4, stem="embedding"))
    with pytest.raises(
        ValueError, match=r"X is a table with the columns \['text', 'other'"
    ):
        model.fit(table, [0, 1])


# ------------------------------------------------------------------------- in pipelines
def reviews(n=120, seed=0):
    """Chinese and English reviews; "not" and "不" turn the opinion round."""
    rng = np.random.default_rng(seed)
    texts, labels = [], []
    for i in range(n):
        good, turned = rng.integers(2, size=2)
        what, very = rng.integers(6), rng.integers(2)
        english = ["The", ["hotel", "room", "food", "bath", "view", "price"][what], "was"]
        english += ["not"] * turned + ["very"] * very + [["bad", "good"][good]]
        chinese = ["酒房饭人景价"[what], "不" * turned, "很" * very, "坏好"[good]]
        texts.append(" ".join(english) if i % 2 else "".join(chinese))
        labels.append("yes" if good != turned else "no")
    return texts, labels


def test_chinese_and_english_reviews():
    X, y = reviews()
    lstm = LSTMClassifier(
        16, stem="embedding", bidirectional=True, solver="adamw", max_iter=40,
        random_state=0,
    )  # fmt: skip
    model = make_pipeline(TokenSequences("char"), lstm).fit(X, y)
    assert model.score(*reviews(seed=1)) == 1
    assert pickle.loads(pickle.dumps(model)).score(X, y) == 1
    # What was never seen in fit is unknown, not an error.
    assert model.predict(["ÿ", ""]).shape == (2,)


def test_grid_search_over_the_vocabulary():
    X, y = reviews(40)
    lstm = LSTMClassifier(4, stem="embedding", max_iter=12, random_state=0)
    model = make_pipeline(TokenSequences(), lstm)
    grid = {"tokensequences__max_features": [1, None]}
    search = GridSearchCV(model, grid, cv=2).fit(X, y)
    assert np.isfinite(search.cv_results_["mean_test_score"]).all()
    n_tokens = len(search.best_estimator_[0].vocabulary_)
    assert (n_tokens == 1) == (search.best_index_ == 0)


# --------------------------------------------------------------------------- vectors
VECTORS = {"good": [1.0, 0.0, 0.5], "fine": [1.0, 0.1, 0.5], "bad": [-1.0, 0.0, 0.5]}


def test_vectors_are_arranged_by_number():
    tokens = TokenSequences("word").fit(["bad good ugly"])
    expected = [[0] * 3, [0] * 3, VECTORS["bad"], VECTORS["good"], [0] * 3]
    np.testing.assert_array_equal(tokens.vectors(VECTORS), np.float32(expected))


@pytest.mark.parametrize("estimator", [LSTMClassifier, LSTMRegressor])
def test_pretrained_vectors_speak_for_words_that_were_not_trained_on(estimator):
    tokens = TokenSequences("word", vocabulary=list(VECTORS)).fit([])
    table = tokens.vectors(VECTORS)
    lstm = estimator(
        8, stem="embedding", embedding=table, freeze_embedding=True, max_iter=40,
        random_state=0,
    )  # fmt: skip
    model = make_pipeline(tokens, lstm).fit(["good", "bad"] * 6, [1, 0] * 6)
    assert np.round(model.predict(["fine", "bad bad"])).tolist() == [1, 0]
    stored = lstm.network_.stem.embedding.weight
    np.testing.assert_array_equal(stored[2:].detach(), table[1:])
    assert lstm.network_.config["embedding_size"] == 3
    twin = pickle.loads(pickle.dumps(lstm))
    assert not twin.network_.stem.embedding.weight.requires_grad
    lstm.set_params(freeze_embedding=False).fit(
        *zip(*[([4], 0), ([2], 1)] * 4, strict=True)
    )
    assert not np.array_equal(lstm.network_.stem.embedding.weight[2:].detach(), table[1:])


def test_training_on_does_not_freeze_what_was_not():
    X, y = np.array([[1, 2, 1], [2, 2, 1]] * 10), np.array([0, 1] * 10)
    settings = {"stem": "embedding", "embedding": np.eye(3), "max_iter": 11}
    model = LSTMClassifier(4, **settings, freeze_embedding=True, warm_start=True)
    model.fit(X, y).fit(X, y)
    with pytest.raises(
        ValueError, match="freeze_embedding is False, but what was fitted"
    ):
        model.set_params(freeze_embedding=False).fit(X, y)


def test_dropped_tokens_are_read_as_unknown():
    stem = EmbeddingStem(5, 2, False, 0.3)
    with torch.no_grad():
        stem.embedding.weight[:] = torch.arange(5)[:, None].expand(5, 2)
    x = torch.tensor([[2, 3, 4, 0]]).repeat(4000, 1)
    out = stem(x, None, torch.Generator().manual_seed(0))[0][:, :, 0]
    assert (out[:, 3] == 0).all()  # padding stays
    kept = out[:, :3] == x[:, :3]
    assert ((out[:, :3] == 1) | kept).all()
    assert kept.float().mean() == pytest.approx(0.7, abs=0.02)
    assert torch.equal(stem.eval()(x, None)[0][:, :, 0], x.float())


def test_token_dropout_teaches_the_vector_of_unknown_tokens():
    X = [np.array([2, 3 + label]) for label in (0, 1)] * 4
    settings = {"stem": "embedding", "max_iter": 12, "random_state": 0}
    model = LSTMClassifier(4, **settings).fit(X, [0, 1] * 4)
    assert not model.network_.stem.embedding.weight[1].any()
    model.set_params(token_dropout=0.3).fit(X, [0, 1] * 4)
    assert model.network_.stem.embedding.weight[1].any()


# ------------------------------------------------------------------------------ errors
def test_bad_texts_and_parameters():
    with pytest.raises(
        ValueError, match=r"The vocabulary is empty: no token .* min_df=1"
    ):
        TokenSequences().fit(["", ""])
    with pytest.raises(ValueError, match=r"at least min_df=3 of them\. Lower min_df"):
        TokenSequences(min_df=3).fit(["ab", "cd"])
    with pytest.raises(ValueError, match="string object received"):
        TokenSequences().fit("text")
    with pytest.raises(ValueError, match="Text 1 is nan, of type float; expected str"):
        TokenSequences().fit(["a", np.nan])
    with pytest.raises(ValueError, match="'analyzer' parameter of TokenSequences must"):
        TokenSequences("chars").fit(["a"])
    with pytest.raises(ValueError, match="vocabulary holds 'b' more than once"):
        TokenSequences(vocabulary=["a", "b", "b"]).fit([])
    with pytest.raises(ValueError, match=r"1 <= shortest <= longest; got \(2, 1\)"):
        TokenSequences(ngram_range=(2, 1)).fit(["a"])
    with pytest.raises(NotFittedError):
        TokenSequences().transform(["a"])
    with pytest.raises(ValueError, match="Row 1 holds 9, the number of no token"):
        TokenSequences().fit(["a"]).inverse_transform([[2], [9]])


def test_bad_vectors():
    tokens = TokenSequences("word").fit(["good bad"])
    with pytest.raises(ValueError, match=r"first of them are \['bad', 'good'\]"):
        tokens.vectors({"ugly": [1.0]})
    with pytest.raises(
        ValueError, match=r"of equal length; got the shapes \[\(1,\), \(2,"
    ):
        tokens.vectors({"good": [1.0], "bad": [1.0, 2.0]})
    with pytest.raises(ValueError, match="Input embedding contains NaN"):
        LSTMClassifier(stem="embedding", embedding=[[0.0], [np.nan]]).fit([[1]], [0])


def test_tokens_that_are_not_integers():
    with pytest.raises(ValueError, match="must hold integer tokens, but row 1 does not"):
        LSTMClassifier(stem="embedding").fit([[1, 2], [1.5, 2]], [0, 1])
    with pytest.raises(ValueError, match="X has values that are not numbers in row 0"):
        LSTMClassifier(stem="embedding").fit(
            [np.array(["a"]), np.array(["b", "c"])], [0, 1]
        )


def test_tokens_that_are_missing_or_have_no_order_together():
    tokens = TokenSequences()
    for rows in (
        [["in", None], ["buy"]],
        [["in"], np.array(["a", np.nan], dtype=object)],
    ):
        with pytest.raises(ValueError, match=r"Text . has (None|nan) as token 1\. Leave"):
            tokens.fit(rows)
    with pytest.raises(ValueError, match=r"have no order together: int, str\. Make them"):
        tokens.fit([["in", 3], ["buy"]])
    rows = [pd.Series(["in", "buy"]), pd.Categorical(["buy", "out"])]
    assert tokens.tokenize(rows) == [["in", "buy"], ["buy", "out"]]


def test_a_table_is_no_list_of_texts():
    with pytest.raises(ValueError, match=r"the columns \['text'\]; expected texts"):
        TokenSequences().fit(pd.DataFrame({"text": ["a b", "c"]}))


@pytest.mark.parametrize("method", ["fit", "fit_transform", "tokenize"])
def test_a_column_of_texts_is_no_list_of_tokens(method):
    column = np.array([["so good"], ["bad"]])
    with pytest.raises(ValueError, match=r"shape \(2, 1\), .* as X\.ravel\(\)"):
        getattr(TokenSequences("word"), method)(column)
    TokenSequences("word").fit(column.ravel())
    assert TokenSequences().tokenize(np.array([["a", "b"]])) == [["a", "b"]]


def test_a_pattern_of_several_groups_is_refused():
    tokens = TokenSequences("word", token_pattern=r"(\w)(\d)")
    with pytest.raises(ValueError, match=r"More than 1 capturing group .* has 2, and"):
        tokens.fit(["a1 b2"])
    assert tokens.set_params(token_pattern=r"(\w)\d").tokenize(["a1"]) == [["a"]]
    tokens.set_params(analyzer="char", token_pattern=r"(\w)(\d)").fit(["a1 b2"])


def test_runs_of_tokens_with_a_space_are_refused():
    tokens = TokenSequences("word", token_pattern=r"\w+ \w+", ngram_range=(1, 2))
    with pytest.raises(
        ValueError, match=r"Text 1 has the token 'b c'; .* or change token_pattern"
    ):
        tokens.fit(["a", "b c"])
    assert tokens.set_params(ngram_range=(1, 1)).tokenize(["b c"]) == [["b c"]]


@pytest.mark.parametrize("kind", [list, np.array, pd.Series])
@pytest.mark.parametrize("estimator", [LSTMClassifier, LSTMRegressor])
def test_texts_are_numbered_first(estimator, kind):
    model = estimator(4, stem="embedding", max_iter=11, random_state=0)
    message = f"X holds texts, .*TokenSequences.., {estimator.__name__}.stem="
    with pytest.raises(ValueError, match=message):
        model.fit(kind(["so good", "bad"]), [0, 1])
    model.fit([[2, 3], [4]], [0, 1])
    with pytest.raises(ValueError, match=message):
        model.predict(kind(["so good", "bad"]))


def test_token_lists_of_one_length_are_read_as_any():
    rows = [[1, 2, 3]] * 4 + [[1, 2]] * 4
    model = LSTMClassifier(4, stem="embedding", max_iter=11, random_state=0)
    model.fit(rows[:4], list("abab"))
    as_arrays = [np.array(row) for row in rows]
    np.testing.assert_array_equal(model.predict(rows[4:]), model.predict(as_arrays[4:]))
    scores = cross_val_score(
        model, rows, list("abab") * 2, cv=KFold(2), error_score="raise"
    )
    assert len(scores) == 2
