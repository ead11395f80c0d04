"""An inspection as one self-contained HTML page: verdict, advice, a contact sheet, histograms, every fact."""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib.resources import files

import numpy as np

from pipelines.inspection.advice import Advice
from pipelines.inspection.collect import Inspection
from pipelines.inspection.distribution import Distribution
from pipelines.inspection.rows import Row
from pipelines.inspection.sample import Sample
from pipelines.inspection.text import (
    bin_labels,
    dataset_facts,
    histograms,
    import_facts,
    sample_facts,
    sample_title,
    verdict,
)
from pipelines.inspection.units import bytes_text, share_text, short_number
from pipelines.samples import VALID
from pipelines.storage import locate
from pipelines.web_page import section, text, web_page

_PICTURES = 48
_PICTURE_BYTES = 1_900_000  # in all, before base64 makes them a third longer
_CAPTION_LETTERS = 240
_MOST_COLUMNS = 100


def write_data_card(inspection: Inspection, out: str) -> str:
    """Write the page to file or URL ``out``, and return where it lies. It is below 3 MB whatever the dataset holds."""
    page = locate(out)
    name = inspection.url.rstrip("/").rsplit("/", 1)[-1] or inspection.url
    style = files("pipelines.inspection").joinpath("data_card.css").read_text(encoding="utf-8")
    body = "\n".join([_header(inspection, name), _tiles(inspection), *_sections(inspection)])
    page.write_text(web_page(f"{name}: data card", style, body))
    return page.url


def _sections(inspection: Inspection) -> list[str]:
    sample = inspection.sample
    charts = "".join(_chart(title, values, edge) for title, values, edge in histograms(inspection))
    sections = [
        section("What to change", _advice(inspection.advice, sample.image_size)),
        section(
            "Contact sheet",
            _contact_sheet(inspection.rows),
            f"As training at {sample.image_size} pixels sees them: the centre of each picture. Evenly spaced "
            "through the sample, neither picked nor ordered.",
        ),
        section(sample_title(sample), f'<div class="charts">{charts}</div>' if charts else ""),
        '<div class="columns">',
        section("Dataset", _facts(dataset_facts(inspection.layout))),
        section("Sample", _facts(sample_facts(inspection))),
        "</div>",
        section("Failures", _failures(sample)),
        section("Most repeated captions", _repeated(sample)),
        section("Columns", _schema(inspection)),
    ]
    if inspection.imported:
        examples = _table(
            ["key", "cause", "source", "message"],
            ([str(value or "") for value in row.values()] for row in inspection.imported.get("reject_examples", [])),
        )
        sections.append(section("Import", _facts(import_facts(inspection.imported)) + examples))
    return sections


def _header(inspection: Inspection, name: str) -> str:
    problems = any(advice.problem for advice in inspection.advice)
    state = "problem" if problems else "consider" if inspection.advice else "fit"
    return (
        f'<header><p class="eyebrow">Data card</p><h1>{text(name)}</h1><p class="url">{text(inspection.url)}</p>'
        f'<p class="verdict {state}">{text(verdict(inspection))}</p></header>'
    )


def _tiles(inspection: Inspection) -> str:
    layout, sample = inspection.layout, inspection.sample
    tiles = {
        "usable rows": (f"{layout.usable_rows:,}", f"{share_text(layout.usable_rows, layout.rows)} of all"),
        "stored": (bytes_text(layout.bytes), f"{bytes_text(layout.bytes_per_row)} a row"),
    }
    if sample.rows:
        valid = sample.causes.get(VALID, 0)
        tiles["of the sample are pairs"] = (share_text(valid, sample.rows), f"{valid:,} of {sample.rows:,} rows")
    if sample.short_side is not None:
        span = f"{short_number(sample.short_side.p05)} to {short_number(sample.short_side.p95)} for nine in ten"
        tiles["pixels, median short side"] = (short_number(sample.short_side.median), span)
    if sample.caption_words is not None:
        span = f"{short_number(sample.caption_words.p05)} to {short_number(sample.caption_words.p95)} for nine in ten"
        tiles["words, median caption"] = (short_number(sample.caption_words.median), span)
    if sample.images_per_second is not None and sample.images_per_second_per_core is not None:
        cores = f"{sample.images_per_second_per_core:,.0f} on each of {sample.cores} cores"
        tiles["images/s decoded here"] = (f"{sample.images_per_second:,.0f}", cores)
    items = "".join(
        f"<li><b>{text(number)}</b><span>{text(name)}</span><small>{text(detail)}</small></li>"
        for name, (number, detail) in tiles.items()
    )
    return f'<ul class="tiles">{items}</ul>'


