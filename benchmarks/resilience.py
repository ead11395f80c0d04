"""A training that is disturbed in every way that a cluster knows, against the same training that is not.

    python benchmarks/resilience.py [--only worker,node,...] [--json]

Runs ``clippy train shapes`` with two workers on a Ray cluster of several raylets on this machine, and in mid-run:

worker       kills a training worker
node         kills all processes of a worker's node; a new node comes
decoder      kills a process that decodes
controller   kills Ray Train's controller
driver       kills ``clippy train`` and runs the same command again
preemption   gives notice that a worker's node will be taken, and takes it; a new node comes
elastic      kills one of two nodes of a run with ``scaling.num_workers=[1, 2]``, and gives it back later
mlflow       kills the MLflow server and starts it again
storage      breaks every request to the checkpoints' object store for a while
slow         makes each upload of a checkpoint take 30 seconds

steps lost       steps that were done and had to be done again
samples lost     pairs of the run's epochs that the final weights never saw
samples twice    pairs that they saw more often than the epochs hold them
seconds          from the fault to the first step beyond the last one done before it
curve            whether each step's loss is that of the undisturbed run: to the bit, for ``elastic`` to 1e-5
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from lab import Lab, Run, start_lab
from servers import MlflowServer, Proxy, clean_up_when_terminated, serve_bucket

from pipelines.storage import locate

STEPS, BATCH, AT = 60, 256, 17
"""A fault comes after step AT, between the checkpoints of steps 10 and 20."""
OVERRIDES = [
    f"train.steps={STEPS}",
    f"optim.global_batch_size={BATCH}",
    "optim.warmup_steps=5",
    "model.image.patch_dropout=0.5",
    "train.log_every=1",
    "checkpoint.every=10",
    "scaling.decode_cores=1",
    "data.object_store_gib=0.03",  # or all is decoded before a fault comes
    "scaling.max_failures=5",
    "eval.benchmark=null",
]


@dataclass
class Row:
    """What a fault did."""

    fault: str
    steps_lost: int
    samples_lost: int
    samples_twice: int
    seconds_to_resume: float | None
    """None where the run did not go on."""
    curve_equal: bool
    note: str = ""


@dataclass(frozen=True)
class Fault:
    """The last step done before a fault, and the seconds from it to the first step beyond."""

    step: int
    seconds: float
    note: str = ""


def worker(lab: Lab, run: Run) -> Fault:
    """SIGKILL to one of the two workers."""
    return _strike(run, lambda: os.kill(lab.pids("ray::RayTrainWorker")[-1], signal.SIGKILL))


def node(lab: Lab, run: Run) -> Fault:
    """All processes of a node; another one comes."""
    return _strike(run, lambda: (lab.remove_node(), lab.add_node()))


def decoder(lab: Lab, run: Run) -> Fault:
    """SIGKILL to an actor that decodes."""
    return _strike(run, lambda: os.kill(lab.pids("ray::MapWorker")[-1], signal.SIGKILL))


def controller(lab: Lab, run: Run) -> Fault:
    """SIGKILL to the actor that starts and watches the workers."""
    return _strike(run, lambda: os.kill(lab.pids("ray::TrainController")[-1], signal.SIGKILL))


def driver(lab: Lab, run: Run) -> Fault:
    """SIGKILL to the command, which is given again."""
    return _strike(run, lambda: (run.kill(), run.start()))


def preemption(lab: Lab, run: Run) -> Fault:
    """Notice of ten seconds; then the node is gone and another one comes."""
    run.wait_for(lambda: run.step() >= AT, f"step {AT}")
    command = [sys.executable, "-m", "ray.scripts.scripts", "drain-node", "--address", lab.cluster.address]
    command += ["--node-id", lab.nodes[-1].node_id, "--reason", "DRAIN_NODE_REASON_PREEMPTION"]
    command += ["--reason-message", "spot", "--deadline-remaining-seconds", "10"]
    noticed = time.monotonic()
    subprocess.run(command, check=True, capture_output=True)
    run.wait_for(lambda: "will be taken" in run.printed(), "the notice")
    told = run.step()
    run.wait_for(lambda: time.monotonic() > noticed + 10 or run.step() > STEPS - 12, "the deadline")
    fault = _strike(run, lambda: (lab.remove_node(), lab.add_node()))
    return replace(fault, note=f"checkpoint on notice after step {told}")


def elastic(lab: Lab, run: Run) -> Fault:
    """Down to one worker, and back to two once it has gone on for a while."""
    fault = _strike(run, lab.remove_node)
    lab.add_node()
    run.wait_for(lambda: "started again on 2 workers" in run.printed(), "two workers again")
    return replace(fault, note="2 to 1 to 2 workers")


def _strike(run: Run, blow: Callable[[], Any]) -> Fault:
    run.wait_for(lambda: run.step() >= AT, f"step {AT}")
    step, started = run.step(), time.monotonic()
    blow()
    run.wait_for(lambda: run.step() > step + 1, "a step beyond the fault")  # one more may have been on its way
    return Fault(step, time.monotonic() - started)


def mlflow(lab: Lab, run: Run, server: MlflowServer) -> Fault:
    """SIGKILL to the server, which is started again ten steps later."""

    def blow() -> None:
        server.stop()
        run.wait_for(lambda: run.step() >= AT + 10, "ten steps without MLflow")
        server.start()

    fault = _strike(run, blow)
    run.finish()
    missing = STEPS - len(set(server.steps(run.folder.read_json("run.json")["mlflow_run_id"])))
    return replace(fault, note=f"{missing} steps missing in MLflow")


def storage(lab: Lab, run: Run, proxy: Proxy) -> Fault:
    """Every request fails until a checkpoint could not be written."""

    def blow() -> None:
        proxy.restart("--fail-every", "1")
        run.wait_for(lambda: "could not be written" in run.printed(), "a checkpoint that fails")
        proxy.restart()

    return _strike(run, blow)


def slow(lab: Lab, run: Run, proxy: Proxy) -> Fault:
    """Requests so slow that a checkpoint takes some 30 seconds; nothing else changes for the training."""
    run.wait_for(lambda: run.step() >= AT, f"step {AT}")
    proxy.restart("--delay-ms", "1300")
    return Fault(run.step(), 0.0)


OF_THE_CLUSTER = {f.__name__: f for f in (worker, node, decoder, controller, driver, preemption, elastic)}
OF_SERVICES = {f.__name__: f for f in (mlflow, storage, slow)}


def main() -> None:
    """Disturb, compare, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = [*OF_THE_CLUSTER, *OF_SERVICES]
    parser.add_argument("--only", default=",".join(names), help="faults, comma-separated")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    wanted = options.only.split(",")
    if unknown := sorted(set(wanted) - set(names)):
        parser.error(f"--only: there is no {', '.join(unknown)}; faults are {', '.join(names)}")
    clean_up_when_terminated()
    with tempfile.TemporaryDirectory(prefix="lab-") as folder, serve_bucket() as endpoint:
        os.environ |= {"AWS_ACCESS_KEY_ID": "any", "AWS_SECRET_ACCESS_KEY": "any", "AWS_REGION": "us-east-1"}
        os.environ["RAY_TMPDIR"] = folder  # so that no other Ray of this machine takes this cluster for its own
        with start_lab(Path(folder), 2, OVERRIDES) as lab:
            rows = measure_all(lab, endpoint, wanted)
    print(json.dumps([asdict(row) for row in rows], indent=2) if options.json else table(rows))
    if not all(row.curve_equal and row.samples_lost == row.samples_twice == 0 for row in rows):
        sys.exit(1)


