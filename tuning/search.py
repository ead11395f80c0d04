"""A study on Ray Tune: trials as training runs, many at once where the cluster has room, and again where it was left.

``clippy tune STUDY [a.b=c ...]`` on the command line, ``run_study(load_study(...))`` in Python.

Tune's own record of an experiment is not kept. It is pickles, written every ten seconds at most, and a study should
neither run what a pickle says nor lose what came since. What a study goes on from is its trials' files.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ray import tune

from clippy.config import ConfigError, flatten
from pipelines.console import Console
from pipelines.credentials import without_credentials
from pipelines.evaluation.benchmarks import open_parts
from pipelines.evaluation.protocol import choose_protocol
from pipelines.local_ray import check_resources, ray_session
from pipelines.prepare import find_datasets
from pipelines.run_folder import RECIPE_FILE, RunFolder
from pipelines.storage import Location, locate
from pipelines.summary import TrainingError
from pipelines.tracking import Tracker, tracking_uri
from pipelines.train import stop_on_signal
from tuning.board import Board, study_table
from tuning.placing import Places, find_places, largest_recipes, runs_at_once
from tuning.quiet import quiet_tune
from tuning.records import TrialRecords
from tuning.results import STUDY_FILE, TRIALS, StudyResults, Trial
from tuning.searchers import Search, TuneSearcher, build_search
from tuning.space import corners
from tuning.stopping import build_scheduler
from tuning.study import Study, shown
from tuning.trial import run_trial, start_stop_flags
from tuning.watch import Watch


@dataclass(frozen=True)
class Outcome:
    """How a start of a study ended."""

    results: StudyResults
    status: str
    """'finished', 'stopped' by a person, or 'out of time'."""
    seconds: float
    """Of the study in all its starts."""
    table: list[str]

    def as_dict(self) -> dict[str, Any]:
        """For ``--json``."""
        ranked = self.results.ranked()
        return {
            "study": self.results.study.name,
            "folder": self.results.folder.url,
            "status": self.status,
            "seconds": round(self.seconds, 1),
            "best": ranked[0].number if ranked else None,
            "trials": [asdict(trial) for trial in self.results.trials],
        }

    def as_text(self) -> str:
        """The table, the best trial, and what to do next."""
        ranked, (metric, _) = self.results.ranked(), self.results.objective
        lines = list(self.table)
        if ranked:
            best = ranked[0]
            lines += ["", f"best: trial {best.number}, {metric} {best.value(metric):.4f}, {shown(best.parameters)}"]
        if self.status == "finished":
            lines.append(f"see: clippy tune report {self.results.folder.url}")
        elif self.status == "out of time":
            lines.append("budget.minutes is over; the same command with more goes on")
        else:
            lines.append("the same command goes on")
        return "\n".join(lines)


def run_study(study: Study, console: Console | None = None) -> Outcome:
    """Run what the study has still to run, and write down what comes of it.

    Raises ValueError, with one clear sentence, for a mistake of the user, and TrainingError where every trial failed.
    """
    console = console or Console()
    folder = locate(study.folder_url, study.base_recipe.storage.storage_options)
    _check_folder(study, folder)
    _check_data(study, console)
    if folder.is_local:
        Path(folder.path).mkdir(parents=True, exist_ok=True)
    with RunFolder(folder).held():
        (folder / STUDY_FILE).write_text(study.to_yaml())
        records = TrialRecords(folder)
        search = build_search(study, records)
        status = _search(study, records, search, console) if search.left else "finished"
    results = StudyResults(study, folder, list(records.trials.values()))
    failed = [trial for trial in results.trials if trial.status == "failed"]
    if failed and len(failed) == len(results.trials):
        raise TrainingError(f"all {len(failed)} trials failed; trial {failed[0].number}: {failed[0].error}")
    return Outcome(results, status, records.seconds, study_table(study, records))


def _check_folder(study: Study, folder: Location) -> None:
    """Refuse a folder that holds something else. Raises ConfigError, naming each field that differs."""
    if (folder / RECIPE_FILE).exists():
        raise ConfigError(study.name, [f"name: {folder.url} holds a run of clippy train; give another with name=..."])
    file = folder / STUDY_FILE
    if not file.exists():
        return
    differences = Study.load(file.url, file.read_text()).differences(study)
    if differences:
        remedy = "keep these values, or give the new study another name with name=..."
        raise ConfigError(f"{folder.url} holds another study ({remedy})", differences)


def _check_data(study: Study, console: Console) -> None:
    """Refuse missing data once, rather than in every trial; make the manifest before several trials would at once."""
    base, places = study.base_recipe, {}
    points = corners(study.space, base.flat()) if any(name.startswith("data.") for name in study.space) else [{}]
    for recipe in map(study.trial_recipe, points):
        places[recipe.data.model_dump_json()] = recipe
    for recipe in places.values():
        find_datasets(recipe, console)
    config = base.eval
    if config.benchmark is not None and config.url is not None:
        protocol = choose_protocol(None, config.benchmark, config.protocol)
        open_parts(config.benchmark, locate(config.url, config.storage_options), protocol)


def _search(study: Study, records: TrialRecords, search: Search, console: Console) -> str:
    """Connect to Ray and MLflow, and have the trials run; how it ended."""
    base = study.base_recipe
    tracker = _parent_run(study, records.folder) if base.tracking.enabled else None
    ended = "FAILED"
    try:
        with quiet_tune(console) as tune_folder, ray_session(base.scaling, runs_at_once(study)):
            for recipe in largest_recipes(study):
                check_resources(recipe)
            status = _tune(study, records, search, tracker, console, tune_folder)
        ended = "FINISHED" if status == "finished" else "KILLED"
        return status
    except KeyboardInterrupt:
        ended = "KILLED"
        raise
    finally:
        if tracker:
            tracker.finish(ended)


def _parent_run(study: Study, folder: Location) -> Tracker:
    """The MLflow run that those of the trials are shown below."""
    tracker = Tracker(study.base_recipe.model_copy(update={"name": study.name}), RunFolder(folder))
    fields = study.model_dump(mode="json", exclude={"about", "base", "overrides", "space"})
    space = {f"space.{name}": domain.model_dump(mode="json") for name, domain in study.space.items()}
    tracker.log_parameters({**flatten(fields), **space})
    tracker.log_text(study.to_yaml(), STUDY_FILE)
    return tracker


def _tune(
    study: Study, records: TrialRecords, search: Search, tracker: Tracker | None, console: Console, tune_folder: str
) -> str:
    """Have Ray Tune run the trials that are left; how it ended."""
    places = find_places(study)
    flags = start_stop_flags()
    watch = Watch(study, records, Board(study, records, console), tracker)
    searcher = TuneSearcher(search, records, _trial_config(study, records.folder, places))

    def end_all() -> None:
        searcher.ended = True
        flags.request_stop.remote()

    def end_early(number: int) -> None:
        watch.asked_to_end.add(number)
        flags.request_stop.remote(number)

    watch.on_end = end_all
    over = [trial for trial in records.trials.values() if trial.is_over]
    count, parent = search.left, tracker.run_id if tracker else None
    console.line(_opening(study, records, count, places))
    with stop_on_signal(lambda: _ask_to_stop(watch, console)):
        tune.Tuner(
            tune.with_resources(tune.with_parameters(run_trial, stop_flags=flags, mlflow_parent=parent), places.driver),
            tune_config=tune.TuneConfig(
                search_alg=searcher,
                scheduler=build_scheduler(study, over, end_early),
                num_samples=count,
                max_concurrent_trials=places.at_once,
                trial_name_creator=lambda trial: f"trial-{trial.config['number']}",
                trial_dirname_creator=lambda trial: f"trial-{trial.config['number']}",
            ),
            run_config=tune.RunConfig(
                name=study.name,
                storage_path=tune_folder,
                failure_config=tune.FailureConfig(max_failures=study.base_recipe.scaling.max_failures),
                callbacks=[watch],
                verbose=0,
            ),
        ).fit()
    console.clear()
    if watch.mistake:
        raise watch.mistake
    return watch.reason or "finished"


def _trial_config(study: Study, folder: Location, places: Places) -> Callable[[Trial], dict[str, Any]]:
    """What a trial's function is given: its number, and its recipe as JSON, in which Tune finds nothing to resolve."""
    base = study.base_recipe.absolute()
    anchored = study.model_copy(update={"base": base.model_dump(mode="json")})
    objective, trials = study.metrics[0], folder / TRIALS
    changes: dict[str, Any] = {
        "storage": {"url": trials.path if trials.is_local else trials.url},
        "eval": {"best": objective.metric, "best_is": objective.direction},
    }
    if places.decode_cores is not None:
        changes["scaling"] = {"decode_cores": places.decode_cores}
    if base.tracking.enabled:
        uri = tracking_uri(base)
        if without_credentials(uri) == uri:  # others are the environment's to tell, on each machine
            changes["tracking"] = {"uri": uri}

    def config(trial: Trial) -> dict[str, Any]:
        recipe = anchored.trial_recipe(trial.parameters, changes | {"name": trial.name})
        return {"number": trial.number, "recipe": recipe.model_dump_json()}

    return config


def _ask_to_stop(watch: Watch, console: Console) -> None:
    console.line("stopping: each trial saves a checkpoint; once more to stop at once")
    watch.end("stopped")


def _opening(study: Study, records: TrialRecords, count: int, places: Places) -> str:
    done = sum(trial.is_over for trial in records.trials.values())
    before = f", {done} done before" if done else ""
    minutes = f", {study.budget.minutes:g} min at most" if study.budget.minutes else ""
    return (
        f"{records.folder.url}: {count} trials{before}, {places.at_once} at once{minutes}; "
        f"{study.search} search by {', '.join(f'{m.metric} ({m.direction})' for m in study.metrics)}"
    )
