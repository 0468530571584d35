import numpy as np
import pandas as pd
import pytest
import torch

from sklstm import LSTMClassifier, LSTMRegressor
from sklstm.sequences import SequenceEncoder, distinct_rows


def encoder(**settings):
    defaults = {
        "n_channels": 1,
        "layout": "time-major",
        "standardize": True,
        "missing": "error",
        "tokens": False,
        "dtype": "float64",
    }
    return SequenceEncoder(**{**defaults, **settings})


def read(X, **settings):
    return encoder(**settings).read(X, LSTMClassifier(), reset=True)


RAGGED = [np.array([[1.0, 2], [3, 4], [5, 6]]), np.array([[7.0, 8]])]


def frame_of(rows):
    return pd.concat(
        {
            f"series {i}": pd.DataFrame(row, columns=["a", "b"])
            for i, row in enumerate(rows)
        }
    )


def nested_of(rows):
    cells = [[pd.Series(row[:, c]) for c in range(2)] for row in rows]
    return pd.DataFrame(cells, columns=["a", "b"])


def object_array(rows):
    array = np.empty(len(rows), dtype=object)
    array[:] = rows
    return array


@pytest.mark.parametrize(
    "X",
    [
        RAGGED,
        tuple(RAGGED),
        [row.tolist() for row in RAGGED],
        object_array(RAGGED),
        pd.Series(object_array(RAGGED)),
        [pd.DataFrame(row) for row in RAGGED],
        [torch.tensor(row) for row in RAGGED],
        frame_of(RAGGED),
        nested_of(RAGGED),
    ],
    ids=["list", "tuple", "lists", "object", "Series", "frames", "tensors", "MultiIndex",
         "nested"],
)  # fmt: skip
def test_every_kind_of_ragged_input_reads_alike(X):
    sequences = read(X)
    np.testing.assert_array_equal(sequences.lengths, [3, 1])
    np.testing.assert_array_equal(
        sequences.values, [[[1, 2], [3, 4], [5, 6]], [[7, 8], [0, 0], [0, 0]]]
    )


def test_multiindex_instances_keep_their_order_of_appearance():
    frame = frame_of(RAGGED)
    frame = pd.concat([frame.loc[["series 1"]], frame.loc[["series 0"]]])
    np.testing.assert_array_equal(read(frame).lengths, [1, 3])


@pytest.mark.parametrize("layout", ["time-major", "channel-major"])
def test_flat_rows_equal_their_3d_array(layout):
    X = np.arange(24.0).reshape(2, 4, 3)  # (n, T, C) or (n, C, T)
    whole = read(X, layout=layout)
    n_channels = 3 if layout == "time-major" else 4
    flat = read(X.reshape(2, 12), layout=layout, n_channels=n_channels)
    np.testing.assert_array_equal(whole.values, flat.values)
    assert whole.values.shape[2] == n_channels


def test_2d_columns_are_the_time_steps_of_one_channel():
    X = np.arange(6.0).reshape(2, 3)
    np.testing.assert_array_equal(read(X).values[:, :, 0], X)


def test_input_is_not_copied_by_reading():
    X = np.zeros((4, 6, 2), dtype=np.float32)
    assert np.shares_memory(read(X).values, X)


def test_standardisation_uses_real_steps_only_and_weights():
    X = [np.array([0.0, 2.0]), np.array([4.0])]
    reader = encoder()
    sequences = reader.read(X, LSTMClassifier(), reset=True)
    reader.fit(sequences, np.arange(2), np.array([1.0, 2.0]))
    # Values 0, 2 with weight 1 and 4 with weight 2: mean 10/4, mean square 36/4.
    assert reader.mean_ == pytest.approx([2.5])
    assert reader.scale_ == pytest.approx([np.sqrt(9 - 2.5**2)])
    encoded = reader.encode(sequences, np.arange(2))
    assert encoded.values[1, 1, 0] == 0  # padding stays 0


def test_means_whose_square_is_no_float_say_nothing_of_padding():
    X = [np.full((length, 2), 1e200) for length in (3, 4, 1, 2)]
    model = LSTMClassifier(4, max_iter=12, random_state=0)
    assert np.isfinite(model.fit(X, [0, 1, 0, 1]).predict_proba(X)).all()


