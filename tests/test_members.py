"""Several networks that are averaged."""

import math
import pickle

import numpy as np
import pytest
import torch

from sklstm import LSTMClassifier, LSTMRegressor, compress, load, save
from sklstm.inspection import gate_activations, integrated_gradients
from sklstm.network import RecurrentNetwork, initialize
from sklstm.streaming import stream
from sklstm.training import Randomness

QUICK = {"hidden_size": 4, "max_iter": 12, "random_state": 0, "n_members": 3}
CONFIG = {
    "n_channels": 2, "n_outputs": 3, "hidden_size": 4, "num_layers": 1, "cell": "lstm",
    "bidirectional": False, "dropout": 0.0, "stem": None, "pooling": "last",
    "strides": (1, 1, 1), "n_tokens": 0,
}  # fmt: skip
STEMS = [
    {"stem": None, "pooling": "last"},
    {"stem": "linear", "pooling": "attention"},
    {"stem": "conv", "pooling": "mean-max", "bidirectional": True},
]


def made(**settings):
    network = RecurrentNetwork(**CONFIG | settings)
    initialize(network, torch.Generator().manual_seed(0))
    return network


@pytest.mark.parametrize("settings", STEMS)
def test_raw_outputs_are_the_mean_of_those_of_the_members(settings):
    network = made(**settings, n_members=3)  # without dropout
    x = torch.randn(5, 9, 2, generator=torch.Generator().manual_seed(1))
    lengths = torch.tensor([9, 7, 4, 2, 1])
    alone = []
    for i, member in enumerate(network.members):
        prefix = f"others.{i - 1}." if i else ""
        single = RecurrentNetwork(**CONFIG | settings)
        state = network.state_dict()
        single.load_state_dict({k: state[prefix + k] for k in single.state_dict()})
        assert member.config["n_members"] == (1 if i else 3)
        alone.append(single)
    raw = torch.stack([single(x, lengths) for single in alone])
    assert not torch.equal(raw[0], raw[1])
    torch.testing.assert_close(network(x, lengths), raw.mean(0))
    embedded = torch.cat([single.embed(x, lengths) for single in alone], dim=1)
    assert torch.equal(network.embed(x, lengths), embedded)


def test_the_first_member_starts_as_a_single_network_does():
    alone, several = made().state_dict(), made(n_members=2).state_dict()
    assert all(torch.equal(several[name], alone[name]) for name in alone)


@pytest.mark.parametrize(
    ("link", "probability"),
    [("softmax", lambda raw: raw.softmax(-1)), ("sigmoid", torch.sigmoid)],
)
def test_raw_outputs_are_those_of_the_mean_probability(link, probability):
    network = made(n_members=3, link=link)
    x = torch.randn(50, 9, 2, generator=torch.Generator().manual_seed(1))
    each = torch.stack(
        [member.readout(member._read(x, None, None)[0]) for member in network.members]
    )
    mean = probability(each).mean(0)
    assert not torch.allclose(mean, probability(each.mean(0)), atol=1e-6)
    torch.testing.assert_close(probability(network(x)), mean)


@pytest.mark.parametrize("link", ["softmax", "sigmoid"])
def test_a_row_is_averaged_alike_in_any_batch(link):
    network = made(n_members=3, link=link)
    raw = 3 * torch.randn(3, 200, 3, generator=torch.Generator().manual_seed(1))
    whole = network._averaged(raw)
    for size in (1, 3, 7):
        pieces = [network._averaged(piece) for piece in raw.split(size, dim=1)]
        assert torch.equal(torch.cat(pieces), whole)


@pytest.mark.parametrize("settings", [{"link": "softmax"}, {"link": "sigmoid"}])
def test_tiny_probabilities_are_averaged_without_underflow(settings):
    raw = torch.tensor([[[-500.0, 500.0]], [[-400.0, 400.0]]])
    averaged = made(n_members=2, **settings)._averaged(raw)
    # Of exp(-2r), or of exp(-r), the larger one is left: half of it is the mean.
    width = 800.0 if settings["link"] == "softmax" else 400.0
    got = averaged[0, 1] - averaged[0, 0] if width == 800 else averaged[0, 1]
    torch.testing.assert_close(got, torch.tensor(width + math.log(2)))


