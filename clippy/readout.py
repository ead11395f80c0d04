"""How the pixels of a picture are read out of a model, as data that is checked before all else. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

MAX_SIZE, MAX_GROUPS = 2048, 64


@dataclass(frozen=True)
class View:
    """How a picture is shown to the model, and whether the result follows its colours."""

    size: int | None = None
    """Short side that the model sees, in pixels; None is the one that it was trained on."""
    window: int | None = None
    """Side of the squares that the model sees one by one, in pixels, scores averaged where they overlap; None shows the
    picture whole."""
    stride: int | None = None
    """Pixels from one window to the next, whole patches; None is half a window."""
    refine: bool = False
    """Let scores flow between pixels of like colour (PAMR), so that edges lie where colours change."""

    def check(self, prefix: str = "") -> None:
        """Refuse what goes with no model. ``prefix``: as ``_flag``. Raises ValueError."""
        window, stride = _flag(prefix, "window"), _flag(prefix, "stride")
        if self.window is None:
            if self.stride is not None:
                raise ValueError(f"{stride}: is the way between windows (got {self.stride}); add {window}")
            return
        if self.window < 1:
            raise ValueError(f"{window}: must be at least 1 (got {self.window})")
        if self.stride is not None and not 1 <= self.stride <= self.window:
            raise ValueError(f"{stride}: must be from 1 to the window, {self.window}, or gaps stay (got {self.stride})")

    def check_model(self, image_size: int, patch_size: int, takes_one_size: bool, prefix: str = "") -> None:
        """Refuse what a model with these facts cannot look at. ``prefix``: as ``_flag``. Raises ValueError."""
        name, size = _flag(prefix, "size"), self.size
        if size is not None and not patch_size <= size <= MAX_SIZE:
            raise ValueError(
                f"{name}: must be from {patch_size}, one patch of this model, to {MAX_SIZE} pixels (got {size})"
            )
        if takes_one_size and self.window is None and size not in (None, image_size):
            raise ValueError(f"{name}: this model takes pictures of {image_size} pixels alone (got {size})")
        if self.window is None:
            return
        name = _flag(prefix, "window")
        if takes_one_size and self.window != image_size:
            raise ValueError(f"{name}: this model takes pictures of {image_size} pixels alone (got {self.window})")
        for option, value in ((name, self.window), (_flag(prefix, "stride"), self.stride)):
            if value is not None and value % patch_size:
                near = max(1, round(value / patch_size)) * patch_size
                raise ValueError(f"{option}: must be whole patches of {patch_size} pixels (got {value}); use {near}")
        if self.window > (size or image_size):
            raise ValueError(
                f"{name}: {self.window} pixels are more than the short side that the model sees, {size or image_size}; "
                f"raise {_flag(prefix, 'size')}"
            )


@dataclass(frozen=True)
class SegmentOptions(View):
    """How words are found in the pixels of a picture."""

    readout: Literal["patches", "maskclip"] = "patches"
    """``patches`` are the model's own; ``maskclip`` switches its last attention layer off (MaskCLIP)."""
    background_threshold: float | None = None
    """A pixel whose best word is less probable is background: the softmax, over all labels and background words, of
    cosine times the model's inverse temperature."""
    prompt_denoising: float | None = None
    """Words that are nowhere in the picture so probable are left out (MaskCLIP: 0.5)."""
    key_smoothing: float | None = None
    """Patches whose best word is less probable take the vote of patches with like keys (MaskCLIP: 1)."""

    def check_words(self, num_words: int, prefix: str = "") -> None:
        """``check``, and refuse what so many labels and background words cannot answer. Raises ValueError."""
        self.check(prefix)
        threshold, smoothing = _flag(prefix, "background_threshold"), _flag(prefix, "key_smoothing")
        if self.background_threshold is not None:
            if not 0 < self.background_threshold < 1:
                raise ValueError(f"{threshold}: must be between 0 and 1 (got {self.background_threshold})")
            if num_words < 2:
                raise ValueError(
                    f"{threshold}: a single word has probability 1 everywhere; give a second one in "
                    f"{_flag(prefix, 'labels')} or {_flag(prefix, 'background')}"
                )
        for name in ("prompt_denoising", "key_smoothing"):
            value = getattr(self, name)
            if value is not None and not 0 < value <= 1:
                raise ValueError(f"{_flag(prefix, name)}: must be above 0 and at most 1 (got {value})")
        if self.key_smoothing is None:
            return
        if self.readout != "maskclip":
            raise ValueError(
                f"{smoothing}: needs the keys that MaskCLIP reads; add {_flag(prefix, 'readout')} maskclip"
            )
        others = {"background_threshold": self.background_threshold, "refine": self.refine, "window": self.window}
        for name, value in others.items():
            if value:
                raise ValueError(
                    f"{smoothing}: its votes are no probabilities and need all keys at once, so it does not go with "
                    f"{_flag(prefix, name)}; leave one out"
                )


@dataclass(frozen=True)
class GroupOptions(View):
    """How the pixels of a picture are grouped without words."""

    groups: int = 8
    """Groups at most: even, 2 to MAX_GROUPS, two for each principal component."""
    readout: Literal["patches", "attention"] = "patches"
    """``patches`` groups by principal components; ``attention`` takes the masks of the last layer's heads (DINO)."""

    def check(self, prefix: str = "") -> None:
        """Refuse a number of groups that cannot be made, and what attention masks have not. Raises ValueError."""
        super().check(prefix)
        if not 2 <= self.groups <= MAX_GROUPS or self.groups % 2:
            raise ValueError(
                f"{_flag(prefix, 'groups')}: must be an even number from 2 to {MAX_GROUPS}, two for each principal "
                f"component (got {self.groups})"
            )
        if self.readout == "attention":
            for name in ("refine", "window"):
                if getattr(self, name):
                    raise ValueError(
                        f"{_flag(prefix, name)}: works on scores of patches, and attention masks are what the class "
                        "token looks at in the whole picture; leave it out"
                    )


def _flag(prefix: str, name: str) -> str:
    """The option as its user wrote it: ``window``, or with ``--`` before it as on the command line."""
    return prefix + (name.replace("_", "-") if prefix else name)
