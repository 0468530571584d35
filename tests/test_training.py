import numpy as np
import pytest
import torch

from sklstm.training import (
    FlatParameters,
    Learner,
    Optimizer,
    Randomness,
    SequenceBatches,
    forward,
    padded_length,
    scheduled_rate,
    train,
)

CPU = torch.device("cpu")


class Rows:
    """What training needs of sequences."""

    def __init__(self, values, lengths):
        self.values, self.lengths = values, lengths


class Line(torch.nn.Module):
    """A network that is one linear map of the sum over time."""

    config, rounds_alike = {"hidden_size": 1}, False

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.tensor([[0.5, -0.5]]))
        self.bias = torch.nn.Parameter(torch.zeros(1))

    def forward(self, x, lengths=None, generator=None):
        return x.sum(1) @ self.weight.T + self.bias


def squared_error(raw, target, weight):
    return (raw[:, 0] - target).square() * weight


def batches(n=20, batch_size=20, seed=0, ragged=False, shuffle=True):
    rng = np.random.default_rng(seed)
    values = rng.normal(size=(n, 3, 2)).astype(np.float32)
    lengths = rng.integers(1, 4, size=n) if ragged else np.full(n, 3)
    target = values.sum(axis=1) @ [1.0, 2.0] + 0.5
    return SequenceBatches(
        Rows(values, lengths), target, np.ones(n), batch_size=batch_size,
        shuffle=shuffle, generator=torch.Generator().manual_seed(seed), device=CPU,
        dtype=torch.float32,
    )  # fmt: skip


SETTINGS = {
    "solver": "adam", "learning_rate": "constant", "learning_rate_init": 0.1,
    "alpha": 0.0, "max_iter": 50, "tol": 1e-4, "max_grad_norm": None,
    "n_iter_no_change": 10,
}  # fmt: skip


def fit(network=None, data=None, loss=squared_error, **settings):
    network = network or Line()
    learners = [Learner(network, data or batches(), None)]
    history = train(network, loss, learners, **{**SETTINGS, **settings})
    return network, history


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("alpha", [0.0, 0.1])
@pytest.mark.parametrize(
    ("solver", "theirs", "settings"),
    [
        ("adam", torch.optim.Adam, {}),
        ("adamw", torch.optim.AdamW, {}),
        ("sgd", torch.optim.SGD, {"momentum": 0.9, "nesterov": True}),
    ],
)
def test_optimizers_equal_torchs(solver, theirs, settings, alpha, dtype):
    ours, other = Line().to(dtype), Line().to(dtype)
    flat = FlatParameters(ours)
    optimizer = Optimizer(flat, solver, alpha)
    reference = theirs(
        [{"params": [other.weight], "weight_decay": alpha},
         {"params": [other.bias], "weight_decay": 0.0}], lr=0.01, **settings
    )  # fmt: skip
    x = torch.randn(8, 3, 2, dtype=dtype)
    for _ in range(5):
        flat.grad.zero_()
        ours(x).square().sum().backward()
        optimizer.step(0.01)
        reference.zero_grad()
        other(x).square().sum().backward()
        reference.step()
    torch.testing.assert_close(ours.weight, other.weight)
    torch.testing.assert_close(ours.bias, other.bias)


def test_optimizer_state_goes_on():
    x = torch.randn(8, 3, 2)
    whole, parts = Line(), Line()
    for network, splits in ((whole, (4,)), (parts, (2, 2))):
        state = None
        for n in splits:
            flat = FlatParameters(network)
            optimizer = Optimizer(flat, "adam", 0.0, state)
            for _ in range(n):
                flat.grad.zero_()
                network(x).square().sum().backward()
                optimizer.step(0.01)
            state = optimizer.state()
    torch.testing.assert_close(whole.weight, parts.weight, rtol=0, atol=0)


