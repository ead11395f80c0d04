"""Options of the read-out: what goes together and what does not, in one sentence each."""

from __future__ import annotations

import pytest

from clippy.readout import GroupOptions, SegmentOptions

KEYS = {"readout": "maskclip", "key_smoothing": 1.0}


@pytest.mark.parametrize(
    ("options", "num_words", "sentence"),
    [
        ({"stride": 8}, 2, "--stride: is the way between windows (got 8); add --window"),
        ({"window": 0}, 2, "--window: must be at least 1 (got 0)"),
        ({"window": 16, "stride": 24}, 2, "--stride: must be from 1 to the window, 16, or gaps stay (got 24)"),
        ({"background_threshold": 1.0}, 2, "--background-threshold: must be between 0 and 1 (got 1.0)"),
        ({"background_threshold": 0.5}, 1, "--background-threshold: a single word has probability 1 everywhere"),
        ({"prompt_denoising": 0.0}, 2, "--prompt-denoising: must be above 0 and at most 1 (got 0.0)"),
        ({**KEYS, "key_smoothing": 1.5}, 2, "--key-smoothing: must be above 0 and at most 1 (got 1.5)"),
        ({"key_smoothing": 1.0}, 2, "--key-smoothing: needs the keys that MaskCLIP reads; add --readout maskclip"),
        ({**KEYS, "refine": True}, 2, "does not go with --refine; leave one out"),
        ({**KEYS, "window": 16}, 2, "does not go with --window; leave one out"),
        ({**KEYS, "background_threshold": 0.5}, 2, "does not go with --background-threshold; leave one out"),
    ],
)
def test_segment_options_that_do_not_go(options: dict[str, object], num_words: int, sentence: str) -> None:
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        SegmentOptions(**options).check_words(num_words, "--")  # type: ignore[arg-type]
    assert sentence in str(caught.value)


@pytest.mark.parametrize(
    "options", [{}, KEYS, {"background_threshold": 0.3, "refine": True, "window": 32, "stride": 8}]
)
def test_segment_options_that_go(options: dict[str, object]) -> None:
    SegmentOptions(**options).check_words(2)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"groups": 7}, "groups: must be an even number from 2 to 64"),
        ({"readout": "attention", "refine": True}, "refine: works on scores of patches, and attention masks are"),
        ({"readout": "attention", "window": 16}, "window: works on scores of patches, and attention masks are"),
    ],
)
def test_group_options_that_do_not_go(options: dict[str, object], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        GroupOptions(**options).check()  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("options", "takes_one_size", "sentence"),
    [
        ({"size": 8}, False, "size: must be from 16, one patch of this model, to 2048 pixels (got 8)"),
        ({"size": 96}, True, "size: this model takes pictures of 64 pixels alone (got 96)"),
        ({"size": 96, "window": 32}, True, "window: this model takes pictures of 64 pixels alone (got 32)"),
        ({"window": 40}, False, "window: must be whole patches of 16 pixels (got 40); use 32"),
        ({"window": 32, "stride": 3}, False, "stride: must be whole patches of 16 pixels (got 3); use 16"),
        ({"window": 80}, False, "window: 80 pixels are more than the short side that the model sees, 64; raise size"),
    ],
)
def test_options_that_a_model_cannot_follow(options: dict[str, int], takes_one_size: bool, sentence: str) -> None:
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        SegmentOptions(**options).check_model(64, 16, takes_one_size)
    assert sentence in str(caught.value)
    SegmentOptions(size=128, window=64).check_model(64, 16, takes_one_size)
