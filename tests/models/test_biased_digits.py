"""I6: on digits whose colour tells the label in 99 of 100 rows, removing the colour makes the network read the digit."""

from __future__ import annotations

import pytest
from attributed import trained

from benchmarks.biased import Biased, digits
from models.audit.probe import Held, probe
from models.erase import irene, leace
from models.erase.scope import bottleneck_values, extended
from models.nets import Adapter, Architecture, Network


@pytest.fixture(scope="module")
def data() -> Biased:
    return digits(0.99, copies=2)


def judged(net: Network, data: Biased) -> tuple[float, float]:
    """Accuracy on evenly coloured digits, and a fresh linear probe's accuracy at naming the colour (chance: .1)."""
    adapted = net if net.architecture.adapter is not None else extended(net, Adapter(kind="identity"), seed=0)
    values, rows = bottleneck_values(adapted, data.audit.samples.inputs, links=len(adapted.links)), data.audit
    half = len(values) // 2
    parts = [Held(values[some], rows.values[some], rows.samples.labels[some]) for some in (slice(0, half), slice(half, None))]
    found = probe(*parts, values=10, classes=10, seed=0, resamples=20, conditional=False, readers=("linear",))
    right = (net(rows.samples.inputs).argmax(1) == rows.samples.labels).double().mean()
    return float(right), found.probes[0].balanced_accuracy


@pytest.mark.slow
def test_unbiased_accuracy_rises_and_a_fresh_linear_probe_falls(data: Biased) -> None:
    architecture = Architecture(name="convnet", input_shape=(3, 8, 8), classes=10, hidden=(16, 32, 64, 64))
    vanilla = trained(architecture, data.core, epochs=6)
    how = irene.strong(len(data.core), gamma=5.0, scope="network", biased=True)

    erased = irene.erase(vanilla, data.core, 10, how, scope="network", seed=0)
    afterwards = leace.erase(erased, data.core, 10, leace.Leace(balanced=True))

    before, after, last = (judged(net, data) for net in (vanilla, erased, afterwards))
    assert before[1] > 0.9
    assert min(after[0], last[0]) >= before[0] + 0.03
    assert last[1] <= before[1] - 0.30
    assert last[1] < after[1] < before[1]