@pytest.mark.parametrize(
    "settings", [{"stem": None}, {"stem": "conv", "augment": ["time-warp", "jitter"]}]
)
def test_a_member_becomes_what_it_would_alone(settings, make_sequences):
    X, y = make_sequences(36, 16)  # so few that none are left out
    settings = {**QUICK, "dropout": 0.3, "max_grad_norm": 0.1, **settings}
    several = LSTMRegressor(**settings).fit(X, y).network_.state_dict()
    alone = LSTMRegressor(**settings | {"n_members": 1}).fit(X, y).network_.state_dict()
    for name in alone:
        torch.testing.assert_close(several[name], alone[name], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("estimator", [LSTMClassifier, LSTMRegressor])
@pytest.mark.parametrize(
    "settings", [{}, {"stem": None}, {"stem": None, "target": "sequence"}]
)
def test_it_is_one_estimator_like_any_other(
    estimator, settings, make_sequences, tmp_path
):
    X, y = make_sequences(40, 10, ragged=True)
    if "target" in settings:
        y = [np.repeat(label, len(row)) for row, label in zip(X, y, strict=True)]
    model = estimator(**QUICK, **settings).fit(X, y)
    answer = np.concatenate(model.predict(X).tolist(), axis=None)
    assert model.n_members_ == 3
    again = estimator(**QUICK, **settings).fit(X, y)
    save(model, tmp_path / "model")
    for other in (again, load(tmp_path / "model"), pickle.loads(pickle.dumps(model))):
        assert other.n_members_ == 3
        same = np.concatenate(other.predict(X).tolist(), axis=None)
        np.testing.assert_array_equal(same, answer)
    assert len(pickle.dumps(compress(model))) < len(pickle.dumps(model))
    n_iter = model.n_iter_
    assert model.set_params(warm_start=True).fit(X, y).n_iter_ > n_iter


def test_bounded_gradients_through_time_are_those_of_each_member(make_sequences):
    X, y = make_sequences(20, 12)
    settings = QUICK | {"stem": None, "n_members": 2}
    for target in ("single", "sequence"):
        labels = np.repeat(y[:, None], 12, axis=1) if target == "sequence" else y
        losses = [
            LSTMClassifier(**settings, target=target, bptt_steps=bptt_steps)
            .fit(X, labels)
            .loss_
            for bptt_steps in (4, None)
        ]
        assert losses[0] != losses[1]
        assert losses[0] < 0.7


@pytest.mark.parametrize("settings", [{"augment": ["mixup"]}, {"dtype": "bfloat16"}])
def test_as_many_threads_as_there_are_make_the_same_model(settings, make_sequences):
    X, y = make_sequences(40, 20)
    n_threads, answers = torch.get_num_threads(), []
    try:
        for n in (1, 2):
            torch.set_num_threads(n)
            model = LSTMClassifier(**QUICK, **settings).fit(X, y)
            assert torch.get_num_threads() == n
            answers.append(model.predict_proba(X))
    finally:
        torch.set_num_threads(n_threads)
    np.testing.assert_array_equal(*answers)


def test_inspection_explains_the_mean_and_shows_the_first(make_sequences):
    X, y = make_sequences(30, 12)
    model = LSTMRegressor(**QUICK).fit(X, y)
    result = integrated_gradients(model, X[:4])
    change = result.response - result.baseline_response
    np.testing.assert_allclose(result.attributions.sum((1, 2)), change, atol=1e-2)
    np.testing.assert_allclose(result.response, model.predict(X[:4]), atol=1e-5)
    assert gate_activations(model, X[:4]).forget_gate.shape[2] == 4


@pytest.mark.parametrize(
    ("n_rows", "n_timesteps", "settings", "n_members"),
    [
        (12, 32, {}, 3),
        (12, 31, {}, 1),
        (342, 32, {}, 2),
        (513, 32, {}, 1),
        (12, 32, {"stem": None}, 1),
        (12, 32, {"target": "sequence"}, 1),
    ],
)
def test_auto_averages_convolutions_over_few_sequences(
    n_rows, n_timesteps, settings, n_members, make_sequences
):
    X, y = make_sequences(n_rows, n_timesteps, seed=1)
    if "target" in settings:
        y = np.repeat(y[:, None], n_timesteps, axis=1)
    model = LSTMClassifier(2, max_iter=11, random_state=0, batch_size=64, **settings)
    assert model.fit(X, y).n_members_ == n_members


def test_a_stream_of_batches_is_learnt_by_one(make_sequences):
    X, y = make_sequences(12, 32)
    model = LSTMRegressor(hidden_size=3, random_state=0)
    assert model.partial_fit(X, y).n_members_ == 1
    model = LSTMRegressor(hidden_size=3, random_state=0, n_members=2)
    assert model.partial_fit(X, y).partial_fit(X, y).n_members_ == 2


def test_what_is_of_one_network_alone_says_so(make_sequences):
    X, y = make_sequences(20)
    model = LSTMClassifier(**QUICK, stem=None).fit(X, y)
    with pytest.raises(ValueError, match=r"single network .*averages 3\. Fit with n"):
        stream(model)
    with pytest.raises(ValueError, match=r"Lower learning_rate_init .* or max_grad_norm"):
        LSTMClassifier(**QUICK, solver="sgd", learning_rate_init=1e38).fit(X, y)
    with pytest.raises(ValueError, match='n_members=2 is not for stem="embedding"'):
        LSTMClassifier(stem="embedding", n_members=2).fit([[1, 2], [2, 1]], [0, 1])


# ------------------------------------------------------------------------- shrinkage
LEARNS = {"hidden_size": 8, "random_state": 0, "n_members": 3, "max_iter": 60}


def test_what_is_learnt_from_noise_is_not_predicted(monkeypatch):
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(1060, 12, 1)), 5 + rng.normal(size=1060)
    model = LSTMRegressor(**LEARNS).fit(X[:60], y[:60])
    assert model.shrinkage_ < 0.3
    assert model.score(X[60:], y[60:]) > -0.05
    monkeypatch.setattr(LSTMRegressor, "_leave_out", lambda *_: None)
    trusted = LSTMRegressor(**LEARNS).fit(X[:60], y[:60])
    assert trusted.score(X[60:], y[60:]) < -0.1


