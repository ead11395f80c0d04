"""Compiled towers compute what they compute otherwise, under the same names.

tests/pipelines/test_compiled_run.py trains with them.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from clippy.architecture import ImageConfig, ModelConfig, TextConfig
from clippy.compilation import CompilationError, compile_towers
from clippy.model import CLIPpy
from clippy.tokens import build_tokenizer

VIT = {"patch_size": 8, "embed_dim": 24, "depth": 2, "num_heads": 2}
TEXT = {"d_model": 24, "d_kv": 12, "num_heads": 2, "d_ff": 32, "num_layers": 2, "dropout_rate": 0.3}


def build(name: str = "vit_tiny_patch16_224", **arguments: object) -> CLIPpy:
    image = ImageConfig(name=name, image_size=32, arguments=arguments)
    config = ModelConfig(image=image, text=TextConfig(tokenizer="bytes", max_tokens=80, arguments=TEXT))
    torch.manual_seed(0)
    return CLIPpy(config, build_tokenizer(config.text)).train()


def with_gradients(module: nn.Module, call: str, inputs: Tensor) -> dict[str, Tensor]:
    """Output, gradients and buffers of one batch."""
    torch.manual_seed(1)
    module.zero_grad()
    output = getattr(module, call)(inputs)
    output.square().sum().backward()
    gradients = {name: p.grad for name, p in module.named_parameters() if p.grad is not None}
    return {"output": output.detach(), **gradients, **dict(module.named_buffers())}


def assert_same(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> None:
    assert ours.keys() == theirs.keys()
    for name, tensor in theirs.items():
        torch.testing.assert_close(ours[name], tensor, msg=lambda text, name=name: f"{name}: {text}")


@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")
def test_the_code_generator_gives_the_same_numbers_and_draws() -> None:
    plain, compiled = build(**VIT), build(**VIT)
    compile_towers(compiled)
    assert list(compiled.state_dict()) == list(plain.state_dict())
    hidden = torch.randn(5, 12, 24, generator=torch.Generator().manual_seed(2))
    ours, theirs = (model.text.encoder.encoder.block[1].layer[1] for model in (compiled, plain))
    for rows in (5, 3):
        assert_same(with_gradients(ours, "forward", hidden[:rows]), with_gradients(theirs, "forward", hidden[:rows]))


def test_a_convolutional_tower_is_compiled_as_a_whole() -> None:
    plain, compiled = build("resnet10t"), build("resnet10t")
    images = torch.randint(256, (3, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(2))
    with torch.compiler.set_stance("default", force_backend="eager"):  # no code generator, for it takes its time
        compile_towers(compiled)
        assert_same(with_gradients(compiled, "encode_image", images), with_gradients(plain, "encode_image", images))


def test_without_a_compiler_one_sentence_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import torch._inductor.config

    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(torch._inductor.config.cpp, "cxx", (None, "no-such-compiler"))
    torch._dynamo.reset()  # what another test compiled would do
    model = build(**VIT)
    with pytest.raises(
        CompilationError, match=r"train\.compile: .*'no-such-compiler'.*or set train\.compile=false"
    ) as e:
        compile_towers(model)
    assert "\n" not in str(e.value)
    assert "forward" not in vars(model.image.trunk.blocks[0])
