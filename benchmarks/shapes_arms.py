"""The arms of ``shapes_claims.py``: what each trains, and one numbers file a seed, so that nothing is done twice.

Arms of one seed have the same weights at step 0 (those that a start replaces apart), the same order of pairs, the same
number of steps and the same schedule, unless it says otherwise below.
"""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from shapes_cost import measure_steps
from shapes_data import DataFolder, TrainingSet, contents, read_training_images
from shapes_numbers import benchmark_numbers, measure
from shapes_starts import FACTS_FILE, STARTS, WEIGHTS_FILE, make_start

from clippy.architecture import ImagePooling
from pipelines.checkpoints import checkpoint_name
from pipelines.console import Console
from pipelines.direct import run_direct
from pipelines.recipe import Recipe, load_recipe
from pipelines.storage import locate

USUAL = TrainingSet()


@dataclass(frozen=True)
class Arm:
    """A training that differs from the first one in what is named."""

    pooling: ImagePooling = "max"
    start: Literal["random", "dino", "dino-scrambled", "supervised"] = "random"
    pairs: TrainingSet = USUAL
    patch_dropout: float = 0.0
    frozen_text: bool = False
    budget: Literal["steps", "double", "seconds", "start"] = "steps"
    """As many steps as the others; twice as many; as many as take the first arm's seconds; or more, by what a ``dino``
    start takes. Birds are learned late: runs of 400 and 500 steps that nothing misled told 84 and 82 % of them on the
    other ground, too few to tell what is misled from what is not learned."""


SPURIOUS = (0.8, 0.9, 0.95)
"""Correlations of bird and ground under which the ground is a short cut."""

ARMS: dict[str, Arm] = {
    **{pooling: Arm(pooling) for pooling in ("max", "mean", "cls")},
    **{f"{pooling} {start}": Arm(pooling, start) for start in STARTS for pooling in ("max", "cls")},
    **{f"{pooling} longer": Arm(pooling, budget="start") for pooling in ("max", "cls")},
    **{
        f"{pooling} rho {rho:g}": Arm(pooling, pairs=TrainingSet(correlation=rho), budget="double")
        for rho in (0.5, *SPURIOUS)
        for pooling in ("max", "cls")
    },
    **{
        f"{pooling} rho 0.9 named {named:g}": Arm(
            pooling, pairs=TrainingSet(correlation=0.9, ground_named=named), budget="double"
        )
        for named in (0.1, 0.9)
        for pooling in ("max", "cls")
    },
    **{
        f"max 128px drop {drop:g}": Arm(pairs=TrainingSet(image_size=128), patch_dropout=drop, budget="seconds")
        for drop in (0.0, 0.5, 0.8)
    },
    "max shuffled captions": Arm(pairs=TrainingSet(captions="shuffled")),
    "max objects only": Arm(pairs=TrainingSet(captions="objects")),
    "max frozen text": Arm(frozen_text=True),
    "max_with_cls": Arm("max_with_cls"),
    "log_sum_exp": Arm("log_sum_exp"),
    "generalized_mean": Arm("generalized_mean"),
    "top_k": Arm("top_k"),
    "random": Arm("random"),
}

GROUPS: dict[str, tuple[str, ...]] = {
    "C1": ("max", "mean", "cls"),
    "C2": ("max", "max dino", "max supervised"),
    "C3": ("cls", "cls dino", "cls supervised"),
    "C4": tuple(f"{pooling} rho {rho:g}" for rho in (0.5, *SPURIOUS) for pooling in ("max", "cls")),
    "C5": ("max", *(f"max 128px drop {drop}" for drop in ("0.5", "0.8", "0"))),
    "text": ("max", "max shuffled captions", "max objects only", "max frozen text"),
    "compute": ("max dino", "max longer", "cls dino", "cls longer"),
    "naming": tuple(f"{p} rho 0.9{named}" for named in (" named 0.1", "", " named 0.9") for p in ("max", "cls")),
    "continuum": ("max", "max_with_cls", "log_sum_exp", "generalized_mean", "top_k", "mean", "random"),
    "scrambled": ("max", "max dino", "max dino-scrambled", "cls", "cls dino", "cls dino-scrambled"),
}
"""What is compared. A run that several groups share is trained once."""
DEFAULT_GROUPS = ("C1", "C2", "C3", "C4", "C5", "text", "compute")


