"""The stream of a training, event by event: units are read, decoded and handed over in order, and steps wait for them.

The machine of ``stream_need``'s closed form, but with requests that come late, cores that are slow, steps that one
straggler holds up, and failures. A function of its arguments and the seed; without noise it is the closed form.
"""

from __future__ import annotations

import heapq
import random
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from math import inf, log

from cluster.capacity.plan import WORKERS, Plan
from cluster.capacity.stream_need import rows_per_core

THREADS = 2
"""Of a decoder: one reads or hands over while the other decodes."""


@dataclass(frozen=True)
class Stream:
    """A training's stream in seconds and units."""

    workers: int
    units_per_worker: int
    """Of a step."""
    cores: int
    read_seconds: float
    decode_seconds: float
    """Of a unit, on a core as it is when all are busy."""
    request_seconds: float
    """Of storage, for the requests of a unit: no two units' overlap."""
    links: int
    """Machines with workers; each takes in its own workers' units."""
    transfer_seconds: float
    """Of a unit, on one link."""
    step_seconds: float
    window: int
    """Units that may be dealt and not yet trained on."""

    @property
    def units_per_step(self) -> int:
        """Of all workers."""
        return self.workers * self.units_per_worker


@dataclass(frozen=True)
class Noise:
    """How things differ from time to time; all zero is none."""

    read_spread: float = 0.0
    """Of the logarithm of a read's time, whose mean stays what it is."""
    late_share: float = 0.0
    """Reads that come ``late_seconds`` later."""
    late_seconds: float = 0.0
    slow_share: float = 0.0
    """Cores that take ``slow_times`` as long, all the time."""
    slow_times: float = 1.0
    step_spread: float = 0.0
    """Standard deviation of each worker's step, as a share of it; the slowest one counts."""


@dataclass(frozen=True)
class Steps:
    """What came of some steps."""

    ends: list[float]
    """Of each step, in seconds from the start."""
    waited: float
    """Seconds in which training had nothing to do, from the second step on."""

    def seconds_per_step(self, after: int) -> float:
        """On average, from the end of step ``after`` to that of the last."""
        return (self.ends[-1] - self.ends[after]) / (len(self.ends) - 1 - after)