def test_constant_channel_keeps_scale_one():
    reader = encoder()
    sequences = reader.read(np.full((3, 4), 7.0), LSTMClassifier(), reset=True)
    reader.fit(sequences, np.arange(3), np.ones(3))
    assert reader.scale_ == [1]
    assert not reader.encode(sequences, np.arange(3)).values.any()


def spectra(n=12, n_timesteps=20, apart=0.05):
    rng = np.random.default_rng(0)
    curve = np.cos(np.arange(n_timesteps)[:, None] / [3, 5])
    return curve * (1 + apart * rng.normal(size=(n, 1, 2))) + [0, 100]


def test_what_hardly_differs_is_read_beside_its_deviation():
    X, weight = spectra(), np.arange(1.0, 13)
    fitted = encoder().read(X, LSTMClassifier(), reset=True)
    model = encoder()
    model.read(X, LSTMClassifier(), reset=True)
    model.fit(fitted, np.arange(12), weight, deviations=True)
    values = model.encode(fitted, np.arange(12)).values
    assert values.shape == (12, 20, 4)
    assert model.n_encoded_channels_ == 4
    deviation = X - np.average(X, axis=0, weights=weight)
    scale = np.sqrt(np.average((deviation**2).mean(axis=1), axis=0, weights=weight))
    np.testing.assert_allclose(values[:, :, 2:], deviation / scale, atol=1e-9)
    # Of a longer sequence the end of the curve is taken off, of a shorter one its start.
    for length in (25, 7):
        row = np.resize(X[0], (length, 2))
        some = model.read([row], LSTMClassifier(), reset=False)
        curve = np.average(X, axis=0, weights=weight)
        curve = curve[np.minimum(np.arange(length), 19)]
        values = model.encode(some, np.array([0])).values[0]
        np.testing.assert_allclose(values[:, 2:], (row - curve) / scale, atol=1e-9)


@pytest.mark.parametrize(
    ("X", "deviations", "settings"),
    [
        (spectra(), False, {}),
        (spectra(apart=0.2), True, {}),
        (np.dstack([spectra(apart=0.2)[:, :, 0], spectra()[:, :, 1]]), True, {}),
        (spectra()[:1], True, {}),  # one sequence is its own mean
        ([*spectra()[1:], spectra()[0, :9]], True, {}),
        (spectra(), True, {"standardize": False}),
    ],
    ids=[
        "not asked for",
        "differ",
        "one channel differs",
        "one",
        "ragged",
        "unstandardised",
    ],
)
def test_no_deviations(X, deviations, settings):
    model = encoder(**settings)
    sequences = model.read(X, LSTMClassifier(), reset=True)
    model.fit(sequences, np.arange(len(X)), np.ones(len(X)), deviations=deviations)
    assert model.curve_ is None
    assert model.n_encoded_channels_ == 2


def test_missing_mask_marks_inner_nan_and_trims_trailing_nan():
    nan = np.nan
    X = np.array([[1.0, nan, 3, nan], [5, 6, 7, 8]])[:, :, None]
    reader = encoder(missing="mask", standardize=False)
    sequences = reader.read(X, LSTMClassifier(missing="mask"), reset=True)
    np.testing.assert_array_equal(sequences.lengths, [3, 4])
    reader.fit(sequences, np.arange(2), np.ones(2))
    encoded = reader.encode(sequences, np.arange(2))
    np.testing.assert_array_equal(encoded.values[0], [[1, 0], [0, 1], [3, 0], [0, 0]])


def test_tokens_are_numbered_and_unknown_ones_mapped():
    reader = encoder(tokens=True)
    sequences = reader.read([[7, 9, 7], [30]], LSTMClassifier(), reset=True)
    reader.fit(sequences, np.arange(2), np.ones(2))
    np.testing.assert_array_equal(reader.vocabulary_, [7, 9, 30])
    new = reader.read([[9, 8, 31]], LSTMClassifier(), reset=False)
    np.testing.assert_array_equal(reader.encode(new, np.arange(1)).values, [[3, 1, 1]])


