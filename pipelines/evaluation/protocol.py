"""Every choice that an evaluation's numbers hang on, as data that is printed with them. Imports no torch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from pydantic import Field, model_validator

from clippy.config import ConfigError, Section
from clippy.readout import SegmentOptions


class Protocol(Section):
    """How pictures are shown to a model and how its patches become an answer."""

    name: str = "paper"
    size: int | None = Field(None, gt=0)
    """Short side that the model sees, in pixels; null is the one that it was trained on."""
    window: int | None = Field(None, gt=0)
    """Side of the squares that the model sees one by one, in pixels; null shows the picture whole."""
    stride: int | None = Field(None, gt=0)
    """Pixels from one window to the next; null is half a window."""
    templates: str | None = None
    """The prompts that a class name is put into: a set of `clippy.vocabulary`; null is the benchmark's own."""
    readout: Literal["patches", "maskclip"] = "patches"
    """``patches`` are the model's own; ``maskclip`` switches its last attention layer off."""
    prompt_denoising: float | None = Field(None, gt=0, le=1)
    """Classes that are nowhere in the picture so probable are left out (MaskCLIP: 0.5)."""
    key_smoothing: float | None = Field(None, gt=0, le=1)
    """Patches whose best class is less probable take the vote of patches with like keys (MaskCLIP: 1)."""
    refine: bool = False
    """Let scores flow between pixels of like colour (PAMR)."""
    background: Literal["words", "threshold"] = "words"
    """Where a benchmark has a background: what the word "background" and the extended vocabulary win, or what no class
    is probable enough for."""
    background_threshold: float | None = Field(None, gt=0, lt=1)
    """A pixel whose best class is less probable is background."""
    relative_threshold: bool = False
    """Lower the threshold to the highest probability in the picture (GroupViT), so that something is found in each."""
    top_classes: int | None = Field(None, gt=0)
    """Only so many classes, those nearest to the whole picture, can be found in it (GroupViT: 5). What the threshold is
    for is then the probability among these times that among all."""
    grouping: Literal["components", "k-means", "attention"] = "components"
    """Groups without words: principal components of the patches, their means, or the heads' attention (DINO)."""
    groups: int = Field(8, gt=0)
    """Groups of each picture, at most."""
    centred: bool = True
    """Whether the mean patch is taken off before the principal components are looked for; without, the first is the
    mean itself, to which nearly all patches then belong."""
    both_signs: bool = False
    """Whether half as many components give two groups each, one for either sign."""
    count_ground: bool = False
    """Whether the ground is a segment to be matched."""
    average: Literal["segments", "pictures"] = "segments"
    """Whether every segment weighs the same, or every picture."""
    cluster_pictures: int = Field(0, ge=0)
    """Pictures, evenly spread, whose patches are clustered once for all pictures, into as many clusters as there are
    classes, to be matched with them (STEGO); 0 asks nothing about clusters."""
    back_off: tuple[float, ...] = ()
    """Leads in cosine: where the best class leads the second by less, the answer is what both are, by WordNet."""
    held_out: tuple[str, ...] = ()
    """Classes that the open-set questions give the model no words for; without any they are not asked."""
    region_pooling: Literal["mean", "max", "align"] = "mean"
    """How the patches of an annotated region become one: their mean or maximum, or points within its box (RoIAlign)."""

    @model_validator(mode="after")
    def _check_cosines(self) -> Protocol:
        if any(lead <= 0 for lead in self.back_off) or sorted({*self.back_off}) != list(self.back_off):
            raise ValueError(f"back_off: leads must be above 0 and ascend (got {list(self.back_off)})")
        for field, others in (
            ("held_out", ("refine", "prompt_denoising", "key_smoothing", "top_classes")),
            ("back_off", ("refine", "key_smoothing")),
        ):
            for name in others:
                if getattr(self, field) and getattr(self, name):
                    raise ValueError(f"{field}: needs the cosines of all words, which {name} replaces; leave one out")
        return self

    @model_validator(mode="after")
    def _check_background(self) -> Protocol:
        if (self.background == "threshold") != (self.background_threshold is not None):
            raise ValueError("background: threshold goes with a background_threshold, and the other way round")
        if self.both_signs and self.groups % 2:
            raise ValueError(f"groups: with both_signs there are two for each component, so even (got {self.groups})")
        return self

    def segment_options(self) -> SegmentOptions:
        """The same for `clippy.pictures`' functions."""
        return SegmentOptions(
            size=self.size,
            window=self.window,
            stride=self.stride,
            refine=self.refine,
            readout=self.readout,
            background_threshold=self.background_threshold,
            prompt_denoising=self.prompt_denoising,
            key_smoothing=self.key_smoothing,
        )


