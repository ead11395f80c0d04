"""An evaluation on Ray: the same rows on any number of workers and after a kill, mistakes told as one sentence."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from clippy.vocabulary import ClassList
from pipelines.columns import DataError
from pipelines.console import Console
from pipelines.evaluate import sum_up
from pipelines.evaluation.benchmarks import open_parts
from pipelines.evaluation.dataset import Example
from pipelines.evaluation.gallery import choose_pictures, draw_pictures
from pipelines.evaluation.protocol import PROTOCOLS
from pipelines.evaluation.question import Part
from pipelines.evaluation.questions.clusters import Clusters
from pipelines.evaluation.questions.segmentation import Segmentation
from pipelines.evaluation.run import Progress
from pipelines.evaluation.units import Measurer, Task, units_of
from pipelines.storage import locate
from tests.pipelines.evaluation import layouts
from tests.pipelines.evaluation.colour_model import ColourModelSource
from tests.pipelines.evaluation.comparison_results import voc

COLOURS = (("dog", (250, 0, 0)), ("cat", (0, 250, 0)))
CLASSES = ClassList("pets", "a test", ("dog", "cat"), ("thing", "thing"))


class Stripes:
    """Pictures of two sizes whose share of cat grows with their number; half of it is named dog."""

    def __init__(self, pictures: int, broken: int | None = None) -> None:
        self.pictures, self.broken = pictures, broken

    def __len__(self) -> int:
        return self.pictures

    def read(self, index: int) -> Example:
        if index == self.broken:
            raise DataError(f"picture {index}: is broken")
        mask = np.zeros((8, 8 + 4 * (index % 2)), dtype=np.int32)
        mask.flat[: index % 60] = 1
        pixels = np.array([COLOURS[0][1], COLOURS[1][1]], dtype=np.uint8)[mask]
        pixels.reshape(-1, 3)[: index % 60 // 2] = COLOURS[0][1]
        return Example(f"stripes-{index}", pixels, mask=mask)


def task_of(dataset: Stripes) -> Task:
    part = Part("val", dataset, (Segmentation(CLASSES, ("{}",)),))
    source: Any = ColourModelSource(COLOURS, image_size=8)
    return Task(source, PROTOCOLS["paper"], (part,), batch_size=5)


def test_workers_and_kills_change_nothing(ray_cluster: None, tmp_path: Path) -> None:
    task = task_of(Stripes(150))
    by_workers = {}
    for workers in (1, 3):
        progress = Progress(task, {"model": "a"}, locate(str(tmp_path / f"of-{workers}")))
        progress.measure_on_ray(workers, 0, Console())
        assert progress.pictures_missing() == 0
        by_workers[workers] = list(progress.rows(0))
    assert by_workers[1] == by_workers[3]
    here = Measurer(task)
    assert by_workers[1] == [row for unit in units_of(task.parts) for row in here.measure(unit)]

    # What a killed start left is kept: another one measures the rest alone.
    folder = tmp_path / "of-3"
    (folder / "units" / "00-00000064.json").unlink()
    kept = {path: path.stat().st_mtime_ns for path in (folder / "units").iterdir()}
    again = Progress(task, {"model": "a"}, locate(str(folder)))
    assert again.pictures_missing() == 64
    again.measure_on_ray(2, 0, Console())
    assert list(again.rows(0)) == by_workers[1]
    assert all(path.stat().st_mtime_ns == time for path, time in kept.items())
    # Of another model nothing is kept.
    assert Progress(task, {"model": "b"}, locate(str(folder))).pictures_missing() == 150


def test_what_was_measured_of_other_pictures_or_classes_is_not_kept(tmp_path: Path) -> None:
    pixels = layouts.picture(8, 8, (250, 0, 0))
    data = {f"{name}.jpg": (pixels, np.zeros((8, 8))) for name in "ab"}
    layouts.folder(tmp_path / "data", data, ["dog", "cat"])
    source: Any = ColourModelSource(COLOURS, image_size=8)

    def start() -> tuple[Progress, Measurer]:
        parts = open_parts("folder", locate(str(tmp_path / "data")), PROTOCOLS["paper"])
        task = Task(source, PROTOCOLS["paper"], parts, batch_size=5)
        return Progress(task, {"model": "a"}, locate(str(tmp_path))), Measurer(task)

    def measure() -> None:
        progress, measurer = start()
        (unit,) = progress.missing()
        progress.write(unit, measurer.measure(unit))
        assert start()[0].pictures_missing() == 0

    measure()
    layouts.write(tmp_path / "data" / "classes.json", '["dog", "cow"]')  # another word for the model to look for
    assert start()[0].pictures_missing() == 2
    measure()
    (tmp_path / "data" / "images" / "a.jpg").rename(tmp_path / "data" / "images" / "c.jpg")
    (tmp_path / "data" / "masks" / "a.png").rename(tmp_path / "data" / "masks" / "c.png")
    assert start()[0].pictures_missing() == 2


def test_clusters_are_learned_once_for_any_number_of_workers(ray_cluster: None, tmp_path: Path) -> None:
    stripes = Stripes(70)
    question = Clusters(CLASSES, pictures=5)
    task = replace(task_of(stripes), parts=(Part("val", stripes, (question,)),))
    here = Measurer(task)
    here.learn_all()
    wanted = [row for unit in units_of(task.parts) for row in here.measure(unit)]
    progress = Progress(task, {}, locate(str(tmp_path)))
    progress.learn_on_ray(0)
    progress.measure_on_ray(2, 0, Console())
    assert list(progress.rows(0)) == wanted
    # A start that goes on with what another one left takes its clusters too, whatever it would have learned itself.
    (file,) = (tmp_path / "units").glob("*.learned.json")
    file.write_text(json.dumps(json.loads(file.read_text())[::-1]))
    again = Progress(task, {}, locate(str(tmp_path)))
    assert again.learn_on_ray(0).parts[0].questions[0] == question.with_learned(json.loads(file.read_text()))
    assert again.pictures_missing() == 0


def test_a_broken_picture_is_told_in_one_sentence(ray_cluster: None, tmp_path: Path) -> None:
    progress = Progress(task_of(Stripes(70, broken=66)), {}, locate(str(tmp_path)))
    with pytest.raises(ValueError, match=r"^picture 66: is broken$"):
        progress.measure_on_ray(1, 0, Console())
    assert progress.pictures_missing() == 6  # what was measured before stays


def test_first_best_and_worst_are_drawn(tmp_path: Path) -> None:
    task = task_of(Stripes(60))
    folder = locate(str(tmp_path))
    progress, measurer = Progress(task, {}, folder), Measurer(task)
    for unit in progress.missing():
        progress.write(unit, measurer.measure(unit))
    scores = sum_up(task.parts, progress)[1]
    chosen = choose_pictures(scores, 6)
    assert [choice.position for choice in chosen if choice.role == "sample"] == [0, 1]
    rest = sorted(row["segmentation"]["score"] for row in list(progress.rows(0))[2:])
    assert sorted(choice.score for choice in chosen if choice.role == "worst") == rest[:2]
    assert sorted(choice.score for choice in chosen if choice.role == "best") == rest[-2:]
    drawn = draw_pictures(task, chosen, folder, 0)
    assert [picture.score for picture in drawn] == [choice.score for choice in chosen]
    assert all(Image.open(tmp_path / "pictures" / picture.file).width > 100 for picture in drawn)
    assert len({picture.file for picture in drawn}) == 6


def test_an_earlier_result_goes_before_its_pictures(tmp_path: Path) -> None:
    voc().write(locate(str(tmp_path)))
    layouts.write(tmp_path / "pictures" / "a.png", b"of the earlier one")
    assert draw_pictures(task_of(Stripes(3)), [], locate(str(tmp_path)), 0) == []
    assert list(tmp_path.iterdir()) == []


def test_a_unit_is_whole_or_missing(tmp_path: Path) -> None:
    task = task_of(Stripes(3))
    progress = Progress(task, {}, locate(str(tmp_path)))
    (unit,) = progress.missing()
    progress.write(unit, Measurer(task).measure(unit))
    assert progress.missing() == []
    rows = json.loads((tmp_path / "units" / "00-00000000.json").read_text())
    assert rows[0]["segmentation"]["score"] == 1
    progress.clear()
    assert not (tmp_path / "units").exists()
