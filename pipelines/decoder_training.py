"""The training of a decoder: the frozen model, words and masks that it learns from, its steps and its checkpoints."""

from __future__ import annotations

import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from clippy import inference
from clippy.decoder import (
    DECODER_CONFIG_FILE,
    DECODER_WEIGHTS_FILE,
    Decoder,
    DecoderConfig,
    decoder_loss,
    read_decoder_config,
)
from clippy.load import AnyModel
from clippy.vocabulary import ClassList
from pipelines import checkpoints
from pipelines.checkpoints import checkpoint_name, checksum, committed_steps, local_folder
from pipelines.console import Console
from pipelines.mask_batches import MaskBatches
from pipelines.optim import build_optimizer, learning_rate, set_learning_rate
from pipelines.sections import OptimConfig
from pipelines.state import OPTIMIZER_FILE, load_optimizer, optimizer_tensors
from pipelines.storage import Location

CHECKPOINTS = "checkpoints"
WEIGHT_DECAY = 0.01
WARMUP = 0.05
"""Share of the steps in which the rate rises."""
_LOG_EVERY = 10


@dataclass(frozen=True)
class Words:
    """Frozen words (K, D) of unit length, and which of the learnt classes each stands for (K,)."""

    embeddings_KD: Tensor
    class_of_word_K: Tensor

    @classmethod
    def embed(cls, model: AnyModel, classes: ClassList, learnt: list[int], templates: tuple[str, ...]) -> Words:
        """A name for each class, and for the background, if it is learnt, the words that evaluation gives it too."""
        words, stands_for = classes.words_of(learnt)
        class_of_word = [learnt.index(i) for i in stands_for]
        embeddings_KD = inference.embed_classes(model, words, templates)
        return cls(embeddings_KD.clone(), torch.tensor(class_of_word))  # autograd takes no tensor of inference mode

    def to(self, device: torch.device) -> Words:
        """The same on a device."""
        return Words(self.embeddings_KD.to(device), self.class_of_word_K.to(device))


@dataclass(frozen=True)
class DecoderTraining:
    """Everything that the steps of a training hang on, and the folder that it goes to."""

    config: DecoderConfig
    model: AnyModel
    """In evaluation mode, without gradients."""
    words: Words
    batches: MaskBatches
    steps: int
    learning_rate: float
    checkpoint_every: int
    out: Location

    def run(self, console: Console) -> Decoder:
        """Train from the newest checkpoint on, if there is one, and write the decoder down.

        A decoder that is trained is read again. Raises ValueError where another training lies in the folder.
        """
        if (self.out / DECODER_CONFIG_FILE).exists():
            self._require_same(read_decoder_config((self.out / DECODER_CONFIG_FILE).read_text(), self.out.url))
            console.line(f"{self.out.url}: is trained already")
            with local_folder(self.out) as folder:
                return Decoder.from_pretrained(folder)
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        decoder = self._new_decoder().to(device)
        config = OptimConfig(
            global_batch_size=self.batches.batch_size,
            learning_rate=self.learning_rate,
            warmup_steps=round(WARMUP * self.steps),
            weight_decay=WEIGHT_DECAY,
        )
        self._train(decoder, build_optimizer(decoder, config), config, device, console)
        self._write(decoder)
        return decoder.eval()

    def _train(
        self,
        decoder: Decoder,
        optimizer: torch.optim.Optimizer,
        config: OptimConfig,
        device: torch.device,
        console: Console,
    ) -> None:
        model, words = self.model.to(device), self.words.to(device)
        step = first = self._resume(decoder, optimizer, console)
        started = time.monotonic()
        for images_B3SS, targets_BSS in self.batches.read_from(step, self.steps):
            with torch.no_grad():
                patches_BND, grid = model.encode_patches(images_B3SS.to(device))
            loss = decoder_loss(
                decoder(patches_BND, grid), grid, words.embeddings_KD, words.class_of_word_K, targets_BSS.to(device)
            )
            optimizer.zero_grad()
            loss.backward()
            set_learning_rate(optimizer, learning_rate(step, config, self.steps))
            optimizer.step()
            step += 1
            is_saved = step % self.checkpoint_every == 0 and step < self.steps
            is_told = step % _LOG_EVERY == 0 or step == self.steps
            if (is_told or is_saved) and not loss.isfinite():
                raise ValueError(f"--learning-rate: {self.learning_rate} leads to no finite loss; lower it")
            if is_told:
                rate = (step - first) * self.batches.batch_size / (time.monotonic() - started)
                console.progress(f"step {step}/{self.steps}  loss {loss.item():.4f}  {rate:.1f} pictures/s")
            if is_saved:
                self._save(decoder, optimizer, step)
        console.clear()

    def _new_decoder(self) -> Decoder:
        with torch.random.fork_rng():
            torch.manual_seed(self.batches.seed)
            return Decoder(self.config)

    def _resume(self, decoder: Decoder, optimizer: torch.optim.Optimizer, console: Console) -> int:
        """Put the newest checkpoint into decoder and optimizer; the step that it was made after, 0 without one."""
        checkpoints.clear_remains(self.out / CHECKPOINTS)
        steps = committed_steps(self.out / CHECKPOINTS)
        if not steps:
            return 0
        checkpoint = self.out / CHECKPOINTS / checkpoint_name(steps[-1])
        with local_folder(checkpoint) as folder:
            checkpoints.verify(folder, checkpoint.url)
            saved = Decoder.from_pretrained(folder)
            self._require_same(saved.config)
            decoder.load_state_dict(saved.state_dict())
            load_optimizer(decoder, optimizer, load_file(folder / OPTIMIZER_FILE))
        console.line(f"going on after step {steps[-1]}")
        return steps[-1]

    def _save(self, decoder: Decoder, optimizer: torch.optim.Optimizer, step: int) -> None:
        """A checkpoint, whole or not at all; then those before it are removed."""
        place = self.out / CHECKPOINTS
        before = committed_steps(place)
        with checkpoints.staging(place, checkpoint_name(step), rank=0) as folder:
            decoder.save_pretrained(folder)
            save_file(optimizer_tensors(decoder, optimizer), folder / OPTIMIZER_FILE)
            files = {path.name: checksum(path) for path in sorted(folder.iterdir())}
            checkpoints.commit(folder, place / checkpoint_name(step), {"step": step, "files": files})
        for old in before:
            checkpoints.remove(place / checkpoint_name(old))

    def _write(self, decoder: Decoder) -> None:
        """The decoder itself; its configuration comes last and says that it is trained."""
        with tempfile.TemporaryDirectory() as folder:
            decoder.save_pretrained(folder)
            for name in (DECODER_WEIGHTS_FILE, DECODER_CONFIG_FILE):
                (self.out / name).write_bytes((Path(folder) / name).read_bytes())
        (self.out / CHECKPOINTS).remove_folder()

    def _require_same(self, there: DecoderConfig) -> None:
        """Raise ValueError unless what lies in the folder comes of this training, wherever its model lay."""
        old, new = there.flat(), self.config.flat()
        for name in new:
            if name != "model" and old.get(name) != new[name]:
                raise ValueError(
                    f"{self.out.url}: holds another training, whose {name.removeprefix('training.')} is "
                    f"{old.get(name)!r} and not {new[name]!r}; give --out another folder"
                )
