"""What is evaluated: a model of any kind, the run it comes from, and where its numbers go."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipelines.checkpoints import STATE_FILE, checkpoint_name
from pipelines.evaluation.datasets.catalogue import usual_split
from pipelines.evaluation.names import BENCHMARKS
from pipelines.evaluation.protocol import Protocol, usual_protocol
from pipelines.evaluation.result import EVALUATION_FOLDER, RESULT_FILE, Result, read_result
from pipelines.recipe import Recipe
from pipelines.run_folder import RunFolder
from pipelines.storage import Location, locate
from pipelines.targets import FoundDecoder, FoundModel, find_decoder, find_model, find_target


@dataclass(frozen=True)
class Subject:
    """A model to evaluate; ``run`` and ``recipe`` if it lies in a run of ours; perhaps a decoder over its patches."""

    model: FoundModel
    run: RunFolder | None
    recipe: Recipe | None
    decoder: FoundDecoder | None = None

    def output_folder(
        self, out: str | None, benchmark: str, protocol: Protocol, method: str, url: str, split: str | None = None
    ) -> Location:
        """As told, or beside the run's other evaluations: by step, benchmark, and what is unusual about split, protocol
        and, of users' own pictures, data.

        Raises ValueError where there is no run and nothing is told.
        """
        if out is not None:
            return locate(out)
        if self.run is None:
            raise ValueError(
                f"{self.model.name}: lies in no run folder; say where numbers and pictures go with --out FOLDER"
            )
        name = benchmark if split in (None, usual_split(benchmark)) else f"{benchmark}-{split}"
        # Of other benchmarks there is but one, wherever it lies.
        own = url if BENCHMARKS[benchmark].kind == "own" and (not self.recipe or url != self.recipe.eval.url) else ""
        if self.decoder is not None or protocol != usual_protocol(benchmark) or own:
            told = protocol.model_dump_json() + (self.decoder.digest if self.decoder else "") + own
            digest = hashlib.sha256(told.encode()).hexdigest()[:6]
            name = "-".join([name, *dict.fromkeys([protocol.name, method]), digest])
        return self.run.location / EVALUATION_FOLDER / checkpoint_name(self.model.step or 0) / name

    def identity(self) -> dict[str, Any]:
        """What tells these weights from others under the same name: checksums of ours, else sizes and times."""
        folder = self.model.folder
        if folder is None:
            # Of open_clip's names the last part may be a file, such as the epoch_latest.pt that its training replaces.
            file = Path(self.model.name.split(":", 2)[-1])
            told = [file.stat().st_size, file.stat().st_mtime_ns] if file.is_file() else []
            return {"model": self.model.name, "file": told}
        if (folder / STATE_FILE).exists():
            return {"model": folder.url, "state": (folder / STATE_FILE).read_text()}
        return {"model": folder.url, "files": [(info.base_name, info.size, str(info.mtime)) for info in folder.list()]}


def find_subject(path: str, decoder: str | None = None) -> Subject:
    """What ``path`` names: a run, a checkpoint, a model folder of any kind, a hub name; and a decoder's folder.

    Raises ValueError.
    """
    model, found = find_model(path), find_decoder(decoder) if decoder else None
    if model.step is None:
        return Subject(model, None, None, found)
    target = find_target(path)
    return Subject(model, target.run, target.recipe, found)


def newest_results(run: RunFolder) -> list[tuple[Location, Result]]:
    """All evaluations of the newest checkpoint that has one, with the folders that they lie in."""
    evaluations = run.location / EVALUATION_FOLDER
    for step in reversed([info.base_name for info in evaluations.list()]):
        folders = [evaluations / step / info.base_name for info in (evaluations / step).list()]
        found = [(folder, read_result(folder)) for folder in folders if (folder / RESULT_FILE).exists()]
        if found:
            return found
    return []
