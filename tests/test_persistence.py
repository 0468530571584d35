"""Saving, loading and checkpoints: what comes back, and what is refused."""

import copy
import datetime
import errno
import hashlib
import inspect
import json
import os
import pickle
import signal
import struct
import subprocess
import sys
import tracemalloc
from pathlib import Path

import joblib
import numpy as np
import pandas as pd
import pytest
import torch
from fuzz_load import fuzz, opened, sealed
from numpy.testing import assert_allclose, assert_array_equal
from pandas.testing import assert_frame_equal, assert_index_equal
from safetensors import safe_open
from sklearn.base import clone

from sklstm import LSTMClassifier, LSTMForecaster, LSTMRegressor, load, save
from sklstm.checkpoints import Checkpoint
from sklstm.container import pack, unpack, write_whole
from sklstm.frames import CODECS as FRAME_CODECS

FILES = Path(__file__).parent / "files"
SMALL = {"hidden_size": 4, "max_iter": 2, "random_state": 0}
SMALL_FORECASTER = {
    "hidden_size": 4, "max_steps": 2, "batch_size": 4, "n_members": 2, "update_steps": 2,
    "random_state": 0,
}  # fmt: skip

pytestmark = pytest.mark.filterwarnings(
    "ignore::sklearn.exceptions.ConvergenceWarning",
)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "model.safetensors"


def rows(n=30, n_timesteps=10, n_channels=1):
    return np.random.default_rng(0).normal(size=(n, n_timesteps, n_channels))


def labels(n=30):
    return np.array(["a", "bc", "d"])[np.arange(n) % 3]


def series(n=40, freq="M"):
    values = np.random.default_rng(0).normal(size=n).cumsum() + 50
    index = pd.period_range("2001-01", periods=n, freq=freq)
    return pd.Series(values, index, name="sales")


def panel():
    times = pd.date_range("2000-01-01", periods=20, freq="D")
    index = pd.MultiIndex.from_product([["n", "s"], times], names=["region", "day"])
    values = np.random.default_rng(0).normal(size=(40, 2))
    return pd.DataFrame(values, index, columns=["u", "v"])


def there_and_back(estimator, path, **options):
    save(estimator, path, **options)
    return load(path)


def assert_same_state(ours, theirs):
    """Assert that two objects of ours hold the same, down to arrays and networks."""
    assert type(ours) is type(theirs)
    if isinstance(ours, torch.nn.Module):
        assert ours.config == theirs.config
        assert ours.training == theirs.training
        assert_same_state(dict(ours.state_dict()), dict(theirs.state_dict()))
    elif isinstance(ours, torch.Tensor):
        assert ours.dtype == theirs.dtype
        assert torch.equal(ours, theirs)
    elif isinstance(ours, np.ndarray):
        assert ours.dtype == theirs.dtype
        assert_array_equal(ours, theirs)
    elif isinstance(ours, dict):
        assert ours.keys() == theirs.keys()
        for key in ours:
            assert_same_state(ours[key], theirs[key])
    elif isinstance(ours, (list, tuple)):
        assert len(ours) == len(theirs)
        for a, b in zip(ours, theirs, strict=True):
            assert_same_state(a, b)
    elif isinstance(ours, pd.DataFrame):
        assert_frame_equal(ours, theirs)
    elif isinstance(ours, pd.Index):
        assert_index_equal(ours, theirs, exact=True)
        assert getattr(ours, "freq", None) == getattr(theirs, "freq", None)
    elif type(ours).__module__.startswith(("sklstm", "sktime.forecasting")):
        assert_same_state(vars(ours), vars(theirs))
    else:
        assert ours == theirs or (ours != ours and theirs != theirs)


# ------------------------------------------------------------------- there and back
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"stem": None, "dtype": "float64", "num_layers": 2},
        {"stem": "linear", "pooling": "attention", "bidirectional": True},
        {"cell": "gru", "missing": "mask", "pooling": "mean", "early_stopping": True},
        {"cell": "peephole", "num_layers": 2, "residual": True, "layer_norm": True,
         "variational_dropout": True, "recurrent_dropout": 0.1},
        {"class_weight": {"a": 1.0, "bc": 2.0, "d": np.float64(0.5)}, "solver": "sgd"},
    ],
)  # fmt: skip
def test_classifier(settings, path):
    X, y = rows(), labels()
    model = LSTMClassifier(**SMALL, **settings).fit(X, y)
    loaded = there_and_back(model, path, include_optimizer=True)
    assert_same_state(model, loaded)
    assert_array_equal(loaded.predict_proba(X), model.predict_proba(X))
    assert_array_equal(loaded.predict(X), model.predict(X))


def test_mean_curve(path):
    steps = np.arange(10.0)[:, None] / [1, 3]
    X = np.cos(steps) + 0.01 * rows()[:, :1, :1]
    model = LSTMClassifier(**SMALL).fit(X, labels())
    assert model.encoder_.curve_.shape == (10, 2)
    assert_same_state(model, there_and_back(model, path, include_optimizer=True))


@pytest.mark.parametrize("y", [
    np.arange(30) % 2, np.arange(30) % 2 == 0, np.array(["u", "v", "w"] * 10, object),
    np.arange(90).reshape(30, 3) % 2, np.array([1.0, 2.0] * 15),
])  # fmt: skip
def test_labels_of_every_type(y, path):
    model = LSTMClassifier(**SMALL).fit(rows(), y)
    assert_same_state(model, there_and_back(model, path, include_optimizer=True))


@pytest.mark.parametrize("dtype", [">i4", ">f8", ">U2", ">M8[D]"])
def test_labels_of_the_other_byte_order(dtype, path):
    y = (np.arange(30) % 3).astype("i8").astype(dtype)
    model = LSTMClassifier(**SMALL).fit(rows(), y)
    back = there_and_back(model, path)
    assert_array_equal(back.predict(rows()), model.predict(rows()))


@pytest.mark.parametrize("settings", [
    {}, {"loss": "quantile", "quantile": [0.1, 0.9]}, {"loss": "quantile"},
    {"loss": "huber", "normalize_y": False},
])  # fmt: skip
def test_regressor(settings, path):
    X, y = rows(), rows()[:, :2, 0]
    model = LSTMRegressor(**SMALL, **settings).fit(X, y)
    loaded = there_and_back(model, path, include_optimizer=True)
    assert_same_state(model, loaded)
    assert_array_equal(loaded.predict(X), model.predict(X))