@pytest.mark.parametrize("learning_rate", ["constant", "one-cycle", "cosine", "adaptive"])
def test_training_finds_the_line(learning_rate):
    network, history = fit(learning_rate=learning_rate, max_iter=400, n_iter_no_change=60)
    np.testing.assert_allclose(network.weight.detach(), [[1, 2]], atol=0.05)
    assert not network.training
    assert history.best_loss == min(history.loss_curve) < 1e-3


def test_schedules():
    assert scheduled_rate("constant", 0.7) == scheduled_rate("adaptive", 0.7) == 1
    assert scheduled_rate("cosine", 0.0) == 1
    assert scheduled_rate("cosine", 0.5) == pytest.approx(0.5)
    assert scheduled_rate("cosine", 1.0) == pytest.approx(0, abs=1e-12)
    assert scheduled_rate("one-cycle", 0.0) == pytest.approx(0.04)
    assert scheduled_rate("one-cycle", 0.15) == 1
    assert scheduled_rate("one-cycle", 1.0) == pytest.approx(0, abs=1e-12)


def test_clipping_bounds_the_step():
    before = Line()
    network, _ = fit(Line(), solver="sgd", max_iter=1, max_grad_norm=0.01)
    moved = torch.cat([(network.weight - before.weight).flatten(), network.bias])
    # Nesterov momentum: the first step is 1.9 times the gradient.
    assert torch.linalg.vector_norm(moved).item() == pytest.approx(0.1 * 0.019, rel=1e-3)


def test_stops_when_the_loss_no_longer_improves():
    _, history = fit(max_iter=500, tol=1e9, n_iter_no_change=3)
    assert history.n_iter == 5  # one that improves on nothing, then 3 + 1 as in MLP
    assert history.converged


def test_early_stopping_restores_the_best_weights():
    network = Line()
    scores = iter([0.1, 0.7, 0.5, 0.6, 0.2])
    seen = []

    def validate():
        seen.append(network.weight.detach().clone())
        return next(scores), 0.0

    _, history = fit(network, validate=validate, n_iter_no_change=2)
    assert history.validation_scores == [0.1, 0.7, 0.5, 0.6, 0.2]
    assert history.best_validation_score == 0.7
    torch.testing.assert_close(network.weight.detach(), seen[1])


def test_equal_scores_are_told_apart_by_the_loss():
    network = Line()
    results = iter([(1.0, 3.0), (1.0, 1.0), (1.0, 2.0)])
    seen = []

    def validate():
        seen.append(network.weight.detach().clone())
        return next(results)

    fit(network, validate=validate, max_iter=3)
    torch.testing.assert_close(network.weight.detach(), seen[1])


def test_a_non_finite_loss_says_when_and_what_to_lower():
    def bad(raw, target, weight):
        return raw[:, 0] * float("nan")

    with pytest.raises(
        ValueError,
        match=r"loss became nan in epoch 1. Lower learning_rate_init \(now 0.1",
    ):
        fit(loss=bad)


def test_interrupt_keeps_the_best_model_and_warns():
    calls = iter(range(100))

    def interrupting(raw, target, weight):
        if next(calls) == 5:
            raise KeyboardInterrupt
        return squared_error(raw, target, weight)

    with pytest.warns(UserWarning, match="interrupted in epoch 6 of 50; the best model"):
        network, history = fit(loss=interrupting)
    assert history.n_iter == 5
    torch.testing.assert_close(network.weight, fit(max_iter=5)[0].weight)


def test_the_best_epoch_is_counted_from_1_and_comes_back_after_an_interrupt():
    network, scores = Line(), iter([0.1, 0.9, 0.3])
    weights = []

    def validate():
        weights.append(network.weight.detach().clone())
        return next(scores), 1.0

    _, history = fit(network, validate=validate, max_iter=3)
    assert history.best_iter == 2
    torch.testing.assert_close(network.weight.detach(), weights[1], rtol=0, atol=0)
    assert not torch.equal(weights[1], weights[2])

    network, scores = Line(), iter([0.1, 0.9, 0.3])
    weights.clear()

    def interrupt(history):
        if history.n_iter == 3:
            raise KeyboardInterrupt

    with pytest.warns(UserWarning, match="interrupted"):
        fit(network, validate=validate, max_iter=9, on_epoch=interrupt)
    torch.testing.assert_close(network.weight.detach(), weights[1], rtol=0, atol=0)