def test_token_padding_in_front_and_behind_is_dropped():
    X = np.array([[0, 0, 5, 6], [5, 6, 0, 0], [5, 0, 6, 0]])
    sequences = read(X, tokens=True)
    np.testing.assert_array_equal(sequences.values, [[5, 6, 0], [5, 6, 0], [5, 0, 6]])
    np.testing.assert_array_equal(sequences.lengths, [2, 2, 3])


def test_distinct_rows_merge_weights_whatever_the_order():
    X = np.array([[1.0, 2], [3, 4], [1, 2], [1, 2]])
    y = np.array([0, 0, 0, 1])
    weight = np.array([0.1, 0.2, 0.7, 1.0])
    rows, summed = distinct_rows(read(X), np.arange(4), y, weight)
    assert len(rows) == 3
    again = np.array([3, 2, 1, 0])
    rows2, summed2 = distinct_rows(read(X[again]), np.arange(4), y[again], weight[again])
    np.testing.assert_array_equal(X[rows], X[again][rows2])
    np.testing.assert_array_equal(summed, summed2)


def test_distinct_rows_do_not_see_padding_or_type():
    X = [np.array([1.0, 2.0]), np.array([3.0])]
    longer = read([*X, np.arange(9.0)])
    rows = distinct_rows(longer, np.arange(2), np.zeros(2), np.ones(2))[0]
    ints = read([row.astype(int) for row in X])
    np.testing.assert_array_equal(
        rows, distinct_rows(ints, np.arange(2), np.zeros(2), np.ones(2))[0]
    )


def test_distinct_rows_do_not_see_the_sign_of_nan():
    X = np.random.default_rng(0).normal(size=(8, 5))
    X[:, 2] = np.nan
    turned = X.copy()
    turned[::2, 2] = np.copysign(np.nan, -1)
    arguments = np.arange(8), np.zeros(8), np.ones(8)
    np.testing.assert_array_equal(
        distinct_rows(read(X, missing="mask"), *arguments)[0],
        distinct_rows(read(turned, missing="mask"), *arguments)[0],
    )


GOOD = np.random.default_rng(0).normal(size=(6, 5, 2))
LABELS = [0, 1] * 3
DATES = pd.date_range("2020", periods=len(GOOD[0])).to_numpy("datetime64[ns]")


@pytest.mark.parametrize(
    ("X", "settings", "message"),
    [
        ([GOOD[0], GOOD[1], GOOD[2][:, :1]], {}, "row 2 has 1 channels, but row 0 has 2"),
        ([GOOD[0], GOOD[1][:0]], {}, "Row 1 of X is an empty sequence"),
        ([GOOD[0], np.full((3, 2), np.inf)], {}, "contains infinity in row 1"),
        ([GOOD[0], np.full((3, 2), np.nan)], {}, r'NaN in row 1. Set missing="mask"'),
        ([GOOD[0], np.array([["a", "b"]])], {}, "not numbers in row 1"),
        ([GOOD[0], DATES], {}, r"not numbers in row 1: they are datetime64\[ns\]"),
        ([GOOD[0], GOOD[1] * 1j], {}, "not numbers in row 1: they are complex128"),
        (pd.DataFrame({"a": [DATES] * 6}), {}, r"Row 0 of X has in column 'a' times, of"),
        ([GOOD[0], np.zeros((2, 2, 2))], {}, r"Row 1 of X has shape \(2, 2, 2\)"),
        (np.full((6, 5, 2), np.inf), {}, "Input X contains infinity in row 0"),
        (np.diag([1.0] * 5 + [np.inf]), {}, "Input X contains infinity in row 5"),
        (np.diag([1.0] * 5 + [np.nan]), {"stem": "embedding"}, "tokens, but row 5 does"),
        (np.diag([1.0] * 5 + [np.inf]), {"stem": "embedding"}, "row 5 of X has a larger"),
        (np.full((6, 5, 2), np.nan), {}, 'contains NaN in row 0. Set missing="mask"'),
        (np.diag([1.0] * 5 + [np.nan]), {}, 'contains NaN in row 5. Set missing="mask"'),
        (np.full((6, 5, 2), np.nan), {"missing": "mask"}, "Row 0 of X is an empty"),
        (np.zeros((6, 5, 2, 2)), {}, "Found array with dim 4"),
        (np.zeros((6, 0, 2)), {}, "at least one time step"),
        (np.zeros((6, 5)), {"n_channels": 2}, "not a multiple of n_channels=2"),
        ([], {}, "array"),
        (GOOD * [1, 1e200], {}, r"Row \d of X holds .*e\+200 at step . in channel 1"),
        (np.full((6, 3), 1.5), {"stem": "embedding"}, "integer tokens, but row 0"),
        (np.array([[1, 2], [3, -1]] * 3), {"stem": "embedding"}, "row 1 of X has a neg"),
        (np.array([[1, 2], [0, 0]] * 3), {"stem": "embedding"}, "Row 1 of X is an empty"),
        (pd.DataFrame({"a": ["x"] * 6, "b": ["y"] * 6}), {}, "convert string|dtype"),
    ],
)  # fmt: skip
def test_bad_input_is_named(X, settings, message):
    with pytest.raises(ValueError, match=message):
        LSTMClassifier(**settings).fit(X, LABELS[: len(X)])


