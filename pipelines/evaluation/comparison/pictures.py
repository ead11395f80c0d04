"""Which of the drawn pictures a page shows, best and worst, and each as bytes small enough to stand in it."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping
from dataclasses import dataclass, field

import pyarrow as pa
from PIL import Image

from pipelines.evaluation.comparison.find import PICTURES_FOLDER, FoundResult
from pipelines.evaluation.result import Picture

BEST, WORST = 4, 8
_WIDTH = 960
_AS_IT_IS = 60_000
"""Bytes up to which a PNG or JPEG is not made anew."""
_MOST_PIXELS = 40_000_000
_QUALITY = 82


@dataclass(frozen=True)
class Shown:
    """A picture of the benchmark as each model by its letter drew it."""

    file: str
    drawn: dict[str, Picture]

    @property
    def score(self) -> float | None:
        """Mean over the models that have one."""
        scores = [picture.score for picture in self.drawn.values() if picture.score is not None]
        return sum(scores) / len(scores) if scores else None


@dataclass(frozen=True)
class Gallery:
    """The best pictures, the worst, worst first, and how many others were drawn."""

    best: list[Shown] = field(default_factory=list)
    worst: list[Shown] = field(default_factory=list)
    unscored: list[Shown] = field(default_factory=list)
    left_out: int = 0


def choose(results: Mapping[str, FoundResult], best: int = BEST, worst: int = WORST) -> Gallery:
    """Pictures by their score; where few were drawn, the worse ones count as failures and none is shown twice."""
    drawn: dict[str, dict[str, Picture]] = {}
    for label, found in results.items():
        for picture in found.result.pictures:
            drawn.setdefault(picture.file, {})[label] = picture
    shown = [Shown(file, pictures) for file, pictures in drawn.items()]
    scored = sorted((one for one in shown if one.score is not None), key=lambda one: one.score or 0.0)
    unscored = [one for one in shown if one.score is None]
    worst = min(worst, (len(scored) + 1) // 2) if len(scored) < best + worst else worst
    failures, rest = scored[:worst], scored[worst:]
    successes = rest[::-1][:best]
    others = unscored[: best + worst - len(failures) - len(successes)]
    left_out = len(shown) - len(failures) - len(successes) - len(others)
    return Gallery(successes, failures, others, left_out)


class Embedder:
    """Pictures as data URIs, until the page's bytes for them are used up."""

    def __init__(self, most_bytes: int) -> None:
        self._left = most_bytes
        self.left_out = 0
        """Pictures that did not fit, or could not be read."""

    def embed(self, found: FoundResult, picture: Picture) -> str | None:
        """The data URI of a picture; None, counted, where it does not fit or is none."""
        image = _read(found, picture.file)
        if image is None or len(image[1]) > self._left:
            self.left_out += 1
            return None
        kind, content = image
        self._left -= len(content)
        return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"


def _read(found: FoundResult, file: str) -> tuple[str, bytes] | None:
    """Kind and bytes of a picture, made anew where it is large; None where there is no picture of that name."""
    if set(file) & set("/\\") or file in ("", ".", ".."):  # a result that somebody sent must not reach other files
        return None
    try:
        content = (found.folder / PICTURES_FOLDER / file).read_bytes()
        with Image.open(io.BytesIO(content), formats=("PNG", "JPEG")) as image:
            if image.width * image.height > _MOST_PIXELS:
                return None
            image.load()
            if len(content) <= _AS_IT_IS:
                return (image.format or "").lower(), content
            return "jpeg", _smaller(image)
    except (OSError, ValueError, SyntaxError, pa.ArrowException, Image.DecompressionBombError):
        return None


def _smaller(image: Image.Image) -> bytes:
    image = image.convert("RGB")
    if image.width > _WIDTH:
        image = image.resize((_WIDTH, max(1, round(image.height * _WIDTH / image.width))), Image.Resampling.LANCZOS)
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=_QUALITY, optimize=True)
    return stream.getvalue()