def test_tokens_frames_and_ragged(path):
    tokens = [[3, 5, 900], [5], [3, 3, 5, 7]] * 4
    model = LSTMClassifier(**SMALL, stem="embedding").fit(tokens, labels(12))
    assert_same_state(model, there_and_back(model, path, include_optimizer=True))
    frame = pd.DataFrame(rows()[:, :, 0]).rename(columns=str)
    model = LSTMRegressor(**SMALL).fit(frame, frame["0"])
    loaded = there_and_back(model, path)
    assert_array_equal(loaded.predict(frame), model.predict(frame))
    assert_array_equal(loaded.feature_names_in_, model.feature_names_in_)


def test_training_goes_on(path):
    X, y = rows(), labels()
    model = LSTMClassifier(**SMALL).partial_fit(X, y)
    exact = there_and_back(model, path, include_optimizer=True)
    lean = there_and_back(model, path)
    for each in (model, exact, lean):
        each.partial_fit(X, y)
    assert_same_state(model, exact)
    assert len(lean.loss_curve_) == len(model.loss_curve_) == 2
    assert_allclose(lean.predict_proba(X), model.predict_proba(X), atol=0.1)
    exact.set_params(warm_start=True).fit(X, y)
    assert exact.n_iter_ == 4


@pytest.mark.parametrize(
    "estimator",
    [
        LSTMClassifier(hidden_size=np.int64(3), alpha=np.float32(0.1)),
        LSTMRegressor(quantile=(0.2, 0.8)),
        LSTMForecaster(horizon=3, quantiles=(0.1, 0.5, 0.9)),
    ],
)
def test_unfitted(estimator, path):
    loaded = there_and_back(estimator, path)
    assert type(loaded) is type(estimator)
    assert loaded.get_params() == estimator.get_params()


def forecasters():
    X = pd.DataFrame(
        {"x": np.arange(46.0)}, pd.period_range("2001-01", periods=46, freq="M")
    )
    plain = series().reset_index(drop=True)
    stamps = series()
    stamps.index = pd.date_range("2001-01-06", periods=40, freq="W-SAT")
    return {
        "series": (series(), {}),
        "shipped network": (series(), {"max_steps": "auto", "hidden_size": "auto",
                                       "batch_size": "auto", "n_members": "auto"}),
        "integers": (plain, {}),
        "stamps": (stamps, {"sp": 1}),
        "panel": (panel(), {}),
        "X": (series(), {"X": X}),
    }  # fmt: skip


@pytest.mark.parametrize("name", forecasters())
def test_forecaster(name, path):
    y, settings = forecasters()[name]
    X = settings.pop("X", None)
    ahead = None if X is None else X.iloc[40:]
    forecaster = LSTMForecaster(**{**SMALL_FORECASTER, **settings})
    forecaster.fit(y, X=None if X is None else X.iloc[:40], fh=[1, 2, 6])
    loaded = there_and_back(forecaster, path)
    assert_frame_equal(
        pd.DataFrame(loaded.predict(X=ahead)), pd.DataFrame(forecaster.predict(X=ahead))
    )
    assert_frame_equal(
        loaded.predict_quantiles(X=ahead, alpha=[0.2]),
        forecaster.predict_quantiles(X=ahead, alpha=[0.2]),
    )
    state = vars(forecaster).keys() - {"_config_dynamic", "_tags_dynamic"}
    for attribute in state:
        assert_same_state(getattr(forecaster, attribute), getattr(loaded, attribute))


def test_forecaster_goes_on(path):
    y = series()
    forecaster = LSTMForecaster(**SMALL_FORECASTER).fit(y[:30], fh=[1, 2])
    loaded = there_and_back(forecaster, path)
    for each in (forecaster, loaded):
        each.update(y[30:35], update_params=False)
    assert_array_equal(loaded.predict(), forecaster.predict())
    for each in (forecaster, loaded):
        each.update(y[35:])
    assert_array_equal(loaded.predict(), forecaster.predict())
    assert loaded.predict().name == "sales"


def test_pretrained_forecaster(path):
    forecaster = LSTMForecaster(**SMALL_FORECASTER).pretrain(panel()[["u"]])
    loaded = there_and_back(forecaster, path)
    y = panel()[["u"]].loc["n"]
    for each in (forecaster, loaded):
        each.fit(y, fh=[1])
    assert_frame_equal(loaded.predict(), forecaster.predict())
    assert_frame_equal(there_and_back(loaded, path).predict(), forecaster.predict())


def test_a_network_that_is_shared_is_written_once(path):
    forecaster = LSTMForecaster().fit(series(), fh=[1])
    members = there_and_back(forecaster, path).model_.pretrained
    assert len(members) > 1
    assert len({id(member.network) for member in members}) == 1
    assert path.stat().st_size < 1.1e6


# ------------------------------------------------------------------------ the file
def test_the_file_is_small_safetensors_and_the_same_each_time(path):
    X = rows(n_timesteps=20)
    model = LSTMClassifier(max_iter=2, random_state=0).fit(X, labels())
    assert model.hidden_size == 64
    save(model, path)
    first = path.read_bytes()
    save(load(path), path)
    assert path.read_bytes() == first
    n_weights = sum(p.numel() for p in model.network_.parameters())
    assert len(first) < 1.3 * 4 * n_weights
    with safe_open(path, "pt") as file:
        readout = file.get_tensor("fitted.network_.arrays.readout.weight")
        assert file.metadata()["format"] == "sklstm"
    assert torch.equal(readout, model.network_.readout.weight)


def test_frozen_files_stay_loadable():
    """Files of format version 1 and what they predicted; never to be written anew."""
    expected = json.loads((FILES / "expected_v1.json").read_text())
    classifier = load(FILES / "classifier_v1.safetensors")
    X = np.sin(np.arange(24.0)).reshape(3, 8)
    assert_allclose(classifier.predict_proba(X), expected["proba"], atol=1e-5)
    assert classifier.predict(X).tolist() == expected["labels"]
    forecaster = load(FILES / "forecaster_v1.safetensors")
    forecast = forecaster.predict()
    assert_allclose(forecast, expected["forecast"], rtol=1e-5)
    assert [str(period) for period in forecast.index] == expected["index"]


def test_nothing_but_the_class_needed_is_imported(path):
    save(LSTMClassifier(**SMALL).fit(rows(), labels()), path)
    code = (
        f"import sys, sklstm; sklstm.load({str(path)!r}); "
        "print(sorted({'sktime', 'pickle5', 'torch._dynamo'} & set(sys.modules)))"
    )
    out = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert out.stdout.strip() == "[]"


