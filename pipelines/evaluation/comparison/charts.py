"""What the page draws of classes and pictures: bars, a matrix of confusion, a gallery."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from pipelines.evaluation.comparison.classes import ClassLine, confusion_shares
from pipelines.evaluation.comparison.compare import BenchmarkComparison
from pipelines.evaluation.comparison.numbers import percent, percent_text
from pipelines.evaluation.comparison.pictures import Embedder, Shown
from pipelines.evaluation.result import Picture, Result
from pipelines.web_page import text

MOST_BARS = 60
"""Classes that are shown one by one; of more, the best and the worst."""
MOST_IN_MATRIX = 41
_ENDS = 20
_CELL, _LETTER = 26, 6.4
_RIGHT = ' class="right"'


def class_bars(lines: Sequence[ClassLine], labels: Sequence[str]) -> str:
    """A bar a class and model, from the best class to the worst."""
    if len(lines) <= MOST_BARS:
        return _columns(lines, labels)
    left_out = f"{len(lines) - 2 * _ENDS:,} classes between these are left out."
    return (
        f"<h4>Best {_ENDS}</h4>{_columns(lines[:_ENDS], labels)}"
        f'<p class="note">{left_out}</p><h4>Worst {_ENDS}</h4>{_columns(lines[-_ENDS:], labels)}'
    )


def _columns(lines: Sequence[ClassLine], labels: Sequence[str]) -> str:
    kind = "bars with-released" if any(line.released is not None for line in lines) else "bars"
    return f'<div class="{kind}">{"".join(_bars(line, labels) for line in lines)}</div>'


def _bars(line: ClassLine, labels: Sequence[str]) -> str:
    bars = [
        _bar(label, line.percents.get(label), f"bar-{index % 4}", len(labels) > 1 or line.released is not None)
        for index, label in enumerate(labels)
    ]
    if line.released is not None:
        bars.append(_bar("released", line.released, "released", True))
    return f'<div class="class"><span class="name">{text(line.name, 60)}</span><div>{"".join(bars)}</div></div>'


def _bar(label: str, value: float | None, kind: str, named: bool) -> str:
    width = min(max(value or 0.0, 0.0), 100.0)
    name = f"<i>{text(label)}</i>" if named else ""
    return (
        f'<div class="bar">{name}<span class="track"><span class="{kind}" style="width:{width:.1f}%"></span></span>'
        f"<b>{percent_text(value)}</b></div>"
    )


def confusion_matrix(result: Result) -> str:
    """Rows are what is there, columns what it was taken for, as percent of the row; nothing for too many classes."""
    names = [name if len(name) <= 22 else f"{name[:21]}…" for name in result.per_class]
    if not result.confusion or not 1 < len(names) <= MOST_IN_MATRIX:
        return ""
    shares = confusion_shares(result)
    left = top = 14 + _LETTER * max(map(len, names))
    cells = []
    for row, name in enumerate(names):
        y = top + row * _CELL
        cells.append(f'<text x="{left - 6:.0f}" y="{y + 17:.0f}" text-anchor="end">{text(name)}</text>')
        x = left + (row + 0.62) * _CELL
        cells.append(f'<text transform="translate({x:.0f} {top - 6:.0f}) rotate(-60)">{text(name)}</text>')
        cells += [_square(left + column * _CELL, y, share, row == column) for column, share in enumerate(shares[row])]
    cells.sort(key=lambda cell: _RIGHT in cell)  # drawn last: their edges lie over the others'
    side = len(names) * _CELL
    width, height = left + side + 0.5 * top, top + side + 2
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="confusion"><svg class="matrix" role="img" '
        f'aria-label="confusion matrix" viewBox="0 0 {width:.0f} {height:.0f}" width="{width:.0f}" '
        f'style="min-width:{0.85 * width:.0f}px">{"".join(cells)}</svg></div>'
    )


def _square(x: float, y: float, share: float, right: bool) -> str:
    """A cell, the darker the larger its share; its number stands in it from 1 percent on."""
    if math.isnan(share):
        return f'<rect class="absent" x="{x:.0f}" y="{y:.0f}" width="{_CELL}" height="{_CELL}"/>'
    light = 97 - 0.62 * share
    square = (
        f'<rect{_RIGHT if right else ""} x="{x:.0f}" y="{y:.0f}" width="{_CELL}" height="{_CELL}" '
        f'fill="hsl(205 60% {light:.0f}%)"/>'
    )
    if share < 1:
        return square
    ink, middle = ("light" if light < 62 else "dark"), x + _CELL / 2
    return f'{square}<text class="{ink}" x="{middle:.0f}" y="{y + 17:.0f}" text-anchor="middle">{share:.0f}</text>'


def gallery(pictures: Sequence[Shown], benchmark: BenchmarkComparison, embedder: Embedder) -> str:
    """Each picture as every model drew it; those that do not fit are left out and counted by ``embedder``."""
    figures = "".join(_figure(shown, benchmark, embedder) for shown in pictures)
    return f'<div class="gallery">{figures}</div>' if figures else ""


def _figure(shown: Shown, benchmark: BenchmarkComparison, embedder: Embedder) -> str:
    drawn = []
    for label, picture in shown.drawn.items():
        content = embedder.embed(benchmark.results[label], picture)
        if content:
            words, caption = text(picture.caption or shown.name), _caption(label, picture, benchmark.results)
            drawn.append(f'<img alt="{words}" loading="lazy" src="{content}"><p>{caption}</p>')
    return f"<figure>{''.join(drawn)}<figcaption>{text(shown.name)}</figcaption></figure>" if drawn else ""


def _caption(label: str, picture: Picture, results: Mapping[str, object]) -> str:
    named = [label] if len(results) > 1 else []
    scored = [f"score {percent_text(percent(picture.score))}"] if picture.score is not None else []
    return f"<b>{text(' · '.join([*named, *scored]))}</b> {text(picture.caption)}"
