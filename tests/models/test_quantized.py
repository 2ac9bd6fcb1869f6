"""The quantised bottleneck: its information by brute force, its bounds, the sum that is none, and why serving must stay stochastic."""

from __future__ import annotations

from itertools import product
from math import log2

import pytest
import torch
from attributed import MIXED, mixed, trained
from torch import Tensor
from torch.nn.functional import one_hot

from models.audit.probe import Held, probe
from models.erase.code_information import code_information, h2, marginals
from models.erase.keys import rekeyed
from models.erase.quantized import Quantized, drawn, erase, objective, quantised_link, theta_of
from models.erase.scope import admit, bottleneck_values
from models.nets import Adapter, Network, adapter_of
from models.nets.bottleneck import THETA

KEY = bytes(range(7, 39))
SURE, NEVER = 1 - THETA, THETA


def random_case(seed: int, n: int = 30, m: int = 4, values: int = 3) -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(seed)
    theta = torch.rand(n, m, generator=draw, dtype=torch.float64).pow(float(torch.rand(1, generator=draw)) * 3 + 0.2)
    return theta.clamp(THETA, 1 - THETA), torch.cat([torch.arange(values), torch.randint(0, values, (n - values,), generator=draw)])


def brute_force(theta: Tensor, values_of: Tensor, values: int) -> float:
    """I(T; v) by counting out codes, rows and values one by one, without a matrix."""
    n, m = theta.shape
    table: dict[tuple[tuple[int, ...], int], float] = {}
    for code in product((0, 1), repeat=m):
        for row in range(n):
            chance = 1.0
            for j in range(m):
                chance *= float(theta[row, j]) if code[j] else 1 - float(theta[row, j])
            key = (code, int(values_of[row]))
            table[key] = table.get(key, 0.0) + chance / n
    by_code = {c: sum(p for (code, _), p in table.items() if code == c) for c, _ in table}
    by_value = {v: sum(p for (_, value), p in table.items() if value == v) for v in range(values)}
    return sum(p * log2(p / (by_code[c] * by_value[v])) for (c, v), p in table.items() if p > 0)


