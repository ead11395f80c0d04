"""Starting points of the image tower for ``shapes_claims.py``, learned from the training pictures without captions.

dino             self-distillation (Caron et al., arXiv 2104.14294): a student names each view of a picture as a teacher
                 names another; multi-crop, strong augmentation, centring, a teacher that follows the student
dino-scrambled   the same of pictures whose patches are in random order, so that no object is left in them
supervised       what the picture shows, things and ground, from the class token: image-level labels, no places

Shapes: B pictures, H W pixels, C classes, K prototypes, D width.
"""

from __future__ import annotations

import copy
import json
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn

from clippy.architecture import ImageConfig
from clippy.vision import ImageTower

STARTS = ("dino", "dino-scrambled", "supervised")
FACTS_FILE, WEIGHTS_FILE = "start.json", "model.safetensors"
Report = Callable[[int, int, float], None]
"""Hears step, steps and loss."""


@dataclass(frozen=True)
class DINO:
    """Choices of the paper, small; the teacher follows sooner and fewer prototypes suffice for so short a training."""

    global_size: int = 64
    local_size: int = 32
    num_local: int = 4
    global_area: tuple[float, float] = (0.4, 1.0)
    local_area: tuple[float, float] = (0.05, 0.4)
    prototypes: int = 512
    student_temperature: float = 0.1
    teacher_temperature: float = 0.04
    centre_momentum: float = 0.9
    teacher_momentum: float = 0.99
    learning_rate: float = 1e-3
    weight_decay: tuple[float, float] = (0.04, 0.4)
    max_grad_norm: float = 3.0


