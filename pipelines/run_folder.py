"""The folder of one run: the resolved recipe, what it was trained on, its metrics, checkpoints and summary.

runs/NAME/recipe.yaml      the resolved recipe; can be run again as it is
          run.json         manifest digest and MLflow run
          tokenizer.json   saved before the first step, so that a resumed run reads captions alike
          initial/         the model before the first step, where it started from published weights
          metrics.jsonl    one line a step
          checkpoints/     see ``pipelines.checkpoints``
          validation/      what each validated checkpoint came to, and which is the best
          ledger/          see ``pipelines.ledger``
          profile/         traces of torch's profiler
          summary.json     written at the end
          .lock            held by the command that trains
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from clippy.config import ConfigError
from pipelines.checkpoints import upload
from pipelines.recipe import Recipe
from pipelines.storage import Location, hold, locate

if TYPE_CHECKING:
    from pipelines.samples import Source  # whose torch takes seconds to import

RECIPE_FILE, RUN_FILE, TOKENIZER_FILE = "recipe.yaml", "run.json", "tokenizer.json"
METRICS_FILE, SUMMARY_FILE, CHECKPOINTS = "metrics.jsonl", "summary.json", "checkpoints"
INITIAL, LOCK_FILE = "initial", ".lock"


@dataclass(frozen=True)
class RunFolder:
    """Access to one run's files."""

    location: Location

    @contextmanager
    def held(self) -> Iterator[None]:
        """Keep the run to this process while the block runs; the system lets go when the process ends, however it does.

        Raises ValueError if another process of this disk trains it. An object store knows no such thing.
        """
        if not self.location.is_local:
            yield
            return
        with open(Path(self.location.path) / LOCK_FILE, "w") as lock:
            sentence = (
                "another command is training this run; stop that one, or give the new run another name with name=..."
            )
            hold(lock.fileno(), ValueError(f"{self.location.url}: {sentence}"))
            yield

    def next_attempt(self) -> int:
        """Count one more start of the workers; the number of this one."""
        known = self.read_json(RUN_FILE)
        self.write_json(RUN_FILE, known | {"attempts": known.get("attempts", 0) + 1})
        return known.get("attempts", 0) + 1

    @property
    def checkpoints(self) -> Location:
        """The folder of checkpoints."""
        return self.location / CHECKPOINTS

    def exists(self) -> bool:
        """Whether a run lies here."""
        return (self.location / RECIPE_FILE).exists()

    def read_json(self, name: str) -> dict[str, Any]:
        """The content of a JSON file; empty if there is none."""
        file = self.location / name
        return json.loads(file.read_text()) if file.exists() else {}

    def write_json(self, name: str, values: dict[str, Any]) -> None:
        """Write a JSON file whole."""
        (self.location / name).write_text(json.dumps(values, indent=2) + "\n")

    def read_recipe(self) -> Recipe:
        """The resolved recipe. Raises ConfigError if the folder holds no run."""
        file = self.location / RECIPE_FILE
        if not self.exists():
            raise ConfigError(self.location.url, [f"no run lies here: it has no {RECIPE_FILE}"])
        return Recipe.load(file.url, file.read_text())

    def read_metrics(self) -> list[dict[str, Any]]:
        """All lines of metrics.jsonl, one a step; a last line cut short by a kill is left out."""
        file = self.location / METRICS_FILE
        lines = file.read_text().splitlines() if file.exists() else []
        records = []
        for line in lines:
            try:
                records.append(json.loads(line))
            except ValueError:
                break
        return records


def check_run(recipe: Recipe, source: Source) -> RunFolder:
    """The recipe's run folder, which may not exist yet.

    Raises ConfigError, naming each field, if it holds a run of another recipe or on other data.
    """
    folder = RunFolder(locate(recipe.run_url, recipe.storage.storage_options))
    if not folder.exists():
        return folder
    differences = folder.read_recipe().differences(recipe)
    if differences:
        remedy = "keep these values, or give the new run another name with name=..."
        raise ConfigError(f"{recipe.run_url} holds a run of another recipe ({remedy})", differences)
    known = folder.read_json(RUN_FILE).get("manifest_digest")
    if known != source.digest:
        problem = (
            f"data: {recipe.data.urls} is not what this run was started on (manifest {str(known)[:12]}, now "
            f"{source.digest[:12]}); restore the data, or give the new run another name with name=..."
        )
        raise ConfigError(recipe.run_url, [problem])
    return folder


class Model(Protocol):
    """What can be saved as a model folder; ``clippy.CLIPpy`` is one."""

    def save_pretrained(self, folder: str | Path) -> None: ...


def create_run(
    folder: RunFolder, recipe: Recipe, source: Source, tokenizer_json: str, initial: Model | None = None
) -> None:
    """Write a new run's first files; ``recipe.yaml`` comes last and makes it a run."""
    (folder.location / TOKENIZER_FILE).write_text(tokenizer_json)
    if initial:
        with tempfile.TemporaryDirectory(prefix="initial-") as local:
            initial.save_pretrained(local)
            upload(Path(local), folder.location / INITIAL)
    folder.write_json(RUN_FILE, {"manifest_digest": source.digest})
    (folder.location / RECIPE_FILE).write_text(recipe.to_yaml())


class MetricsFile:
    """``metrics.jsonl`` as it grows: line by line on a disk, whole at each flush on an object store.

    One thread may append while another flushes.
    """

    def __init__(self, folder: RunFolder, step: int) -> None:
        """Go on after ``step``: lines of later steps, written before a kill, are taken back."""
        self._file = folder.location / METRICS_FILE
        kept = [record for record in folder.read_metrics() if record["step"] <= step]
        self._lines = [json.dumps(record) + "\n" for record in kept]
        if self._file.is_local or self._lines:
            self._file.write_text("".join(self._lines))

    def append(self, records: list[dict[str, Any]]) -> None:
        """Add one line a record."""
        lines = [json.dumps(record) + "\n" for record in records]
        if self._file.is_local:
            with open(self._file.path, "a", encoding="utf-8") as stream:
                stream.writelines(lines)
        else:
            self._lines += lines

    def flush(self) -> None:
        """Upload what an object store has not seen yet."""
        if not self._file.is_local:
            self._file.write_text("".join(list(self._lines)))
