"""A training step without its arithmetic: the recipe's own model on tensors that have shapes and no memory.

Every operation that torch would run is seen, in the forward and in the backward pass, so FLOPs, bytes moved and memory
held are those of the model as it is built, whatever towers the recipe names. Shapes: B rows of a micro-batch, T tokens.
"""

from __future__ import annotations

import json
import weakref
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from math import exp, prod
from statistics import NormalDist
from typing import Any, cast

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import addmm_flop, flop_registry, sdpa_backward_flop, sdpa_flop

from clippy.architecture import ModelConfig, TextConfig
from clippy.describe import count_parameters
from clippy.model import CLIPpy
from clippy.pretrained import Repository
from clippy.tokens import CaptionTokenizer
from cluster.capacity.work import Operation, Work

T5_VOCABULARY = 32_100
"""Entries of the tokenizer that T5 and Sentence-T5 share: 32,000 pieces and 100 sentinels."""


@dataclass(frozen=True)
class DryRun:
    """One pass of a micro-batch through the towers and back."""

    rows: int
    width: int
    """Of the embeddings."""
    parameters: int
    trained: int
    """Parameters with a gradient."""
    trained_text: int
    """Those of the text tower, whose gradients come first."""
    weight_bytes: int
    """Of all parameters and buffers."""
    tensors: int
    """Parameters with a gradient, counted as tensors."""
    forward: Work
    backward: Work
    """With what activation checkpointing runs again."""
    image_bytes: int
    """Kept of the image tower's forward pass for its backward pass."""
    saved_bytes: int
    """Kept of both towers."""
    spare_bytes: int
    """Temporaries at the highest, beyond what is kept and the gradients."""

    @property
    def working_bytes(self) -> int:
        """The most that activations, gradients and temporaries take together; gradients come as activations go."""
        gradients, text = 4 * self.trained, 4 * self.trained_text
        return max(self.saved_bytes, self.image_bytes + text, gradients) + self.spare_bytes

    def longer(self, deeper: DryRun, layers: int) -> DryRun:
        """This text tower with so many layers more, ``deeper`` being the same with one."""

        def more(name: str) -> int:
            return int(getattr(self, name) + layers * (getattr(deeper, name) - getattr(self, name)))

        counts = ("parameters", "trained", "trained_text", "weight_bytes", "tensors", "saved_bytes")
        return DryRun(
            rows=self.rows,
            width=self.width,
            forward=self.forward.longer(deeper.forward, layers),
            backward=self.backward.longer(deeper.backward, layers),
            image_bytes=self.image_bytes,
            spare_bytes=deeper.spare_bytes,
            **{name: more(name) for name in counts},
        )


def dry_run(
    model: ModelConfig, lengths: Sequence[int], *, precision: str = "float32", checkpointing: bool = False
) -> DryRun:
    """A micro-batch of captions of so many tokens each, a row each.

    The layers of a T5 are alike, so a deep text tower is run with one and with two of them. Raises ValueError naming
    the recipe field when a tower cannot be built.
    """
    config = without_weights(model)
    layers = config.text.arguments["num_layers"]
    shallow = [_trace(with_layers(config, n), lengths, precision, checkpointing) for n in range(1, min(2, layers) + 1)]
    return shallow[0].longer(shallow[1], layers - 1) if layers > 1 else shallow[0]


def caption_lengths(rows: int, median: float, spread: float, max_tokens: int) -> list[int]:
    """Tokens of each of so many captions, quantiles of a log-normal distribution: the same for every micro-batch."""
    normal = NormalDist(0, spread) if spread else None
    quantiles = [exp(normal.inv_cdf((i + 0.5) / rows)) if normal else 1.0 for i in range(rows)]
    return [min(max_tokens, max(2, round(median * quantile))) for quantile in quantiles]


