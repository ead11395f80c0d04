"""The sentences that the page, Markdown and terminal share."""

from __future__ import annotations

from pipelines.evaluation.paper import paper_source
from tuning.report.ablation import Ablation
from tuning.report.importance import SHUFFLES, Importance
from tuning.report.outcome import STATUS, counts
from tuning.report.study_report import StudyReport
from tuning.report.tables import number, trials_table
from tuning.results import Trial
from tuning.study import shown_value

_ON_TERMINAL = 10
"""Trials that are listed there, the best."""

TRIALS = (
    "The best first. A number is the last that the trial reported; where an earlier one was better, it stands below. "
    "Trials that were stopped early have those of their last validation."
)
CURVES = (
    "A line a trial; the best is thick. A dot ends a trial that ran to its end or still runs, a cross one that was "
    "stopped early. Pointing at a line names the trial."
)
PARALLEL = (
    "A line a trial that finished or was stopped early, through its parameters and what came of them. The best is "
    "thick, those that were stopped early are dashed."
)
IMPORTANCE = (
    "The share of a metric's variance that a parameter explains alone, by fANOVA (a random forest over the trials); "
    "what is missing to 100 % are parameters that act together. A forest finds reasons for noise too: what chance "
    f"gives is the most that the parameter explained in {SHUFFLES} goes with the values shuffled among the trials."
)
SEEDS = (
    "Trials that are equal but for their seed: mean ± sample standard deviation over those that finished. Trials that "
    "were stopped early have no place in a mean."
)
ABLATION = (
    "The paper's rows, in percent, and ours where settings and data are the same: mean ± sample standard deviation "
    "over the seeds that finished. Ours are those of the trials' evaluations, or else of their last validation."
)
FRONT = "Trials that no other equals in all of the metrics and beats in one."
PICTURES = (
    "The same pictures, spread evenly over the benchmark, neither picked nor ordered: as the best trial answers them, "
    "and below as the worst does. Left the picture, then the answer, then the truth where there is one."
)


def headline(report: StudyReport) -> str:
    """What the study is called and who leads."""
    metric, best = report.objectives[0].metric, report.best
    value = best.value(metric)
    assert value is not None  # the ranked have one
    so_far = " so far" if unfinished(report) else ""
    return f"{report.results.study.name}: trial {best.number} is best{so_far}, {report.names[metric]} {number(value)}"


def unfinished(report: StudyReport) -> int:
    """Trials that wait or run, or did when the study was killed."""
    return sum(trial.status in ("waiting", "running") for trial in report.trials)


def summary(report: StudyReport) -> str:
    """How many trials there are, how they were searched, and what the best one's parameters are."""
    study = report.results.study
    asha = ", poor ones stopped early by asha" if study.scheduler.name == "asha" else ""
    about = f"{study.about[:1].upper()}{study.about[1:].rstrip('.')}. " if study.about else ""
    return (
        f"{about}{counts(report.trials)}; {study.search} search over {study.base_recipe.name}{asha}. "
        f"Trial {report.best.number}: {parameters_of(report.best, report.names)}."
    )


def parameters_of(trial: Trial, names: dict[str, str]) -> str:
    """'pooling max, learning_rate 0.002'."""
    return ", ".join(f"{names.get(name, name)} {shown_value(value)}" for name, value in trial.parameters.items())


def told(trial: Trial, report: StudyReport) -> str:
    """A trial in a line: what became of it, its parameters, what it came to."""
    values = [(report.names[o.metric], trial.value(o.metric)) for o in report.objectives]
    came_to = [f"{name} {number(value)}" for name, value in values if value is not None]
    facts = ", ".join([parameters_of(trial, report.names), *came_to])
    return f"trial {trial.number}, {STATUS.get(trial.status, trial.status)} at step {trial.steps:,}: {facts}"


def warnings(report: StudyReport) -> list[str]:
    """What keeps the numbers from being taken as they stand."""
    said = []
    if open_trials := unfinished(report):
        were = "trial is" if open_trials == 1 else "trials are"
        said.append(f"{open_trials} {were} not done: this is how the study stands now, not how it ends.")
    failed = [trial.number for trial in report.trials if trial.status == "failed"]
    if failed:
        which = ", ".join(map(str, failed[:12])) + (", ..." if len(failed) > 12 else "")
        said.append(f"{len(failed)} of {len(report.trials)} trials failed ({which}); the table has their errors.")
    if report.settings and (ahead := _ahead_by_luck(report)):
        said.append(ahead)
    return said


def _ahead_by_luck(report: StudyReport) -> str:
    """Where the best trial is not of the setting with the best mean over seeds."""
    best, leading = report.best, report.settings[0]
    if leading.spread(report.objectives[0]) is None or best in leading.trials:
        return ""
    return (
        f"Trial {best.number} is the best, but the best mean over seeds has another setting, that of trial "
        f"{leading.trials[0].number}: the best of many seeds is partly luck."
    )


def ablation_notes(report: StudyReport, ablation: Ablation) -> tuple[str, ...]:
    """The paper's notes, and how ours were trained."""
    base = report.results.study.base_recipe
    ours = (
        f"Ours: {base.train.steps:,} steps of {base.optim.global_batch_size:,} pairs, where a trial says nothing else."
    )
    return (*ablation.table.notes, ours, f"Source: {paper_source()}.")


def importance_note(found: Importance, report: StudyReport) -> str:
    """What goes with the shares of one metric, or why there are none."""
    stopped = sum(trial.status == "stopped" for trial in report.ranked)
    parts = [f"No number: {found.why_none}."] if found.why_none else [f"From {found.trials} trials."]
    if stopped and not found.why_none:
        parts.append(f"{stopped} of them were stopped early and count with the value that they had then.")
    if found.left_out:
        left_out = ", ".join(report.names[name] for name in found.left_out)
        parts.append(f"Left out, because not all trials have them: {left_out}.")
    return " ".join(parts)


def terminal(report: StudyReport, files: dict[str, str]) -> str:
    """The best trials, what is to be wary of, and where the files are."""
    shown = trials_table(report.ranked[:_ON_TERMINAL], report.objectives, report.parameters, report.names)
    rows = [shown.head, *((row.name, *(entry.text for entry in row.entries)) for row in shown.rows)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]
    if len(report.trials) > len(shown.rows):
        lines.append(f"{len(report.trials) - len(shown.rows)} more are in {files['report.html']}")
    warned = "\n".join(f"warning: {warning}" for warning in warnings(report))
    parts = [headline(report), counts(report.trials), warned, "\n".join(lines), "\n".join(files.values())]
    return "\n\n".join(part for part in parts if part)