def _advice(advice: Sequence[Advice], image_size: int) -> str:
    if not advice:
        return f'<p class="note">Nothing: fit to train on as it is, at {image_size} pixels.</p>'
    return f'<ol class="advice">{"".join(map(_one_advice, advice))}</ol>'


def _one_advice(advice: Advice) -> str:
    kind = ' class="problem"' if advice.problem else ""
    mark = "<strong>Problem.</strong> " if advice.problem else ""
    command = f"<pre>{text(advice.command, 2000)}</pre>" if advice.command else ""
    return f"<li{kind}><p>{mark}{text(advice.sentence, 1000)}</p>{command}</li>"


def _contact_sheet(rows: Sequence[Row]) -> str:
    shown = [row for row in rows if row.cause == VALID and row.thumbnail]
    if not shown:
        return '<p class="note">No sampled row gives a picture with a caption.</p>'
    number = min(_PICTURES, len(shown))
    figures, left = [], _PICTURE_BYTES
    for place in np.arange(number) * len(shown) // number:
        left -= len(shown[place].thumbnail)
        if left < 0:
            break
        figures.append(_figure(shown[place]))
    return f'<div class="sheet">{"".join(figures)}</div>'


def _figure(row: Row) -> str:
    captions = [caption for caption in row.captions if caption.strip()]
    more = f" (+{len(captions) - 1} more)" if len(captions) > 1 else ""
    facts = f"{row.width} × {row.height} · {row.format} · {bytes_text(row.image_bytes)}{more}"
    content = base64.b64encode(row.thumbnail).decode()
    return (
        f'<figure><img alt="" loading="lazy" src="data:image/jpeg;base64,{content}">'
        f'<figcaption title="{text(row.key)}"><p dir="auto">{text(captions[0], _CAPTION_LETTERS)}</p>'
        f"<small>{text(facts)}</small></figcaption></figure>"
    )


def _chart(title: str, values: Distribution, edge: Callable[[float], str]) -> str:
    """Horizontal bars, one a bin, as an SVG in the colours of the page."""
    labels, most = bin_labels(values, edge), max(values.counts)
    row, left = 20, 20 + 6.2 * max(map(len, labels))
    width = 320 - left  # leaves room for the count
    bars = []
    for i, (label, count) in enumerate(zip(labels, values.counts, strict=True)):
        length, y = max(width * count / most, 1.5 if count else 0), i * row
        bars.append(
            f'<text x="{left - 8:.1f}" y="{y + 14}" text-anchor="end">{text(label)}</text>'
            f'<rect x="{left:.1f}" y="{y + 3}" width="{length:.1f}" height="{row - 5}" rx="2"/>'
            f'<text class="count" x="{left + length + 6:.1f}" y="{y + 14}">{count:,}</text>'
        )
    quantiles = f"median {edge(values.median)}, 5 % below {edge(values.p05)}, 5 % above {edge(values.p95)}"
    return (
        f'<figure class="chart"><figcaption><b>{text(title)}</b><small>{text(quantiles)}</small></figcaption>'
        f'<svg viewBox="0 0 370 {row * len(values.counts)}" role="img" aria-label="{text(title)}">'
        f"{''.join(bars)}</svg></figure>"
    )


def _facts(facts: Mapping[str, str]) -> str:
    rows = "".join(f"<tr><th>{text(name)}</th><td>{text(value, 600)}</td></tr>" for name, value in facts.items())
    return f'<div class="scroll"><table class="facts">{rows}</table></div>' if rows else ""


def _failures(sample: Sample) -> str:
    return _table(
        ["cause", "rows", "share", "keys"],
        (
            [cause, f"{sample.causes[cause]:,}", share_text(sample.causes[cause], sample.rows), ", ".join(keys)]
            for cause, keys in sample.failure_keys.items()
        ),
    )


def _repeated(sample: Sample) -> str:
    return _table(["caption", "rows"], ([caption, f"{n:,}"] for caption, n in sample.most_repeated_captions.items()))


def _schema(inspection: Inspection) -> str:
    columns = inspection.layout.schema
    rows = [[column.name, column.type, column.role or ""] for column in columns[:_MOST_COLUMNS]]
    if len(columns) > _MOST_COLUMNS:
        rows.append([f"and {len(columns) - _MOST_COLUMNS} more", "", ""])
    return _table(["column", "type", "used as"], rows)


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table, nothing where it has no rows."""
    lines = "".join(f"<tr>{''.join(map(_cell, row))}</tr>" for row in rows)
    heading = "".join(f"<th>{text(name)}</th>" for name in head)
    body = f"<table><thead><tr>{heading}</tr></thead><tbody>{lines}</tbody></table>"
    return f'<div class="scroll">{body}</div>' if lines else ""


def _cell(words: str) -> str:
    short = ' class="short"' if len(words) <= 24 else ""
    return f'<td dir="auto"{short}>{text(words, 1200)}</td>'