@dataclass(frozen=True)
class Settings:
    """How long and on how much; a folder of results holds those of one."""

    steps: int = 400
    batch_size: int = 128
    rows: int = 8192
    single_rows: int = 600
    multi_rows: int = 400
    camouflage_rows: int = 200
    dino_steps: int = 600
    supervised_steps: int = 300

    @classmethod
    def quick(cls) -> Settings:
        """To try the program."""
        return cls(20, 64, 512, 96, 64, 64, dino_steps=5, supervised_steps=5)

    def start_steps(self, start: str) -> int:
        """Of making a starting point."""
        return self.supervised_steps if start == "supervised" else self.dino_steps


DINO_BATCH = 64
DINO_STEP = 2.0
"""What a step of DINO on its batch takes, in steps of the first arm; only to tell how much time is left."""


class Interrupted(Exception):
    """Somebody asked to stop; the checkpoint is written."""


@dataclass(frozen=True)
class Study:
    """A folder of results: ``settings.json``, ``data/``, ``starts/``, ``runs/`` and ``numbers/ARM/seed-N.json``."""

    folder: Path
    settings: Settings

    def __post_init__(self) -> None:
        """Raises ValueError where the folder holds results of other settings."""
        file, mine = self.folder / "settings.json", asdict(self.settings)
        if file.exists():
            theirs = json.loads(file.read_text())
            changed = [f"{k} {theirs.get(k)}, not {v}" for k, v in mine.items() if theirs.get(k) != v]
            if changed:
                raise ValueError(
                    f"{self.folder}: holds results with {', '.join(changed)}; name another folder by --out"
                )
        _write(file, mine)

    @property
    def data(self) -> DataFolder:
        """Made on demand."""
        s = self.settings
        return DataFolder(self.folder / "data", s.rows, s.single_rows, s.multi_rows, s.camouflage_rows)

    def numbers_file(self, arm: str, seed: int) -> Path:
        """Of a run; it is there when all is measured."""
        return self.folder / "numbers" / arm.replace(" ", "-") / f"seed-{seed}.json"

    def is_done(self, arm: str, seed: int) -> bool:
        """Whether there is nothing left to do."""
        return self.numbers_file(arm, seed).exists()

    def results(self, arm: str, seeds: range) -> dict[int, dict[str, Any]]:
        """By seed, of the runs that are done."""
        files = {seed: self.numbers_file(arm, seed) for seed in seeds}
        return {seed: json.loads(file.read_text()) for seed, file in files.items() if file.exists()}

    def run(self, name: str, seed: int, console: Console) -> None:
        """Train, measure, and leave the numbers. Raises Interrupted if somebody asks to stop meanwhile."""
        arm = ARMS[name]
        if arm.start != "random":
            self.make_start(arm.start, seed, console)
        elif arm.budget == "start" and not self.start_known("dino", seed):
            self.make_start("dino", seed, console)
        recipe = self.recipe(name, seed)
        began_here, started = not Path(recipe.run_url).exists(), time.process_time()
        with _signals_kept():
            finished = run_direct(recipe, console)
        if not finished:
            raise Interrupted
        facts = {"arm": name, "seed": seed, "steps": recipe.train.steps}
        if began_here:  # of a run that was stopped and went on, nobody knows what it took in all
            facts["processor_seconds"] = time.process_time() - started
        checkpoint = Path(recipe.run_url) / "checkpoints" / checkpoint_name(recipe.train.steps)
        size = arm.pairs.image_size
        numbers, trivial = measure(checkpoint, self.data.evaluation(size), size)
        if size != USUAL.image_size:  # shown as the others are, so that finer patches are no advantage
            theirs, _ = benchmark_numbers(checkpoint, self.data.evaluation(USUAL.image_size), USUAL.image_size)
            numbers |= {f"{number}_at_{USUAL.image_size}": value for number, value in theirs.items()}
        _write(self.numbers_file(name, seed), {**facts, "numbers": numbers, "trivial": trivial})

    def make_start(self, start: str, seed: int, console: Console) -> dict[str, Any]:
        """Facts about a starting point, which is trained now if its weights are not there."""
        folder = self.start_folder(start, seed)
        shards = self.data.training(USUAL)
        if (folder / WEIGHTS_FILE).exists() and self.start_known(start, seed):
            return json.loads((folder / FACTS_FILE).read_text())

        def report(step: int, steps: int, loss: float) -> None:
            if step % 20 == 0 or step == steps:
                console.progress(f"start {start}: step {step}/{steps}  loss {loss:.3f}")

        return make_start(
            start,
            folder,
            self.recipe("max", seed).model.image,
            read_training_images(shards),
            contents(self.settings.rows),
            seed=seed,
            steps=self.settings.start_steps(start),
            batch_size=self.settings.batch_size if start == "supervised" else DINO_BATCH,
            report=report,
        )

    def start_known(self, start: str, seed: int) -> bool:
        """Whether the facts about a starting point are there, which outlive its weights."""
        return (self.start_folder(start, seed) / FACTS_FILE).exists()

    def start_folder(self, start: str, seed: int) -> Path:
        """Where a starting point lies."""
        return self.folder / "starts" / f"{start}-seed-{seed}"

    def recipe(self, name: str, seed: int) -> Recipe:
        """Of an arm's run; the ``shapes`` recipe with few changes."""
        arm, steps = ARMS[name], self.steps(name, seed)
        changes = {
            "name": f"{name.replace(' ', '-')}-seed-{seed}",
            "seed": seed,
            "model.image.pooling": arm.pooling,
            "model.image.image_size": arm.pairs.image_size,
            "model.image.patch_dropout": arm.patch_dropout,
            "model.image.pretrained": False if arm.start == "random" else str(self.start_folder(arm.start, seed)),
            "model.text.frozen": arm.frozen_text,
            "data.url": str(self.data.training(arm.pairs)),
            "optim.global_batch_size": self.settings.batch_size,
            "optim.warmup_steps": steps // 8,
            "train.steps": steps,
            "train.log_every": 20,
            "checkpoint.keep_last": 1,
            "eval.benchmark": None,
            "scaling.num_workers": 1,
            "storage.url": str(self.folder / "runs"),
        }
        return load_recipe("shapes", [f"{field}={json.dumps(value)}" for field, value in changes.items()])

    def steps(self, name: str, seed: int) -> int:
        """Of an arm's training, by its budget."""
        budget, steps = ARMS[name].budget, self.settings.steps
        if budget == "double":
            return 2 * steps
        if budget == "seconds":
            costs = self.step_seconds()
            return max(8, round(steps * costs["max"] / costs[name]))
        if budget == "start":
            facts = json.loads((self.start_folder("dino", seed) / FACTS_FILE).read_text())
            return steps + round(facts["processor_seconds"] / self.step_seconds()["max"])
        return steps

    def step_seconds(self) -> dict[str, float]:
        """Processor seconds of a step of the arms whose time is compared: measured once, in turn, in this process.

        On one thread that is the wall-clock of a machine with nothing else to do, which this one may not be.
        """
        file = self.folder / "step_seconds.json"
        if not file.exists():
            _write(file, measure_steps({name: self._calibrated(name) for name in GROUPS["C5"]}))
        return json.loads(file.read_text())

    def _calibrated(self, name: str) -> Recipe:
        """An arm's recipe but for its steps, which are to be found."""
        arm, recipe = ARMS[name], self.recipe("max", 0)
        changes = {"image_size": arm.pairs.image_size, "patch_dropout": arm.patch_dropout}
        model = recipe.model.model_copy(update={"image": recipe.model.image.model_copy(update=changes)})
        return recipe.model_copy(update={"model": model})

    def work(self, name: str, seed: int) -> float:
        """About how much a run takes, starts that are missing included, in steps of the first arm."""
        arm, steps = ARMS[name], float(self.settings.steps)
        if arm.budget == "double":
            steps *= 2
        if arm.budget == "start":
            steps += DINO_STEP * self.settings.dino_steps
        if arm.start != "random" and not self.start_known(arm.start, seed):
            steps += self.settings.start_steps(arm.start) * (1.0 if arm.start == "supervised" else DINO_STEP)
        return steps


@contextmanager
def _signals_kept() -> Iterator[None]:
    """Put the handlers back that a training replaces by its own."""
    kept = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in kept.items():
            signal.signal(number, handler)


def _write(file: Path, values: dict[str, Any]) -> None:
    """JSON that appears whole or not at all."""
    file.parent.mkdir(parents=True, exist_ok=True)
    locate(str(file)).write_text(json.dumps(values, indent=1) + "\n")


def threads_limited(threads: int) -> None:
    """This process computes on so many threads."""
    os.environ["OMP_NUM_THREADS"] = str(threads)
    torch.set_num_threads(threads)
