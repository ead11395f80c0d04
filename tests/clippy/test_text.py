"""The text tower's work follows the tokens of its captions, and its result does not."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from clippy.architecture import TextConfig
from clippy.text import TextTower, chunk_by_length

ARGUMENTS = {"d_model": 24, "d_kv": 12, "num_heads": 2, "d_ff": 32, "num_layers": 2}


@given(st.lists(st.integers(0, 77), min_size=1, max_size=400))
def test_every_row_is_in_one_chunk_that_holds_it(lengths: list[int]) -> None:
    chunks = chunk_by_length(lengths, 77)
    assert sorted(row for chunk in chunks for row in chunk.rows) == list(range(len(lengths)))
    assert 1 <= len(chunks) <= 8
    for chunk in chunks:
        assert max(1, *(lengths[row] for row in chunk.rows)) <= chunk.width <= 77
    assert sum(len(chunk.rows) * chunk.width for chunk in chunks) <= len(lengths) * 77


def test_captions_of_one_length_run_together() -> None:
    assert len(chunk_by_length([20] * 256, 77)) == 1
    assert len(chunk_by_length([20, 77], 77)) == 1
    assert len(chunk_by_length([10] * 128 + [77] * 128, 77)) == 8


def test_chunks_change_neither_embeddings_nor_gradients() -> None:
    torch.manual_seed(0)
    tower = TextTower(TextConfig(tokenizer="bytes", arguments=ARGUMENTS), 260, 0, 16).eval()
    lengths = torch.randint(2, 40, (64,)).tolist()
    ids = torch.zeros(64, 40, dtype=torch.long)
    for row, length in enumerate(lengths):
        ids[row, :length] = torch.randint(1, 260, (length,))
    assert len(chunk_by_length(lengths, 40)) > 1
    target = torch.randn(64, 16)

    def gradients(embeddings: torch.Tensor) -> list[torch.Tensor]:
        return list(torch.autograd.grad((embeddings * target).sum(), list(tower.parameters())))

    together, one_by_one = tower(ids, lengths), torch.cat([tower(ids[i : i + 1]) for i in range(64)])
    torch.testing.assert_close(together, one_by_one, rtol=1e-4, atol=1e-5)
    for a, b in zip(gradients(together), gradients(one_by_one), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)