def test_an_interrupt_before_there_is_a_model_is_raised():
    def interrupting(raw, target, weight):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit(loss=interrupting)


@pytest.mark.parametrize(
    ("learning_rate", "max_iter", "converged"),
    [("one-cycle", 5, False), ("one-cycle", 11, True), ("constant", 11, False)],
)
def test_convergence(learning_rate, max_iter, converged):
    _, history = fit(learning_rate=learning_rate, max_iter=max_iter)
    assert history.converged == converged


def test_epoch_hook_stops():
    _, history = fit(on_epoch=lambda history: history.n_iter == 3)
    assert history.n_iter == 3


def test_verbose_prints_a_line_per_epoch(capsys):
    fit(max_iter=2, verbose=True)
    assert capsys.readouterr().out.count("Iteration ") == 2
    fit(max_iter=2)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("ragged", [False, True])
def test_every_row_comes_once_per_epoch_in_even_batches(ragged):
    data = batches(n=50, batch_size=16, ragged=ragged)
    first, second = ([t for _, t, _, _ in data] for _ in range(2))
    assert sorted(len(t) for t in first) == [12, 12, 13, 13]
    assert not torch.equal(torch.cat(first), torch.cat(second))
    torch.testing.assert_close(torch.cat(first).sort()[0], torch.cat(second).sort()[0])


def test_ragged_batches_hold_similar_lengths():
    rng = np.random.default_rng(0)
    lengths = rng.integers(1, 101, size=640)
    values = np.zeros((640, 100, 1), dtype=np.float32)
    data = SequenceBatches(
        Rows(values, lengths), np.zeros(640), np.ones(640), batch_size=32, shuffle=True,
        generator=torch.Generator().manual_seed(0), device=CPU, dtype=torch.float32,
    )  # fmt: skip
    padded = sum(x.shape[0] * x.shape[1] for (x, _), *_ in data)
    assert padded <= 1.15 * lengths.sum()


def test_padded_length_is_close_and_depends_on_the_length_alone():
    lengths = np.arange(1, 5000)
    padded = np.array([padded_length(n) for n in lengths])
    assert (padded >= lengths).all()
    assert (padded <= lengths * (1 + 1 / 16)).all()
    assert len(set(padded)) < 200


def test_forward_rows_do_not_depend_on_each_other():
    rng = np.random.default_rng(0)
    values = rng.normal(size=(70, 40, 2)).astype(np.float32)
    lengths = rng.integers(1, 41, size=70)
    values[np.arange(40) >= lengths[:, None]] = 0
    network = Line()
    together = forward(network, Rows(values, lengths), CPU)
    for i in (0, 3, 69):
        width = lengths[i]
        alone = forward(network, Rows(values[i : i + 1, :width], lengths[i : i + 1]), CPU)
        np.testing.assert_array_equal(alone[0], together[i])


def test_oversampling_draws_rows_as_often_as_they_weigh():
    weight = np.array([0.0, 1.0, 1.5, 3.0, 4.5])
    data = SequenceBatches(
        Rows(np.zeros((5, 1, 1), np.float32), np.ones(5, int)), np.arange(5), weight,
        batch_size=2, shuffle=True, oversample=True, device=CPU, dtype=torch.float64,
        generator=torch.Generator().manual_seed(0),
    )  # fmt: skip
    epochs = []
    for _ in range(400):
        epoch = list(data)
        assert sum(n for *_, n in epoch) == 5
        assert torch.cat([w for _, _, w, _ in epoch]).unique().tolist() == [2.0]
        drawn = torch.cat([target for _, target, _, _ in epoch])
        epochs.append(torch.bincount(drawn, minlength=5).numpy())
    share = weight / weight.sum() * 5
    assert (np.abs(epochs - share) < 1).all()  # rounded up or down in every epoch
    np.testing.assert_allclose(np.mean(epochs, axis=0), share, atol=0.08)
    one_each = SequenceBatches(
        Rows(np.zeros((5, 1, 1), np.float32), np.ones(5, int)), np.arange(5), np.ones(5),
        batch_size=2, shuffle=False, oversample=True, device=CPU, dtype=torch.float64,
        generator=torch.Generator().manual_seed(0),
    )  # fmt: skip
    drawn = [target.tolist() for _, target, _, _ in one_each]
    assert drawn == [[0, 1], [2, 3], [4]]


