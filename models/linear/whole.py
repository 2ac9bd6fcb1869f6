"""A core whose network is linearised in its own parameters: f(x) = f0(x) + J(x) w_u with f0 = c net(x) + J(x) w_core."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from models.device import accelerator
from models.linear.frozen import one_hot
from models.linear.quadratic import Quadratic, Rows
from models.linear.tangent import Tangent, forward, outputs, prepare
from models.progress import Progress, Stop, never, silent


@dataclass(frozen=True)
class WholeCore:
    """Everything of a linearised model that no user row has touched."""

    tangent: Tangent
    """In float32, as trained."""

    logit_scale: float
    """c >= 0: brings the network's logits to the scale of the targets."""

    ridge: float
    """L > 0, in sum form."""

    target: float
    """a > 0: the target vector of a sample is a times its one-hot label."""

    weight: Tensor
    """w_core `[p]` float64: the linear part fitted on core rows."""

    sigma: float
    """The noise of a release, in units of M^-1/2; fixed from core rows alone before any request."""

    @property
    def classes(self) -> int:
        """Length of the declared list of classes."""
        return self.tangent.classes


def logits(core: WholeCore, w: Tensor, inputs: Tensor, *, progress: Progress = silent, stop: Stop = never) -> Tensor:
    """Return the served logits c net(x) + J(x) (w_core + w_u), `[n, C]` float64, from float32 products.

    With w_u = 0 these are f0's bits, because the same computation is done.

    Args:
        w: user weights w_u `[p]`.
        inputs: raw, `[n, C, H, W]` uint8 or `[n, k]` float32.
    """
    rows = prepare(core.tangent, inputs, progress=progress, stop=stop)
    whole = core.weight + w.double()
    return core.logit_scale * outputs(core.tangent, rows, stop=stop) + forward(core.tangent, rows, whole, stop=stop)


def missed(core: WholeCore, exact: Tangent, rows: Tensor, labels: Tensor, *, stop: Stop = never) -> Tensor:
    """Return t - f0 `[n, C]` float64: what the user weights are to add to the logits of prepared rows.

    Args:
        exact: the core's expansion in float64.
        labels: `[n]` int64.
    """
    targets = one_hot(labels, classes=core.classes, target=core.target)
    return targets - core.logit_scale * outputs(exact, rows, stop=stop) - forward(exact, rows, core.weight, stop=stop)


def quadratic(
    core: WholeCore, rows: Rows, labels: Tensor, core_rows: Rows, *, cuts: tuple[tuple[int, int], ...] = (), stop: Stop = never
) -> Quadratic:
    """Write down the loss of the user weights over these rows; its products are computed on a GPU where there is one.

    Args:
        rows: `[n, ...]` prepared user rows, in memory or stored.
        labels: `[n]` int64.
        core_rows: `[m, ...]` prepared core rows, in memory or stored.
        cuts: of each data block the number of its user rows and of its core rows. Stored rows need them.
    """
    place, targets = accelerator(), one_hot(labels, classes=core.classes, target=core.target)
    exact, quick = core.tangent.double().on(place), core.tangent.quick(place)
    return Quadratic(exact, quick, rows, targets, core_rows, core.ridge, stop, cuts=cuts, base=core.weight, scale=core.logit_scale)


def zero(core: WholeCore) -> Tensor:
    """Return w_u of a model that has seen no user row, or has forgotten all: 0 `[p]`."""
    return torch.zeros(core.tangent.p, dtype=torch.float64)
