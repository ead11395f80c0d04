"""The paper's numbers as data: they are what the paper prints, and none stands beside generated pictures."""

from __future__ import annotations

import pytest

from pipelines.evaluation.paper import (
    PaperColumn,
    benchmark_pictures,
    paper_benchmarks,
    paper_numbers,
    paper_reference,
    paper_tables,
    released_per_class,
)


def numbers(table: str, system: str, data: str | None, **settings: str) -> list[float]:
    """The numbers of one row of a table, by its settings."""
    rows: dict[str, list[float]] = {}
    for number in paper_numbers(table=table):
        row = number.row
        if (row.system, row.data) == (system, data) and settings.items() <= row.settings.items():
            rows.setdefault(row.setting, []).append(number.percent)
    assert len(rows) == 1
    return next(iter(rows.values()))


@pytest.mark.parametrize(
    ("table", "system", "data", "settings", "expected"),
    [
        ("Table 1", "CLIP", "300M private pairs", {}, [16.4, 28.6]),
        ("Table 1", "CLIPpy", "CC-12M", {}, [50.8, 47.5]),
        ("Table 2", "ALIGN", "ALIGN-1800M", {}, [76.4, 70.1]),
        ("Table 2", "GroupViT", "CC-12M + YFCC", {}, [42.9]),
        ("Table 2", "CLIPpy", "HQITP-134M", {}, [60.3, 54.8]),
        ("Table 3", "GroupViT†", "CC-12M", {}, [42.8]),
        ("Table 4", "CLIPpy", "HQITP-134M", {}, [29.5, 27.2]),
        ("Table 5", "STEGO", None, {}, [21.0]),
        ("Table 6", "MaskCLIP†", "CC-12M", {}, [6.8, 8.1, 22.1, 13.8]),
        ("Table 6", "OVSegmentor", "CC-12M", {}, [7.1, 44.6, 25.1]),
        ("Table 6", "CLIPpy", "HQITP-134M", {}, [13.5, 25.5, 52.2, 32.0]),
        ("Table 7", "CLIPpy", "CC-12M", {"frozen": "text tower"}, [35.9, 29.5]),
        ("Table 8", "CLIPpy", "CC-12M", {"image start": "supervised", "text start": "random"}, [44.5, 20.0, 42.2]),
        ("Table 9", "CLIPpy", "HQITP-134M", {"pooling": "average"}, [60.0, 17.9, 40.5]),
        ("Table 10", "CLIPpy", "CC-12M", {"patches left out": "none"}, [45.3, 50.9, 23.5, 12.6]),
    ],
)
def test_rows_are_the_papers(
    table: str, system: str, data: str | None, settings: dict[str, str], expected: list[float]
) -> None:
    assert numbers(table, system, data, **settings) == expected


def test_differences_are_those_that_the_paper_prints() -> None:
    clippy, clip = numbers("Table 1", "CLIPpy", "CC-12M"), numbers("Table 1", "CLIP†", "CC-12M")
    assert [round(a - b, 1) for a, b in zip(clippy, clip, strict=True)] == [33.3, 10.2]
    assert round(numbers("Table 3", "GroupViT†", "CC-12M")[0] - clip[1], 1) == 5.5
    wide = [numbers("Table 3", system, "HQITP-134M")[0] for system in ("CLIPpy", "CLIP†")]
    assert round(wide[0] - wide[1], 1) == 15.7
    for system in ("CLIPpy", "CLIP†"):
        water, land, gap = numbers("Figure 4", system, None)
        assert gap == round(water - land, 1)


def test_tables_agree_on_clippy_but_where_their_notes_say_otherwise() -> None:
    found: dict[tuple[str, str, PaperColumn], dict[float, set[str]]] = {}
    for number in paper_numbers():
        if number.row.headline and number.row.data and number.table.in_paper:
            key = (number.row.system, number.row.data, number.column)
            found.setdefault(key, {}).setdefault(number.percent, set()).add(number.table.name)
    doubtful = [tables for values in found.values() if len(values) > 1 for tables in values.values()]
    assert set().union(*doubtful) == {f"Table {n}" for n in (1, 2, 6, 7, 8, 9, 10)}
    assert all(table.notes for table in paper_tables())


def test_released_classes_average_to_the_released_number() -> None:
    per_class = released_per_class("voc")
    (mean,) = (n.percent for n in paper_numbers("voc", "Released checkpoint"))
    assert len(per_class) == 21
    assert sum(per_class.values()) / 21 == pytest.approx(mean, abs=0.01)  # the 21 are rounded to 0.1
    assert released_per_class("ade20k") == {}


def test_every_column_is_on_a_known_benchmark_and_none_on_generated_or_own_pictures() -> None:
    used = {column.benchmark for table in paper_tables() for column in table.columns}
    assert used == set(paper_benchmarks())
    assert not used & {"shapes", "folder", "parquet"}
    assert benchmark_pictures("voc") == 1449
    assert benchmark_pictures("shapes") is None


def test_the_reference_is_the_first_number_of_the_papers_own_tables() -> None:
    accuracy = PaperColumn("imagenet", "classification", "top-1")
    small, large = (paper_reference(accuracy, "CLIPpy", data) for data in ("CC-12M", "HQITP-134M"))
    assert small is not None
    assert large is not None
    assert (small.table.name, small.percent) == ("Table 2", 45.3)  # not the ablations' 42.3
    assert (large.table.name, large.percent) == ("Table 2", 60.3)
    # The paper has no top-5; what the released code measured of its checkpoint is not the paper's.
    assert paper_reference(PaperColumn("imagenet", "classification", "top-5"), "CLIPpy", "CC-12M") is None
    # Where the paper does not say what was trained on, the row holds for any data.
    gap = paper_reference(PaperColumn("waterbirds", "groups", "gap waterbird"), "CLIPpy", "HQITP-134M")
    assert gap is not None
    assert gap.percent == 2.0