# ----------------------------------------------------------------- what is not saved
def test_what_needs_pickle_is_named(path):
    state = np.random.RandomState(0)
    with pytest.raises(ValueError, match=r"parameters\.random_state is a RandomState"):
        save(LSTMClassifier(random_state=state), path)
    with pytest.raises(ValueError, match=r"parameters\.class_weight\.a is a function"):
        save(LSTMClassifier(class_weight={"a": rows}), path)
    model = LSTMClassifier()
    model.notes = 1
    with pytest.raises(ValueError, match=r"attributes \['notes'\] .* would be lost"):
        save(model, path)
    model = LSTMClassifier(**SMALL).fit(rows(), labels())
    model.n_iter_ += 1
    with pytest.raises(ValueError, match=r"attributes \['n_iter_'\]"):
        save(model, path)
    with pytest.raises(ValueError, match="hidden_size"):
        save(LSTMClassifier(hidden_size=-1), path)
    assert not path.exists()


def test_only_our_estimators(path):
    class Ours(LSTMClassifier):
        pass

    for other in (Ours(), "text", None):
        with pytest.raises(ValueError, match="save takes an LSTMClassifier"):
            save(other, path)


def test_checkpoint_is_no_part_of_the_file(path, tmp_path):
    model = LSTMClassifier(checkpoint=tmp_path / "fit")
    assert there_and_back(model, path).checkpoint is None
    header, body = opened(path.read_bytes())
    parameters = header["__metadata__"]["content"]["dict"][0][1]["dict"]
    parameters.append(["checkpoint", "/etc/passwd"])
    with pytest.raises(ValueError, match="it brings a path to write to"):
        loaded(path, header, body)


# -------------------------------------------------------------------- atomic writing
def test_a_failed_write_leaves_the_old_file(path, monkeypatch):
    save(LSTMClassifier(hidden_size=5), path)
    before = path.read_bytes()
    for name in ("fsync", "replace"):

        def fails(*args):
            raise OSError(errno.ENOSPC, "No space left on device")

        with monkeypatch.context() as patched:
            patched.setattr(os, name, fails)
            with pytest.raises(OSError, match="No space"):
                save(LSTMClassifier(hidden_size=6), path)
        assert path.read_bytes() == before
        assert os.listdir(path.parent) == [path.name]
    with pytest.raises(FileNotFoundError, match=r"No such file or directory: '.*absent'"):
        save(LSTMClassifier(), path.parent / "absent" / "model")
    with pytest.raises(IsADirectoryError, match=f"Is a directory: '{path.parent}'"):
        save(LSTMClassifier(), path.parent)


def test_killed_while_writing(path):
    """A process that does nothing but write is killed; the file is whole."""
    code = (
        "import sys, itertools\n"
        "from sklstm.container import pack, write_whole\n"
        "import numpy as np\n"
        "for i in itertools.count():\n"
        f"    write_whole({str(path)!r}, pack(np.full(200_000, i), 'x'))\n"
        "    print(i, flush=True)\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE
    ) as process:
        for _ in range(5):
            last = int(process.stdout.readline())
        process.send_signal(signal.SIGKILL)
    _, value = unpack(path.read_bytes(), {"x": tuple})
    assert last <= value[0] == value[-1]


def test_links_are_followed_and_modes_are_the_users(path):
    link = path.with_name("link")
    save(LSTMClassifier(), path)
    link.symlink_to(path)
    save(LSTMClassifier(hidden_size=7), link)
    assert link.is_symlink()
    assert load(path).hidden_size == 7
    plain = path.with_name("plain")
    plain.touch()
    assert path.stat().st_mode == plain.stat().st_mode
    path.chmod(0o600)
    save(LSTMClassifier(), path)
    assert path.stat().st_mode & 0o777 == 0o600


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no named pipes")
def test_nothing_but_a_regular_file_is_replaced(path, tmp_path):
    os.mkfifo(path)
    link = tmp_path / "link"
    link.symlink_to(path)
    for given in (path, link):
        with pytest.raises(OSError, match="It is no regular file and would be replaced"):
            save(LSTMClassifier(), given)
    assert path.is_fifo()
    assert link.is_symlink()
    assert len(os.listdir(tmp_path)) == 2
    checkpoint = Checkpoint(tmp_path / "fit")
    checkpoint.begin({"seed": 0}, [])
    os.mkfifo(tmp_path / "fit")
    with pytest.warns(UserWarning, match="was not written .*It is no regular file"):
        checkpoint.write({})
    assert (tmp_path / "fit").is_fifo()


# -------------------------------------------------------------------- what is refused
@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    path = tmp_path_factory.mktemp("whole") / "model"
    model = LSTMClassifier(**SMALL, stem=None).fit(rows(), labels())
    save(model, path)
    return path.read_bytes()


def loaded(path, header, body):
    """Load an edited file, its checksum made right."""
    metadata = header["__metadata__"]
    if not isinstance(metadata.get("content"), str):
        metadata["content"] = json.dumps(metadata["content"])
    path.write_bytes(sealed(json.dumps(header), bytes(body)))
    return load(path)


def test_every_flipped_bit_is_found(whole, path):
    rng = np.random.default_rng(0)
    n_header = int.from_bytes(whole[:8], "little")
    # All bytes of the beginning, some of the rest.
    places = [
        *range(80),
        *rng.integers(80, n_header, 150),
        *rng.integers(n_header, len(whole), 50),
    ]
    for place in places:
        flipped = bytearray(whole)
        flipped[place] ^= 1 << int(rng.integers(8))
        path.write_bytes(flipped)
        with pytest.raises(ValueError, match="cannot be loaded"):
            load(path)


def test_every_cut_is_found(whole, path):
    for n in [*range(0, len(whole) - 1, 97), len(whole) - 1]:
        path.write_bytes(whole[:n])
        with pytest.raises(ValueError, match="cannot be loaded"):
            load(path)
    path.write_bytes(whole + b"\0")
    with pytest.raises(ValueError, match="checksum is wrong"):
        load(path)


def test_other_files(path, tmp_path):
    for content in (b"", b"PK\x03\x04" + bytes(100), pickle.dumps({"a": 1}), bytes(1000)):
        path.write_bytes(content)
        with pytest.raises(ValueError, match="cannot be loaded"):
            load(path)
    with pytest.raises(FileNotFoundError):
        load(tmp_path / "absent")
    with pytest.raises(ValueError, match="is not a file"):
        load(tmp_path)
    with pytest.raises(ValueError, match="is not a file"):
        load("/dev/zero")
    write_whole(path, pack({}, "checkpoint"))
    with pytest.raises(ValueError, match="it holds 'checkpoint'"):
        load(path)


def edit_version(header):
    header["__metadata__"]["format_version"] = "2"


def edit_kind(header):
    header["__metadata__"]["kind"] = "os.system"


def edit_format(header):
    del header["__metadata__"]["format"]


def edit_shape(header):
    header["fitted.network_.arrays.readout.bias"]["shape"] = [10**9, 10**9]


