"""An inspection as text for a terminal of 80 columns or more."""

from __future__ import annotations

import textwrap
import unicodedata
from collections.abc import Callable, Mapping
from typing import Any

from pipelines.inspection.collect import Inspection
from pipelines.inspection.distribution import Distribution
from pipelines.inspection.layout import Layout
from pipelines.inspection.sample import Sample
from pipelines.inspection.units import bytes_text, share_text, short_number
from pipelines.samples import VALID

_WIDTH = 84
_HALF = 40
_BAR = 16
_TYPE = 48
_BLOCKS = " ▏▎▍▌▋▊▉█"


def as_text(inspection: Inspection) -> str:
    """The whole inspection: facts, sample, histograms, what import refused, advice."""
    parts = [
        f"{inspection.url}\n{verdict(inspection)}",
        _titled("Dataset", pairs(dataset_facts(inspection.layout))),
        _titled("Columns", _schema(inspection.layout)),
        _titled(sample_title(inspection.sample), pairs(sample_facts(inspection))),
        _beside([_histogram(title, values, edge) for title, values, edge in histograms(inspection)]),
    ]
    if inspection.imported:
        parts.append(_titled("Import", pairs(import_facts(inspection.imported))))
    parts.append(_titled("Advice", _advice(inspection)))
    return "\n\n".join(part for part in parts if part)


def verdict(inspection: Inspection) -> str:
    """One line: fit or not."""
    problems, count = sum(advice.problem for advice in inspection.advice), len(inspection.advice)
    if problems:
        rest = f", and {count - problems} more to consider" if count > problems else ""
        return f"not fit to train on yet: {problems} {'problem' if problems == 1 else 'problems'}{rest}"
    return f"fit to train on; {count} {'thing' if count == 1 else 'things'} to consider" if count else "fit to train on"


def dataset_facts(layout: Layout) -> dict[str, str]:
    """Rows and bytes, as names and values to show."""
    excluded = ", ".join(f"{cause} {n:,}" for cause, n in layout.excluded_rows.items())
    manifest = {
        "current": f"agrees with the data, digest {layout.digest[:12]}",
        "missing": "none",
        "stale": "of other shards than lie here now",
        "unreadable": "cannot be used",
    }
    return {
        "rows": f"{layout.rows:,}",
        "usable rows": f"{layout.usable_rows:,} ({share_text(layout.usable_rows, layout.rows)})",
        "left out": excluded or "none",
        "bytes": f"{bytes_text(layout.bytes)}, {bytes_text(layout.bytes_per_row)} a row",
        "shards": f"{layout.shards:,} of {spread(layout.shard_bytes, bytes_text)}",
        "row groups": f"{layout.row_groups:,} of {spread(layout.row_group_rows, '{:,.0f}'.format)} rows",
        "images of a row group": spread(layout.row_group_bytes, bytes_text),
        "compression": ", ".join(layout.compression) or "none",
        "manifest": manifest[layout.manifest],
    }


def sample_title(sample: Sample) -> str:
    """How much was looked at."""
    return f"Sample of {sample.rows:,} rows from {sample.row_groups:,} row groups"


def sample_facts(inspection: Inspection) -> dict[str, str]:
    """What images and captions are, as names and values to show."""
    sample, bandwidth = inspection.sample, inspection.storage_bytes_per_second
    if not sample.rows:
        return {"rows": "none is a sample"}
    facts = {
        "pairs": f"{sample.causes.get(VALID, 0):,} ({share_text(sample.causes.get(VALID, 0), sample.rows)})",
        **{
            cause: f"{n:,} ({share_text(n, sample.rows)}): {', '.join(sample.failure_keys[cause][:3])}"
            for cause, n in sample.causes.items()
            if cause != VALID
        },
        "formats": _counts(sample.formats),
        "colour modes": _counts(sample.modes),
        "repeated": f"images {sample.repeated_images:,}, captions {sample.repeated_captions:,}, "
        f"keys {sample.repeated_keys:,}",
    }
    if sample.captions_per_row is not None and sample.captions_per_row.max > 1:
        facts["captions a row"] = spread(sample.captions_per_row, "{:,.0f}".format)
    if sample.images_per_second_per_core and sample.images_per_second and bandwidth:
        facts[f"decoding to {sample.image_size} px"] = (
            f"{sample.images_per_second_per_core:,.0f} images/s on a core, {sample.images_per_second:,.0f} on the "
            f"{sample.cores} here"
        )
        facts["storage must give"] = f"{bytes_text(bandwidth)}/s to keep these cores busy"
        facts["an epoch decodes in"] = _hours(inspection.layout.usable_rows / sample.images_per_second)
    return facts


def _hours(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s here" if seconds >= 1 else "less than a second here"
    return f"{seconds / 60:.0f} min here" if seconds < 5400 else f"{seconds / 3600:,.1f} h here"


def import_facts(imported: Mapping[str, Any]) -> dict[str, str]:
    """What ``clippy data import`` did, as names and values to show."""
    summary = imported.get("summary")
    facts = {}
    for name, value in summary.items() if isinstance(summary, dict) else ():
        shown = _import_value(value)
        if shown is not None and name != "rejects":
            facts[str(name).replace("_", " ")] = shown
    rejects: dict[str, int] = imported.get("rejects", {})
    return facts | {f"refused: {cause}": f"{n:,}" for cause, n in rejects.items()}


def _import_value(value: Any) -> str | None:
    """A value of the import's summary in short, None for what would fill a page."""
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:,.1f}"
    return value if isinstance(value, str) else None


