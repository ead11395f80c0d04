"""``clippy quickstart``: data, index, training, evaluation and report of the shapes recipe, in a row; again resumes."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from pipelines.console import Console, duration
from pipelines.recipe import Recipe, load_recipe
from pipelines.shapes import generate


@dataclass(frozen=True)
class Results:
    """What came out, and where it lies."""

    summary: dict[str, Any]
    evaluation: dict[str, Any]
    report: str
    seconds: float

    def as_dict(self) -> dict[str, Any]:
        """For ``--json``."""
        return asdict(self)

    def as_text(self) -> str:
        """A short table, and where to look."""
        tables = self.evaluation["tables"]
        accuracy, segmentation = tables["classification"], tables["segmentation"]
        ground, oracle = segmentation["all background"], segmentation["patch-majority oracle"]
        rows = [
            ("object accuracy", accuracy["model"]["top-1"], f"chance {accuracy['chance']['top-1']:.3f}"),
            *(
                (name, value, f"all background {ground[name]:.3f}, oracle {oracle[name]:.3f}")
                for name, value in segmentation["model"].items()
            ),
            *(
                (
                    f"Jaccard, {table}",
                    tables[table]["model"]["Jaccard"],
                    f"raw-colour components {tables[table]['raw-colour components']['Jaccard']:.3f}",
                )
                for table in ("grouping", "grouping in camouflage")
            ),
        ]
        lines = [f"{name:<32}{value:6.3f}   ({beside})" for name, value, beside in rows]
        return "\n".join([*lines, "", f"{duration(self.seconds)}; now open {self.report}"])


def quickstart_recipe(out: str, overrides: Sequence[str] = ()) -> Recipe:
    """The recipe with everything below the folder ``out``. Raises ConfigError."""
    folder = out.rstrip("/")
    places = [f"data.url={folder}/data/train", f"eval.url={folder}/data", f"storage.url={folder}/runs"]
    return load_recipe("shapes", [*places, *overrides])


def quickstart(out: str, overrides: Sequence[str] = ()) -> Results:
    """Run everything for the shapes recipe below the folder ``out``; what is there already is not made again.

    Raises ValueError, with one clear sentence, for a mistake of the user.
    """
    started, console = time.monotonic(), Console()
    folder, recipe = out.rstrip("/"), quickstart_recipe(out, overrides)
    console.line(f"1/4 scenes with captions in {folder}/data")
    generate(f"{folder}/data", seed=recipe.seed, progress=lambda done, total: console.count("scenes", done, total))
    console.clear()
    console.line("2/4 training")
    from pipelines.evaluate import Request, evaluate
    from pipelines.local_ray import ray_session
    from pipelines.report import write_report
    from pipelines.train import run

    with ray_session(recipe.scaling):
        summary = run(recipe, console)
        if summary.status != "finished":
            raise KeyboardInterrupt
        console.line("3/4 evaluation")
        evaluation = evaluate(Request(recipe.run_url), console)
    console.line("4/4 report")
    report = write_report(recipe.run_url)
    return Results(asdict(summary), evaluation.as_dict(), report, time.monotonic() - started)