@pytest.mark.parametrize("batch_size", [2, 8])
def test_drawn_rows_keep_their_values(batch_size):
    values = np.arange(5, dtype=np.float32)
    data = SequenceBatches(
        Rows(values[:, None, None], np.ones(5, int)), values, 1 + values, shuffle=False,
        batch_size=batch_size, oversample=True, device=CPU, dtype=torch.float32,
        generator=torch.Generator().manual_seed(0),
    )  # fmt: skip
    for (x, _), target, *_ in data:
        torch.testing.assert_close(x[:, 0, 0], target)


@pytest.mark.parametrize("settings", [{}, {"oversample": True}, {"shuffle": False}])
@pytest.mark.parametrize("ragged", [False, True])
def test_a_network_does_not_see_the_rows_it_leaves_out(ragged, settings):
    rng = np.random.default_rng(0)
    lengths = rng.integers(1 if ragged else 9, 10, size=30)
    settings = {"shuffle": True, "device": CPU, "dtype": torch.float32} | settings
    generators = [torch.Generator().manual_seed(seed) for seed in range(2)]
    data = SequenceBatches(
        Rows(np.zeros((30, 9, 1), np.float32), lengths), np.arange(30), np.ones(30),
        batch_size=8, generator=generators[0], **settings,
    )  # fmt: skip
    part = data.of_network(generators[1], left_out=[3, 29, 4, 5, 6, 7])
    assert len(data) == 4
    assert len(part) == 3
    for _ in range(3):
        seen = torch.cat([target for _, target, *_ in part])
        assert sorted(seen.tolist()) == [0, 1, 2, *range(8, 29)]
    assert part.values.data_ptr() == data.values.data_ptr()  # one copy of the data


def test_oversampling_keeps_what_columns_and_steps_weigh():
    weight = np.array([[1.0, 3.0], [0.5, 0.5]])
    data = SequenceBatches(
        Rows(np.zeros((2, 2, 1), np.float32), np.full(2, 2)), np.arange(2), weight,
        batch_size=2, shuffle=False, oversample=True, device=CPU, dtype=torch.float64,
        generator=torch.Generator().manual_seed(0),
    )  # fmt: skip
    for row, its_weight in zip(data.weight.tolist(), weight, strict=True):
        np.testing.assert_allclose(row, its_weight / its_weight.mean() * weight.mean())


def scripted(results):
    """Return what validates as `results` say, one (score, loss) an epoch."""
    results = iter(results)
    return lambda: next(results)


def test_of_scores_within_tol_the_lower_loss_is_better():
    settings = {"max_iter": 3, "tol": 1e-2, "n_iter_no_change": 9}
    results = [(0.900, 3.0), (0.895, 1.0), (0.885, 0.5)]
    # The third is below the best score by more than tol, if not below the second's.
    assert fit(validate=scripted(results), **settings)[1].best_iter == 2
    results = [(0.900, 3.0), (0.885, 1.0)] + [(0.8, 9.0)]
    assert fit(validate=scripted(results), **settings)[1].best_iter == 1


def test_a_gain_of_less_than_tol_does_not_put_off_the_end():
    results = [(0.5, 1.0)] + [(0.5, 1 - 1e-3 * n) for n in range(1, 50)]
    _, history = fit(validate=scripted(results), tol=1e-2, n_iter_no_change=3)
    assert history.n_iter == 5
    assert history.best_iter == 5  # it is kept all the same