@pytest.mark.parametrize("settings", [{}, {"standardize": False}])
def test_what_float32_cannot_hold_is_named(settings):
    model = LSTMClassifier(4, max_iter=12, random_state=0, **settings).fit(GOOD, LABELS)
    too_large = GOOD.copy()
    too_large[3, 4, 1] = -np.finfo(float).max  # stands for missing in some files
    with pytest.raises(ValueError, match=r"Row 3 .* step 4 in channel 1, which"):
        model.predict(too_large)
    assert np.isfinite(model.predict_proba(GOOD)).all()


def test_frames_and_cells_whose_times_run_backwards_are_refused():
    times = pd.date_range("2020", periods=5)
    parts = [pd.DataFrame({"a": np.arange(5.0)}, times) for _ in range(3)]
    read(parts)
    levels = [
        part.set_axis(pd.MultiIndex.from_product([[7], range(5)])) for part in parts
    ]
    read(levels)
    numbered = [part.set_axis([4, 2, 3, 0, 1]) for part in parts]
    read(numbered)  # sorted by something else, and numbered before
    periods = parts[1].set_axis(times.to_period("D"))
    refused = "steps of row 1 of X are not in the order of time"
    for part in (parts[1][::-1], levels[1][::-1], periods[::-1], parts[1]["a"][::-1]):
        with pytest.raises(ValueError, match=refused):
            read([parts[0], part])
    cells = pd.DataFrame({"a": [parts[0]["a"], parts[1]["a"][::-1]]})
    with pytest.raises(ValueError, match=refused):
        read(cells)


def test_nested_frame_with_uneven_channels_names_the_row():
    frame = nested_of(RAGGED)
    frame.iat[1, 1] = pd.Series([1.0, 2.0])
    with pytest.raises(ValueError, match=r"Row 1 of X has channels of different lengths"):
        read(frame)


def test_lists_of_channels_of_several_lengths_are_ragged():
    rows = [row.T.tolist() for row in RAGGED]
    np.testing.assert_array_equal(read(rows, layout="channel-major").lengths, [3, 1])
    with pytest.raises(ValueError, match="row 1 has 1 channels, but row 0 has 3"):
        read(rows)


def test_rows_that_are_not_in_the_order_of_time_are_refused():
    frame = pd.concat({i: pd.DataFrame(x) for i, x in enumerate(GOOD)})
    model = LSTMClassifier(4, max_iter=12, random_state=0).fit(frame, LABELS)
    mixed = frame.iloc[np.arange(30).reshape(6, 5).T.ravel()]  # in order in each instance
    np.testing.assert_array_equal(model.predict(mixed), model.predict(frame))
    with pytest.raises(ValueError, match="rows of instance 5 are not in the order of ti"):
        model.predict(frame.iloc[::-1])