def edit_place(header):
    header["fitted.network_.arrays.readout.bias"]["data_offsets"] = [0, 2**40]


def edit_dtype(header):
    header["fitted.network_.arrays.readout.bias"]["dtype"] = "PICKLE"


FEATURES = '["n_features_in_",1]'
HIDDEN = '["n_outputs",3],["hidden_size",4]'  # of the network
PARAMETER = '["alpha",0.0001]'
HEAD = '{"dict":[["multilabel_"'
SCALE = '{"array":"fitted.encoder_.scale_"}'
EDITED_CONTENT = [
    ('["n_channels",1],["n_outputs"', '["n_channels",2],["n_outputs"',
     "its network has recurrence.forwards.0.weight_ih_l0=an array of shape"),
    (HIDDEN, HIDDEN.replace("4", "1000000000"), "its network (has|cannot be built)"),
    (HIDDEN, HIDDEN.replace("4", "2147483647"), "its network (has|cannot be built)"),
    ('["num_layers",1],["cell"', '["num_layers",1000000000],["cell"', "lacks layers"),
    (PARAMETER, PARAMETER.replace("0.0001", "-4"), "alpha"),
    (PARAMETER, PARAMETER.replace("alpha", "n_jobs"), "n_jobs"),
    ('"SequenceEncoder"', '"subprocess.Popen"', "unknown tag 'subprocess.Popen'"),
    ('"ClassificationHead"', '"RegressionHead"', "its head lacks"),
    ('"ClassificationHead"', '"SequenceEncoder"', "its encoder lacks"),
    ('["pooling","last"]', '["pooling","call_impl"]', "pooling='call_impl'"),
    ('["tokens",false]', '["__class__",false]', "its encoder lacks tokens"),
    ('["loss_curve_",', '["loss_curve_",NaN],["loss_curve_",', "is not finite"),
    (FEATURES, FEATURES.replace("1", "1e999"), "is not finite"),
    (FEATURES, f"{FEATURES},{FEATURES}", "a key stands there twice"),
    (FEATURES, FEATURES.replace("1", "[" * 99999 + "]" * 99999), "recursion depth"),
    (FEATURES, FEATURES.replace("1", "[" * 60 + "]" * 60), "nested more than 40 deep"),
    (HEAD, HEAD.replace("{", '{"tuple":[],'), "an object that is no tag"),
    (HEAD, HEAD.replace("{", '{"dict":[],'), "a key stands there twice"),
    (SCALE, SCALE.replace("scale_", "mean_"), "twice"),
    (SCALE, SCALE.replace("fitted.encoder_.scale_", "/etc/passwd"), "/etc/passwd"),
    ('["n_channels_in_",1]', '["n_channels_in_",1000000000]', "an array of shape"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (edit_version, "written by a newer sklstm, in version 2 of the format"),
        (edit_kind, "it holds 'os.system', and not one of LSTMClassifier"),
        (edit_format, "it is no sklstm file"),
        (edit_shape, "has a size that is not its shape's"),
        (edit_place, "has a size that is not its shape's"),
        (edit_dtype, "unknown type 'PICKLE'"),
    ],
)
def test_hostile_headers(edit, message, whole, path):
    header, body = opened(whole)
    edit(header)
    with pytest.raises(ValueError, match=message):
        loaded(path, header, body)


@pytest.mark.parametrize(("old", "new", "message"), EDITED_CONTENT)
def test_hostile_content(old, new, message, whole, path):
    header, body = opened(whole)
    text = json.dumps(header["__metadata__"]["content"], separators=(",", ":"))
    assert old in text
    header["__metadata__"]["content"] = text.replace(old, new)
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match=message) as caught:
            loaded(path, header, body)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert "cannot be loaded" in str(caught.value)
    assert peak < 2**20 + 30 * path.stat().st_size


def test_weights_that_are_not_finite(whole, path):
    header, body = opened(whole)
    start = header["fitted.network_.arrays.readout.bias"]["data_offsets"][0]
    body[start : start + 4] = struct.pack("<f", np.nan)
    with pytest.raises(ValueError, match=r"its network has readout\.bias"):
        loaded(path, header, body)


def test_members_that_are_averaged_as_of_another_head(path):
    X, y = np.random.default_rng(0).normal(size=(20, 8)), np.arange(20) % 2
    settings = {"hidden_size": 3, "stem": None, "n_members": 2, "max_iter": 11}
    save(LSTMClassifier(**settings, random_state=0).fit(X, y), path)
    header, body = opened(path.read_bytes())
    text = json.dumps(header["__metadata__"]["content"], separators=(",", ":"))
    assert '["link","sigmoid"]' in text
    text = text.replace('["link","sigmoid"]', '["link","softmax"]')
    header["__metadata__"]["content"] = text
    with pytest.raises(ValueError, match="do not belong together"):
        loaded(path, header, body)


@pytest.mark.parametrize("share", [-0.1, 1.5, np.nan])
def test_a_share_that_is_none(share, path):
    X, y = np.random.default_rng(0).normal(size=(20, 8)), np.arange(20.0)
    model = LSTMRegressor(hidden_size=3, stem=None, max_iter=11, random_state=0)
    model.fit(X, y).shrinkage_[:] = share
    with pytest.raises(ValueError, match=r"LSTMRegressor has shrinkage_"):
        save(model, path)  # which reads what it writes


def test_a_forecaster_whose_state_is_no_text(path):
    save(LSTMForecaster().fit(series(), fh=[1]), path)
    header, body = opened(path.read_bytes())
    text = json.dumps(header["__metadata__"]["content"], separators=(",", ":"))
    assert '["_state","fitted"]' in text
    text = text.replace('["_state","fitted"]', '["_state",["fitted"]]')
    header["__metadata__"]["content"] = text
    with pytest.raises(ValueError, match=r"LSTMForecaster has _state=\['fitted'\]"):
        loaded(path, header, body)


def test_an_array_that_nothing_uses(whole, path):
    header, body = opened(whole)
    n = len(body)
    header["more"] = {"dtype": "U8", "shape": [3], "data_offsets": [n, n + 3]}
    with pytest.raises(ValueError, match="nothing uses its array 'more'"):
        loaded(path, header, body + b"abc")


def test_a_checksum_is_needed(whole, path):
    header, body = opened(whole)
    header["__metadata__"]["content"] = json.dumps(header["__metadata__"]["content"])
    for checksum in ("", "0" * 63, "g" * 64, hashlib.sha256(b"").hexdigest()):
        header["__metadata__"]["sha256"] = checksum
        text = json.dumps(header).encode()
        path.write_bytes(struct.pack("<Q", len(text)) + text + body)
        with pytest.raises(ValueError, match="checksum"):
            load(path)