def test_adaptive_divides_the_rate_by_5_until_it_is_tiny(monkeypatch):
    rates, step = [], Optimizer.step

    def noted(self, rate, part=0):
        rates.append(rate)
        step(self, rate, part)

    monkeypatch.setattr(Optimizer, "step", noted)
    fit(learning_rate="adaptive", learning_rate_init=1e-4, tol=1e9, n_iter_no_change=2,
        max_iter=500)  # fmt: skip
    expected = [1e-4, 2e-5, 4e-6, 8e-7]  # the last is at most 1e-6
    np.testing.assert_allclose(sorted(set(rates), reverse=True), expected)
    # The first epoch of all gains on nothing; then 2 + 1 stale ones at each rate.
    assert [sum(np.isclose(rates, rate, rtol=1e-6)) for rate in expected] == [4, 3, 3, 3]


def test_epochs_of_warming_up_are_not_counted_as_stale():
    results = [(1.0, 1.0)] + [(0.0, 2.0)] * 99
    settings = {"max_iter": 100, "n_iter_no_change": 3}
    _, history = fit(learning_rate="one-cycle", validate=scripted(results), **settings)
    assert history.n_iter == 18  # 14 of warming up, then 3 + 1
    _, history = fit(learning_rate="cosine", validate=scripted(results), **settings)
    assert history.n_iter == 5


@pytest.mark.parametrize(("loss", "n_iter"), [(0.0, 12), (1.0, 40)])
def test_a_plan_ends_early_only_where_nothing_is_left_to_learn(loss, n_iter):
    def constant(raw, target, weight):
        return raw[:, 0] * 0 + loss

    _, history = fit(loss=constant, learning_rate="cosine", max_iter=40)
    assert history.n_iter == n_iter


def test_the_loss_of_an_epoch_is_the_mean_over_rows():
    data = batches(n=50, batch_size=16)  # of 12 and 13 rows
    network = Line()
    expected = np.concatenate(
        [squared_error(network(*x), y, w).tolist() for x, y, w, _ in data]
    ).mean()
    _, history = fit(network, data, solver="sgd", learning_rate_init=0.0, max_iter=1)
    assert history.loss_curve[0] == pytest.approx(expected, rel=1e-6)


def test_members_and_fits_draw_apart():
    random = Randomness(0, CPU, 0)
    again = random.of_fit(1)
    drawn = [random.order, random.dropout, random.start]
    drawn += [again.order, again.dropout, again.start]
    orders, dropouts = random.of_members(4)
    drawn += orders[1:] + dropouts[1:]
    assert len({each.initial_seed() for each in drawn}) == len(drawn)
    assert orders[0] is random.order
    assert random.split_seed != again.split_seed
    twin = Randomness(0, CPU, 1)
    assert twin.order.initial_seed() == again.order.initial_seed()


def test_rows_of_similar_length_have_other_neighbours_every_epoch():
    lengths = np.arange(1, 257)
    data = SequenceBatches(
        Rows(np.zeros((256, 256, 1), dtype=np.float32), lengths), lengths, np.ones(256),
        batch_size=8, shuffle=True, generator=torch.Generator().manual_seed(0),
        device=CPU, dtype=torch.float32,
    )  # fmt: skip
    first, second = ({tuple(y.tolist()) for _, y, *_ in data} for _ in range(2))
    assert len(first & second) < 3


def test_an_interrupt_brings_the_lowest_loss_back():
    losses, weights = [1.0, 0.5, 2.0], []

    def rising(raw, target, weight):
        # Of a value that is given, and a gradient that is that of raw.
        return raw[:, 0] - raw[:, 0].detach() + losses[len(weights)]

    def interrupt(history):
        weights.append(network.weight.detach().clone())
        if history.n_iter == 3:
            raise KeyboardInterrupt

    network = Line()
    with pytest.warns(UserWarning, match="interrupted"):
        fit(network, loss=rising, on_epoch=interrupt)
    torch.testing.assert_close(network.weight.detach(), weights[1], rtol=0, atol=0)
    assert not torch.equal(weights[1], weights[2])