@pytest.mark.parametrize("n_timesteps", [2, 5])
def test_columns_of_frames_are_channels_in_either_layout(n_timesteps):
    X, names = GOOD[:, :n_timesteps], ["a", "b"]
    instances = pd.concat({i: pd.DataFrame(x, columns=names) for i, x in enumerate(X)})
    nested = pd.DataFrame({
        name: [pd.Series(x[:, k]) for x in X] for k, name in enumerate(names)
    })  # fmt: skip
    expected = LSTMClassifier(4, max_iter=12, random_state=0).fit(X, LABELS)
    for frame in (instances, nested, [pd.DataFrame(x) for x in X]):
        model = LSTMClassifier(4, layout="channel-major", max_iter=12, random_state=0)
        found = model.fit(frame, LABELS).predict_proba(frame)
        np.testing.assert_array_equal(found, expected.predict_proba(X))


def test_nested_frame_with_a_number_for_a_sequence_names_the_cell():
    frame = nested_of(RAGGED)
    frame.iat[1, 1] = 2.0
    with pytest.raises(ValueError, match=r"Row 1 of X has in column 'b' 2\.0; expected"):
        read(frame)


NESTED = nested_of(RAGGED)


@pytest.mark.parametrize(
    ("X", "message"),
    [
        (NESTED.assign(a=[None, NESTED["a"][1]]), "Row 0 .* in column 'a' None;"),
        (NESTED[["a"]].assign(a=[np.nan, NESTED["a"][1]]), "Row 0 .* in column 'a' nan;"),
        (pd.DataFrame({"c": [1.0, 2]}).join(NESTED), r"Row 0 .* in column 'c' 1\.0; ex"),
        (pd.DataFrame({"c": ["u", "v"]}).join(NESTED), "Row 0 .* in column 'c' 'u'; exp"),
        (object_array([None, *RAGGED]), "Row 0 of X is None; exp.* Drop the row if"),
        (pd.Series([np.nan, *RAGGED]), "Row 0 of X is nan; expected .* Drop the row if"),
        ([*RAGGED, None], "Row 2 of X is None; expected .* Drop the row if"),
    ],
)
def test_what_stands_first_instead_of_a_sequence_is_named(X, message):
    with pytest.raises(ValueError, match=message):
        read(X)


def test_frames_of_objects_without_a_sequence_are_tables():
    frame = pd.DataFrame({"a": [1, None], "b": [2.5, 3]}, dtype=object)
    found = read(frame, missing="mask").values[:, :, 0]
    np.testing.assert_array_equal(found, [[1, 2.5], [np.nan, 3]])


@pytest.mark.parametrize("missing", [None, np.nan])
def test_a_row_without_an_instance_is_refused(missing):
    index = pd.MultiIndex.from_product([["b", missing, "a"], range(2)])
    frame = pd.DataFrame({"u": np.arange(6.0)}, index)
    with pytest.raises(ValueError, match="index of X names no instance in row 2, where"):
        read(frame)
    model = LSTMClassifier(4, target="sequence")
    with pytest.raises(ValueError, match="index of y names no instance in row 2, where"):
        model.fit([[1.0, 2.0]] * 3, pd.Series([0, 1] * 3, index))


def test_frames_in_a_list_are_read_by_the_names_of_their_columns():
    frames = [pd.DataFrame(row, columns=["a", "b"]) for row in RAGGED * 3]
    other = [frame[["b", "a"]] for frame in frames]
    model = LSTMClassifier(max_iter=20).fit(frames, LABELS)
    np.testing.assert_array_equal(model.feature_names_in_, ["a", "b"])
    with pytest.raises(ValueError, match="must be in the same order"):
        model.predict(other)
    with pytest.raises(ValueError, match=r"Row 5 of X has the columns \['b', 'a'\], but"):
        model.predict([*frames[:5], other[5]])
    with pytest.raises(ValueError, match=r"Row 5 .* \['b', 'a'\], but row 1 has"):
        model.fit([RAGGED[0], *frames[1:5], other[5]], LABELS)
    model.fit([pd.DataFrame(row) for row in RAGGED] * 3, LABELS)  # numbers are no names
    assert not hasattr(model, "feature_names_in_")


@pytest.mark.parametrize("shape", [(5, 40), (16, 17)])
def test_swapped_axes_are_warned_about(shape):
    with pytest.warns(UserWarning, match='set layout="channel-major"'):
        read(np.zeros((4, *shape)))


@pytest.mark.parametrize("shape", [(5, 16), (17, 17), (40, 30)])
def test_a_few_channels_or_more_steps_are_not_taken_for_swapped_axes(shape):
    assert read(np.zeros((4, *shape))).n_timesteps == shape[0]