@pytest.mark.parametrize(
    "value",
    [
        None, True, 3, -(10**30), 0.1, float("inf"), "é\ud800", [1, [2.0]], (1, (2,)), [],
        {1: "a", (2, "b"): None}, np.arange(6.0).reshape(2, 3), np.array("abc"),
        np.array([["ab", "c"]]), np.zeros((0, 3), "U5"), np.array([b"x"]),
        np.float32(1.5), np.str_("x"), np.array([1, "a", None], object), np.dtype("<U7"),
        np.array(["2001-02-03"], "M8[D]"), np.arange(3, dtype=">i4"), np.zeros((2, 0)),
        np.array(True), np.float16(2), [float(i) for i in range(20)],
        ["é" * i for i in range(20)], [[1.0, float("nan")]] * 3, np.arange(12)[::-2],
    ],
)  # fmt: skip
def test_values_come_back(value):
    data = pack([value], "any")
    kind, (back,) = unpack(data, {"any": tuple})
    assert kind == "any"
    if isinstance(value, np.ndarray) and value.dtype.byteorder == ">":
        value = value.astype("<i4")
    assert_same_state(value, back)


@pytest.mark.parametrize(
    "index",
    [
        pd.Index([1.5, 2], name="x"), pd.RangeIndex(2, 9, 3), pd.RangeIndex(0),
        pd.Index(["a", "b"]), pd.Index([1, "b", (2, "c")], dtype=object),
        pd.Index([("a", 1), ("b", 2)], tupleize_cols=False, name="store"),
        pd.date_range("2020", periods=3, freq="W-MON", tz="Europe/Berlin", name="t"),
        pd.date_range("2020", periods=3, freq="2h", tz="UTC"),
        pd.date_range("2020", periods=3, freq="D", tz="UTC-03:30"),
        pd.DatetimeIndex(["2020-01-01", None]), pd.timedelta_range("1h", periods=4),
        pd.period_range("2020", periods=3, freq="Q-NOV"),
        pd.period_range("2020", periods=3, freq=pd.offsets.YearEnd(month=3)),
        pd.period_range("2020", periods=3, freq=pd.offsets.Hour(2)),
        pd.date_range("2020", periods=3, freq=pd.offsets.YearBegin(2, month=3)),
        pd.date_range("2020", periods=3, freq=pd.offsets.BQuarterEnd()),
        pd.MultiIndex.from_product([["a"], pd.period_range("2020", periods=2, freq="W")]),
    ],
)  # fmt: skip
def test_indexes_come_back(index):
    _, back = unpack(pack(index, "any", FRAME_CODECS), {"any": lambda: FRAME_CODECS})
    assert_index_equal(index, back, exact=True)
    assert getattr(back, "freq", None) == getattr(index, "freq", None)


def test_a_forecaster_of_instances_and_columns_that_are_tuples(path):
    months = pd.period_range("2001-01", periods=24, freq="M")
    columns = pd.Index([("a", 1), ("b", 2)], tupleize_cols=False)
    keys = pd.MultiIndex.from_product(
        [[("north", 1), ("south", 2)], months], names=["store", "t"]
    )
    values = np.random.default_rng(0).normal(size=(48, 2))
    forecaster = LSTMForecaster().fit(pd.DataFrame(values, keys, columns), fh=[1])
    save(forecaster, path)
    for twin in (load(path), pickle.loads(pickle.dumps(forecaster))):
        assert_frame_equal(twin.predict(), forecaster.predict())


def test_what_was_fitted_is_saved_whatever_the_parameters_have_become(path):
    X, y = np.random.default_rng(0).normal(size=(30, 6, 2)), np.arange(30) % 3
    model = LSTMClassifier(4, max_iter=11, random_state=0).fit(X, y)
    save(model.set_params(target="sequence"), path)
    assert_array_equal(load(path).predict_proba(X), model.predict_proba(X))


def test_files_name_frequencies_as_pandas_does_from_2_2_on():
    ends = pd.date_range("2020", periods=2, freq=pd.offsets.YearEnd(month=3))
    for index, name in ((ends, b"YE-MAR"), (ends.to_period(), b"Y-MAR")):
        assert b'"' + name + b'"' in pack(index, "any", FRAME_CODECS).replace(b"\\", b"")


@pytest.mark.parametrize(("value", "message"), [
    (pd.interval_range(0, 2), "IntervalIndex cannot be written"),
    (pd.Index([1.5], dtype="Float64"), r"Float64Dtype\(\) cannot be written"),
    (pd.DataFrame({"a": ["x"]}), "The column 'a', of type"),
    (pd.offsets.CustomBusinessDay(holidays=["2020-01-01"]), "cannot be written"),
    (np.array([1j]), "array of complex128"),
    ({"a": {"b": object()}}, r"a\.b is a object"),
])  # fmt: skip
def test_what_cannot_be_written(value, message):
    with pytest.raises(ValueError, match=message):
        pack(value, "any", FRAME_CODECS)


@pytest.mark.parametrize(("text", "message"), [
    ('{"DatetimeIndex":{"dict":[["values",{"array":"a"}],["unit","ns"],'
     '["zone","dateutil//etc/passwd"],["freq",null],["name",null]]}}', "time zone"),
    ('{"DatetimeIndex":{"dict":[["values",{"array":"a"}],["unit","ns"],'
     '["zone","../../etc/passwd"],["freq",null],["name",null]]}}', "time zone"),
    ('{"RangeIndex":{"dict":[["values",{"array":"a"}],["step",3],["name",null]]}}',
     "a range that is none"),
    ('{"BaseOffset":"' + "9" * 50 + 'D"}', "has the frequency"),
    ('{"dict":[' + "[1,0]," * 10_000 + "[1,0]]}", "more than 10000 keys"),
])  # fmt: skip
def test_hostile_values(text, message):
    header, body = opened(pack(np.arange(4), "any"))
    (name,) = header.keys() - {"__metadata__"}
    header["a"] = header.pop(name)
    header["__metadata__"]["content"] = text
    data = sealed(json.dumps(header), bytes(body))
    with pytest.raises(ValueError, match=message):
        unpack(data, {"any": lambda: FRAME_CODECS})


@pytest.mark.filterwarnings("ignore")
def test_fuzz(tmp_path):
    """A short run of benchmarks/fuzz_load.py."""
    outcomes, _, _ = fuzz(240, seed=1, folder=tmp_path)
    assert outcomes["damaged", "refused"] > 100
    assert outcomes["edited", "refused"] > 80


