"""Imports point down only, and importing the package stays cheap."""

import ast
import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest

import sklstm

PACKAGE = Path(sklstm.__file__).parent
LEAVES = {
    "devices", "gradients", "heads", "modules", "network", "sequences", "series",
    "shrinkage", "training", "windows",
}  # fmt: skip
ALLOWED = {
    **{leaf: set() for leaf in LEAVES},
    "kernels": set(),
    "checks": set(),
    "container": set(),
    "checkpoints": {"checks", "container"},
    "devices": {"kernels"},
    "laid_out": {"kernels"},
    "modules": {"devices", "kernels"},
    "network": {"kernels", "laid_out", "modules"},
    "gradients": {"kernels", "laid_out", "modules", "network"},
    "training": {"devices", "kernels"},
    "windows": {"kernels", "series"},
    "augmentation": set(),
    "base": LEAVES - {"series", "windows"} | {"augmentation", "checkpoints"},
    "estimators": {"augmentation", "base", "heads", "sequences", "shrinkage"},
    "pretrained": {"devices", "network"},
    "forecast_model": {"devices", "heads", "network", "series", "windows"},
    "horizons": {"series"},
    "forecast_training": LEAVES - {"modules", "sequences", "shrinkage"}
    | {"checkpoints", "forecast_model", "horizons", "pretrained"},
    "forecaster": {
        "devices",
        "forecast_model",
        "forecast_training",
        "frames",
        "heads",
        "horizons",
        "modules",
        "pretrained",
        "series",
    },
    "panel": {"estimators", "sequences"},
    "streaming": {"base", "devices", "kernels", "laid_out", "modules", "sequences"},
    "frames": {"container"},
    "saved_network": {"checks", "container", "modules", "network"},
    "saved_estimator": {
        "checks",
        "container",
        "heads",
        "network",
        "saved_network",
        "sequences",
        "training",
    },
    "saved_forecaster": {
        "checks",
        "container",
        "forecast_model",
        "frames",
        "network",
        "saved_network",
        "windows",
    },
    "persistence": {"checks", "container"},
    "compression": {"base", "network"},
    "onnx_graph": set(),
    "export": {
        "devices",
        "forecast_model",
        "heads",
        "kernels",
        "modules",
        "network",
        "onnx_graph",
        "sequences",
    },
    "text": {"sequences"},
    "generation": {"base", "sequences", "streaming", "text"},
    "forecast_inspection": {"base", "series"},
    "inspection": {
        "base",
        "devices",
        "forecast_inspection",
        "modules",
        "sequences",
        "series",
    },
    "monitors": set(),
    "drawing": set(),
    "forecast_plotting": {"base", "drawing", "sequences"},
    "plotting": {
        "base",
        "drawing",
        "forecast_plotting",
        "inspection",
        "sequences",
    },
    "__init__": {"estimators", "generation", "streaming", "text"},
}
# What costs time to import, and the rooms that may.
HEAVY = {
    "sktime": {"forecaster", "frames", "panel", "saved_forecaster"},
    "pandas": {
        "drawing",
        "forecast_plotting",
        "forecaster",
        "frames",
        "horizons",
        "plotting",
        "saved_forecaster",
        "series",
    },
    "matplotlib": {"drawing", "forecast_plotting"},
    "tensorboard": set(),
}


def is_for_editors(node):
    return isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"


def imported(path):
    """Full names of all modules that a file imports, wherever in the file."""
    names, tree = set(), ast.parse(path.read_text())
    tree.body = [node for node in tree.body if not is_for_editors(node)]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.name} has a relative import"
            names.add(node.module)
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def test_every_room_is_known():
    assert {path.stem for path in PACKAGE.glob("*.py")} == set(ALLOWED)
    # What was compiled is no module to those who import all that there are.
    modules = {module.name for module in pkgutil.iter_modules(sklstm.__path__)}
    assert modules == set(ALLOWED) - {"__init__"}


@pytest.mark.parametrize("room", sorted(ALLOWED))
def test_imports_point_down(room):
    names = imported(PACKAGE / f"{room}.py")
    ours = {name.split(".")[1] for name in names if name.startswith("sklstm.")}
    rooms = ours & set(ALLOWED)
    assert rooms == ALLOWED[room]  # a door that nobody uses is closed
    for package, allowed in HEAVY.items():
        assert room in allowed or package not in {name.split(".")[0] for name in names}


def test_import_loads_neither_sktime_nor_matplotlib():
    code = (
        "import sys, sklstm; "
        "absent = {'sktime', 'matplotlib', 'tensorboard', 'torch._dynamo'}; "
        "print(sorted(absent & set(sys.modules))); "
        # Nor does a first fit wait for what torch imports to leave memory unfilled.
        "from sklstm.pretrained import load_pretrained; load_pretrained(); "
        "sklstm.LSTMClassifier(2, max_iter=1).fit([[[0.0]] * 9, [[1.0]] * 9], [0, 1]); "
        "print(sorted({'sympy', 'torch._dynamo'} & set(sys.modules)))"
    )
    out = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert out.stdout.split() == ["[]", "[]"]


def test_editors_see_what_is_imported_at_first_use():
    tree = ast.parse((PACKAGE / "__init__.py").read_text())
    (block,) = filter(is_for_editors, tree.body)
    named = {alias.name: node.module for node in block.body for alias in node.names}
    assert named == {**sklstm._GUESTS, **dict.fromkeys(sklstm._ROOMS, "sklstm")}


def test_public_names():
    names = [
        "LSTMClassifier",
        "LSTMForecaster",
        "LSTMRegressor",
        "LSTMTimeSeriesClassifier",
        "LSTMTimeSeriesRegressor",
        "TokenSequences",
        "compress",
        "distill",
        "generate",
        "inspection",
        "load",
        "monitors",
        "plotting",
        "save",
        "stream",
        "to_onnx",
        "to_torch",
    ]
    assert sklstm.__all__ == names
    assert all(hasattr(sklstm, name) for name in sklstm.__all__)
    for room in (sklstm.inspection, sklstm.monitors, sklstm.plotting):
        assert all(hasattr(room, name) for name in room.__all__)
