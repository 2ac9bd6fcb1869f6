"""Learning Not to Learn: first make the bias head unsure, then turn its gradient round."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from models.erase import epochs
from models.erase.attribute import Attributed, refuse_unusable, shares
from models.erase.epochs import Learning, Watch
from models.erase.heads import HeadKind, make
from models.erase.scope import Patient, Scope, admit, discharged
from models.nets import Adapter, Network
from models.nets.bottleneck import Learned
from models.progress import Progress, Stop, never, silent


@dataclass(frozen=True, kw_only=True)
class Lnl:
    """How the removal is trained; the defaults are the paper's where METHODS of the paper state one.

    Source: Kim et al., CVPR 2019, section 3 and the authors' code. https://arxiv.org/abs/1812.10352
    """

    weight: float = 0.01
    """lambda, of the bias head's negative entropy."""

    reversal: float = 0.1
    """The bias head's gradient reaches the features times minus this."""

    head: HeadKind = "mlp"
    epochs: int = 30
    batch: int = 128
    rate: float = 1e-3
    momentum: float = 0.9
    weight_decay: float = 5e-4

    hidden: int = 64
    """`bottleneck`: width of the adapter's hidden layer."""

    def __post_init__(self) -> None:
        if min(self.epochs, self.hidden) < 1 or self.batch < 2 or self.rate <= 0 or self.weight < 0 or self.reversal < 0:
            raise ValueError("epochs and hidden are at least 1, batch at least 2, rate positive, weight and reversal not negative")


class Reversal(torch.autograd.Function):
    """The identity, whose gradient is multiplied by minus a factor."""

    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, x: Tensor, factor: float) -> Tensor:
        ctx.factor = factor  # type: ignore[attr-defined]
        return x.view_as(x)

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, *gradients: Tensor) -> tuple[Tensor, None]:
        return -ctx.factor * gradients[0], None  # type: ignore[attr-defined]


def erase(
    net: Network,
    rows: Attributed,
    values: int,
    how: Lnl,
    *,
    scope: Scope,
    seed: int,
    watch: Watch | None = None,
    resume: Mapping[str, Tensor] | None = None,
    progress: Progress = silent,
    stop: Stop = never,
) -> Network:
    """Return a new network that a bias head has been turned against.

    In turns on every minibatch, with q = softmax(h(f(x))):
        min over f, g   CE(y) + lambda E KL(q || p_v)        the negative entropy of q, up to a constant, where values are equally common
        min over h, max over f   CE(h(f(x)), v)              by reversal of the gradient, times a factor

    Args:
        net: trained for the task: from scratch this method is unstable. It is left as it is.
        rows, values, seed, resume: as in `models.erase.irene`.

    Raises:
        Stopped: when `stop` answers True, asked before every batch.
        ValueError: on unusable rows, or a training that diverged.
    """
    refuse_unusable(rows, values, net.architecture.classes)
    link = Adapter(kind="mlp", hidden=(how.hidden,), skip=True) if scope == "bottleneck" else Adapter(kind="identity")
    patient = admit(net, rows.samples.inputs, rows.samples.labels, link, scope=scope, seed=seed, progress=progress, stop=stop)
    begin_as_identity(patient)
    treatment = Treatment(patient, rows, values, how, seed=seed)
    epochs.run(
        treatment.learning, treatment.step, len(rows), epochs=how.epochs, batch=how.batch, resume=resume, watch=watch, progress=progress,
        stop=stop,
    )  # fmt: skip
    return discharged(patient.net)


@torch.no_grad()
def begin_as_identity(patient: Patient) -> None:
    """Let learned links add nothing at first: the removal then starts at the trained network."""
    for name, link in patient.net.links.named_children():
        if int(name) >= patient.first and isinstance(link, Learned):
            last = link.layers[-1]
            assert isinstance(last, nn.Linear)
            last.weight.zero_()
            last.bias.zero_()


class Treatment:
    """Features f, task head g and bias head h while they learn."""

    def __init__(self, patient: Patient, rows: Attributed, values: int, how: Lnl, *, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.patient, self.how, self.values_of = patient, how, rows.values
        self.usual = shares(rows, values).clamp_min(1e-6).float()
        self.head = make(how.head, patient.net.links.width, values, generator)
        parts = {"features": self.features(), "task": self.task(), "heads": self.head.parameters()}
        optimisers = {
            name: torch.optim.SGD(found, lr=how.rate, momentum=how.momentum, weight_decay=how.weight_decay)
            for name, values_ in parts.items()
            if (found := list(values_))
        }
        self.learning = Learning({"net": patient.net, "heads": nn.ModuleList([self.head])}, optimisers, generator)

    def features(self) -> Iterator[nn.Parameter]:
        """The parameters of f: all that learns up to the adapter's output."""
        after = {id(value) for value in self.task()}
        return (value for value in self.patient.learning() if id(value) not in after)

    def task(self) -> Iterator[nn.Parameter]:
        """The parameters of g: the parts after the adapter."""
        return (value for name in self.patient.net.after for value in self.patient.net.get_submodule(name).parameters())

    def step(self, rows: Tensor, fraction: float) -> None:
        """Take both phases on these rows."""
        self.unsure(rows)
        self.take("features", "task")
        self.reverse(rows)
        self.take("features", "heads")

    def unsure(self, rows: Tensor) -> None:
        """First phase: leave the gradients of CE(y) + lambda KL(q || p_v) on f and g."""
        self.clear()
        features = self.patient.features(rows)
        loss = functional.cross_entropy(self.patient.logits(features), self.patient.labels[rows])
        known = self.values_of[rows] >= 0
        if bool(known.any()):
            answers = self.head(features[known]).log_softmax(dim=1)
            loss = loss + self.how.weight * (answers.exp() * (answers - self.usual.log())).sum(dim=1).mean()
        loss.backward()  # type: ignore[no-untyped-call]

    def reverse(self, rows: Tensor) -> None:
        """Second phase, through a fresh forward pass: leave dCE/dh on h, and minus the factor times dCE/df on f."""
        self.clear()
        known = self.values_of[rows] >= 0
        if not bool(known.any()):
            return
        turned: Tensor = Reversal.apply(self.patient.features(rows)[known], self.how.reversal)  # type: ignore[no-untyped-call]
        functional.cross_entropy(self.head(turned), self.values_of[rows][known]).backward()  # type: ignore[no-untyped-call]

    def clear(self) -> None:
        for optimiser in self.learning.optimisers.values():
            optimiser.zero_grad()

    def take(self, *names: str) -> None:
        for name in names:
            if name in self.learning.optimisers:
                self.learning.optimisers[name].step()