# ------------------------------------------------------------------- other formats
def test_pickle_joblib_and_sktime(path):
    X, y = rows(), labels()
    model = LSTMClassifier(**SMALL).fit(X, y)
    for copied in (pickle.loads(pickle.dumps(model)), load(saved(model, path))):
        assert_same_state(model.network_, copied.network_)
        assert_array_equal(copied.predict_proba(X), model.predict_proba(X))
        assert clone(copied).get_params() == clone(model).get_params()
    joblib.dump(model, path)
    assert_array_equal(joblib.load(path).predict_proba(X), model.predict_proba(X))
    forecaster = LSTMForecaster(**SMALL_FORECASTER).fit(series(), fh=[1, 2])
    loaded = load(saved(forecaster, path))
    for each in (forecaster, loaded):
        again = sktime_load(each.save())
        assert_array_equal(again.predict(), forecaster.predict())


@pytest.mark.parametrize("y", [series(), series(freq="D").to_timestamp(), panel()])
def test_a_forecaster_in_a_memory_map(y, path):
    forecaster = LSTMForecaster(**SMALL_FORECASTER).fit(y, fh=[1, 2])
    joblib.dump(forecaster, path)
    mapped = joblib.load(path, mmap_mode="r")
    assert_frame_equal(mapped._cur_y, forecaster._cur_y)
    again = load(saved(mapped, path.with_name("again")))
    for each in (mapped, again, pickle.loads(pickle.dumps(mapped))):
        assert_array_equal(each.predict(), forecaster.predict())


def _predict(forecaster):
    return forecaster.predict()


def test_a_forecaster_as_an_argument_of_parallel():
    # joblib hands arrays of more than 100 bytes to its workers as memory maps.
    forecaster = LSTMForecaster().fit(series(freq="D"), fh=[1, 2])
    parallel = joblib.Parallel(n_jobs=2, max_nbytes=100)
    for found in parallel(joblib.delayed(_predict)(forecaster) for _ in range(2)):
        assert_array_equal(found, forecaster.predict())


def test_arrays_in_memory_maps_are_saved(path, tmp_path):
    model = LSTMClassifier(**SMALL).fit(rows(), labels())
    joblib.dump(model, path)
    mapped = joblib.load(path, mmap_mode="r")
    assert isinstance(mapped.encoder_.mean_, np.memmap)
    back = there_and_back(mapped, path.with_name("again"))
    assert_array_equal(back.predict_proba(rows()), model.predict_proba(rows()))
    np.save(tmp_path / "vectors.npy", np.eye(5, dtype=np.float32))
    vectors = np.load(tmp_path / "vectors.npy", mmap_mode="r")
    back = there_and_back(LSTMClassifier(stem="embedding", embedding=vectors), path)
    assert type(back.embedding) is np.ndarray
    assert_array_equal(back.embedding, vectors)


def saved(model, path):
    save(model, path)
    return path


def sktime_load(serial):
    return serial[0].load_from_serial(serial[1])


@pytest.mark.parametrize("cls", [LSTMClassifier, LSTMRegressor])
def test_skops(cls):
    skops = pytest.importorskip("skops.io")
    X, y = rows(), np.arange(30) % 3
    model = cls(**SMALL).fit(X, y)
    data = skops.dumps(model)
    back = skops.loads(data, trusted=skops.get_untrusted_types(data=data))
    assert_array_equal(back.predict(X), model.predict(X))


def _past(index):
    rng = np.random.default_rng(0)
    return pd.DataFrame({"a": rng.normal(size=len(index)).cumsum()}, index=index)


def _pasts():
    days = pd.date_range("2020-01-01", periods=24, freq="D")
    instances = {
        "str": ["u", "v"],
        "string": pd.Index(["u", "v"], dtype="string"),
        "Int64": pd.Index([1, 2], dtype="Int64"),
        "category": pd.CategoricalIndex(["u", "v"], ["v", "u"], ordered=True),
    }
    indexes = {
        "range": pd.RangeIndex(3, 27),
        "days": days,
        "zone": days.tz_localize("Asia/Tokyo"),
        "quarters": pd.period_range("2000Q2", periods=24, freq="Q"),
    }
    panels = {
        name: pd.MultiIndex.from_product([level, days], names=["unit", "day"])
        for name, level in instances.items()
    }
    return {name: _past(index) for name, index in (indexes | panels).items()}


@pytest.mark.filterwarnings("ignore:The default of observed")  # sktime's, with pandas 2
@pytest.mark.parametrize("name", list(_pasts()))
def test_a_forecaster_without_pandas_in_its_state(name, tmp_path):
    """Pickle, copies, skops and files hold arrays and make the same frames of them."""
    skops = pytest.importorskip("skops.io")
    y = _pasts()[name]
    model = LSTMForecaster(pretrained="only").fit(y, fh=[1, 3])
    copies = [pickle.loads(pickle.dumps(model)), copy.deepcopy(model), copy.copy(model)]
    copies.append(load(saved(model, tmp_path / "model")))
    data = skops.dumps(model)
    trusted = skops.get_untrusted_types(data=data)
    assert {kind.split(".")[0] for kind in trusted} == {"sklstm"}
    copies.append(skops.loads(data, trusted=trusted))
    for each in copies:
        assert_index_equal(each._cutoff, model._cutoff, exact=True)
        assert getattr(each._cutoff, "freq", 0) == getattr(model._cutoff, "freq", 0)
        assert_frame_equal(each._cur_y, model._cur_y, check_freq=True)
        assert_index_equal(each._fh.to_pandas(), model._fh.to_pandas())
        assert each._y_metadata == model._y_metadata
        assert set(vars(each)) == set(vars(model))
        assert_frame_equal(each.predict(), model.predict())


@pytest.mark.parametrize("settings", [{}, {"pretrained": None}])
def test_skops_keeps_a_forecaster_that_goes_on(settings):
    skops = pytest.importorskip("skops.io")
    y, X = _past(pd.RangeIndex(60)), _past(pd.RangeIndex(70)) ** 2
    model = LSTMForecaster(**{**SMALL_FORECASTER, **settings})
    model.fit(y[:50], X=X[:50], fh=[1, 2])
    data = skops.dumps(model)
    back = skops.loads(data, trusted=skops.get_untrusted_types(data=data))
    expected = model.update_predict(y[50:], X=X, reset_forecaster=False)
    assert_frame_equal(back.update_predict(y[50:], X=X, reset_forecaster=False), expected)
    again = back.fit(y[:50], X=X[:50], fh=[1, 2]).predict(X=X[50:52])
    assert_frame_equal(again, model.fit(y[:50], X=X[:50], fh=[1, 2]).predict(X=X[50:52]))