def test_a_bad_row_is_named_however_many_there_are():
    """Rows are read some at a time; their numbers are those of X."""
    X = np.random.default_rng(0).normal(size=(700, 3, 1))
    model = LSTMRegressor(2, stem=None, max_iter=11, random_state=0)
    model.fit(X[:20], X[:20, 0, 0])
    X[600, 1] = 1e200
    with pytest.raises(ValueError, match=r"Row 600 of X holds .*e\+200 at step 1 in ch"):
        model.fit(X, X[:, 0, 0])
    with pytest.raises(ValueError, match=r"Row 600 of X holds .*e\+200 at step 1 in ch"):
        model.predict(X)


def test_tokens_beyond_int64_are_refused():
    X = np.array([[1, 2], [3, 2**63]], dtype=np.uint64)
    with pytest.raises(ValueError, match=r"below 2\*\*63, but row 1 of X has a larger"):
        read(X, tokens=True)


def test_tokens_beyond_float64_are_tokens_of_their_own():
    X = [[2**60, 5], [2**60 + 1, 5], [2**53, 5], [2**53 + 1, 5], [9, 5]]
    model = LSTMClassifier(4, stem="embedding", max_iter=11, random_state=0)
    known = model.fit(X, list("aabbb")).encoder_.vocabulary_
    assert known.tolist() == [5, 9, 2**53, 2**53 + 1, 2**60, 2**60 + 1]
    sequences = read([*X, *X], tokens=True)
    rows, weight = distinct_rows(sequences, np.arange(10), np.zeros(10), np.ones(10))
    np.testing.assert_array_equal(np.sort(rows % 5), range(5))
    np.testing.assert_array_equal(weight, [2] * 5)


def test_tokens_of_nullable_integers_and_objects_are_no_floats():
    E = 2**60 + np.arange(12).reshape(4, 3) % 5
    frame = pd.DataFrame(E, columns=list("abc"))
    index = pd.MultiIndex.from_product([range(4), range(3)])
    panel = pd.DataFrame({"v": E.ravel()}, index)
    mixed = frame.astype({"a": "Int64", "b": object})
    for X in (
        frame, frame.astype("Int64"), frame.astype(object), mixed,
        panel.astype("Int64"), panel.astype(object),
        [row.astype(object) for row in E], [pd.Series(row, dtype="Int64") for row in E],
    ):  # fmt: skip
        np.testing.assert_array_equal(read(X, tokens=True).values, E)
    model = LSTMClassifier(4, stem="embedding", max_iter=11).fit(mixed, [0, 1, 0, 1])
    assert model.feature_names_in_.tolist() == ["a", "b", "c"]
    assert len(model.encoder_.vocabulary_) == 5


@pytest.mark.parametrize("dtype", [np.uint64, np.float64, np.float16])
def test_tokens_keep_their_numbers_beside_rows_of_another_type(dtype):
    rows = [np.array([2**60 + 1, 5]), np.array([3], dtype=dtype)]
    found = read(rows, tokens=True).values
    assert found.tolist() == [[2**60 + 1, 5], [3, 0]]
    rows[1] = np.array([2**63], dtype=np.uint64)
    with pytest.raises(ValueError, match=r"below 2\*\*63, but row 1 of X has a larger"):
        read(rows, tokens=True)
    rows[1] = np.array([1.5, 2])
    with pytest.raises(ValueError, match="must hold integer tokens, but row 1 does not"):
        read(rows, tokens=True)


def test_truths_are_tokens_too():
    found = read([np.array([True, False, True]), np.array([True])], tokens=True).values
    assert found.tolist() == [[1, 0, 1], [1, 0, 0]]


@pytest.mark.parametrize("rest", [3, "3", 3.5, np.nan, 2**63])
def test_tokens_in_an_array_of_objects_are_no_floats(rest):
    X = np.array([[2**60 + 1, 2], [2**60, 3]], dtype=object)
    np.testing.assert_array_equal(read(X, tokens=True).values, X.astype(np.int64))
    X[1, 1] = rest
    if rest in (3, "3"):
        assert read(X, tokens=True).values[1, 1] == 3
        return
    with pytest.raises(ValueError, match="row 1"):
        read(X, tokens=True)