def histograms(inspection: Inspection) -> list[tuple[str, Distribution, Callable[[float], str]]]:
    """Title, values and how to write the edge of a bin, for each distribution there is."""
    sample = inspection.sample
    named: list[tuple[str, Distribution | None, Callable[[float], str]]] = [
        ("Short side, pixels", sample.short_side, short_number),
        ("Width : height", sample.aspect_ratio, "{:.2f}".format),
        ("Bytes of an image", sample.image_bytes, bytes_text),
        ("Caption, characters", sample.caption_characters, short_number),
        ("Caption, words", sample.caption_words, short_number),
        ("Images of a row group", inspection.layout.row_group_bytes, bytes_text),
    ]
    return [(title, values, edge) for title, values, edge in named if values is not None]


def spread(values: Distribution, text: Callable[[float], str]) -> str:
    """'100' where all are equal, else '98 (12 to 100)': the median and the range."""
    low, middle, high = text(values.min), text(values.median), text(values.max)
    return middle if low == high else f"{middle} ({low} to {high})"


def _counts(values: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {n:,}" for name, n in values.items()) or "none"


def _titled(title: str, content: str) -> str:
    return f"{title}\n{'─' * _WIDTH}\n{content}"


def pairs(facts: Mapping[str, str]) -> str:
    """One fact a line, names aligned, long values wrapped behind their name."""
    width = max(map(len, facts), default=0) + 2
    lines = []
    for name, value in facts.items():
        wrapped = textwrap.wrap(printable(value), max(_WIDTH - width, 20)) or [""]
        lines += [f"{name:<{width}}{wrapped[0]}", *(" " * width + line for line in wrapped[1:])]
    return "\n".join(lines)


def printable(text: str) -> str:
    """``text`` without control characters: a key or a caption must not steer the terminal."""
    return "".join(" " if unicodedata.category(letter) in ("Cc", "Cf", "Cs") else letter for letter in text)


def _schema(layout: Layout) -> str:
    width = max(len(column.name) for column in layout.schema) + 2
    kinds = [column.type if len(column.type) <= _TYPE else f"{column.type[: _TYPE - 1]}…" for column in layout.schema]
    types = max(map(len, kinds)) + 2
    lines = [
        f"{column.name:<{width}}{kind:<{types}}{column.role or ''}".rstrip()
        for column, kind in zip(layout.schema, kinds, strict=True)
    ]
    return "\n".join(map(printable, lines))


def _histogram(title: str, values: Distribution, edge: Callable[[float], str]) -> list[str]:
    """Title with the median, then one bin a line: its range, a bar, its count."""
    labels = bin_labels(values, edge)
    width, most = max(map(len, labels)), max(values.counts)
    lines = [f"{title} (median {edge(values.median)})"]
    for label, count in zip(labels, values.counts, strict=True):
        lines.append(f"{label:>{width}} {_bar(count / most):<{_BAR}} {count:,}")
    return lines


def bin_labels(values: Distribution, edge: Callable[[float], str]) -> list[str]:
    """The range of each bin, as 'from – to', or the one whole number that it holds."""
    return [_range(low, high, edge) for low, high in zip(values.edges, values.edges[1:], strict=False)]


def _range(low: float, high: float, edge: Callable[[float], str]) -> str:
    if high - low == 1 and float(low).is_integer():
        return edge(low)
    start, end = edge(low), edge(high)
    unit = f" {end.partition(' ')[2]}"
    return f"{start.removesuffix(unit)} – {end}"  # '64 – 128 KiB'


def _bar(share: float) -> str:
    eighths = round(share * _BAR * 8)
    if share and not eighths:
        eighths = 1  # one is not none
    return "█" * (eighths // 8) + (_BLOCKS[eighths % 8] if eighths % 8 else "")


def _beside(blocks: list[list[str]]) -> str:
    """Blocks two abreast."""
    rows = []
    for left, right in zip(blocks[::2], [*blocks[1::2], []], strict=False):
        height = max(len(left), len(right))
        padded = [[*block, *[""] * (height - len(block))] for block in (left, right)]
        rows.append("\n".join(f"{a:<{_HALF}}    {b}".rstrip() for a, b in zip(*padded, strict=True)))
    return "\n\n".join(rows)


def _advice(inspection: Inspection) -> str:
    if not inspection.advice:
        return f"None: fit to train on as it is, at {inspection.sample.image_size} pixels."
    lines = []
    for number, advice in enumerate(inspection.advice, 1):
        mark = "PROBLEM: " if advice.problem else ""
        lines.append(
            textwrap.fill(
                f"{number}. {mark}{printable(advice.sentence)}", _WIDTH, subsequent_indent="   ", break_long_words=False
            )
        )
        if advice.command:
            lines.append(f"   $ {advice.command}")
    return "\n".join(lines)