PROTOCOLS = {
    # The paper states neither size nor prompts for segmentation, nor centring for grouping: those are choices of ours.
    "paper": Protocol(),
    "groupvit": Protocol(
        name="groupvit",
        size=448,
        window=448,
        stride=224,
        templates="simple",
        background="threshold",
        background_threshold=0.95,
        relative_threshold=True,
        top_classes=5,
    ),
    # TCL compares sigmoids of a decoder of its own with a constant; for a model without one these are probabilities.
    "tcl": Protocol(
        name="tcl",
        size=448,
        window=448,
        stride=224,
        templates="tcl",
        background="threshold",
        background_threshold=0.5,
    ),
    # STEGO sees centre squares alone, and learns its clusters while it trains a head of its own.
    "stego": Protocol(name="stego", cluster_pictures=500),
    "shapes": Protocol(name="shapes", both_signs=True, count_ground=True),
}
"""By name: the paper's extended vocabulary, GroupViT's evaluation (arXiv 2202.11094), TCL's (arXiv 2212.00785), the
Hungarian matching of STEGO (arXiv 2203.08414), and that of the generated scenes."""

_OF_BENCHMARK: dict[tuple[str, str], dict[str, object]] = {("groupvit", "context60"): {"background_threshold": 0.35}}
"""What a protocol does otherwise on one benchmark."""

METHODS: dict[str, dict[str, object]] = {
    "patches": {},
    "maskclip": {"readout": "maskclip"},
    "maskclip-denoised": {"readout": "maskclip", "prompt_denoising": 0.5},
    "maskclip-smoothed": {"readout": "maskclip", "key_smoothing": 1.0},
    "maskclip-both": {"readout": "maskclip", "prompt_denoising": 0.5, "key_smoothing": 1.0},
    "k-means": {"grouping": "k-means"},
    "attention": {"grouping": "attention"},
}
"""By name, the fields of a protocol that make up a read-out: the model's own patches, MaskCLIP (arXiv 2112.01071) with
its two clean-ups, and the controls of grouping."""


def choose_protocol(
    name: str | None,
    benchmark: str,
    configured: Protocol | None = None,
    method: str = "patches",
    overrides: Sequence[str] = (),
) -> Protocol:
    """The protocol by name, else as configured, else the benchmark's; with a read-out and ``field=value`` on top.

    Raises ConfigError, a ValueError, for a name that is not there or fields that do not fit.
    """
    if name is not None and name not in PROTOCOLS:
        raise ConfigError("--protocol", [f"there is no {name!r}; there are {', '.join(PROTOCOLS)}"])
    if method not in METHODS:
        raise ConfigError("--method", [f"there is no {method!r}; there are {', '.join(METHODS)}"])
    if name is None and configured is not None:
        base = configured.model_dump(mode="json")
    else:
        base = usual_protocol(benchmark, name).model_dump(mode="json")
    return Protocol.build("protocol", base | METHODS[method], overrides)


def usual_protocol(benchmark: str, name: str | None = None) -> Protocol:
    """A protocol by name, else the one that a benchmark is measured under unless told otherwise."""
    name = name or ("shapes" if benchmark == "shapes" else "paper")
    return PROTOCOLS[name].model_copy(update=_OF_BENCHMARK.get((name, benchmark), {}))