def test_tokens_of_any_width_are_read_after_a_table():
    tokens, model = encoder(tokens=True), LSTMClassifier()
    tokens.read(np.array([[1, 2, 3]]), model, reset=True)
    read = tokens.read(np.array([[1, 2, 3, 4, 5]]), model, reset=False)
    assert read.n_timesteps == 5


def test_weights_of_equal_rows_add_up_in_one_order():
    """Which of them comes first would else show in the last bits."""
    X, y = np.ones((40, 2)), np.zeros(40)
    weight = 10.0 ** np.random.default_rng(0).uniform(-9, 9, size=40)
    summed = set()
    for seed in range(20):
        order = np.random.default_rng(seed).permutation(40)
        _, total = distinct_rows(read(X), np.arange(40), y, weight[order])
        summed.add(total.item())
    assert len(summed) == 1


def test_a_row_index_of_three_levels_is_refused():
    frame = pd.concat({"upper": frame_of(RAGGED)})
    with pytest.raises(ValueError, match="row index of 3 levels; a panel has two"):
        read(frame)


def test_nullable_numbers_are_read_as_any_others():
    missing = [row.copy() for row in RAGGED]
    missing[0][1, 0] = np.nan
    expected = read(missing, missing="mask").values
    frame = frame_of(missing)
    for X in (
        frame.astype("Float64"),
        [part for _, part in frame.astype("Float64").groupby(level=0, sort=False)],
    ):
        np.testing.assert_array_equal(read(X, missing="mask").values, expected)


@pytest.mark.parametrize("dtype", ["float64", "Float64", "int64", "Int64", object, bool])
def test_rows_that_are_series_are_read_as_any_others(dtype):
    rows = [np.arange(4), np.arange(3) % 2]
    if dtype is bool:
        rows = [row > 0 for row in rows]
    X = [pd.Series(row).astype(dtype) for row in rows]
    np.testing.assert_array_equal(read(X).values, read(rows).values)
    times = pd.Series(pd.date_range("2024", periods=3, tz="CET"))
    for bad in (times, times - times[0], times.dt.tz_localize(None), pd.Series([1j])):
        with pytest.raises(ValueError, match="values that are not numbers in row 1"):
            read([X[0], bad])


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_deviations_that_are_rounding_have_no_scale(dtype):
    rng = np.random.default_rng(0)
    spectrum = 5 * np.sin(np.arange(40) / 3) + 0.05 * rng.normal(size=(60, 40))
    where = np.tile(np.linspace(-1, 1, 40), (60, 1))  # of every row the same
    X = np.stack([where, spectrum], axis=2).astype(dtype)
    y = spectrum[:, 3] - spectrum[:, 3].mean()
    model = LSTMRegressor(8, max_iter=30, random_state=0, n_members=1).fit(X, y)
    assert model.encoder_.deviation_scale_[0] == 1
    np.testing.assert_allclose(model.encoder_.deviation_scale_[1], 0.05, rtol=0.1)
    assert model.score(X, y) > 0.9
    same = LSTMRegressor(8, max_iter=11, random_state=0, n_members=1)
    same.fit(X[:7, :, :1] * 0 + X[:1, :, :1], y[:7])
    assert same.encoder_.curve_ is None


@pytest.mark.parametrize(
    "values",
    [
        pd.date_range("2024", periods=60, freq="h"),
        pd.date_range("2024", periods=60, freq="h", tz="CET"),
        pd.timedelta_range("1h", periods=60, freq="h"),
        np.arange(60) * 1j,
    ],
    ids=["times", "zoned", "spans", "complex"],
)
def test_columns_of_times_are_no_channels(values):
    index = pd.MultiIndex.from_product([range(10), range(6)])
    frame = pd.DataFrame({"v": np.arange(60.0), "ts": values}, index)
    rows = [row for _, row in frame.groupby(level=0)]
    model = LSTMRegressor(4, max_iter=11)
    for X in (frame, rows):
        with pytest.raises(ValueError, match=r"column 'ts' is of type .* no real "):
            model.fit(X, np.arange(10.0))
