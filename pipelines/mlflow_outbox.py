"""What is on its way to MLflow: sent in order by a thread of its own, and kept while the server is away.

A request whose answer was lost may have been carried out, so each is sent again just as it was: a point of the same
run, name, step, time and value is one row of MLflow's store however often it comes, and all other requests set what
they set. Asking the server what it has would not do, since a request that timed out may still be carried out later.
"""

from __future__ import annotations

import logging
import re
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass

MOST_POINTS = 1000
"""MLflow's limit of metrics in one request."""
_LONGEST_PAUSE, _LONGEST_PAUSE_AT_THE_END = 30, 5
"""Seconds between two tries; the first pause is one second and each is twice the one before."""
_TRIES = 5
"""A request that fails so often while the server answers others is left out, or nothing behind it would be sent."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Points:
    """Metrics of one step, at most ``MOST_POINTS``; about 0.6 kB while it waits."""

    step: int
    values: dict[str, float]
    time_ms: int
    """When they were logged: part of what tells one point from another, so it stays the same when sent again."""


@dataclass(frozen=True, slots=True)
class Request:
    """Anything else; ``send`` raises, and may be called again after it did."""

    what: str
    send: Callable[[], object]


class Outbox:
    """Keeps what is put until the server has it or refuses it. Putting never waits."""

    def __init__(self, uri: str, send_points: Callable[[list[Points]], object], check: Callable[[], object]) -> None:
        """``send_points`` sends whole steps in one request; ``check`` raises if the server does not answer."""
        self._uri, self._send_points, self._check = uri, send_points, check
        self._waiting: deque[Points | Request] = deque()
        self._changed = threading.Condition()
        self._closing = False
        self._away = False
        self._singly = 0
        self._refusals: set[str] = set()
        self._last_sent = 0.0
        self._thread = threading.Thread(target=self._work, daemon=True, name="mlflow")
        self._thread.start()

    def put(self, item: Points | Request) -> None:
        """Send ``item`` after all that was put before."""
        with self._changed:
            self._waiting.append(item)
            self._changed.notify_all()

    def close(self, patience: float) -> list[Points | Request]:
        """Send what is left, then end the thread; return what the server did not take.

        Gives up once nothing could be sent for ``patience`` seconds.
        """
        with self._changed:
            self._closing, self._last_sent = True, time.monotonic()
            self._changed.notify_all()
            if self._away:
                logger.warning("waiting %g s for MLflow at %s to come back", patience, self._uri)
            while self._waiting and (rest := self._last_sent + patience - time.monotonic()) > 0:
                self._changed.wait(rest)
            missing = list(self._waiting)
            self._waiting.clear()
            self._changed.notify_all()
        return missing

    def _work(self) -> None:
        failures = 0
        while items := self._next():
            try:
                _send(items, self._send_points)
            except Exception as error:  # MLflow, SQLAlchemy, requests and boto3 each raise their own
                failures += 1
                if not self._is_lost(items, error, failures):
                    self._pause(error, failures)
                    continue
                if len(items) > 1:  # one step's points may be what is refused: the others shall not go with them
                    self._singly = len(items)
                    continue
                self._refused(items, error)
            failures = 0
            self._done(items)

    def _next(self) -> list[Points] | list[Request]:
        """The next request, or the points of as many steps as fit into one; empty once all is sent and closed."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._closing)
            steps: list[Points] = []
            size = 0
            for item in self._waiting:
                if isinstance(item, Request):
                    return steps or [item]
                size += len(item.values)
                if steps and (self._singly or size > MOST_POINTS):
                    break
                steps.append(item)
            return steps

    def _is_lost(self, items: list[Points] | list[Request], error: Exception, failures: int) -> bool:
        """Whether sending again is of no use."""
        if not may_pass(error):
            return True
        if failures < _TRIES or isinstance(items[0], Points):
            return False
        try:
            self._check()
        except Exception:  # the server is away, whatever it was that failed
            return False
        return True

    def _pause(self, error: Exception, failures: int) -> None:
        with self._changed:
            if not self._away:
                logger.warning(
                    "MLflow at %s does not answer, training goes on and sends what it lacks later: %s",
                    self._uri,
                    first_line(error),
                )
            self._away, closing = True, self._closing
            longest = _LONGEST_PAUSE_AT_THE_END if closing else _LONGEST_PAUSE
            self._changed.wait_for(
                lambda: self._closing != closing or not self._waiting, min(2 ** min(failures - 1, 10), longest)
            )

    def _refused(self, items: list[Points] | list[Request], error: Exception) -> None:
        reason = first_line(error)
        if reason not in self._refusals:  # a run deleted on the server would have a line for each request
            self._refusals.add(reason)
            logger.warning("MLflow at %s refuses this, which is left out: %s (%s)", self._uri, summary(items), reason)

    def _done(self, items: list[Points] | list[Request]) -> None:
        with self._changed:
            if self._away:
                self._away = False
                logger.warning("MLflow at %s answers again", self._uri)
            for _ in items[: len(self._waiting)]:  # none wait any more if the outbox was given up meanwhile
                self._waiting.popleft()
            self._singly = max(0, self._singly - len(items))
            self._last_sent = time.monotonic()
            self._changed.notify_all()


def may_pass(error: Exception) -> bool:
    """Whether the same request may succeed later: the server was not reached, or answered 5xx, 408 or 429."""
    from mlflow.exceptions import MlflowException
    from requests import RequestException

    if isinstance(error, MlflowException):  # 500 where no answer came
        status = error.get_http_status_code()
    elif isinstance(error, RequestException):
        status = 500 if error.response is None else error.response.status_code
    else:
        return isinstance(error, ConnectionError | TimeoutError)
    return status >= 500 or status in (408, 429)


def first_line(error: Exception) -> str:
    """The error in one line of at most 200 characters; MLflow's own name URLs with their password."""
    line = (str(error).splitlines() or [type(error).__name__])[0]
    return re.sub(r"//[^/\s]*@", "//", line)[:200]


def summary(items: Iterable[Points | Request]) -> str:
    """'metrics of steps 3 to 20, recipe.yaml'."""
    steps = [item.step for item in items if isinstance(item, Points)]
    named = [item.what for item in items if isinstance(item, Request)]
    if steps:
        first, last = min(steps), max(steps)
        named.insert(0, f"metrics of step {last}" if first == last else f"metrics of steps {first} to {last}")
    return ", ".join(named)


def _send(items: list[Points] | list[Request], send_points: Callable[[list[Points]], object]) -> None:
    first = items[0]
    if isinstance(first, Request):
        first.send()
    else:
        send_points([item for item in items if isinstance(item, Points)])