def make_start(
    name: str,
    folder: Path,
    config: ImageConfig,
    images: Tensor,
    labels: Tensor,
    *,
    seed: int,
    steps: int,
    batch_size: int,
    report: Report,
) -> dict[str, Any]:
    """Train a tower from the random weights of ``seed``; leave its trunk in ``folder`` and return the facts about it.

    images: uint8 (B, 3, H, W); labels: (B, C), which ``supervised`` alone looks at. The facts are ``steps``,
    ``first_loss``, ``last_loss`` (means of a tenth of the steps), and ``seconds`` and ``processor_seconds``.
    """
    torch.manual_seed(seed)
    tower = ImageTower(config)
    if name == "dino-scrambled":
        images = scramble(images, tower.patch_size)
    started, processor = time.perf_counter(), time.process_time()
    learn = Supervised(tower, labels.shape[1]) if name == "supervised" else Distillation(tower, steps)
    losses = []
    for step in range(steps):
        rows = torch.randint(len(images), (batch_size,))
        losses.append(learn.step(images[rows], labels[rows], step / steps))
        report(step + 1, steps, losses[-1])
    tenth = max(1, steps // 10)
    facts = {
        "steps": steps,
        "first_loss": sum(losses[:tenth]) / tenth,
        "last_loss": sum(losses[-tenth:]) / tenth,
        "seconds": time.perf_counter() - started,
        "processor_seconds": time.process_time() - processor,
    }
    folder.mkdir(parents=True, exist_ok=True)
    save_file(learn.tower.trunk.state_dict(), folder / WEIGHTS_FILE)
    (folder / FACTS_FILE).write_text(json.dumps(facts, indent=1) + "\n")
    return facts


class Supervised:
    """Which of C words are true of a picture, each on its own, from the class token."""

    def __init__(self, tower: ImageTower, classes: int) -> None:
        self.tower = tower
        self._head = nn.Linear(tower.width, classes)
        self._optimizer = torch.optim.AdamW([*tower.parameters(), *self._head.parameters()], 1e-3, weight_decay=0.1)

    def step(self, images: Tensor, labels: Tensor, progress: float) -> float:
        """One update; the loss."""
        _set(self._optimizer, lr=1e-3 * _rate(progress))
        views = augment(images, images.shape[-1], (0.6, 1.0), strong=False)
        loss = F.binary_cross_entropy_with_logits(self._head(_class_token(self.tower, views)), labels)
        _descend(self._optimizer, loss)
        return loss.item()


class Distillation:
    """DINO's student and teacher. ``tower`` is the teacher's: it is what the paper starts from."""

    def __init__(self, tower: ImageTower, steps: int, config: DINO | None = None) -> None:
        self._config = config or DINO()
        self._student = nn.ModuleList([tower, ProjectionHead(tower.width, self._config.prototypes)])
        self._teacher = copy.deepcopy(self._student).requires_grad_(False)
        self._centre = torch.zeros(self._config.prototypes)
        matrices = [p for p in self._student.parameters() if p.ndim > 1]
        others = [p for p in self._student.parameters() if p.ndim <= 1]
        groups = [{"params": matrices}, {"params": others, "weight_decay": 0.0}]
        self._optimizer = torch.optim.AdamW(groups, self._config.learning_rate)

    @property
    def tower(self) -> ImageTower:
        """The teacher's."""
        return self._teacher[0]  # type: ignore[return-value]

    def step(self, images: Tensor, labels: Tensor, progress: float) -> float:
        """One update of student and teacher; the loss."""
        config = self._config
        _set(self._optimizer, lr=config.learning_rate * _rate(progress))
        low, high = config.weight_decay
        self._optimizer.param_groups[0]["weight_decay"] = high - (high - low) * _cosine(progress)
        large = [augment(images, config.global_size, config.global_area, solarise=i == 1) for i in range(2)]
        small = [augment(images, config.local_size, config.local_area) for _ in range(config.num_local)]
        with torch.no_grad():
            taught = self._embed(self._teacher, torch.cat(large)).chunk(2)
        learned = self._embed(self._student, torch.cat(large)).chunk(2)
        learned += self._embed(self._student, torch.cat(small)).chunk(config.num_local)
        loss = distillation_loss(learned, taught, self._centre, config.student_temperature, config.teacher_temperature)
        _descend(self._optimizer, loss, list(self._student.parameters()), config.max_grad_norm)
        self._follow(torch.cat(taught), progress)
        return loss.item()

    def _embed(self, network: nn.ModuleList, views: Tensor) -> Tensor:
        tower, head = network
        return head(_class_token(tower, views))

    @torch.no_grad()
    def _follow(self, taught_BK: Tensor, progress: float) -> None:
        """The teacher goes a little towards the student, the centre towards what the teacher said."""
        momentum = 1 - (1 - self._config.teacher_momentum) * _cosine(progress)
        for old, new in zip(self._teacher.parameters(), self._student.parameters(), strict=True):
            old.lerp_(new, 1 - momentum)
        self._centre.lerp_(taught_BK.mean(dim=0), 1 - self._config.centre_momentum)


class ProjectionHead(nn.Module):
    """A class token against K unit prototypes, through three layers and a narrow one of unit length."""

    def __init__(self, width: int, prototypes: int, hidden: int = 256, narrow: int = 64) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, hidden), nn.GELU(), nn.Linear(hidden, narrow)
        )
        self.prototypes = nn.Parameter(torch.randn(prototypes, narrow))

    def forward(self, tokens_BD: Tensor) -> Tensor:
        """(B, K): cosines."""
        return F.linear(F.normalize(self.layers(tokens_BD), dim=-1), F.normalize(self.prototypes, dim=-1))


def distillation_loss(
    learned: tuple[Tensor, ...], taught: tuple[Tensor, ...], centre_K: Tensor, student: float, teacher: float
) -> Tensor:
    """Mean cross-entropy of each student's view with each teacher's view of the same pictures, but for the same view.

    learned: (B, K) of each view, the first being the teacher's; taught: (B, K). ``student`` and ``teacher`` are
    temperatures; the teacher's answers are centred and sharpened.
    """
    targets = [F.softmax((view - centre_K) / teacher, dim=-1) for view in taught]
    answers = [F.log_softmax(view / student, dim=-1) for view in learned]
    pairs = [
        -(target * answer).sum(dim=-1).mean()
        for i, target in enumerate(targets)
        for j, answer in enumerate(answers)
        if i != j
    ]
    return torch.stack(pairs).mean()


def augment(
    images: Tensor, size: int, area: tuple[float, float], *, strong: bool = True, solarise: bool = False
) -> Tensor:
    """A random crop of each picture at ``size``, mirrored half of the time; [0, 1] (B, 3, size, size).

    ``area``: share of the picture that the crop may have. ``strong`` adds DINO's colours, blur and grey.
    """
    views = _crop(images.float() / 255, size, area)
    if strong:
        views = _blur(_recolour(views))
    if solarise:
        views = torch.where(_chosen(views, 0.2) & (views > 0.5), 1 - views, views)
    return views


