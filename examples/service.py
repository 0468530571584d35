"""A model behind HTTP: batches, and streams that are answered step by step.

    pip install "sklstm[service]"
    python examples/service.py model.safetensors --port 8000

``POST /predict`` answers whole sequences, ``POST /streams/{session}`` the next time step
of a session, ``DELETE /streams/{session}`` ends one, ``GET /health`` says what runs.
Steps are lists of channels, or of one token; null is missing. The file is one that
`sklstm.save` has written. Where others can reach the service, put a proxy before it that
limits the size of requests.
"""

import argparse
import gc
import threading
import time
from collections import OrderedDict
from contextlib import asynccontextmanager
from typing import Annotated

import numpy as np
import uvicorn
from fastapi import FastAPI, HTTPException, Path
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field, FiniteFloat
from sklearn.utils.validation import check_is_fitted

from sklstm import LSTMClassifier, LSTMRegressor, load, stream

MAX_SEQUENCES, MAX_STEPS, MAX_CHANNELS = 1024, 10_000, 1000
MAX_SESSIONS = 1000
# A full service ends sessions that have said nothing for so many seconds.
IDLE_SECONDS = 600.0

Step = Annotated[list[FiniteFloat | None], Field(min_length=1, max_length=MAX_CHANNELS)]
Sequence = Annotated[list[Step], Field(min_length=1, max_length=MAX_STEPS)]
Session = Annotated[str, Path(pattern=r"^[A-Za-z0-9_.-]{1,64}$")]


class Batch(BaseModel):
    """Sequences of any lengths, each a list of steps."""

    sequences: Annotated[list[Sequence], Field(min_length=1, max_length=MAX_SEQUENCES)]


class NextStep(BaseModel):
    """One time step of one sequence."""

    step: Step


class Streams:
    """Open streams by session, the longest idle first; no more than `max_sessions`."""

    def __init__(self, model, max_sessions, idle_seconds):
        self.model, self.max_sessions = model, max_sessions
        self.idle_seconds = idle_seconds
        self.open = OrderedDict()  # session: (stream, steps so far, time of the last)

    def push(self, session, step):
        """Return what the model says after a step, and how many it has read."""
        if session in self.open:
            live, n_steps, _ = self.open[session]
        else:
            self._make_room()
            live, n_steps = stream(self.model), 0
        if self.model.stem == "embedding" and len(step) == 1:
            step = step[0]
        answer = live.push(step)
        self.open[session] = live, n_steps + 1, time.monotonic()
        self.open.move_to_end(session)
        return answer, n_steps + 1

    def _make_room(self):
        if len(self.open) < self.max_sessions:
            return
        oldest, (_, _, last) = next(iter(self.open.items()))
        idle = time.monotonic() - last
        if idle < self.idle_seconds:
            raise HTTPException(
                503,
                f"All {self.max_sessions} sessions are in use. End one, or try again.",
                headers={"Retry-After": str(int(self.idle_seconds - idle) + 1)},
            )
        del self.open[oldest]


def create_app(model, *, max_sessions=MAX_SESSIONS, idle_seconds=IDLE_SECONDS):
    """Return the service of a fitted classifier or regressor."""
    if not isinstance(model, LSTMClassifier | LSTMRegressor):
        raise TypeError(f"{type(model).__name__} cannot be served so.")
    check_is_fitted(model)
    streams = Streams(model, max_sessions, idle_seconds)
    one_at_a_time = threading.Lock()  # a batch uses all cores by itself

    @asynccontextmanager
    async def lifespan(app):
        yield
        streams.open.clear()

    app = FastAPI(title="sklstm", lifespan=lifespan)

    @app.exception_handler(RequestValidationError)
    async def refuse(request, error):  # without the input, which may be long, or inf
        reasons = [{"loc": e["loc"], "msg": e["msg"]} for e in error.errors()]
        return JSONResponse({"detail": reasons}, status_code=422)

    @app.get("/health")
    async def health():
        return {
            "model": type(model).__name__,
            "n_channels": model.n_channels_in_,
            "n_sessions": len(streams.open),
        }

    @app.post("/predict")
    def predict(batch: Batch):  # in a thread, so that streams go on meanwhile
        rows = []
        for i, sequence in enumerate(batch.sequences):
            if len({len(step) for step in sequence}) > 1:
                raise HTTPException(
                    422, f"Sequence {i} has steps of different numbers of channels."
                )
            row = np.array(sequence, dtype=np.float64)  # null becomes NaN
            rows.append(row.T if model.layout == "channel-major" else row)
        with one_at_a_time, understandable():
            if not hasattr(model, "predict_proba"):
                return {"predictions": [row.tolist() for row in model.predict(rows)]}
            # One by one: of target="sequence" each is an array of its own length.
            probabilities = [row.tolist() for row in model.predict_proba(rows)]
        return {"classes": model.classes_.tolist(), "probabilities": probabilities}

    @app.post("/streams/{session}")
    async def push(session: Session, given: NextStep):  # takes microseconds: no thread
        with understandable():
            answer, n_steps = streams.push(session, np.array(given.step, dtype=float))
        # A text out of an array of objects is a str, which has no tolist.
        return {"prediction": np.asarray(answer).tolist(), "n_steps": n_steps}

    @app.delete("/streams/{session}", status_code=204)
    async def end(session: Session):
        if streams.open.pop(session, None) is None:
            raise HTTPException(404, f"There is no session {session!r}.")

    return app


class understandable:  # noqa: N801 - reads as a with statement
    """Turn what the model says of bad input into a response."""

    def __enter__(self):
        return self

    def __exit__(self, kind, error, traceback):
        if isinstance(error, ValueError):
            raise HTTPException(422, str(error)) from error


def main():
    """Serve a model until SIGTERM or Ctrl-C; requests under way are finished."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("model", help="file of a fitted classifier or regressor")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--max-sessions", type=int, default=MAX_SESSIONS)
    options = parser.parse_args()
    try:
        app = create_app(load(options.model), max_sessions=options.max_sessions)
    except (OSError, TypeError, ValueError) as error:
        parser.error(str(error))
    # The lists of large requests set off collections that would look at all that has been
    # imported each time: a fifth of a second in which nobody is answered.
    gc.collect()
    gc.freeze()
    uvicorn.run(
        app,
        host=options.host,
        port=options.port,
        access_log=False,
        timeout_graceful_shutdown=10,
    )


if __name__ == "__main__":
    main()