def measure_all(lab: Lab, endpoint: str, names: list[str]) -> list[Row]:
    """A row for each fault, beside one undisturbed run."""
    undisturbed = Run(lab, "undisturbed", "scaling.num_workers=2", "tracking.enabled=false")
    undisturbed.finish()
    rows = []
    for name in names:
        print(f"{name} ...", file=sys.stderr, flush=True)
        try:
            rows.append(measure(lab, endpoint, name, undisturbed))
        except Exception as error:  # one fault that nothing comes after must not hide what the others do
            print(f"{type(error).__name__}: {error}", file=sys.stderr)
            rows.append(Row(name, STEPS, STEPS * BATCH, 0, None, False, "the run did not survive"))
    return rows


def measure(lab: Lab, endpoint: str, name: str, undisturbed: Run) -> Row:
    """Train, disturb, and compare with the run that nothing disturbed."""
    with ExitStack() as stack:
        more, services, folder = ["scaling.num_workers=2", "tracking.enabled=false"], [], None
        if name == "elastic":
            more = ["scaling.num_workers=[1, 2]", "scaling.resize_seconds=2", "tracking.enabled=false"]
        elif name == "mlflow":
            services = [stack.enter_context(MlflowServer(lab.runs))]
            more = ["scaling.num_workers=2", f"tracking.uri={services[0].url}"]
        elif name in OF_SERVICES:
            services = [stack.enter_context(Proxy(endpoint))]
            more += ["storage.url=s3://bucket/runs", f"storage.storage_options={{endpoint_url: '{services[0].url}'}}"]
            folder = locate(f"s3://bucket/runs/{name}", {"endpoint_url": endpoint})
        run = Run(lab, name, *more, folder=folder)
        stack.callback(run.kill)
        fault = (OF_SERVICES | OF_THE_CLUSTER)[name](lab, run, *services)
        run.finish()
        if name == "slow":
            fault = replace(fault, note=step_times(run))
        return compare(name, run, fault, undisturbed)


