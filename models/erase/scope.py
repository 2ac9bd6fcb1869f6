"""What learns: an adapter on cached activations, or the whole network."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor, nn

from models.linear.features import BATCH, refuse_not_finite
from models.nets import Adapter, Network, build
from models.nets.bottleneck import Standardised
from models.nets.layers import ADAPTER
from models.progress import Progress, Stop, check, never, silent
from models.train import threads

Scope = Literal["bottleneck", "network"]


def extended(net: Network, link: Adapter, *, seed: int) -> Network:
    """Return a new network: the same weights, and one more link right after the bottleneck, or after the adapter that is there.

    Taps that would pass the adapter by are dropped; where none is left, the adapter's output is the tap.

    Args:
        link: one adapter or a chain; its first weights are drawn from `seed`.
    """
    before = net.architecture
    adapter = link if before.adapter is None else before.adapter.then(link)
    bare = build(replace(before, adapter=adapter, taps=None), seed)
    allowed = (ADAPTER, *bare.after)
    kept = tuple(tap for tap in before.taps or () if any(tap == part or tap.startswith(f"{part}.") for part in allowed))
    out = build(replace(before, adapter=adapter, taps=kept or None), seed)
    out.load_state_dict(out.state_dict() | net.state_dict())
    return out.requires_grad_(False).eval()


@torch.no_grad()
def bottleneck_values(net: Network, inputs: Tensor, *, links: int = 0, progress: Progress = silent, stop: Stop = never) -> Tensor:
    """Return what stands right after the bottleneck and the first `links` links, flattened, `[n, d]` float32, in fixed batches.

    Args:
        net: with an adapter, in eval mode.
        inputs: raw.
    """
    found = []
    with threads(1):
        for start in range(0, len(inputs), BATCH):
            check(stop)
            rows = inputs[start : start + BATCH]
            refuse_not_finite(rows, first=start)
            padded = torch.cat([rows, rows.new_zeros(BATCH - len(rows), *rows.shape[1:])])
            drawn = net.links.draw(padded, last=links)
            out = net.links(net.run(padded, net.before), drawn, last=links)
            found.append(out[: len(rows)].flatten(1).clone())
            progress("encode", min(1.0, (start + BATCH) / len(inputs)))
    return torch.cat(found) if found else torch.empty(0, net.links.width)


@dataclass(frozen=True)
class Patient:
    """A network of the erased form while it learns, and the rows it learns from, ready to be read by number."""

    net: Network

    scope: Scope

    rows: Tensor
    """`[n, d]` cached activations (`bottleneck`), or raw inputs (`network`)."""

    labels: Tensor
    """`[n]` int64."""

    first: int
    """Number of the first link that learns; those before it belong to an earlier removal."""

    shape: tuple[int, ...]
    """Of the bottleneck's values."""

    def features(self, rows: Tensor, *, last: int | None = None) -> Tensor:
        """Return the adapter's output for the rows of these numbers, flattened, `[b, d]`: what a private head reads."""
        x = self.rows[rows]
        if self.scope == "network":
            drawn = self.net.links.draw(x, last=self.first)
            x = self.net.links(self.net.run(x, self.net.before), drawn, last=self.first).flatten(1)
        out: Tensor = self.net.links(x, first=self.first, last=last)
        return out

    def logits(self, features: Tensor) -> Tensor:
        """Return the task's logits `[b, C]` of what `features` returned."""
        return self.net.run(features.view(-1, *self.shape), self.net.after)

    def learning(self) -> Iterator[nn.Parameter]:
        """The parameters that the task and the removal move."""
        return (value for value in self.net.parameters() if value.requires_grad)


def admit(
    net: Network, inputs: Tensor, labels: Tensor, link: Adapter, *, scope: Scope, seed: int, progress: Progress = silent, stop: Stop = never
) -> Patient:
    """Make the network of the erased form and say what of it learns.

    bottleneck    all up to the bottleneck stays, in eval mode, and is run once over the rows; the new links and the parts after learn
    network       everything learns but the links of an earlier removal; batch normalisation follows the rows

    Args:
        link: what is added after the bottleneck.
    """
    first = len(net.architecture.adapter.parts) if net.architecture.adapter is not None else 0
    out = extended(net, link, seed=seed)
    with torch.no_grad():
        shape = tuple(out.run(inputs[:1], out.before).shape[1:])
    new = [part for name, part in out.links.named_children() if int(name) >= first]
    standardised = [part for part in new if isinstance(part, Standardised)]
    needed = inputs if scope == "bottleneck" or standardised else inputs[:0]
    cached = bottleneck_values(out, needed, links=first, progress=progress, stop=stop)
    for part in standardised:
        part.fit(cached)
    moving: list[nn.Module] = [*new, *(out.get_submodule(name) for name in out.after)]
    if scope == "network":
        moving += [out.get_submodule(name) for name in out.before]
    for module in moving:
        module.requires_grad_(True).train()
    rows = cached if scope == "bottleneck" else inputs
    return Patient(out, scope, rows, labels, first, shape)


def discharged(net: Network) -> Network:
    """Return the network as it is served: in eval mode, without gradients."""
    return net.requires_grad_(False).eval()
