"""What decides about trials, without Ray: records, the next point, who is stopped early, and the table."""

from __future__ import annotations

import io
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from clippy.config import ConfigError
from pipelines.console import Console
from pipelines.storage import locate
from tuning.board import Board, study_table
from tuning.records import TrialRecords
from tuning.results import STUDY_FILE, Trial, load_results
from tuning.searchers import build_search
from tuning.stopping import EarlyStopping, build_scheduler
from tuning.study import Study, load_study

MIOU, TOP1 = "segmentation/model/mIoU", "classification/model/top-1"


def study(*overrides: str) -> Study:
    return load_study("shapes-pooling", overrides)


@pytest.fixture
def records(tmp_path: Path) -> TrialRecords:
    return TrialRecords(locate(str(tmp_path)))


def end(records: TrialRecords, number: int, status: str, *values: float) -> Trial:
    for i, value in enumerate(values):
        records.measured(number, 40 * (i + 1), {MIOU: value, TOP1: 1 - value})
    return records.end(number, status=status)


def test_records_are_what_a_later_start_reads(records: TrialRecords, tmp_path: Path) -> None:
    records.add(study().points())
    records.start(0)
    assert records.measured(0, 40, {MIOU: 0.25})
    assert not records.measured(0, 40, {MIOU: 0.25})  # told again after a kill
    records.reached(0, 66, "run")
    end(records, 0, "stopped")
    records.start(1)
    records.end(2, status="failed", error="no memory")
    again = TrialRecords(locate(str(tmp_path)))
    assert again.trials == records.trials
    assert [trial.number for trial in again.unfinished][:2] == [1, 3]  # what was begun comes first
    first = again.trials[0]
    assert (first.status, first.steps, first.mlflow_run_id, first.value(MIOU)) == ("stopped", 66, "run", 0.25)
    assert first.run == str(tmp_path / "trials" / "0000")