def test_what_cannot_be_written_stays_in_the_state():
    """Pickle takes any index; only skops and files refuse it."""
    zone = datetime.timezone(datetime.timedelta(hours=1), "Nowhere")
    y = _past(pd.date_range("2020-01-01", periods=24, freq="D", tz=zone))
    model = LSTMForecaster(pretrained="only").fit(y, fh=[1])
    assert_frame_equal(pickle.loads(pickle.dumps(model)).predict(), model.predict())
    index = pd.MultiIndex.from_product(
        [pd.interval_range(0, 2), pd.RangeIndex(20)], names=["unit", "t"]
    )
    model = LSTMForecaster(pretrained="only").fit(_past(index), fh=[1])
    assert_frame_equal(pickle.loads(pickle.dumps(model)).predict(), model.predict())


# ---------------------------------------------------------------------- checkpoints
def long_fit(cls, settings, checkpoint):
    rng = np.random.default_rng(0)
    X = [rng.normal(size=(rng.integers(5, 14), 2)) for _ in range(80)]
    y = np.array([x[:, 0].sum() for x in X])
    model = cls(hidden_size=8, max_iter=30, random_state=3, checkpoint=checkpoint)
    return model.set_params(**settings).fit(X, y > 0 if cls is LSTMClassifier else y)


@pytest.mark.parametrize(("cls", "settings"), [
    (LSTMClassifier, {"early_stopping": True, "dropout": 0.3}),
    (LSTMClassifier, {"n_members": 2, "augment": "jitter"}),
    (LSTMRegressor, {"learning_rate": "adaptive", "solver": "sgd", "stem": None,
                     "n_iter_no_change": 5}),
])  # fmt: skip
def test_a_killed_fit_ends_in_the_same_model(cls, settings, tmp_path, capsys):
    checkpoint = tmp_path / "checkpoint"
    code = (
        "import numpy as np\nfrom sklstm import LSTMClassifier, LSTMRegressor\n"
        f"{inspect.getsource(long_fit)}\n"
        f"long_fit({cls.__name__}, {settings | {'verbose': True}!r}, {str(checkpoint)!r})"
    )
    with subprocess.Popen(
        [sys.executable, "-u", "-c", code], stdout=subprocess.PIPE, text=True
    ) as process:
        # An epoch that was kept and some more.
        for _ in range(8):
            assert process.stdout.readline().startswith("Iteration ")
        process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    assert checkpoint.exists()
    resumed = long_fit(cls, settings | {"verbose": True}, checkpoint)
    assert not capsys.readouterr().out.startswith("Iteration 1,")
    # A kill in the middle of a write leaves what was written so far.
    assert [name for name in os.listdir(tmp_path) if not name.endswith(".tmp")] == []
    whole = long_fit(cls, settings, None)
    for each in (whole, resumed):
        each.set_params(checkpoint=None, verbose=False)
    assert_same_state(vars(whole), vars(resumed))


def long_forecast(settings, checkpoint):
    rng = np.random.default_rng(0)
    series = np.sin(np.arange(60) / 2) + 0.3 * rng.normal(size=(45, 60))
    index = pd.MultiIndex.from_product([range(45), range(60)])
    y = pd.DataFrame({"y": series.ravel()}, index)
    model = LSTMForecaster(hidden_size=8, random_state=3, n_members=2, max_steps=250)
    fh = settings.pop("fh", [1, 2, 3])
    model.set_params(pretrained=None, checkpoint=checkpoint, **settings)
    return model.fit(y, fh=fh)


@pytest.mark.parametrize("n_written", [4, 14])  # in the first network, in the second
def test_a_killed_forecaster_ends_in_the_same_networks(n_written, tmp_path):
    checkpoint = tmp_path / "checkpoint"
    code = (
        "import os, signal\nimport numpy as np\nimport pandas as pd\n"
        "from sklstm import LSTMForecaster\nfrom sklstm.checkpoints import Checkpoint\n"
        f"{inspect.getsource(long_forecast)}\n"
        "write, written = Checkpoint.write, []\n"
        "def dies(self, training):\n"
        "    write(self, training)\n    written.append(1)\n"
        f"    if len(written) == {n_written}:\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
        "Checkpoint.write, Checkpoint.is_due = dies, lambda self: True\n"
        f"long_forecast({{}}, {str(checkpoint)!r})"
    )
    ended = subprocess.run([sys.executable, "-c", code], check=False)
    assert ended.returncode == -signal.SIGKILL
    assert checkpoint.exists()
    for settings, message in [
        ({"alpha": 0.5}, r"another fit: alpha was 0\.01, now it is 0\.5"),
        ({"fh": [1]}, "another fit: "),
    ]:
        with pytest.raises(ValueError, match=message):
            long_forecast(settings, checkpoint)
    resumed, whole = long_forecast({}, checkpoint), long_forecast({}, None)
    assert os.listdir(tmp_path) == []
    assert resumed.history_ == whole.history_
    assert_array_equal(resumed.predict().to_numpy(), whole.predict().to_numpy())
    for ours, theirs in zip(resumed.model_.trained, whole.model_.trained, strict=True):
        for a, b in zip(
            ours.network.parameters(), theirs.network.parameters(), strict=True
        ):
            assert torch.equal(a, b)


@pytest.fixture
def stopped(monkeypatch, tmp_path):
    """Make a fit write at each epoch and die in the fourth; return its settings."""

    class Killed(BaseException):
        pass

    write = Checkpoint.write

    def dies(self, training):
        write(self, training)
        if len(training["history"]["loss_curve"]) == 4:
            raise Killed

    settings = {"hidden_size": 4, "max_iter": 12, "checkpoint": tmp_path / "fit"}

    def stop(model, X, y, **kwargs):
        with monkeypatch.context() as patched:
            patched.setattr(Checkpoint, "write", dies)
            patched.setattr(Checkpoint, "is_due", lambda self: True)
            with pytest.raises(Killed):
                model.fit(X, y, **kwargs)

    return settings, stop


def test_another_fit_is_refused(stopped):
    settings, stop = stopped
    X, y = rows(), np.arange(30) % 2
    stop(LSTMClassifier(**settings, random_state=0), X, y)
    changes = [
        ({"alpha": 0.5}, X, y, "alpha was 0.0001, now it is 0.5"),
        ({"max_iter": 13}, X, y, "max_iter was 12, now it is 13"),
        ({"random_state": 1}, X, y, "seed was"),
        ({}, X + 1e-3 * X**2, y, "hash of X, y and sample_weight was"),
        ({}, X, 1 - y, "hash of X, y and sample_weight was"),
    ]
    for change, X_new, y_new, message in changes:
        model = LSTMClassifier(**{**settings, "random_state": 0, **change})
        with pytest.raises(
            ValueError, match=f"is of another fit: .*{message}.*Delete it"
        ):
            model.fit(X_new, y_new)
        assert not hasattr(model, "network_")
    with pytest.raises(ValueError, match="the estimator was LSTMClassifier"):
        LSTMRegressor(**settings, random_state=0).fit(X, y)
    settings["checkpoint"].write_bytes(b"half a file")
    with pytest.raises(ValueError, match=r"cannot be read: .*Delete it"):
        LSTMClassifier(**settings, random_state=0).fit(X, y)


