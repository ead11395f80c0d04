"""Which point is tried next: trials that were begun before, then what the search says.

Optuna is asked directly. Ray's ``OptunaSearch`` takes the results of earlier starts only for one metric and for a space
without conditions, and keeps its own state as a pickle; ours is made anew from the trials' files.
"""

from __future__ import annotations

import warnings
from collections import deque
from collections.abc import Callable
from typing import Any, Protocol

from ray.tune.search import Searcher

from tuning.records import TrialRecords
from tuning.results import Trial
from tuning.space import Domain, assign
from tuning.study import Study

_STARTUP_TRIALS = 10
"""Optuna's own: so many trials are drawn at random first; fewer where the study has few."""


class Search(Protocol):
    """Where trials come from."""

    @property
    def left(self) -> int:
        """How many trials there are still to run."""

    def next(self) -> Trial | None:
        """The trial to run now; None when there are no more."""

    def learn(self, trial: Trial) -> None:
        """What came of one that ``next`` gave."""


def build_search(study: Study, records: TrialRecords) -> Search:
    """The search that the study names, knowing what the records holds."""
    return TpeSearch(study, records) if study.search == "tpe" else ListSearch(study, records)


class ListSearch:
    """Points that are known from the start: a grid, or random ones."""

    def __init__(self, study: Study, records: TrialRecords) -> None:
        records.add(study.points())
        limit = study.budget.trials or len(records.trials)
        self._left = deque(trial for trial in records.unfinished if trial.number < limit)

    @property
    def left(self) -> int:
        """Those not over."""
        return len(self._left)

    def next(self) -> Trial | None:
        """The next of them."""
        return self._left.popleft() if self._left else None

    def learn(self, trial: Trial) -> None:
        """Nothing is learnt."""


class TpeSearch:
    """Optuna's tree-structured Parzen estimator, told of all trials that are over."""

    def __init__(self, study: Study, records: TrialRecords) -> None:
        import optuna

        optuna.logging.set_verbosity(optuna.logging.ERROR)
        warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)
        self._states = optuna.trial.TrialState
        self._study, self._records = study, records
        self._base = study.base_recipe.flat()
        self._budget = study.budget.trials or 0
        # A sampler begun anew would draw the same random points again.
        sampler = optuna.samplers.TPESampler(
            seed=study.search_seed + len(records.trials), n_startup_trials=min(_STARTUP_TRIALS, 1 + self._budget // 3)
        )
        better = {"max": optuna.study.StudyDirection.MAXIMIZE, "min": optuna.study.StudyDirection.MINIMIZE}
        directions = [better[metric.direction] for metric in study.metrics]
        self._optuna = optuna.create_study(sampler=sampler, directions=directions)
        self._asked: dict[int, optuna.Trial] = {}
        for trial in records.trials.values():
            if trial.is_over:
                self._ask_again(trial)
                self.learn(trial)
        self._begun = deque(records.unfinished)

    @property
    def left(self) -> int:
        """Those begun, and those that the budget still allows."""
        return len(self._begun) + max(0, self._budget - len(self._records.trials))

    def next(self) -> Trial | None:
        """One that was begun before, else a new one where the budget allows."""
        if self._begun:
            trial = self._begun.popleft()
            self._ask_again(trial)
            return trial
        if len(self._records.trials) >= self._budget:
            return None
        asked = self._optuna.ask()
        trial = self._records.new(
            max(self._records.trials, default=-1) + 1, assign(self._study.space, self._base, _suggest(asked))
        )
        self._asked[trial.number] = asked
        return trial

    def learn(self, trial: Trial) -> None:
        """Tell Optuna; one stopped early counts as pruned where there is one metric, for its values are those of an
        early step."""
        asked, metrics = self._asked.pop(trial.number), [objective.metric for objective in self._study.metrics]
        values = [value for metric in metrics if (value := trial.value(metric)) is not None]
        if trial.status == "failed" or len(values) < len(metrics):
            self._optuna.tell(asked, state=self._states.FAIL)
        elif trial.status == "stopped" and len(metrics) == 1:
            for record in trial.history:
                if metrics[0] in record:
                    asked.report(record[metrics[0]], int(record["step"]))
            self._optuna.tell(asked, state=self._states.PRUNED)
        else:
            self._optuna.tell(asked, values)

    def _ask_again(self, trial: Trial) -> None:
        """Have Optuna suggest the point of a trial that there is."""
        self._optuna.enqueue_trial(
            {name: _as_optuna(self._study.space[name], value) for name, value in trial.parameters.items()}
        )
        asked = self._optuna.ask()
        assign(self._study.space, self._base, _suggest(asked))
        self._asked[trial.number] = asked


def _suggest(asked: Any) -> Callable[[str, Domain], Any]:
    def pick(name: str, domain: Domain) -> Any:
        if domain.values is not None:
            # By place: Optuna takes neither lists nor mappings as values.
            return domain.values[asked.suggest_categorical(name, range(len(domain.values)))]
        low, high = domain.ends
        if domain.integer is not None:
            return asked.suggest_int(name, low, high)
        return asked.suggest_float(name, low, high, log=domain.log_uniform is not None)

    return pick


def _as_optuna(domain: Domain, value: Any) -> Any:
    return value if domain.values is None else domain.values.index(value)


class TuneSearcher(Searcher):
    """A search as Ray Tune asks for it."""

    def __init__(self, search: Search, records: TrialRecords, config: Callable[[Trial], dict[str, Any]]) -> None:
        """``config`` is what the trial's function is given."""
        super().__init__()
        self._search, self._records, self._config = search, records, config
        self._numbers: dict[str, int] = {}
        self.ended = False
        """Whether no further trial shall start."""

    def __getstate__(self) -> dict[str, Any]:
        """Nothing: Tune pickles what it is given, and a study never reads a pickle."""
        return {}

    def suggest(self, trial_id: str) -> Any:
        """The next trial's configuration."""
        trial = None if self.ended else self._search.next()
        if trial is None:
            return Searcher.FINISHED
        self._numbers[trial_id] = trial.number
        return self._config(trial)

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """What the trial came to is in the records already."""
        trial = self._records.trials[self._numbers[trial_id]]
        if trial.is_over:
            self._search.learn(trial)

    def save(self, checkpoint_path: str) -> None:
        """Nothing: a search goes on from the trials' files."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing."""
