"""Callbacks of scikit-learn (1.9) that keep a record of training, a row per epoch.

They are set on the estimator itself, ``estimator.set_callbacks(...)``, and go along when
it is cloned, sent to a worker or pickled. For a progress bar use scikit-learn's own
`sklearn.callback.ProgressBar`.
"""

from __future__ import annotations

import csv
import io
import json
import os
from datetime import UTC, datetime
from pathlib import Path

__all__ = ["FileMonitor", "TensorBoardMonitor"]

COLUMNS = (
    "run", "task", "estimator", "epoch", "loss", "validation_score", "seconds",
)  # fmt: skip


def _path(context):
    """Return the contexts from the outermost task to this one."""
    return [context] if context.parent is None else [*_path(context.parent), context]


def _task(context) -> str:
    """Return where in a search, say, a fit stands: the numbers of its tasks."""
    return ".".join(str(above.task_id) for above in _path(context))


def _row(context, fitted_estimator):
    """Return what there is to say of an epoch; None for any other task."""
    if context.task_name != "epoch" or not hasattr(fitted_estimator, "loss_curve_"):
        return None
    fit = context.parent
    scores = fitted_estimator.validation_scores_
    seconds = (datetime.now(UTC) - fit.init_time).total_seconds()
    values = (
        str(fit.root_uuid),
        _task(fit),
        fit.estimator_name,
        fitted_estimator.n_iter_,
        fitted_estimator.loss_,
        scores[-1] if scores else None,
        round(seconds, 6),
    )
    return dict(zip(COLUMNS, values, strict=True))


class FileMonitor:
    """Append a row per epoch of `fit` to a file of JSON lines or a CSV file.

    `partial_fit` calls no callbacks.

    Each row has

    - run: identifies the outermost fit, that of a grid search for instance;
    - task: identifies the fit within it, "0" if there is but one;
    - estimator: the class;
    - epoch: counted from 1, over all fits of a warm start;
    - loss: training loss;
    - validation_score: None (empty in CSV) unless ``early_stopping=True``;
    - seconds: since the fit began.

    A row is written at once and in one piece, so that several processes may write to one
    file, and a fit can be watched while it lasts.

    Parameters
    ----------
    path : path-like
        Ends in ".jsonl" or ".csv". Later fits are appended.

    Raises
    ------
    ValueError
        If the path ends otherwise.

    Examples
    --------
    >>> import tempfile
    >>> import numpy as np
    >>> import pandas as pd
    >>> from sklstm import LSTMClassifier
    >>> from sklstm.monitors import FileMonitor
    >>> X = np.random.default_rng(0).normal(size=(40, 5))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = f"{folder}/training.jsonl"
    ...     model = LSTMClassifier(hidden_size=4, max_iter=11, random_state=0)
    ...     model = model.set_callbacks(FileMonitor(path)).fit(X, X[:, 0] > 0)
    ...     len(pd.read_json(path, lines=True)) == model.n_iter_
    True
    """

    def __init__(self, path):
        self.path = os.fspath(path)
        if Path(self.path).suffix not in (".jsonl", ".csv"):
            raise ValueError(
                f'The path of FileMonitor must end in ".jsonl" or ".csv"; got {path!r}.'
            )

    def setup(self, estimator, context):
        """Write the header of a CSV file that is new or empty."""
        header = self._line(COLUMNS) if self.path.endswith(".csv") else ""
        try:
            with open(self.path, "x", encoding="utf-8", newline="") as file:
                file.write(header)
        except FileExistsError:
            if os.path.getsize(self.path) == 0:
                Path(self.path).write_text(header, encoding="utf-8", newline="")

    def on_fit_task_begin(self, estimator, context):
        """Do nothing."""

    def on_fit_task_end(self, estimator, context, *, fitted_estimator=None):
        """Append a row if the task was an epoch."""
        row = _row(context, fitted_estimator)
        if row is None:
            return
        is_csv = self.path.endswith(".csv")
        line = self._line(row.values()) if is_csv else json.dumps(row) + "\n"
        with open(self.path, "a", encoding="utf-8", newline="") as file:
            file.write(line)

    def teardown(self, estimator, context):
        """Do nothing."""

    @staticmethod
    def _line(values):
        line = io.StringIO()
        csv.writer(line, lineterminator="\n").writerow(values)
        return line.getvalue()


class TensorBoardMonitor:
    """Write loss and validation score of each epoch for TensorBoard.

    Every fit is a run of its own below `log_dir`. Look at them with
    ``tensorboard --logdir LOG_DIR``. Needs ``pip install "sklstm[tensorboard]"``.

    Parameters
    ----------
    log_dir : path-like

    Examples
    --------
    >>> from sklstm import LSTMClassifier
    >>> from sklstm.monitors import TensorBoardMonitor
    >>> model = LSTMClassifier().set_callbacks(TensorBoardMonitor("runs"))
    """

    def __init__(self, log_dir):
        self.log_dir = os.fspath(log_dir)
        self._writers = {}

    def setup(self, estimator, context):
        """Open the run of a fit.

        Raises
        ------
        ImportError
            If tensorboard is not installed.
        """
        try:
            from torch.utils.tensorboard import SummaryWriter  # noqa: PLC0415 - optional
        except ImportError as error:
            raise ImportError(
                'TensorBoardMonitor needs tensorboard: pip install "sklstm[tensorboard]".'
            ) from error
        name = (
            f"{context.estimator_name}-{context.init_time:%Y%m%d-%H%M%S}-"
            f"{context.root_uuid.hex[:8]}-{_task(context)}"
        )
        self._writers[context] = SummaryWriter(str(Path(self.log_dir) / name))

    def on_fit_task_begin(self, estimator, context):
        """Do nothing."""

    def on_fit_task_end(self, estimator, context, *, fitted_estimator=None):
        """Write the scalars if the task was an epoch."""
        row = _row(context, fitted_estimator)
        if row is None:
            return
        writer = self._writers[context.parent]
        for name in ("loss", "validation_score"):
            if row[name] is not None:
                writer.add_scalar(name, row[name], row["epoch"])

    def teardown(self, estimator, context):
        """Close the run of a fit."""
        if context in self._writers:
            self._writers.pop(context).close()

    def __getstate__(self):
        # Writers hold files and threads: they stay with the process that opened them.
        return {**self.__dict__, "_writers": {}}
