"""LEACE: no covariance with the attribute is left, the change is the least, and the library's own settings would leave some."""

from __future__ import annotations

import pytest
import torch
from attributed import MIXED, mixed, trained
from concept_erasure import LeaceFitter
from torch import Tensor
from torch.nn.functional import one_hot

from models.audit.probe import Held, probe
from models.erase.leace import Leace, Projection, erase, fit
from models.erase.scope import bottleneck_values


def problem(n: int = 800, d: int = 12, values: int = 3, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Correlated features of very unequal sizes, some of them linearly dependent, and values that shift them, one very faintly."""
    draw = torch.Generator().manual_seed(seed)
    values_of = torch.randint(0, values, (n,), generator=draw)
    x = torch.randn(n, d, generator=draw, dtype=torch.float64) @ torch.randn(d, d, generator=draw, dtype=torch.float64)
    x = x * torch.logspace(-2, 2, d, dtype=torch.float64)
    x = x + one_hot(values_of, values).double() @ torch.randn(values, d, generator=draw, dtype=torch.float64)
    x[:, 3] += 1e-3 * (values_of == 2)
    return torch.cat([x, x[:, :2] - x[:, 2:4]], dim=1), values_of


def applied(found: Projection, x: Tensor) -> Tensor:
    return x.double() @ found.weight.T + found.bias


def cross(x: Tensor, values_of: Tensor, weights: Tensor | None = None) -> float:
    """The largest covariance of the features, each over its own size, with onehot v."""
    z = one_hot(values_of).double()
    share = torch.full((len(x),), 1 / len(x), dtype=torch.float64) if weights is None else weights.double() / weights.double().sum()
    x, z = x.double() - share @ x.double(), z - share @ z
    return float(((share[:, None] * x).T @ z).abs().max())


def test_no_covariance_with_the_value_is_left_on_the_rows_it_was_fitted_to() -> None:
    x, values_of = problem()

    found = fit(x, values_of, 3)

    assert cross(x, values_of) > 0.1
    assert cross(applied(found, x), values_of) <= 1e-10


def faint(n: int = 500) -> tuple[Tensor, Tensor]:
    """Features whose correlation with the value is .005 exactly, on these very rows: below the library's tolerance of .01."""
    draw = torch.Generator().manual_seed(0)
    values_of = torch.arange(n) % 2
    z = values_of.double() - 0.5
    x = torch.randn(n, 3, generator=draw, dtype=torch.float64)
    x = x - x.mean(0) - z[:, None] * (z @ x) / (z @ z)
    x[:, 0] = x[:, 0] / x[:, 0].std() + 0.01 * z
    return x, values_of


def test_the_librarys_own_tolerance_would_leave_a_faint_value_as_it_is() -> None:
    x, values_of = faint()
    eraser = LeaceFitter.fit(x, one_hot(values_of).double()).eraser

    left, ours = cross(eraser(x), values_of), cross(applied(fit(x, values_of, 2), x), values_of)

    assert left == pytest.approx(cross(x, values_of)) and left > 1e-3
    assert ours <= 1e-10


def test_single_precision_would_leave_some() -> None:
    x, values_of = problem()
    eraser = LeaceFitter.fit(x.float(), one_hot(values_of).float(), svd_tol=1e-8, shrinkage=False, constrain_cov_trace=False).eraser

    assert cross(eraser(x.float()), values_of) > 1e-8


def test_the_change_is_the_least_that_does_it() -> None:
    """In the norm of the features' own covariance no other erasing map moves the rows less; an orthogonal projection erases too."""
    x, values_of = problem()
    x = x[:, :12]
    found = applied(fit(x, values_of, 3), x)
    directions = torch.linalg.svd((x - x.mean(0)).T @ one_hot(values_of).double() / len(x), full_matrices=False)
    kept = directions.U[:, directions.S > 1e-10]

    other = x - (x - x.mean(0)) @ kept @ kept.T

    assert cross(other, values_of) <= 1e-8
    precision = torch.linalg.inv(torch.cov(x.T))
    moved = [float(((y - x) @ precision * (y - x)).sum()) for y in (found, other)]
    assert moved[0] < moved[1]
    assert torch.allclose(found.mean(0), x.mean(0))


def test_weighted_rows_are_erased_in_the_weighted_population() -> None:
    x, values_of = problem()
    weights = 0.2 + torch.rand(len(x), generator=torch.Generator().manual_seed(3), dtype=torch.float64)

    weighted, plain = fit(x, values_of, 3, weights), fit(x, values_of, 3)
    ones = fit(x, values_of, 3, torch.ones(len(x)))

    assert cross(applied(weighted, x), values_of, weights) <= 1e-9
    assert cross(applied(plain, x), values_of, weights) > 1e-3
    assert torch.allclose(ones.weight, plain.weight, atol=1e-8)


@pytest.mark.parametrize("balanced", [False, True])
def test_the_networks_bottleneck_tells_a_linear_reader_nothing_and_others_perhaps_a_lot(balanced: bool) -> None:
    rows, held = mixed(600, agree=0.2), mixed(1200, seed=4, agree=0.2)
    net = trained(MIXED, rows)

    out = erase(net, rows, 2, Leace(balanced=balanced))

    def told(links: int, readers: tuple[str, ...]) -> float:
        values = bottleneck_values(out, held.samples.inputs, links=links)
        parts = [Held(values[part], held.values[part], held.samples.labels[part]) for part in (slice(0, 600), slice(600, 1200))]
        return probe(*parts, values=2, classes=3, seed=0, resamples=100, conditional=False, readers=readers).leakage

    assert told(0, ("linear",)) > 0.1
    assert told(1, ("linear",)) < 0.03
    assert float((out(held.samples.inputs).argmax(1) == held.samples.labels).double().mean()) > 0.8
