"""A stochastically quantised bottleneck: the task learns through a few binary neurons that are told apart from the attribute."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from models.erase import epochs
from models.erase.attribute import Attributed, balance, refuse_unusable
from models.erase.code_information import marginals
from models.erase.epochs import Learning, Watch
from models.erase.scope import Patient, Scope, admit, bottleneck_values, discharged
from models.nets import Adapter, Network
from models.nets import bottleneck as modules
from models.progress import Progress, Stop, never, silent


@dataclass(frozen=True, kw_only=True)
class Quantized:
    """How the removal is trained.

    Source: Koeppel et al., AAAI 2023, section 3. https://arxiv.org/abs/2208.02656
    """

    bits: int = 8
    """Binary neurons; up to 14 their joint information is exact, beyond it is bounded."""

    gamma: float = 0.5
    """Share of the information in the loss (1 - gamma) CE + gamma I, in [0, 1)."""

    balanced: bool = False
    """Whether the information weighs every cell (label, value) alike, as the audit does, instead of every row."""

    epochs: int = 40
    batch: int = 256
    rate: float = 2e-3

    def __post_init__(self) -> None:
        if self.bits < 1 or self.epochs < 1 or self.batch < 2 or self.rate <= 0 or not 0 <= self.gamma < 1:
            raise ValueError("bits and epochs are at least 1, batch at least 2, rate positive, gamma in [0, 1)")


def erase(
    net: Network,
    rows: Attributed,
    values: int,
    how: Quantized,
    *,
    scope: Scope,
    seed: int,
    watch: Watch | None = None,
    resume: Mapping[str, Tensor] | None = None,
    progress: Progress = silent,
    stop: Stop = never,
) -> Network:
    """Return a new network that sees its bottleneck through binary neurons drawn once an input.

    Minimises (1 - gamma) CE(y) + gamma I, I the sum of the neurons' own information in bits, with T_j ~ Bernoulli(theta_j) and the
    gradient passed straight through the draw. Theta is cut as it is when served.

    The network has no key and serves nothing before `models.erase.keys.rekeyed` has given it one.

    Args:
        net, rows, values, seed, resume: as in `models.erase.irene`.

    Raises:
        Stopped: when `stop` answers True, asked before every batch.
        ValueError: on unusable rows, or a training that diverged.
    """
    refuse_unusable(rows, values, net.architecture.classes)
    link = Adapter(kind="quantized", bits=how.bits)
    patient = admit(net, rows.samples.inputs, rows.samples.labels, link, scope=scope, seed=seed, progress=progress, stop=stop)
    generator = torch.Generator().manual_seed(seed)
    optimiser = torch.optim.Adam(patient.learning(), lr=how.rate)
    learning = Learning({"net": patient.net}, {"net": optimiser}, generator)
    weights = balance(rows, values) if how.balanced else None

    def step(some: Tensor, fraction: float) -> None:
        loss = objective(patient, some, rows.values, values, weights, how, generator)
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()

    epochs.run(
        learning, step, len(rows), epochs=how.epochs, batch=how.batch, resume=resume, watch=watch, progress=progress, stop=stop
    )  # fmt: skip
    return discharged(patient.net)


def objective(
    patient: Patient, rows: Tensor, values_of: Tensor, values: int, weights: Tensor | None, how: Quantized, generator: torch.Generator
) -> Tensor:
    """Return (1 - gamma) CE + gamma I over the rows of these numbers, from one draw of each; I over those that have a value."""
    link = quantised_link(patient.net, patient.first)
    theta = link.theta(patient.features(rows, last=patient.first))
    logits = patient.logits(link.decode(drawn(theta, generator)))
    loss = (1 - how.gamma) * functional.cross_entropy(logits, patient.labels[rows])
    known = values_of[rows] >= 0
    if not bool(known.any()):
        return loss
    weigh = None if weights is None else weights[rows][known]
    return loss + how.gamma * marginals(theta[known], values_of[rows][known], values, weigh)


def drawn(theta: Tensor, generator: torch.Generator) -> Tensor:
    """Return T ~ Bernoulli(theta), whose gradient is theta's own."""
    bits = (torch.rand(theta.shape, generator=generator) < theta.detach()).to(theta)
    return theta + (bits - theta).detach()


def quantised_link(net: Network, place: int) -> modules.Quantized:
    """Return the quantised link at a place of the adapter."""
    link = net.links.get_submodule(str(place))
    assert isinstance(link, modules.Quantized)
    return link


def theta_of(net: Network, inputs: Tensor, *, progress: Progress = silent, stop: Stop = never) -> Tensor:
    """Return theta `[n, m]` float32 of the first quantised link, as served: what `code_information` computes from.

    Whatever comes after it in the network is a function of the drawn bits, so it says no more than they do.

    Raises:
        ValueError: if the network has none.
    """
    adapter = net.architecture.adapter
    places = [place for place, link in enumerate(adapter.parts if adapter else ()) if link.kind == "quantized"]
    if not places:
        raise ValueError("the network has no quantised bottleneck")
    values = bottleneck_values(net, inputs, links=places[0], progress=progress, stop=stop)
    with torch.no_grad():
        return quantised_link(net, places[0]).theta(values)