def test_results_of_a_folder(records: TrialRecords, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no study lies here"):
        load_results(str(tmp_path))
    (records.folder / STUDY_FILE).write_text(study().to_yaml())
    records.add(study().points())
    for number, (status, values) in enumerate(
        [("stopped", (0.1, 0.4)), ("finished", (0.5, 0.3)), ("failed", (0.9,)), ("finished", ()), ("finished", (0.35,))]
    ):
        end(records, number, status, *values)
    results = load_results(str(tmp_path))
    assert results.objective == (MIOU, "max")
    assert [trial.number for trial in results.ranked()] == [0, 4, 1]
    assert results.trials[1].best(MIOU, "max") == 0.5
    assert results.trials[1].best(MIOU, "min") == 0.3
    (tmp_path / "trials" / "0004" / "trial.json").write_text('{"number": 4')
    with pytest.raises(ConfigError, match=r"0004.*trial\.json"):
        load_results(str(tmp_path))


def test_a_grid_goes_on_where_it_was_left(records: TrialRecords) -> None:
    search = build_search(study(), records)
    assert search.left == 9
    for number in (0, 1, 2):
        trial = search.next()
        assert trial is not None
        assert trial.number == number
        records.start(number)
    end(records, 0, "finished", 0.2)
    end(records, 2, "failed")
    again = build_search(study(), records)
    numbers = [trial.number for trial in iter(again.next, None)]
    assert numbers == [1, 3, 4, 5, 6, 7, 8]
    assert build_search(study("budget.trials=3"), records).left == 1


TPE = (
    "search=tpe",
    "scheduler.name=none",
    "budget.trials=40",
    "space.model.image.pooling.choice=[mean, max, cls]",
    "space.model.image.top_k={integer: [1, 9], when: {model.image.pooling: max}}",
)


def value_of(trial: Trial) -> float:
    """The maximum is best, and few dropped patches."""
    return 0.5 * (trial.parameters["model.image.pooling"] == "max") - trial.parameters["model.image.patch_dropout"]


@pytest.mark.parametrize("metrics", [[MIOU], [MIOU, TOP1]])
def test_tpe_learns_over_starts(records: TrialRecords, tmp_path: Path, metrics: list[str]) -> None:
    told = [*TPE, "metrics=" + json.dumps([{"metric": m, "direction": "max" if m == MIOU else "min"} for m in metrics])]
    search = build_search(study(*told), records)
    for _ in range(20):
        trial = search.next()
        assert trial is not None
        search.learn(end(records, trial.number, "finished", value_of(trial)))
    begun = search.next()
    assert begun is not None
    records.start(begun.number)

    search = build_search(study(*told), TrialRecords(locate(str(tmp_path))))  # after a kill
    records = TrialRecords(locate(str(tmp_path)))
    assert search.left == 20
    later = []
    search = build_search(study(*told), records)
    while (trial := search.next()) is not None:
        later.append(trial)
        search.learn(end(records, trial.number, "stopped", value_of(trial)))
    assert [trial.number for trial in later] == list(range(20, 40))
    assert later[0].parameters == begun.parameters
    assert sum(trial.parameters["model.image.pooling"] == "max" for trial in later) > 12
    assert sum(trial.parameters["model.image.patch_dropout"] for trial in later) / 20 < 0.2
    for trial in later:
        assert ("model.image.top_k" in trial.parameters) == (trial.parameters["model.image.pooling"] == "max")
        study(*told).trial_recipe(trial.parameters)


def report(scheduler: Any, number: int, step: int, value: float) -> None:
    trial = SimpleNamespace(trial_id=f"id{number}", config={"number": number})
    if trial.trial_id not in scheduler._trial_info:
        scheduler.on_trial_add(None, trial)
    result = {"step": step, f"numbers/{MIOU}": value}
    assert scheduler.on_trial_result(None, trial, result) == "CONTINUE"  # the trial itself ends


def test_early_stopping_asks_whom_earlier_trials_surpass(records: TrialRecords) -> None:
    asked: list[int] = []
    halving = study("train.steps=240", "scheduler.grace_steps=80")
    scheduler = build_scheduler(halving, [], asked.append)
    assert isinstance(scheduler, EarlyStopping)
    report(scheduler, 0, 40, 0.0)  # before the grace steps are over
    report(scheduler, 0, 80, 0.5)
    report(scheduler, 1, 80, 0.1)
    report(scheduler, 1, 120, 0.9)  # asked once, and not counted any more
    report(scheduler, 2, 80, 0.6)
    assert asked == [1]
    report(scheduler, 0, 240, 0.5)
    report(scheduler, 2, 240, 0.6)
    report(scheduler, 3, 80, 0.52)
    assert asked == [1, 3]

    records.add(study().points())
    for number, values in enumerate([(0.0, 0.5), (0.0, 0.1), (0.0, 0.6)]):
        end(records, number, "finished", *values)
    again: list[int] = []
    scheduler = build_scheduler(halving, records.trials.values(), again.append)
    report(scheduler, 3, 80, 0.52)
    report(scheduler, 4, 80, 0.65)
    assert again == [3]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_the_table(records: TrialRecords, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("LINES", "9")
    records.add(study().points())
    end(records, 0, "stopped", 0.25)
    records.start(1)
    records.reached(1, 17)
    lines = study_table(study(), records)
    assert lines[0].split() == [
        "trial",
        "learning_rate",
        "patch_dropout",
        "pooling",
        "status",
        "step",
        "mIoU",
        "top-1",
        "time",
    ]
    assert lines[1].split()[3:8] == ["max", "stopped", "40", "0.2500", "0.7500"]
    assert lines[2].split()[3:6] == ["mean", "running", "17"]
    assert lines[-1].startswith("1 running, 1 stopped, 7 waiting; ")
    stream = Terminal()
    Board(study(), records, Console(stream)).draw()
    shown = stream.getvalue().splitlines()
    assert len(shown) == 7  # fits the screen: the heading, five trials, the counts
    assert shown[1].split()[4:5] == ["stopped"]
    assert shown[-1].endswith("; 4 more not shown")


def test_a_block_makes_room_for_what_is_said() -> None:
    stream = Terminal()
    console = Console(stream)
    console.block(["one", "two"])
    console.line("news")
    console.block(["one"])
    assert stream.getvalue() == "one\ntwo\n\x1b[2F\x1b[Jnews\none\n"
    log = io.StringIO()
    Console(log).block(["one"])
    assert log.getvalue() == ""