def test_each_target_is_trusted_as_far_as_it_was_learnt():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(200, 12, 1))
    y = np.column_stack([X[:, -4:].sum(axis=(1, 2)), rng.normal(size=200)])
    model = LSTMRegressor(**LEARNS).fit(X[:150], y[:150])
    assert model.shrinkage_[0] > 0.9
    assert model.shrinkage_[1] < 0.5
    assert model.score(X[150:], y[150:]) > 0.4  # half of the variance is noise


def test_many_networks_are_trusted_no_less_than_few():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(600, 12, 1))
    y = X[:, -4:].sum(axis=(1, 2)) + 2 * rng.normal(size=600)  # half of it is noise
    few, many = (
        LSTMRegressor(**LEARNS | {"n_members": n, "max_iter": 30}).fit(X[:200], y[:200])
        for n in (3, 8)
    )
    assert many.shrinkage_ > 0.7
    assert many.score(X[200:], y[200:]) > few.score(X[200:], y[200:]) - 0.05


def test_too_few_rows_for_the_networks_are_all_trained_on(make_sequences):
    X, y = make_sequences(41)
    settings = {"hidden_size": 2, "max_iter": 11, "random_state": 0}
    model = LSTMRegressor(**settings, n_members=42).fit(X, y)
    assert model.shrinkage_ == 1
    random = Randomness(0, torch.device("cpu"), 0)
    assert model._leave_out(41, 42, random) is None
    assert model._leave_out(41, 41, random).parts.shape == (41, 1)


@pytest.mark.parametrize(
    "settings",
    [
        {"n_members": 1},
        {"early_stopping": True},
        {"loss": "absolute_error"},
        {"loss": "quantile", "quantile": [0.2, 0.8]},
        {"target": "sequence"},
    ],
    ids=str,
)
def test_where_nothing_is_left_out_nothing_is_shrunk(settings, make_sequences):
    X, y = make_sequences(60, 12)
    y = np.repeat(y[:, None], 12, axis=1) if "target" in settings else y
    assert LSTMRegressor(**QUICK | settings).fit(X, y).shrinkage_ == 1


def test_training_on_leaves_nothing_out():
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(60, 12, 1)), rng.normal(size=60)
    model = LSTMRegressor(**LEARNS)
    assert model.partial_fit(X, y).partial_fit(X, y).shrinkage_ == 1
    model = LSTMRegressor(**LEARNS, warm_start=True).fit(X, y)
    assert model.shrinkage_ < 1
    before = model.predict(X)
    assert model.fit(X, y).shrinkage_ == 1
    assert not np.array_equal(model.predict(X), before)


@pytest.mark.parametrize("shuffle", [True, False])
def test_rows_are_left_out_alike_however_they_are_weighted(shuffle, make_sequences):
    X, y = make_sequences(50)
    settings = QUICK | {"n_members": 2, "shuffle": shuffle}
    weight = np.ones(50)
    weight[::7] = 0.0
    kept = weight > 0
    weighted = LSTMRegressor(**settings).fit(X, y, sample_weight=weight)
    alone = LSTMRegressor(**settings).fit(X[kept], y[kept])
    np.testing.assert_array_equal(weighted.predict(X), alone.predict(X))
    np.testing.assert_array_equal(weighted.shrinkage_, alone.shrinkage_)


def test_a_network_is_shrunk_about_a_centre():
    network = made(n_members=3, stem="conv", pooling="mean-max")
    x = torch.randn(5, 9, 2, generator=torch.Generator().manual_seed(1))
    factor, centre = torch.tensor([0.0, 0.25, 1.0]), torch.tensor([3.0, -1.0, 2.0])
    before = network(x)
    network.shrink(factor, centre)
    torch.testing.assert_close(network(x), centre + factor * (before - centre))


def test_shrinkage_is_saved(make_sequences, tmp_path):
    X, y = make_sequences(60)
    model = LSTMRegressor(**QUICK).fit(X, y)
    save(model, tmp_path / "model")
    loaded = load(tmp_path / "model")
    np.testing.assert_array_equal(loaded.shrinkage_, model.shrinkage_)
    np.testing.assert_array_equal(loaded.predict(X), model.predict(X))
