"""`generate`: what it draws, and from what."""

from fractions import Fraction

import numpy as np
import pytest
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer

from sklstm import LSTMClassifier, TokenSequences, generate, generation
from sklstm.generation import _draw

QUICK = {"stem": "embedding", "target": "sequence", "random_state": 0}
rng = np.random.default_rng(0)


def shifted(rows):
    return [row[:-1] for row in rows], [row[1:] for row in rows]


def counting(n=60):
    """Rows that count on from anywhere, modulo 7, from 1."""
    starts = rng.integers(7, size=n)
    return [(start + np.arange(rng.integers(5, 12))) % 7 + 1 for start in starts]


@pytest.fixture(scope="module")
def counter():
    model = LSTMClassifier(16, **QUICK, max_iter=30, num_layers=2, alpha=0)
    return model.fit(*shifted(counting()))


@pytest.fixture(scope="module")
def parrot():
    texts = ["白日依山尽 黄河入海流。"] * 4 + ["abc abc abc."] * 4
    lstm = LSTMClassifier(
        24, **QUICK, max_iter=150, learning_rate_init=0.02, alpha=0, dropout=0
    )  # a step per epoch, since equal rows are one
    X, y = shifted(texts)
    return make_pipeline(TokenSequences(), lstm).fit(X, [list(row) for row in y])


def test_the_likeliest_continuation(counter):
    assert generate(counter, [6, 7], 9, temperature=0).tolist() == [
        1, 2, 3, 4, 5, 6, 7, 1, 2
    ]  # fmt: skip
    assert generate(counter, [3], 0).shape == (0,)


def test_text_in_text_out(parrot):
    assert generate(parrot, "白日", 10, temperature=0) == "依山尽 黄河入海流。"
    # An unknown character is allowed as long as one is known.
    assert len(generate(parrot, "ÿa", 5, temperature=0)) == 5


def test_runs_of_tokens_are_read_as_in_fit(monkeypatch):
    texts = ["abcabcabcabc", "bcabcabcabca", "cabcabcabcab"] * 3
    X, y = shifted(texts)
    model = LSTMClassifier(16, **QUICK, max_iter=30)
    model = make_pipeline(TokenSequences("char", ngram_range=(1, 2)), model)
    model.fit(X, [list(row) for row in y])
    text = "ca"
    for _ in range(8):
        text += str(model.classes_[model.predict_proba([text])[0][-1].argmax()])
    assert generate(model, "ca", 8, temperature=0) == text[2:]

    # The first token drawn is read together with the last one of the prompt.
    read, stream = [], generation.stream

    def noted(*args, **kwargs):
        live = stream(*args, **kwargs)
        push = live.push
        live.push = lambda number: (read.append(number), push(number))[1]
        return live

    monkeypatch.setattr(generation, "stream", noted)
    text = "ca" + generate(model, "ca", 8, temperature=0)
    assert read == model[0].numbers(list(text))


@pytest.mark.parametrize("ngram_range", [(1, 1), (1, 2)])
def test_what_was_drawn_is_read_in_lower_case(ngram_range):
    texts = ["AbcAbcAbcAbc", "bcAbcAbcAbcA", "cAbcAbcAbcAb"] * 3
    X, y = shifted(texts)
    tokens = TokenSequences(lowercase=True, ngram_range=ngram_range)
    model = make_pipeline(tokens, LSTMClassifier(16, **QUICK, max_iter=30))
    model.fit(X, [list(row) for row in y])
    text = "cA"
    for _ in range(8):
        text += str(model.classes_[model.predict_proba([text])[0][-1].argmax()])
    assert "A" in text[2:]
    assert generate(model, "cA", 8, temperature=0) == text[2:]


def test_padding_at_either_end_of_a_prompt_is_not_read(counter):
    def draw(prompt):
        return generate(counter, prompt, 20, temperature=5, random_state=0).tolist()

    assert draw([0, 0, 0, 6, 0, 7, 0]) == draw([6, 0, 7])


def test_a_prompt_is_read_to_its_end():
    """`max_length` is for what is trained on: the text goes on after its last token."""
    texts = ["abcd" * 4, "bcda" * 4, "cdab" * 4, "dabc" * 4]
    model = make_pipeline(
        TokenSequences("char", max_length=8),
        LSTMClassifier(16, stem="embedding", target="sequence", random_state=0),
    )
    model.fit([text[:8] for text in texts], [list(text[1:9]) for text in texts])
    assert generate(model, "abcdabcdabcdab", 3, temperature=0) == "cda"


def test_words_and_callables():
    for analyzer in ("word", str.split):
        tokens = TokenSequences(analyzer)
        X, y = shifted(tokens.tokenize(["to be or not to be"] * 8))
        if callable(analyzer):
            X = [" ".join(row) for row in X]
        lstm = LSTMClassifier(16, **QUICK, max_iter=100, learning_rate_init=0.02, alpha=0)
        model = make_pipeline(tokens, lstm)
        model.fit(X, [np.array(row) for row in y])
        found = generate(model, "to be", 2, temperature=0)
        assert found == ("or not" if analyzer == "word" else ["or", "not"])


@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_every_draw_is_from_predict_proba_of_the_growing_prefix(cell):
    model = LSTMClassifier(8, **QUICK, max_iter=12, cell=cell).fit(*shifted(counting()))
    drawn = generate(model, [2, 5], 40, random_state=1)
    random = np.random.RandomState(1)
    text = [2, 5]
    for token in drawn:
        share = model.predict_proba([text])[0][-1]
        order = np.argsort(-share, kind="stable")
        position = np.searchsorted(share[order].cumsum(), random.random())
        assert token == model.classes_[order[position]]
        text.append(token)


