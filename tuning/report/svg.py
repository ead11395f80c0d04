"""Parts of a drawing as inline SVG without a script."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pipelines.web_page import text
from tuning.report.scales import Numbers

Place = tuple[float, float]
FONT = 12
LETTER = 6.6
"""Width of a letter of that size, on average."""
GREY, INK, GRID = "#6a6a6a", "#1c1c1c", "#e2e2e2"
_TOP, _BOTTOM, _RIGHT = 26, 44, 16
"""Room around a frame for the names and labels of its axes."""


@dataclass(frozen=True)
class Frame:
    """Two axes of numbers with a grid."""

    width: float
    height: float
    across: Numbers
    up: Numbers

    def place(self, x: float, y: float) -> Place:
        """Where a point lies in the picture."""
        return self._x(self.across.at(x)), self._y(self.up.at(y))

    def draw(self, parts: Sequence[str], across: str, up: str) -> str:
        """The picture: the parts over the grid, the axes by their names."""
        return svg(self.width, self.height, [self._grid(across, up), *parts], f"{up} by {across}")

    def _grid(self, across: str, up: str) -> str:
        left, right, bottom = self._x(0), self._x(1), self._y(0)
        parts = [line((left, bottom), (right, bottom), GREY), label((4, 14), up)]
        parts.append(label(((left + right) / 2, self.height - 6), across, "middle"))
        for share, tick in self.up.ticks():
            y = self._y(share)
            parts += [line((left, y), (right, y), GRID), label((left - 6, y + 4), tick, "end", GREY)]
        for share, tick in self.across.ticks():
            x = self._x(share)
            parts += [line((x, bottom), (x, bottom + 4), GREY), label((x, bottom + 18), tick, "middle", GREY)]
        return "".join(parts)

    def _x(self, share: float) -> float:
        left = 20 + LETTER * max(len(tick) for _, tick in self.up.ticks())
        return left + share * (self.width - left - _RIGHT)

    def _y(self, share: float) -> float:
        return _TOP + (1 - share) * (self.height - _TOP - _BOTTOM)


def svg(width: float, height: float, parts: Sequence[str], name: str) -> str:
    """The whole picture, which scrolls by itself where it is too wide; ``name`` is for who cannot see it."""
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{text(name)}"><svg class="chart" role="img" '
        f'aria-label="{text(name)}" viewBox="0 0 {width:.0f} {height:.0f}" width="{width:.0f}">'
        f"{''.join(parts)}</svg></div>"
    )


def titled(title: str, *parts: str) -> str:
    """Parts that show ``title`` when they are pointed at."""
    return f"<g><title>{text(title)}</title>{''.join(parts)}</g>"


def path(places: Sequence[Place], colour: str, width: float, opacity: float = 1, dashed: bool = False) -> str:
    """A line from place to place."""
    points = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
    dashes = ' stroke-dasharray="6 4"' if dashed else ""
    return (
        f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="{width}" '
        f'stroke-opacity="{opacity}" stroke-linejoin="round"{dashes}/>'
    )


def line(start: Place, end: Place, colour: str) -> str:
    """A thin straight line."""
    (x0, y0), (x1, y1) = start, end
    return f'<line x1="{x0:.1f}" y1="{y0:.1f}" x2="{x1:.1f}" y2="{y1:.1f}" stroke="{colour}"/>'


def dot(place: Place, radius: float, colour: str, edge: str = "none") -> str:
    """A filled circle."""
    return f'<circle cx="{place[0]:.1f}" cy="{place[1]:.1f}" r="{radius}" fill="{colour}" stroke="{edge}"/>'


def cross(place: Place, colour: str) -> str:
    """An x."""
    strokes = f"M{place[0] - 4:.1f},{place[1] - 4:.1f}l8,8m0,-8l-8,8"
    return f'<path d="{strokes}" stroke="{colour}" stroke-width="2.2" fill="none"/>'


def label(place: Place, words: str, anchor: str = "start", colour: str = INK, over: bool = False) -> str:
    """A word or number; ``over`` lines it has a ground of its own."""
    ground = ' paint-order="stroke" stroke="#fff" stroke-width="4" stroke-linejoin="round"' if over else ""
    return (
        f'<text x="{place[0]:.1f}" y="{place[1]:.1f}" text-anchor="{anchor}" font-size="{FONT}" fill="{colour}"'
        f"{ground}>{text(words, 40)}</text>"
    )