def stream_of(plan: Plan) -> Stream:
    """The plan's stream. Rates of its stages and of this are the same."""
    setting, unit = plan.setting, plan.unit
    cluster, rates = setting.cluster, setting.hardware.rates
    share = 1.0 if cluster.shares_cores else rates.thread_share.value
    decode = unit.rows / rows_per_core(unit, share)[0]
    speed = {stage.name: stage.images_per_second for stage in plan.stages}
    requests = speed.get("storage requests", inf)
    per_step = setting.recipe.optim.global_batch_size // unit.rows
    return Stream(
        workers=cluster.workers,
        units_per_worker=-(-per_step // cluster.workers),
        cores=cluster.decode_cores,
        read_seconds=unit.read_seconds,
        decode_seconds=decode,
        request_seconds=unit.rows / requests,
        links=cluster.nodes,
        transfer_seconds=cluster.nodes * unit.rows / speed["network"],
        step_seconds=setting.recipe.optim.global_batch_size / speed[WORKERS],
        window=max(per_step, plan.store.limit_bytes // plan.store.unit_bytes),
    )


def noise_of(plan: Plan) -> Noise:
    """What is assumed of a cluster."""
    rates = plan.setting.hardware.rates
    names = ("read_spread", "late_share", "late_seconds", "slow_share", "slow_times", "step_spread")
    return Noise(**{name: getattr(rates, name).value for name in names})


def simulate(stream: Stream, steps: int, noise: Noise | None = None, seed: int = 0) -> Steps:
    """So many steps from a cold start."""
    return _Simulation(stream, noise or Noise(), random.Random(seed)).run(steps)


class _Simulation:
    """One run. Events are (time, number, action): of two at one time, the one that was foreseen first comes first."""

    def __init__(self, stream: Stream, noise: Noise, draw: random.Random) -> None:
        self._stream, self._noise, self._draw = stream, noise, draw
        self._events: list[tuple[float, int, Callable[[float], None]]] = []
        self._foreseen = 0
        slow = round(noise.slow_share * stream.cores)
        self._core_times = [noise.slow_times] * slow + [1.0] * (stream.cores - slow)
        self._idle_threads = deque(core for _ in range(THREADS) for core in range(stream.cores))
        self._busy = [False] * stream.cores
        self._waiting: list[deque[int]] = [deque() for _ in range(stream.cores)]
        self._dealt = self._released = self._used = 0
        self._last = 0
        self._decoded: set[int] = set()
        self._links = [0.0] * stream.links
        self._storage = 0.0
        self._arrived: dict[int, int] = {}
        self._training = False
        self._ends: list[float] = []
        self._idle_since, self._waited = 0.0, 0.0

    def run(self, steps: int) -> Steps:
        """All of it."""
        self._last = steps * self._stream.units_per_step
        self._steps = steps
        self._deal(0.0)
        while self._events and len(self._ends) < steps:
            time, _, action = heapq.heappop(self._events)
            action(time)
        return Steps(self._ends, self._waited)

    def _at(self, time: float, action: Callable[[float], None]) -> None:
        heapq.heappush(self._events, (time, self._foreseen, action))
        self._foreseen += 1

    def _deal(self, now: float) -> None:
        """Give units, in order, to threads that have none, as far ahead as memory allows."""
        while self._idle_threads and self._dealt < min(self._last, self._used + self._stream.window):
            core, unit = self._idle_threads.popleft(), self._dealt
            self._dealt += 1
            begin = max(now, self._storage)
            self._storage = begin + self._stream.request_seconds
            self._at(begin + self._read_seconds(), partial(self._read, core, unit))

    def _read(self, core: int, unit: int, now: float) -> None:
        self._waiting[core].append(unit)
        self._decode_next(now, core)

    def _decode_next(self, now: float, core: int) -> None:
        if self._busy[core] or not self._waiting[core]:
            return
        self._busy[core] = True
        unit = self._waiting[core].popleft()
        end = now + self._stream.decode_seconds * self._core_times[core]
        self._at(end, partial(self._decode_done, core, unit))

    def _decode_done(self, core: int, unit: int, now: float) -> None:
        self._busy[core] = False
        self._idle_threads.append(core)
        self._decode_next(now, core)
        self._decoded.add(unit)
        while self._released in self._decoded:  # in the plan's order, whichever was faster
            self._decoded.remove(self._released)
            self._send(now, self._released)
            self._released += 1
        self._deal(now)

    def _send(self, now: float, unit: int) -> None:
        stream = self._stream
        worker = unit % stream.workers
        link = worker * stream.links // stream.workers
        self._links[link] = max(now, self._links[link]) + stream.transfer_seconds
        self._at(self._links[link], partial(self._arrive, unit // stream.units_per_step))

    def _arrive(self, step: int, now: float) -> None:
        self._arrived[step] = self._arrived.get(step, 0) + 1
        self._begin(now)

    def _begin(self, now: float) -> None:
        """The next step, when everything that it needs is there."""
        step, stream = len(self._ends), self._stream
        if self._training or step >= self._steps or self._arrived.get(step, 0) < stream.units_per_step:
            return
        self._training = True
        if step:
            self._waited += now - self._idle_since
        self._used += stream.units_per_step
        self._at(now + self._step_seconds(), self._end)
        self._deal(now)

    def _end(self, now: float) -> None:
        self._training = False
        self._arrived.pop(len(self._ends))
        self._ends.append(now)
        self._idle_since = now
        self._begin(now)

    def _read_seconds(self) -> float:
        noise, seconds = self._noise, self._stream.read_seconds
        if noise.read_spread:
            seconds *= self._draw.lognormvariate(-(noise.read_spread**2) / 2, noise.read_spread)
        if noise.late_share and self._draw.random() < noise.late_share:
            seconds += noise.late_seconds
        return seconds

    def _step_seconds(self) -> float:
        spread, seconds = self._noise.step_spread, self._stream.step_seconds
        if not spread:
            return seconds
        slowest = max(self._draw.gauss(0, 1) for _ in range(self._stream.workers))
        return seconds * (1 + spread * max(0.0, slowest))


def seconds_without_noise(stream: Stream, steps: int) -> float:
    """When the last of so many steps ends, in closed form: no link, no limit of storage, and memory enough."""
    read, decode, cores = stream.read_seconds, stream.decode_seconds, stream.cores

    def decoded(unit: int) -> float:
        rounds = unit // cores  # each core has its first two units at work from the start
        if decode >= read:
            return read + (rounds + 1) * decode
        return rounds // 2 * (read + decode) + read + (1 + rounds % 2) * decode

    units = stream.units_per_step
    return max(decoded((k + 1) * units - 1) + (steps - k) * stream.step_seconds for k in range(steps))


@dataclass(frozen=True)
class Run:
    """A whole run with its failures."""

    seconds: float
    failures: int
    lost_steps: int
    """Done again."""


def simulate_run(plan: Plan, steps: int, seconds_per_step: float, seed: int = 0) -> Run:
    """A run of so many steps that stands still for checkpoints, fails at random and goes on from the last whole one."""
    found, rates = plan.checkpoints, plan.setting.hardware.rates
    draw = random.Random(seed)
    clock, done, failures, lost = 0.0, 0, 0, 0
    while True:
        # Until the next failure; what went before does not matter to it.
        until = (
            -3600 * found.hours_between_failures * log(1 - draw.random()) if found.hours_between_failures < inf else inf
        )
        if until >= _seconds(steps - done, done, found.steps, found.stall_seconds, seconds_per_step):
            clock += _seconds(steps - done, done, found.steps, found.stall_seconds, seconds_per_step)
            return Run(clock, failures, lost)
        reached = done + int(until / (seconds_per_step + found.stall_seconds / found.steps))
        saved = max(done, _saved(until, done, found.steps, found.stall_seconds, found.write_seconds, seconds_per_step))
        clock += until + rates.restart_seconds.value
        failures, lost, done = failures + 1, lost + reached - saved, saved


def _seconds(steps: int, done: int, every: int, stall: float, each: float) -> float:
    """Of so many steps after ``done`` of them, with the checkpoints among them."""
    return steps * each + ((done + steps) // every - done // every) * stall


def _saved(until: float, done: int, every: int, stall: float, write: float, each: float) -> int:
    """The newest step whose checkpoint is whole so many seconds after step ``done``."""
    first = (done // every + 1) * every
    first_whole = (first - done) * each + stall + write
    if until < first_whole:
        return 0
    return first + int((until - first_whole) // (every * each + stall)) * every
