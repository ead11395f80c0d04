"""Which of the drawn pictures a page shows, best and worst, and each as bytes small enough to stand in it."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping
from dataclasses import dataclass

import pyarrow as pa
from PIL import Image

from pipelines.evaluation.comparison.find import FoundResult
from pipelines.evaluation.result import PICTURES, Picture

BEST, WORST = 3, 6
"""Pictures of one question that are shown."""
_WIDTH = 960
_AS_IT_IS = 60_000
"""Bytes up to which a PNG or JPEG is not made anew."""
_MOST_PIXELS = 40_000_000
_QUALITY = 82


@dataclass(frozen=True)
class Shown:
    """A picture of the benchmark as each model by its letter drew it."""

    name: str
    drawn: dict[str, Picture]

    @property
    def score(self) -> float | None:
        """Mean over the models that have one."""
        scores = [picture.score for picture in self.drawn.values() if picture.score is not None]
        return sum(scores) / len(scores) if scores else None


@dataclass(frozen=True)
class Gallery:
    """Of the pictures drawn for a question the best, the worst, worst first, and how many others there are."""

    table: str
    best: list[Shown]
    worst: list[Shown]
    unscored: list[Shown]
    left_out: int


def galleries(results: Mapping[str, FoundResult], best: int = BEST, worst: int = WORST) -> list[Gallery]:
    """By question; where few were drawn, the worse half are the failures, and none is shown twice."""
    drawn: dict[str, dict[str, dict[str, Picture]]] = {}
    for label, found in results.items():
        for picture in found.result.pictures:
            name = picture.file.replace(f"-{picture.role}-", "-")  # one model's worst may be another's best
            drawn.setdefault(picture.table, {}).setdefault(name, {})[label] = picture
    return [_gallery(table, [Shown(*item) for item in shown.items()], best, worst) for table, shown in drawn.items()]


def _gallery(table: str, shown: list[Shown], best: int, worst: int) -> Gallery:
    scored = sorted((one for one in shown if one.score is not None), key=lambda one: one.score or 0.0)
    failures = scored[: min(worst, (len(scored) + 1) // 2)]
    successes = scored[len(failures) :][::-1][:best]
    chosen = len(failures) + len(successes)
    unscored = [one for one in shown if one.score is None][: best + worst - chosen]
    return Gallery(table, successes, failures, unscored, len(shown) - chosen - len(unscored))


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
        content = (found.folder / PICTURES / file).read_bytes()
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
