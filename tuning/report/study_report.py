"""Everything that a report of a study tells, before it is a page, Markdown or JSON."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from clippy.config import ConfigError, nearest
from pipelines.console import Console
from pipelines.evaluation.comparison.numbers import lower_is_better
from pipelines.recipe import Recipe
from pipelines.run_folder import RunFolder
from tuning.report.ablation import Ablation, TrialNumbers, find_ablation, trial_numbers
from tuning.report.importance import Importance, importance
from tuning.report.outcome import SEED, Setting, counts, pareto_front, settings
from tuning.report.pictures import Gallery, draw_trials
from tuning.report.scales import short_names
from tuning.results import STUDY_FILE, TRIALS, StudyResults, Trial, ranked
from tuning.study import Objective


@dataclass(frozen=True)
class StudyReport:
    """A study as it stands now: it may still run, or have been killed."""

    results: StudyResults
    objectives: tuple[Objective, ...]
    """The first ranks."""
    ranked: tuple[Trial, ...]
    """Trials that finished or were stopped early and have a value, the best first."""
    others: tuple[Trial, ...]
    """Those without: running, waiting, failed."""
    parameters: tuple[str, ...]
    """In the order of the study's space."""
    names: dict[str, str]
    """Short names of parameters and metrics."""
    settings: tuple[Setting, ...]
    """Trials over their seeds; none where no setting has two."""
    importance: tuple[Importance, ...]
    """One for each objective."""
    front: tuple[Trial, ...]
    """None with one objective."""
    ablation: Ablation | None
    gallery: Gallery
    recipe: Recipe
    """The best trial's."""

    @property
    def best(self) -> Trial:
        """First of the ranked."""
        return self.ranked[0]

    @property
    def by_importance(self) -> list[str]:
        """Parameters whose values the study lists, but the seed; those that explain most first where that is known."""
        known = {share.parameter: share.share for share in self.importance[0].shares}
        space = self.results.study.space
        listed = [n for n in self.parameters if n != SEED and (n not in space or space[n].values is not None)]
        return sorted(listed, key=lambda name: -known.get(name, 0.0))

    @property
    def trials(self) -> tuple[Trial, ...]:
        """All of them, the best first, those without a value last."""
        return self.ranked + self.others


def report_study(results: StudyResults, metric: str | None, pictures: int, console: Console) -> StudyReport:
    """What the study came to, ranked by ``metric`` or by its first; ``pictures`` of the best and the worst trial.

    Raises ConfigError where no trial has a value of the metric yet.
    """
    objectives = _objectives(results, metric)
    first = objectives[0]
    best_first = ranked(results.trials, first.metric, first.direction)
    if not best_first:
        raise ConfigError(results.folder.url, [_nothing_yet(results, first.metric)])
    parameters = list(dict.fromkeys([*results.study.space, *(n for t in results.trials for n in t.parameters)]))
    over_seeds = settings(results.trials, first)
    several = any(len(setting.trials) > 1 for setting in over_seeds)
    ends = best_first[:1] + best_first[1:][-1:]
    return StudyReport(
        results=results,
        objectives=objectives,
        ranked=tuple(best_first),
        others=tuple(_others(results.trials, best_first)),
        parameters=tuple(parameters),
        names=short_names([*parameters, *(objective.metric for objective in objectives)]),
        settings=tuple(over_seeds) if several else (),
        importance=tuple(_importance(results, best_first, objective) for objective in objectives),
        front=tuple(pareto_front(best_first, objectives)) if len(objectives) > 1 else (),
        ablation=find_ablation(over_seeds, lambda trial: _numbers(results, trial)),
        gallery=draw_trials([(trial.number, run_of(results, trial)) for trial in ends], pictures, console),
        recipe=run_of(results, best_first[0]).read_recipe(),
    )


def run_of(results: StudyResults, trial: Trial) -> RunFolder:
    """The trial's run, found from the study's folder, which may have been moved."""
    return RunFolder(results.folder / TRIALS / trial.name)


def _objectives(results: StudyResults, metric: str | None) -> tuple[Objective, ...]:
    """The study's, the asked one first."""
    own = results.study.metrics
    if metric is None:
        return own
    reported = {name: None for trial in results.trials for entry in trial.history for name in entry if name != "step"}
    known = list(dict.fromkeys([*(objective.metric for objective in own), *reported]))
    fitting = [name for name in known if name == metric] or [n for n in known if n.endswith(f"/{metric}")]
    if len(fitting) != 1:
        which = f"is the end of several: {', '.join(fitting)}" if fitting else "is no metric that a trial reported"
        ends = [name.rpartition("/")[2] for name in known]
        hint = "" if fitting else nearest(metric, [*known, *ends]) or f"; there are {', '.join(known)}"
        raise ConfigError("--metric", [f"{metric!r} {which}{hint}"])
    (name,) = fitting
    asked = next((o for o in own if o.metric == name), None)
    direction: Literal["max", "min"] = "min" if lower_is_better(name.rpartition("/")[2]) else "max"
    asked = asked or Objective(metric=name, direction=direction)
    return (asked, *(objective for objective in own if objective != asked))


def _nothing_yet(results: StudyResults, metric: str) -> str:
    failed = next((trial for trial in results.trials if trial.status == "failed"), None)
    why = f"; trial {failed.number} failed: {failed.error}" if failed else ""
    go_on = f"go on with: clippy tune {results.folder.url.rstrip('/')}/{STUDY_FILE}"
    return f"no trial has come to a value of {metric} yet ({counts(results.trials)}){why}; {go_on}"


def _others(trials: Sequence[Trial], best_first: Sequence[Trial]) -> list[Trial]:
    known, order = {trial.number for trial in best_first}, ("finished", "stopped", "running", "waiting", "failed")
    return sorted((t for t in trials if t.number not in known), key=lambda t: (order.index(t.status), t.number))


def _importance(results: StudyResults, trials: Sequence[Trial], objective: Objective) -> Importance:
    valued = [(trial.parameters, value) for trial in trials if (value := trial.value(objective.metric)) is not None]
    by_ratio = frozenset(name for name, domain in results.study.space.items() if domain.kind == "log_uniform")
    return importance(objective.metric, [point for point, _ in valued], [value for _, value in valued], by_ratio)


def _numbers(results: StudyResults, trial: Trial) -> TrialNumbers | None:
    run = run_of(results, trial)
    if not run.exists():
        return None
    from pipelines.evaluation.subject import newest_results

    found = newest_results(run)
    evaluated = [result for folder, result in found if folder.path.endswith(f"/{result.benchmark}")]  # the usual way
    return trial_numbers(trial, run.read_recipe(), results.study.base_recipe, evaluated)