def without_weights(model: ModelConfig) -> ModelConfig:
    """The same architecture with random weights, the text tower's arguments complete.

    Raises ValueError where they can be told from the recipe neither nor from a file that is here.
    """
    image = model.image.model_copy(update={"pretrained": False})
    arguments = {"num_layers": 6, "vocab_size": _vocabulary_size(model.text), **model.text.arguments}  # 6: T5Config's
    if model.text.pretrained is not None:
        arguments = {**_published_arguments(model.text), **model.text.arguments}
    text = model.text.model_copy(update={"pretrained": None, "arguments": arguments})
    return model.model_copy(update={"image": image, "text": text})


def _published_arguments(text: TextConfig) -> dict[str, Any]:
    """Fields of the published encoder: the recipe's, if they say enough, or those of its ``config.json``."""
    told = {"vocab_size": 32_128, **text.arguments}  # T5's embedding has more rows than its tokenizer has entries
    if {"d_model", "d_ff", "d_kv", "num_heads", "num_layers"} <= told.keys():
        return told
    assert text.pretrained is not None
    repository = Repository(text.pretrained, "model.text.pretrained")
    file = repository.find("config.json")
    if file is None:
        raise ValueError(f"model.text.pretrained: {text.pretrained} has no config.json, so its size is not known")
    values = json.loads(file.read_text(encoding="utf-8"))
    names = ("vocab_size", "d_model", "d_ff", "d_kv", "num_heads", "num_layers", "feed_forward_proj", "dropout_rate")
    return {name: values[name] for name in names if name in values}


def _vocabulary_size(text: TextConfig) -> int:
    return {"bytes": 260, "vocabulary": text.vocabulary_size}.get(text.tokenizer, T5_VOCABULARY)


def with_layers(config: ModelConfig, layers: int) -> ModelConfig:
    """The same with a text tower of so many layers."""
    text = config.text.model_copy(update={"arguments": {**config.text.arguments, "num_layers": layers}})
    return config.model_copy(update={"text": text})


def _trace(config: ModelConfig, lengths: Sequence[int], precision: str, checkpointing: bool) -> DryRun:
    model, fake = build_fake(config)
    if checkpointing:
        model.checkpoint_activations()
    rows, size = len(lengths), config.image.image_size
    watch = Watch()
    started: list[int] = []
    model.text.register_forward_pre_hook(lambda *_: started.append(watch.live_bytes))
    with fake:
        images = torch.empty(rows, 3, size, size, dtype=torch.uint8)
        ids = torch.empty(rows, config.text.max_tokens, dtype=torch.int64)
        with watch:
            # Autocast of the CPU and of a GPU put the same matrix products of both towers into bfloat16.
            with torch.autocast("cpu", dtype=torch.bfloat16, enabled=precision == "bfloat16"):
                outputs = model(images, ids, lengths)
            forward, saved = watch.take(), watch.live_bytes
            trained = [output for output in outputs if output.requires_grad]
            torch.autograd.backward(trained, [torch.empty_like(output) for output in trained])
            backward = watch.take()
    gradients = [p for p in model.parameters() if p.requires_grad]
    of_text = sum(p.numel() for p in model.text.parameters() if p.requires_grad)
    found = DryRun(
        rows=rows,
        width=outputs.image_BD.shape[1],
        parameters=count_parameters(model),
        trained=sum(p.numel() for p in gradients),
        trained_text=of_text,
        weight_bytes=sum(t.numel() * t.itemsize for t in (*model.parameters(), *model.buffers())),
        tensors=len(gradients),
        forward=forward,
        backward=backward,
        image_bytes=started[0],
        saved_bytes=saved,
        spare_bytes=0,
    )
    spare = max(0, watch.peak_bytes - found.working_bytes)
    return DryRun(**{**vars(found), "spare_bytes": spare})


def build_fake(config: ModelConfig) -> tuple[CLIPpy, FakeTensorMode]:
    """The model in training mode, its parameters without memory, and the mode in which it runs."""
    size = config.text.arguments.get("vocab_size", T5_VOCABULARY)
    with torch.device("meta"):
        model = CLIPpy(config, cast(CaptionTokenizer, _Vocabulary(size))).train()
    return model, fake_parameters(model)