def test_equal_settings_are_those_of_the_same_fit(stopped):
    settings, stop = stopped
    settings |= {"random_state": 0}
    X, y = rows(), np.arange(30) % 2
    weights = {"class_weight": {0: 1.0, 1: 2.0}, "augment": ["jitter", "scaling"]}
    same = {"class_weight": {np.int64(1): 2, 0: np.float64(1)}, "alpha": np.float64(0.01)}
    stop(LSTMClassifier(**settings, **weights, alpha=0.01), X, y)
    resumed = LSTMClassifier(**settings, **same, augment=("jitter", "scaling")).fit(X, y)
    settings["checkpoint"] = None
    whole = LSTMClassifier(**settings, **weights, alpha=0.01).fit(X, y)
    assert_array_equal(resumed.predict_proba(X), whole.predict_proba(X))


def test_a_seed_of_the_system_is_kept(stopped):
    settings, stop = stopped
    X, y = rows(), np.arange(30) % 2
    stop(LSTMClassifier(**settings), X, y)
    seed = Checkpoint(settings["checkpoint"]).seed
    resumed = LSTMClassifier(**settings).fit(X, y)
    assert resumed.n_iter_ == 12

    class Fixed(np.random.RandomState):
        def randint(self, *args):
            return seed

    again = LSTMClassifier(**{**settings, "checkpoint": None}, random_state=Fixed())
    assert_array_equal(again.fit(X, y).predict_proba(X), resumed.predict_proba(X))


def test_warm_start_and_sample_weight(stopped):
    settings, stop = stopped
    settings |= {"warm_start": True, "random_state": 0, "max_iter": 6}
    X, y, weight = rows(), rows()[:, 0, 0], np.arange(30.0)
    whole = LSTMRegressor(**{**settings, "checkpoint": None}).fit(X, y)
    start = pickle.dumps(whole)
    whole.fit(X, y, sample_weight=weight)
    for kwargs in ({}, {"sample_weight": weight}):
        model = pickle.loads(start).set_params(checkpoint=settings["checkpoint"])
        stop(model, X, y, **kwargs)
        if not kwargs:
            with pytest.raises(ValueError, match="hash of X, y and sample_weight"):
                model.fit(X, y, sample_weight=weight)
            settings["checkpoint"].unlink()
    model.fit(X, y, sample_weight=weight)
    assert_same_state(vars(whole)["network_"], model.network_)
    assert model.loss_curve_ == whole.loss_curve_


def test_ctrl_c_leaves_the_checkpoint(monkeypatch, tmp_path):
    X, y = rows(), np.arange(30) % 2
    settings = {"hidden_size": 4, "max_iter": 12, "random_state": 0}
    whole = LSTMClassifier(**settings).fit(X, y)
    model = LSTMClassifier(**settings, checkpoint=tmp_path / "fit")
    write = Checkpoint.write

    def interrupts(self, training):
        write(self, training)
        if len(training["history"]["loss_curve"]) == 4:
            raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Checkpoint, "write", interrupts)
        patched.setattr(Checkpoint, "is_due", lambda self: True)
        with pytest.warns(UserWarning, match="interrupted"):
            model.fit(X, y)
    assert model.n_iter_ == 4
    model.fit(X, y)
    assert model.n_iter_ == 12
    assert not (tmp_path / "fit").exists()
    assert_array_equal(model.predict_proba(X), whole.predict_proba(X))


def test_checkpoint_parameter_is_checked():
    with pytest.raises(ValueError, match="'checkpoint' parameter of LSTMClassifier"):
        LSTMClassifier(checkpoint=3).fit(rows(), labels())


def test_a_checkpoint_that_is_a_folder(tmp_path):
    with pytest.raises(ValueError, match=r"is a folder. Give the path of a file, which"):
        LSTMClassifier(**SMALL, checkpoint=tmp_path).fit(rows(), labels())


def test_a_full_disk_ends_no_fit(monkeypatch, tmp_path):
    X, y = rows(), labels()
    with pytest.raises(ValueError, match=r"The folder of the checkpoint .* not exist"):
        LSTMClassifier(**SMALL, checkpoint=tmp_path / "absent" / "fit").fit(X, y)

    def fails(*args):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "replace", fails)
    model = LSTMClassifier(**SMALL, checkpoint=tmp_path / "fit")
    with pytest.warns(UserWarning, match=r"not written .*No space.* the fit goes on"):
        model.fit(X, y)
    assert os.listdir(tmp_path) == []


def test_writing_takes_a_small_share_of_the_time(tmp_path):
    checkpoint = Checkpoint(tmp_path / "fit")
    checkpoint.begin({"seed": 0}, [])
    assert checkpoint.is_due()
    checkpoint.write({})
    checkpoint._cost = 10.0
    assert not checkpoint.is_due()
    checkpoint._written_at -= 201
    assert checkpoint.is_due()


def test_a_checkpoint_is_of_one_y_and_one_weighting(tmp_path, monkeypatch):
    X, y = rows(), np.arange(30) % 2
    model = LSTMClassifier(hidden_size=4, max_iter=12, checkpoint=tmp_path / "fit")
    model.set_params(random_state=0)
    write = Checkpoint.write

    def stop(self, training):
        write(self, training)
        raise OSError("the machine goes down")

    with monkeypatch.context() as patched:
        patched.setattr(Checkpoint, "write", stop)
        patched.setattr(Checkpoint, "is_due", lambda self: True)
        with pytest.raises(OSError, match="goes down"):
            model.fit(X, y)
    with pytest.raises(ValueError, match="is of another fit"):
        model.fit(X, np.arange(30) // 15)
    with pytest.raises(ValueError, match="is of another fit"):
        model.fit(X, y, np.linspace(1, 2, 30))
    assert model.fit(X, y).n_iter_ == 12


def test_what_is_loaded_in_inference_mode_is_as_any_other(path):
    X = np.random.default_rng(0).normal(size=(20, 6))
    model = LSTMRegressor(3, max_iter=11, random_state=0).fit(X, X[:, 0])
    save(model, path)
    with torch.inference_mode():
        loaded = load(path)
    assert not any(weight.is_inference() for weight in loaded.network_.parameters())
    loaded.partial_fit(X, X[:, 0])