def exclusive_or(rows: int = 400) -> tuple[Tensor, Tensor]:
    """Two neurons, each even on its own in either class, that are equal in one class and different in the other."""
    first, second = torch.arange(rows) % 2, (torch.arange(rows) // 2) % 2
    theta = torch.stack([first, second], dim=1).double().clamp(0.003, 0.997)
    return theta, first ^ second


@pytest.mark.parametrize("seed", range(5))
def test_the_joint_information_is_that_of_counting_everything_out(seed: int) -> None:
    theta, values_of = random_case(seed)

    found = code_information(theta, values_of, 3)

    assert found.exact == pytest.approx(brute_force(theta, values_of, 3), abs=1e-10)
    assert found.stated == found.exact


@pytest.mark.parametrize("m", [1, 3, 8])
def test_the_bound_is_never_below_the_joint_information(m: int) -> None:
    for seed in range(40):
        theta, values_of = random_case(seed, m=m, values=2 + seed % 3)

        found = code_information(theta, values_of, 2 + seed % 3)

        assert found.exact is not None
        assert -1e-12 <= found.exact <= found.bound + 1e-12
        assert found.exact <= min(found.entropy, found.rate, found.pairwise) + 1e-12


def test_the_pairwise_bound_is_the_mean_divergence_over_pairs() -> None:
    theta, values_of = random_case(3, n=12, m=3)
    shares = torch.bincount(values_of).double() / 12

    def divergence(a: Tensor, b: Tensor) -> float:
        return float((a * (a / b).log2() + (1 - a) * ((1 - a) / (1 - b)).log2()).sum())

    truth = 0.0
    for k, other in product(range(3), repeat=2):
        if k != other:
            pairs = [divergence(a, b) for a in theta[values_of == k] for b in theta[values_of == other]]
            truth += float(shares[k] * shares[other]) * sum(pairs) / len(pairs)

    assert code_information(theta, values_of, 3).pairwise == pytest.approx(truth, rel=1e-10)


def test_what_two_neurons_say_only_together_is_reported_and_the_training_term_misses_it() -> None:
    """I4. The sum over single neurons is no bound: it says 0 of an exclusive or that tells the value."""
    theta, values_of = exclusive_or()

    found = code_information(theta, values_of, 2)

    assert found.exact is not None and found.exact >= 0.9
    assert found.bound >= found.exact
    assert float(marginals(theta, values_of, 2)) < 1e-9


def test_wide_codes_have_a_bound_and_no_exact_figure() -> None:
    draw = torch.Generator().manual_seed(0)
    values_of = torch.arange(40) % 2
    even = 0.5 + 0.01 * torch.randn(40, 30, generator=draw, dtype=torch.float64)

    quiet, loud = (
        code_information(even, values_of, 2),
        code_information(torch.where(values_of[:, None] == 1, SURE, NEVER).expand(-1, 15), values_of, 2),
    )
    whole = code_information(even[:, :14], values_of, 2)

    assert quiet.exact is None and quiet.stated == quiet.bound < 0.05
    assert loud.exact is None and loud.bound == loud.entropy == pytest.approx(1.0)
    assert whole.exact is not None and whole.exact < whole.bound


def test_weights_are_copies() -> None:
    theta, values_of = random_case(1)
    copies = torch.randint(1, 4, (len(theta),), generator=torch.Generator().manual_seed(0))

    weighted = code_information(theta, values_of, 3, copies)
    repeated = code_information(theta.repeat_interleave(copies, 0), values_of.repeat_interleave(copies), 3)

    for name in ("exact", "bound", "entropy", "rate", "pairwise"):
        assert getattr(weighted, name) == pytest.approx(getattr(repeated, name), abs=1e-12)


def test_the_training_term_is_the_sum_of_each_neurons_own_information() -> None:
    theta, values_of = random_case(2)

    found = float(marginals(theta, values_of, 3))

    each = sum(brute_force(theta[:, j : j + 1], values_of, 3) for j in range(4))
    assert found == pytest.approx(each, abs=1e-6)
    assert float(h2(torch.tensor(0.5))) == 1.0


def test_a_theta_of_zero_or_one_is_refused() -> None:
    with pytest.raises(ValueError, match="strictly between"):
        code_information(torch.tensor([[0.0], [0.5]]), torch.tensor([0, 1]), 2)


def test_thresholding_would_tell_what_drawing_hides() -> None:
    """One neuron at .53 or .47: .0026 bit drawn, 1 bit thresholded; a hundred fresh draws would tell .2, three thousand all of it."""
    values_of = torch.arange(2000) % 2
    theta = torch.where(values_of == 1, 0.53, 0.47).double()[:, None]

    one = code_information(theta, values_of, 2)
    cut = code_information(torch.where(theta > 0.5, SURE, NEVER), values_of, 2)

    assert one.exact is not None and one.exact == pytest.approx(0.0026, abs=1e-4)
    assert cut.exact is not None and cut.exact > 0.99
    draw = torch.Generator().manual_seed(0)
    for draws, least, most in ((1, 0.45, 0.6), (100, 0.68, 0.8), (3000, 0.99, 1.0)):
        means = torch.stack([(torch.rand(2000, generator=draw) < theta[:, 0]).double() for _ in range(draws)]).mean(0)
        assert least < float(((means > 0.5).long() == values_of).double().mean()) <= most


@pytest.fixture(scope="module")
def net() -> Network:
    return trained(MIXED, mixed(240))


@pytest.fixture(scope="module")
def erased(net: Network) -> Network:
    how = Quantized(bits=6, epochs=25, batch=60, gamma=0.6, balanced=True, rate=5e-3)
    return rekeyed(erase(net, mixed(600), 2, how, scope="bottleneck", seed=0), KEY)


def test_what_is_served_is_a_draw_by_theta_and_not_its_rounding(erased: Network) -> None:
    inputs = mixed(60).samples.inputs
    theta = theta_of(erased, inputs)
    link = quantised_link(erased, 0)

    served = bottleneck_values(erased, inputs, links=1)

    rounded = link.decode((theta > 0.5).float())
    bits = (link.draw(inputs, link=0) < theta).float()
    assert torch.allclose(served, link.decode(bits), atol=1e-5)
    assert not torch.allclose(served, rounded, atol=1e-3)
    assert not erased.training
    assert float(theta.min()) >= 0.999 * THETA and float(theta.max()) <= 1 - 0.999 * THETA


def test_asking_for_thresholds_is_refused() -> None:
    with pytest.raises(ValueError, match="threshold"):
        adapter_of({"kind": "quantized", "bits": 4, "threshold": True})
    with pytest.raises(TypeError, match="threshold"):
        Quantized(threshold=True)  # type: ignore[call-arg]


def test_the_gradient_passes_the_draw_unchanged() -> None:
    theta = torch.tensor([[0.2, 0.9]], requires_grad=True)

    out = drawn(theta, torch.Generator().manual_seed(0))
    (out * torch.tensor([3.0, -2.0])).sum().backward()

    assert set(out.flatten().tolist()) <= {0.0, 1.0}
    assert theta.grad is not None and theta.grad.tolist() == [[3.0, -2.0]]
    many = drawn(torch.full((4000, 1), 0.3), torch.Generator().manual_seed(1))
    assert abs(float(many.mean()) - 0.3) < 0.03


def test_the_loss_weighs_task_and_information_by_gamma(net: Network) -> None:
    rows = mixed(240)
    patient = admit(net, rows.samples.inputs, rows.samples.labels, Adapter(kind="quantized", bits=3), scope="bottleneck", seed=0)

    def at(gamma: float) -> float:
        how, fresh = Quantized(gamma=gamma, bits=3), torch.Generator().manual_seed(4)
        return float(objective(patient, torch.arange(100), rows.values, 2, None, how, fresh).detach())

    theta = quantised_link(patient.net, 0).theta(patient.features(torch.arange(100), last=0)).detach()
    information = float(marginals(theta, rows.values[:100], 2))
    assert at(0.25) == pytest.approx(0.75 * at(0.0) + 0.25 * information, rel=1e-5)


def test_fresh_probes_find_no_more_than_the_exact_information_of_the_served_bits(erased: Network, net: Network) -> None:
    held = mixed(3000, seed=8)
    cells = held.samples.labels * 2 + held.values
    weights = (1 / torch.bincount(cells).double())[cells]
    served = bottleneck_values(erased, held.samples.inputs, links=1)

    exact = code_information(theta_of(erased, held.samples.inputs), held.values, 2, weights).exact

    parts = [Held(served[part], held.values[part], held.samples.labels[part]) for part in (slice(0, 1500), slice(1500, 3000))]
    found = probe(*parts, values=2, classes=3, seed=0, resamples=100, conditional=False)
    assert exact is not None
    assert found.leakage / torch.log(torch.tensor(2.0)).item() <= exact + 0.02
    assert exact < 0.3
    assert float((erased(held.samples.inputs).argmax(1) == held.samples.labels).double().mean()) > 0.7
    assert one_hot(held.values).sum() == 3000