def test_draws_have_the_probabilities_asked_for():
    share = np.array([0.1, 0.4, 0.2, 0.3])

    def frequencies(temperature=1.0, top_k=None, top_p=None):
        random = np.random.RandomState(0)
        draws = [
            _draw(np.log(share), temperature, top_k, top_p, random) for _ in range(4000)
        ]
        return np.bincount(draws, minlength=4) / len(draws)

    close = {"atol": 0.03}
    np.testing.assert_allclose(frequencies(), share, **close)
    flat = share**0.5
    np.testing.assert_allclose(frequencies(temperature=2.0), flat / flat.sum(), **close)
    np.testing.assert_allclose(frequencies(temperature=0), [0, 1, 0, 0])
    np.testing.assert_allclose(frequencies(top_k=2), np.array([0, 4, 0, 3]) / 7, **close)
    np.testing.assert_allclose(frequencies(top_k=9), share, **close)
    np.testing.assert_allclose(frequencies(top_p=0.4), [0, 1, 0, 0])
    np.testing.assert_allclose(
        frequencies(top_p=0.6), np.array([0, 4, 0, 3]) / 7, **close
    )
    np.testing.assert_allclose(frequencies(top_p=1.0), share, **close)
    # 4/7 of the two likeliest is enough.
    np.testing.assert_allclose(frequencies(top_k=2, top_p=0.55), [0, 1, 0, 0])


@pytest.mark.parametrize("temperature", [1e-320, Fraction(1, 1000), np.float32(0.001)])
def test_the_smallest_temperatures_draw_what_is_likeliest(counter, temperature):
    expected = generate(counter, [1], 10, temperature=0)
    drawn = generate(counter, [1], 10, temperature=temperature, random_state=0)
    np.testing.assert_array_equal(drawn, expected)


def test_seeds(counter):
    drawn = [
        generate(counter, [1], 30, temperature=3, random_state=seed).tolist()
        for seed in (0, 0, 1, np.random.RandomState(0), None, None)
    ]
    assert drawn[0] == drawn[1] == drawn[3]
    assert drawn[0] != drawn[2]
    assert drawn[4] != drawn[5]


# ------------------------------------------------------------------------------ errors
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"length": -1}, "length must be a whole number, at least 0; got -1"),
        ({"length": "5"}, "length must be a whole number, at least 0; got '5'"),
        ({"temperature": -1}, "temperature must be a finite number, at least 0; got -1"),
        ({"temperature": np.nan}, "a finite number, at least 0; got nan"),
        ({"temperature": np.inf}, "a finite number, at least 0; got inf"),
        ({"top_k": 0}, "top_k, unless None, must be a whole number, at least 1; got 0"),
        ({"top_p": 0}, r"top_p must be None or a number in \(0, 1\]; got 0"),
        ({"prompt": []}, "must be at least one integer token"),
        ({"prompt": "ab"}, "must be at least one integer token"),
        ({"prompt": [99, 98]}, r"\[99, 98\] holds only tokens that were not seen in fit"),
    ],
)
def test_bad_arguments(counter, settings, message):
    with pytest.raises(ValueError, match=message):
        generate(counter, **{"prompt": [1], "length": 3, **settings})


def test_bad_prompts_of_a_pipeline(parrot):
    with pytest.raises(ValueError, match="must be a text, as those of fit; got None"):
        generate(parrot, None, 3)
    with pytest.raises(ValueError, match="The prompt is empty"):
        generate(parrot, "", 3)
    with pytest.raises(ValueError, match="'ÿþ' holds only tokens that were not seen"):
        generate(parrot, "ÿþ", 3)


def test_models_that_cannot_generate(parrot):
    X, y = shifted(counting())
    quick = {**QUICK, "max_iter": 11, "hidden_size": 3}
    both = LSTMClassifier(**quick, bidirectional=True).fit(X, y)
    with pytest.raises(ValueError, match="bidirectional network cannot generate: it"):
        generate(both, [1], 3)
    single = LSTMClassifier(**{**quick, "target": "single"}).fit(X, [row[0] for row in y])
    with pytest.raises(
        ValueError, match="needs an LSTMClassifier that was fitted with ta"
    ):
        generate(single, [1], 3)
    with pytest.raises(ValueError, match=r"The classes must be tokens, .* in a pipeline"):
        generate(parrot[-1], [2], 3)
    longer = make_pipeline(FunctionTransformer(), *(step for _, step in parrot.steps))
    with pytest.raises(ValueError, match=r"has two steps, .* got \['FunctionTransf"):
        generate(longer, "a", 3)
    with pytest.raises(NotFittedError):
        generate(LSTMClassifier(), [1], 3)
    for other in (GridSearchCV(parrot, {}), LogisticRegression()):
        with pytest.raises(TypeError, match=r"Expected a fitted LSTMClassifier .*, got"):
            generate(other, "a", 3)
    texts = [["a", "b", "a"], ["b", "a", "b"]]
    tagger = make_pipeline(TokenSequences(), LSTMClassifier(**quick))
    tagger.fit(texts, [["V", "C", "V"], ["C", "V", "C"]])
    with pytest.raises(ValueError, match=r"None of the classes, \['C', 'V'\] among them"):
        generate(tagger, "ab", 3)
    with pytest.raises(NotFittedError, match="TokenSequences"):
        generate(make_pipeline(TokenSequences(), parrot[-1]), "a", 3)
    labels = [np.eye(2, dtype=int)[np.asarray(row) % 2] for row in X]
    several = LSTMClassifier(**quick).fit(X, labels)
    with pytest.raises(ValueError, match="needs an LSTMClassifier that was fitted with"):
        generate(several, [1], 3)
