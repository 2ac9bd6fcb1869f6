"""Training is a function of the samples, the seed and the thread count, reports its progress, and stops when told."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from stand_in import digits

from models.data import Samples
from models.nets import Architecture, build
from models.progress import Stopped
from models.train import Training, augmented, cycle, default_training, train

SMALL = Architecture(name="convnet", input_shape=(1, 8, 8), classes=10, hidden=(4, 4, 8, 8))
QUICK = Training(epochs=2, batch=32, seed=1)


def weights_after(training: Training, architecture: Architecture = SMALL, n: int = 150) -> dict[str, torch.Tensor]:
    net = build(architecture, training.seed)
    train(net, digits(0, n, "core"), training)
    return net.state_dict()


def same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("name", ["convnet", "mlp", "resnet20"])
def test_the_same_seed_and_threads_give_the_same_bits(name: str, threads: int) -> None:
    architecture = Architecture(name=name, input_shape=(1, 8, 8), classes=10)
    training = replace(QUICK, epochs=1, threads=threads, flip=True)

    first = weights_after(training, architecture)
    torch.rand(13)  # the global generator must not matter
    again = weights_after(training, architecture)

    assert same(first, again)


def test_another_seed_gives_another_network() -> None:
    assert not same(weights_after(QUICK), weights_after(replace(QUICK, seed=2)))


def test_every_sample_matters() -> None:
    assert not same(weights_after(QUICK, n=150), weights_after(QUICK, n=149))


def test_a_small_core_of_digits_is_learnt_in_seconds() -> None:
    core, test = digits(0, 700, "core"), digits(1300, 1797, "test")
    architecture = Architecture(name="convnet", input_shape=(1, 8, 8), classes=10)
    net = build(architecture, 0)
    untrained = float((net(test.inputs).argmax(1) == test.labels).float().mean())

    train(net, core, default_training(architecture, len(core)))

    assert untrained < 0.3
    assert float((net(test.inputs).argmax(1) == test.labels).float().mean()) > 0.9


def test_the_net_is_left_in_eval_mode_without_gradients_and_the_threads_as_they_were() -> None:
    net = build(Architecture(name="resnet20", input_shape=(1, 8, 8), classes=10), 0)
    before = torch.get_num_threads()

    train(net, digits(0, 65, "core"), replace(QUICK, epochs=1, batch=64, threads=2))  # 65: a last batch of one would break the norms

    assert not net.training
    assert not any(weight.requires_grad for weight in net.parameters())
    assert torch.get_num_threads() == before


def test_progress_rises_to_one_and_a_stop_ends_the_work_at_once() -> None:
    told: list[tuple[str, float]] = []

    train(build(SMALL, 0), digits(0, 100, "core"), QUICK, progress=lambda phase, done: told.append((phase, done)))
    with pytest.raises(Stopped):
        train(build(SMALL, 0), digits(0, 100, "core"), QUICK, stop=lambda: len(told) > 0)

    assert [phase for phase, _ in told] == ["train core"] * 8
    assert [done for _, done in told] == [pytest.approx((i + 1) / 8) for i in range(8)]


def test_the_rate_rises_once_and_falls_to_almost_nothing() -> None:
    rates = [cycle(i / 100) for i in range(101)]

    assert max(rates) == pytest.approx(1.0)
    assert rates.index(max(rates)) == 25
    assert rates[0] == pytest.approx(0.1)
    assert rates[-1] == pytest.approx(0.001)


def test_augmentation_shifts_each_image_and_keeps_its_pixels() -> None:
    images = torch.zeros(200, 2, 16, 16, dtype=torch.uint8)
    images[:, :, 6, 5] = 9

    moved = augmented(images, flip=False, generator=torch.Generator().manual_seed(0))
    mirrored = augmented(images, flip=True, generator=torch.Generator().manual_seed(0))

    places = {tuple(place[2:].tolist()) for place in moved.nonzero()}
    assert moved.shape == images.shape
    assert bool((moved.sum((2, 3)) == 9).all())
    assert places == {(y, x) for y in range(4, 9) for x in range(3, 8)}
    assert {place[3].item() for place in mirrored.nonzero()} == set(range(3, 8)) | set(range(8, 13))


def test_what_cannot_be_trained_on_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 2 rows"):
        train(build(SMALL, 0), digits(0, 1, "core"), QUICK)
    few = Architecture(name="convnet", input_shape=(1, 8, 8), classes=3)
    with pytest.raises(ValueError, match="outside the 3 classes"):
        train(build(few, 0), digits(0, 50, "core"), QUICK)
    with pytest.raises(ValueError, match="diverged"):
        samples = Samples(torch.full((4, 3), float("nan")), torch.zeros(4, dtype=torch.int64), ("a", "b", "c", "d"))
        train(build(Architecture(name="mlp", input_shape=(3,), classes=2), 0), samples, QUICK)


def test_the_default_has_about_the_same_number_of_steps_for_large_and_small_cores() -> None:
    convnet = Architecture(name="convnet", input_shape=(1, 28, 28), classes=10)

    assert default_training(convnet, 700).epochs == 40
    assert default_training(convnet, 10_000).epochs == 16
    assert default_training(convnet, 1_000_000).epochs == 10
    assert not default_training(Architecture(name="linear", input_shape=(1, 28, 28), classes=10), 700).augment