def fake_parameters(model: nn.Module) -> FakeTensorMode:
    """Put parameters and buffers of a CPU that take no memory in place of a model's; the mode in which it then runs."""
    fake, known = FakeTensorMode(), dict[int, nn.Parameter]()
    with fake:
        for module in model.modules():
            for name, parameter in module._parameters.items():
                if parameter is not None:  # one that two modules share stays one
                    empty = nn.Parameter(torch.empty(parameter.shape, dtype=parameter.dtype), parameter.requires_grad)
                    module._parameters[name] = known.setdefault(id(parameter), empty)
            for name, buffer in module._buffers.items():
                if buffer is not None:
                    module._buffers[name] = torch.empty(buffer.shape, dtype=buffer.dtype)
    return fake


@dataclass(frozen=True)
class _Vocabulary:
    """As much of a tokenizer as a model needs to be built."""

    vocabulary_size: int
    pad_id: int = 0


class Watch(TorchDispatchMode):
    """While it is on, records operations, and the bytes of all storages that are alive."""

    def __init__(self) -> None:
        super().__init__()
        self._operations: Counter[Operation] = Counter()
        self._known: set[int] = set()
        self.live_bytes = self.peak_bytes = 0

    def take(self) -> Work:
        """Operations since the last call."""
        work = Work(dict(self._operations))
        self._operations = Counter()
        return work

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        results = [leaf for leaf in tree_leaves(out) if isinstance(leaf, torch.Tensor)]
        for tensor in results:
            self._see(tensor)
        if results and not func.is_view and func.overloadpacket not in _FREE:
            inputs = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
            tensors = {id(tensor): tensor for tensor in (*inputs, *results)}.values()
            flops = _flops(func.overloadpacket, args, kwargs or {}, out)
            floats = [tensor for tensor in inputs if tensor.is_floating_point()]
            low = bool(flops) and any(tensor.dtype in (torch.bfloat16, torch.float16) for tensor in floats)
            moved = sum(tensor.numel() * tensor.itemsize for tensor in tensors)
            self._operations[Operation(flops, moved, "bfloat16" if low else "float32")] += 1
        return out

    def _see(self, tensor: torch.Tensor) -> None:
        storage = tensor.untyped_storage()
        key, size = storage._cdata, storage.nbytes()
        if key not in self._known:
            self._known.add(key)
            self.live_bytes += size
            self.peak_bytes = max(self.peak_bytes, self.live_bytes)
            weakref.finalize(storage, self._forget, key, size)

    def _forget(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.live_bytes -= size


_aten = torch.ops.aten
_FREE = {_aten.empty, _aten.empty_like, _aten.empty_strided, _aten.new_empty, _aten.new_empty_strided, _aten.detach}
"""Operations that touch no byte."""


_LACKING: dict[Any, Any] = {
    _aten.addmm_: addmm_flop,
    _aten._scaled_dot_product_flash_attention_for_cpu: sdpa_flop,
    _aten._scaled_dot_product_flash_attention_for_cpu_backward: sdpa_backward_flop,
}
"""Operations for which torch has a formula but makes no entry: sums in place, fused attention on a CPU."""


def _flops(packet: Any, args: Any, kwargs: Any, out: Any) -> int:
    """As torch's counter has it, but for the backward pass of a convolution in groups, which it takes for a whole."""
    if packet is _aten.convolution_backward:
        gradient, weight, mask = args[0], args[2], args[-1]
        return int(2 * prod(gradient.shape[0:1] + gradient.shape[2:]) * weight.numel() * sum(mask[:2]))
    formula = flop_registry.get(packet) or _LACKING.get(packet)
    return int(formula(*args, **kwargs, out_val=out)) if formula else 0