def scramble(images: Tensor, patch: int) -> Tensor:
    """The patches of each picture in a random order of its own."""
    columns = F.unfold(images.float(), patch, stride=patch)
    order = torch.rand(len(images), 1, columns.shape[-1]).argsort(dim=-1)
    size = (images.shape[-2], images.shape[-1])
    return F.fold(columns.gather(-1, order.expand_as(columns)), size, patch, stride=patch).to(images.dtype)


def _crop(views: Tensor, size: int, area: tuple[float, float]) -> Tensor:
    """Rectangles of random area and of a ratio within 3/4 to 4/3, inside the picture."""
    batch = len(views)
    share = torch.empty(batch).uniform_(*area)
    ratio = torch.exp(torch.empty(batch).uniform_(math.log(3 / 4), math.log(4 / 3)))
    width, height = ((share * r).sqrt().clamp(max=1) for r in (ratio, 1 / ratio))
    x, y = ((2 * torch.rand(batch) - 1) * (1 - side) for side in (width, height))
    mirrored = torch.where(torch.rand(batch) < 0.5, -width, width)
    zero = torch.zeros(batch)
    matrix = torch.stack([torch.stack([mirrored, zero, x], 1), torch.stack([zero, height, y], 1)], 1)
    grid = F.affine_grid(matrix, [batch, 3, size, size], align_corners=False)
    return F.grid_sample(views, grid, padding_mode="border", align_corners=False)


# RGB to luminance and two chromas (NTSC): a hue turns the chromas, a saturation scales them.
_TO_YIQ = torch.tensor([[0.299, 0.587, 0.114], [0.596, -0.274, -0.322], [0.211, -0.523, 0.312]])


def _recolour(views: Tensor) -> Tensor:
    """DINO's jitter of brightness and contrast by 0.4, saturation by 0.2 and hue by 0.1, of 80 %; grey, of 20 %."""
    batch = len(views)
    brightness, contrast = (_factor(batch, 0.4) for _ in range(2))
    saturation = _factor(batch, 0.2) * (torch.rand(batch) >= 0.2)
    angle = torch.empty(batch).uniform_(-0.1, 0.1) * 2 * math.pi
    changed = views * brightness.view(-1, 1, 1, 1)
    mean = changed.mean(dim=(1, 2, 3), keepdim=True)
    changed = mean + (changed - mean) * contrast.view(-1, 1, 1, 1)
    cosine, sine = saturation * angle.cos(), saturation * angle.sin()
    turn = torch.zeros(batch, 3, 3)
    turn[:, 0, 0] = 1
    turn[:, 1, 1], turn[:, 1, 2], turn[:, 2, 1], turn[:, 2, 2] = cosine, -sine, sine, cosine
    matrix = torch.linalg.inv(_TO_YIQ) @ turn @ _TO_YIQ
    changed = (matrix @ changed.flatten(2)).view_as(views).clamp(0, 1)
    return torch.where(_chosen(views, 0.8) | (saturation == 0).view(-1, 1, 1, 1), changed, views)


def _blur(views: Tensor) -> Tensor:
    smooth = F.avg_pool2d(views, 3, stride=1, padding=1, count_include_pad=False)
    return torch.where(_chosen(views, 0.5), smooth, views)


def _factor(batch: int, most: float) -> Tensor:
    return torch.empty(batch).uniform_(1 - most, 1 + most)


def _chosen(views: Tensor, probability: float) -> Tensor:
    return torch.rand(len(views), 1, 1, 1) < probability


def _class_token(tower: nn.Module, views: Tensor) -> Tensor:
    """Of pictures in [0, 1]; the tower takes [0, 255]."""
    return tower(views * 255).class_BD


def _cosine(progress: float) -> float:
    """From 1 to 0."""
    return 0.5 * (1 + math.cos(math.pi * progress))


def _rate(progress: float) -> float:
    """A tenth of warm-up, then a cosine."""
    return progress / 0.1 if progress < 0.1 else _cosine((progress - 0.1) / 0.9)


def _set(optimizer: torch.optim.Optimizer, lr: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = lr


def _descend(
    optimizer: torch.optim.Optimizer, loss: Tensor, clipped: list[nn.Parameter] | None = None, norm: float = math.inf
) -> None:
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    if clipped:
        nn.utils.clip_grad_norm_(clipped, norm)
    optimizer.step()
