"""Captions to token ids: a T5 tokenizer from a hub or folder, or one that needs no download."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from clippy.architecture import TextConfig

PAD, END = "<pad>", "</s>"
_SPECIAL = [PAD, END, "<unk>", "<mask>"]
_ALPHABET = sorted(pre_tokenizers.ByteLevel.alphabet())


class CaptionTokenizer:
    """Token ids of captions, ended by ``</s>`` and cut at ``max_tokens`` as T5's are."""

    def __init__(self, tokenizer: Tokenizer, max_tokens: int) -> None:
        self._tokenizer = tokenizer
        self._tokenizer.no_padding()
        self._tokenizer.enable_truncation(max_tokens)
        self.max_tokens = max_tokens
        pad = tokenizer.token_to_id(PAD)
        if pad is None:
            raise ValueError(f"the tokenizer has no {PAD!r} token; CLIPpy needs one of the T5 kind")
        self.pad_id: int = pad

    @property
    def vocabulary_size(self) -> int:
        """Number of ids, special ones included."""
        return self._tokenizer.get_vocab_size()

    def __call__(self, captions: Sequence[str], width: int | None = None) -> np.ndarray:
        """int32 (B, T): ids padded to ``width``, or to the longest caption of the batch."""
        rows = [encoding.ids for encoding in self._tokenizer.encode_batch_fast(list(captions))]
        ids = np.full((len(rows), width or max(map(len, rows), default=1)), self.pad_id, dtype=np.int32)
        for i, row in enumerate(rows):
            ids[i, : len(row)] = row
        return ids

    def to_json(self) -> str:
        """The whole tokenizer as text; ``from_json`` reads it back."""
        return self._tokenizer.to_str()

    @classmethod
    def from_json(cls, text: str, max_tokens: int) -> CaptionTokenizer:
        """The tokenizer that ``to_json`` wrote."""
        return cls(Tokenizer.from_str(text), max_tokens)


def build_tokenizer(config: TextConfig, captions: Iterable[str] | None = None) -> CaptionTokenizer:
    """The tokenizer that ``config.tokenizer`` names; ``captions`` are needed only to learn a vocabulary.

    Raises ValueError when a vocabulary is asked for without captions, or nothing can be loaded by that name.
    """
    if config.tokenizer == "bytes":
        return CaptionTokenizer(_byte_level(_SPECIAL + _ALPHABET), config.max_tokens)
    if config.tokenizer == "vocabulary":
        if captions is None:
            raise ValueError("model.text.tokenizer: 'vocabulary' is learned from captions, and none were given")
        return CaptionTokenizer(_learn(captions, config.vocabulary_size), config.max_tokens)
    return CaptionTokenizer(_load(config.tokenizer), config.max_tokens)


def _byte_level(vocabulary: Sequence[str]) -> Tokenizer:
    """A tokenizer without merges: every byte is a token, so nothing is ever unknown."""
    tokenizer = Tokenizer(models.BPE(vocab={token: i for i, token in enumerate(vocabulary)}, merges=[]))
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(_SPECIAL)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"$A {END}", special_tokens=[(END, tokenizer.token_to_id(END))]
    )
    return tokenizer


def _learn(captions: Iterable[str], vocabulary_size: int) -> Tokenizer:
    """Byte-pair merges learned from ``captions``; whole words wherever the size allows."""
    tokenizer = _byte_level(_SPECIAL + _ALPHABET)
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary_size, special_tokens=_SPECIAL, initial_alphabet=_ALPHABET, show_progress=False
    )
    tokenizer.train_from_iterator(captions, trainer)
    return tokenizer


def _load(name: str) -> Tokenizer:
    """A tokenizer from a ``tokenizer.json``, or through transformers from a folder or the hub."""
    path = Path(name)
    if path.suffix == ".json" and path.is_file():
        return Tokenizer.from_file(str(path))
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(name).backend_tokenizer
    except (OSError, ValueError, AttributeError) as error:
        raise ValueError(
            f"model.text.tokenizer: {name!r} is neither 'bytes', 'vocabulary', nor a folder or hub name that loads "
            f"({str(error).splitlines()[0]})"
        ) from None
