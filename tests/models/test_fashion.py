"""Fashion-MNIST: hashes agree on real images, and `exact` with taps is as accurate as fine-tuning the whole network."""

from __future__ import annotations

import io
import os
from pathlib import Path

import pytest
import torch
from torch import Tensor

from models.data import Samples
from models.forget import exact
from models.forget.refit import refit
from models.linear.core import core_statistics, encode, fit_core, logits
from models.linear.solve import digest
from models.linear.statistics import Rows
from models.nets import Architecture, build
from models.train import Training, default_training, train

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

CONVNET = Architecture(name="convnet", input_shape=(1, 28, 28), classes=10)


def images(split: str) -> tuple[Tensor, Tensor]:
    folder = os.environ.get("EXPUNGE_BENCH_DATA")
    if not folder:
        pytest.skip("EXPUNGE_BENCH_DATA is not set: no Fashion-MNIST here")
    parquet = pytest.importorskip("pyarrow.parquet")
    table = parquet.read_table(io.BytesIO((Path(folder) / "fashion_mnist" / f"{split}.parquet").read_bytes()))
    pixels = b"".join(table["image"].to_pylist())
    return torch.frombuffer(bytearray(pixels), dtype=torch.uint8).view(-1, 1, 28, 28), torch.tensor(table["label"].to_pylist())


def samples(inputs: Tensor, labels: Tensor, chosen: Tensor) -> Samples:
    return Samples(inputs[chosen], labels[chosen], tuple(f"f-{i}" for i in chosen.tolist()))


def test_two_thousand_core_and_ten_thousand_user_images() -> None:
    inputs, labels = images("train")
    test_inputs, test_labels = images("test")
    order = torch.randperm(len(inputs), generator=torch.Generator().manual_seed(0))
    core_samples, user = samples(inputs, labels, order[:2000]), samples(inputs, labels, order[2000:12_000])
    core = fit_core(CONVNET, core_samples, default_training(CONVNET, 2000), expected_rows=10_000)
    begun, rows = core_statistics(core, core_samples.inputs), encode(core, user.inputs, user.labels)
    whole = refit(core, begun, [rows])

    for out in (torch.arange(10_000) < 1, torch.arange(10_000) < 100, user.labels == 3):
        after = exact.forget(whole.statistics, Rows(rows.features[out], rows.targets[out]), core)

        kept = refit(core, begun, [Rows(rows.features[~out], rows.targets[~out])])
        assert digest(after.weights) == digest(kept.weights) != digest(whole.weights)

    tuned = build(CONVNET, 0)
    assert core.net is not None
    tuned.load_state_dict(core.net.state_dict())
    train(tuned, user, Training(epochs=20, rate=0.05, seed=1))
    ours = float((logits(core, whole.weights, test_inputs).argmax(1) == test_labels).float().mean())
    with torch.inference_mode():
        theirs = float((tuned(test_inputs).argmax(1) == test_labels).float().mean())
    assert ours >= theirs - 0.01
    assert ours >= 0.87