def step_times(run: Run) -> str:
    """How long steps took before and while checkpoints were slowly written."""
    seconds = {record["step"]: sum(record["phases"].values()) for record in run.folder.read_metrics()}
    before, during = (
        statistics.median(s for step, s in seconds.items() if step in steps)
        for steps in (range(5, AT), range(21, STEPS + 1))
    )
    return f"a step {during * 1e3:.0f} ms while checkpoints are written, {before * 1e3:.0f} ms before"


def compare(name: str, run: Run, fault: Fault, undisturbed: Run) -> Row:
    """What the fault did to steps, samples and losses."""
    redone = sum(max(0, fault.step - step) for step in run.went_on_from()[:1])
    expected, seen = (Counter(key for keys in r.ledger().values() for key in keys) for r in (undisturbed, run))
    assert sum(expected.values()) == STEPS * BATCH, "the undisturbed run has not taken its samples"
    losses, theirs = run.losses(), undisturbed.losses()
    tolerance = 1e-5 if name == "elastic" else 0.0
    equal = losses.keys() == theirs.keys() and all(
        abs(loss - theirs[step]) <= tolerance * abs(theirs[step]) for step, loss in losses.items()
    )
    lost, twice = (expected - seen).total(), (seen - expected).total()
    return Row(name, redone, lost, twice, round(fault.seconds, 1), equal, fault.note)


def table(rows: list[Row]) -> str:
    """A line a fault."""
    form = "{:<12}{:>11}{:>14}{:>15}{:>10}  {:<9}{}"
    lines = [form.format("fault", "steps lost", "samples lost", "samples twice", "seconds", "curve", "")]
    for row in rows:
        curve = "equal" if row.curve_equal else "differs"
        seconds = "never" if row.seconds_to_resume is None else row.seconds_to_resume
        numbers = (row.steps_lost, row.samples_lost, row.samples_twice, seconds)
        lines.append(form.format(row.fault, *numbers, curve, row.note))
    return "\n".join(lines)


if __name__ == "__main__":
    main()
