"""The decoder: probabilities that sum to one, an order that nothing breaks, and information that is known beforehand."""

from __future__ import annotations

from dataclasses import replace
from math import log

import pytest
import torch
from sklearn.datasets import load_digits
from torch import Tensor

from models.audit import decoder, mixture
from models.audit.causal import Form, Pixels, Told
from models.audit.decoder import Decoding, Scored
from models.progress import Stopped

QUICK = Decoding(steps=120, filters=8, components=4, batch=16)


QUICK_BITS = Decoding(steps=400, filters=8, components=4, batch=64)


def noisy_bits(count: int) -> tuple[Tensor, Tensor]:
    """2x2 images, each pixel one of two values by a fair bit, with logistic noise that no bit hides in; and the bits `[n, 4]`."""
    generator = torch.Generator().manual_seed(3)
    bits = torch.randint(0, 2, (count, 4), generator=generator)
    uniform = torch.rand(count, 4, generator=generator).clamp(1e-4, 1 - 1e-4)
    noise = 3 * torch.log(uniform / (1 - uniform))
    return (75 + 100 * bits + noise).round().clamp(0, 255).to(torch.uint8).reshape(-1, 1, 2, 2), bits


def revealed(k: int, how: Decoding) -> float:
    """Nats an image that knowing the first k bits saves."""
    images, bits = noisy_bits(4000)
    h = bits[:, :k].float()
    nothing = decoder.nll(decoder.fit(images[:3000], None, how), images[3000:], None)
    given = decoder.nll(decoder.fit(images[:3000], h[:3000], how), images[3000:], h[3000:])
    return decoder.gain(nothing, given).value * 4


def digits() -> tuple[Tensor, Tensor]:
    pixels, labels = load_digits(return_X_y=True)
    return torch.from_numpy((pixels * 15).astype("uint8").reshape(-1, 1, 8, 8)), torch.from_numpy(labels)


def told(net: Pixels, n: int, seed: int = 1) -> Told | None:
    generator = torch.Generator().manual_seed(seed)
    if not net.knows:
        return None
    return net.tell(torch.randn(n, *net.form.known, generator=generator), torch.rand(n, *net.form.shape, generator=generator) * 2 - 1)


# The mixture ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sharpness", [-12.0, -7.0, -3.0, 0.0, 6.0])
def test_the_probabilities_of_the_256_values_sum_to_one_edges_included(sharpness: float) -> None:
    generator = torch.Generator().manual_seed(0)
    values = (torch.arange(256).double() * mixture.STEP - 1).reshape(256, 1, 1, 1)
    parameters = torch.randn(1, mixture.wanted(1, 5), 1, 1, generator=generator, dtype=torch.float64)
    parameters.reshape(1, 5, 3)[:, :, 2] = sharpness / mixture.HASTE
    parameters.reshape(1, 5, 3)[:, 0, 1] = 3.0  # a bump beyond 255

    total = mixture.log_probability(parameters.expand(256, -1, -1, -1), values).exp().sum()

    assert float(total) == pytest.approx(1, abs=1e-9)


def test_the_probabilities_of_two_channels_together_sum_to_one() -> None:
    generator = torch.Generator().manual_seed(0)
    grid = torch.cartesian_prod(torch.arange(256), torch.arange(256)).double() * mixture.STEP - 1
    parameters = torch.randn(1, mixture.wanted(2, 3), 1, 1, generator=generator, dtype=torch.float64)

    total = mixture.log_probability(parameters.expand(len(grid), -1, -1, -1), grid[:, :, None, None]).exp().sum()

    assert float(total) == pytest.approx(1, abs=1e-9)


def test_far_tails_have_finite_logarithms_and_slopes() -> None:
    pixels = torch.tensor([[[[1.0]]], [[[-1.0]]], [[[mixture.STEP * 100 - 1]]]])
    parameters = torch.tensor([0.0, -0.9, -9.0]).reshape(1, 3, 1, 1).repeat(3, 1, 1, 1).requires_grad_(True)

    found = mixture.log_probability(parameters, pixels)
    found.sum().backward()

    assert torch.isfinite(found).all() and (found <= 0).all()
    assert parameters.grad is not None and torch.isfinite(parameters.grad).all()


def test_drawn_pixels_have_the_frequencies_that_the_mixture_states() -> None:
    parameters = torch.tensor([0.5, -0.4, -2.5 / mixture.HASTE, -0.5, 0.6, -3.5 / mixture.HASTE]).reshape(1, 6)
    values = (torch.arange(256) * mixture.STEP - 1).reshape(256, 1, 1, 1)
    stated = mixture.log_probability(parameters.reshape(1, 6, 1, 1).expand(256, -1, -1, -1), values).exp().flatten()

    drawn = mixture.draw(parameters.expand(20_000, -1), torch.zeros(20_000, 1), temperature=1.0, generator=torch.Generator().manual_seed(0))

    counted = torch.bincount(((drawn[:, 0] + 1) / mixture.STEP).round().long(), minlength=256) / 20_000
    assert float((counted - stated).abs().sum()) / 2 < 0.05  # total variation; sampling alone gives about .03


# The order ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shape", "known", "levels"), [((1, 6, 5), (0,), 1), ((1, 7, 6), (4,), 2), ((3, 5, 4), (3, 2, 2), 2), ((1, 8, 8), (2,), 3)]
)
def test_what_is_said_of_a_pixel_depends_on_no_later_pixel_nor_on_itself(
    shape: tuple[int, int, int], known: tuple[int, ...], levels: int
) -> None:
    torch.manual_seed(0)
    net = Pixels(Form(shape=shape, known=known, filters=4, blocks=2, levels=levels, components=2)).eval()
    _, height, width = shape
    pixels = (torch.rand(1, *shape) * 2 - 1).requires_grad_(True)
    said, wrong, blind = net(pixels, told(net, 1)), [], []
    # The channels' own order is the mixture's; here a pixel is all its channels.

    for place in range(height * width):
        (slope,) = torch.autograd.grad(said[0, :, place // width, place % width].sum(), pixels, retain_graph=True)
        seen = slope[0].abs().sum(dim=0).flatten()
        wrong.append(int((seen[place:] != 0).sum()))
        blind.append(place > 0 and not bool(seen[:place].any()))

    assert sum(wrong) == 0
    assert not any(blind)


def test_probabilities_of_all_images_of_two_pixels_sum_to_one() -> None:
    torch.manual_seed(0)
    net = Pixels(Form(shape=(1, 1, 2), known=(2,), filters=6, components=3)).double().eval()
    grid = torch.cartesian_prod(torch.arange(256), torch.arange(256)).double() * mixture.STEP - 1
    images = grid.reshape(-1, 1, 1, 2)
    known = net.tell(torch.tensor([[0.3, -1.0]]).double().expand(len(images), -1), torch.zeros(len(images), 1, 1, 2).double())

    with torch.no_grad():
        total = mixture.log_probability(net(images, known), images).flatten(1).sum(dim=1).exp().sum()

    assert float(total) == pytest.approx(1, abs=1e-9)


def test_the_first_rows_alone_are_told_the_same() -> None:
    torch.manual_seed(0)
    net = Pixels(Form(shape=(1, 8, 6), known=(3,), filters=4, levels=2, components=2)).eval()
    pixels, known = torch.rand(2, 1, 8, 6), told(net, 2)

    with torch.no_grad():
        whole, part = net(pixels, known), net(pixels[:, :, :4], known)

    assert torch.allclose(whole[:, :, :4], part, atol=1e-6)


# What is known beforehand ---------------------------------------------------------------------------------------------


def test_features_that_are_the_image_leave_nothing_to_say_and_constant_ones_tell_nothing() -> None:
    images, _ = digits()
    train, test = images[:400], images[400:600]

    def scored(h: Tensor | None) -> Scored:
        fitted = decoder.fit(train, None if h is None else h[:400], QUICK)
        return decoder.nll(fitted, test, None if h is None else h[400:600])

    nothing, flat, spatial = scored(None), scored(images.flatten(1)), scored(images)
    constant = scored(torch.ones(len(images), 3))

    assert flat.bits <= nothing.bits / 3  # in full training a twentieth of a bit
    assert spatial.bits <= nothing.bits / 6  # a map's linear guess is exact here
    assert nothing.bits - constant.bits <= 0.02
    assert nothing.bits > 3


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("form", ["vector", "map"])
def test_trained_in_full_the_image_itself_costs_at_most_a_twentieth_of_a_bit(form: str, seed: int) -> None:
    images, _ = digits()
    h = images.flatten(1).float() if form == "vector" else images.float()

    fitted = decoder.fit(images[:1200], h[:1200], decoder.default_decoding((1, 8, 8), seed=seed))

    assert decoder.nll(fitted, images[1200:], h[1200:]).bits <= 0.05


@pytest.mark.slow
def test_trained_in_full_a_constant_gains_at_most_a_fiftieth_of_a_bit() -> None:
    images, _ = digits()
    how, h = decoder.default_decoding((1, 8, 8)), torch.ones(len(images), 3)

    nothing = decoder.nll(decoder.fit(images[:1200], None, how), images[1200:], None)
    constant = decoder.nll(decoder.fit(images[:1200], h[:1200], how), images[1200:], h[1200:])

    assert nothing.bits - constant.bits <= 0.02


@pytest.mark.slow
@pytest.mark.parametrize("k", [1, 2, 4])
def test_trained_longer_any_number_of_revealed_bits_is_found(k: int) -> None:
    assert revealed(k, replace(QUICK_BITS, steps=1200)) == pytest.approx(k * log(2), rel=0.03)


@pytest.mark.slow
def test_deeper_layers_tell_no_more_than_the_layers_before_them() -> None:
    images, _ = digits()
    torch.manual_seed(0)
    first = torch.nn.Linear(64, 32)
    layers = [images.flatten(1).float() / 255]
    with torch.no_grad():
        layers.append(torch.relu(first(layers[0])))
        layers.append(torch.relu(torch.nn.Linear(32, 12)(layers[1])))
        layers.append(torch.relu(torch.nn.Linear(12, 3)(layers[2])))

    bits = [decoder.nll(decoder.fit(images[:1200], h[:1200], QUICK), images[1200:], h[1200:]).bits for h in layers]

    assert decoder.under_trained(bits) is None
    assert bits == sorted(bits)


def test_a_deeper_layer_that_tells_more_is_called_under_trained() -> None:
    warned = decoder.under_trained([1.0, 1.4, 1.2, 1.6])

    assert warned is not None and "layer 2" in warned
    assert decoder.under_trained([1.0, 1.4, 1.39, 1.6]) is None


# Going on from another ------------------------------------------------------------------------------------------------


def test_who_goes_on_from_another_begins_with_what_that_one_says_and_hears_at_once_what_is_told_to_the_pixel() -> None:
    images, _ = digits()
    train, test = images[:400], images[400:600]
    untold = decoder.fit(train, None, QUICK)
    still = replace(QUICK, steps=1, rate=1e-9)

    def begun(h: Tensor | None) -> Scored:
        fitted = decoder.fit(train, None if h is None else h[:400], still, untold=untold)
        return decoder.nll(fitted, test, None if h is None else h[400:600])

    before = decoder.nll(untold, test, None)
    assert torch.allclose(begun(None).nats, before.nats, atol=1e-4)
    assert abs(begun(torch.ones(len(images), 3)).mean - before.mean) < 0.05
    assert begun(images.flatten(1).float()).mean < before.mean - 0.3
    assert begun(images.float()).mean < before.mean - 0.3


def test_only_a_decoder_of_the_same_size_that_was_told_nothing_is_gone_on_from() -> None:
    images, _ = digits()
    short = replace(QUICK, steps=2)
    told, smaller = decoder.fit(images[:64], torch.ones(64, 3), short), decoder.fit(images[:64], None, replace(short, filters=4))

    for other in (told, smaller):
        with pytest.raises(ValueError, match="told nothing"):
            decoder.fit(images[:64], None, short, untold=other)


# Use ------------------------------------------------------------------------------------------------------------------


def test_the_same_seed_trains_the_same_decoder_and_another_seed_another() -> None:
    images, labels = digits()
    h, how = torch.nn.functional.one_hot(labels, 10).float(), replace(QUICK, steps=20)

    one, two = (decoder.fit(images[:200], h[:200], how).net.state_dict() for _ in range(2))
    other = decoder.fit(images[:200], h[:200], replace(how, seed=1)).net.state_dict()

    assert all(torch.equal(one[name], two[name]) for name in one)
    assert not all(torch.equal(one[name], other[name]) for name in one)


def test_training_does_not_disturb_the_global_random_state_and_can_be_stopped() -> None:
    images, _ = digits()
    told_of: list[float] = []
    before = torch.get_rng_state()

    with pytest.raises(Stopped):
        decoder.fit(images[:64], None, QUICK, progress=lambda phase, done: told_of.append(done), stop=lambda: len(told_of) >= 3)

    assert told_of == [1 / 120, 2 / 120, 3 / 120]
    assert torch.equal(before, torch.get_rng_state())


def test_samples_given_the_features_look_like_the_image_that_had_them() -> None:
    images, bits = noisy_bits(1100)
    fitted = decoder.fit(images[:1000], bits[:1000].float(), replace(QUICK_BITS, steps=150))

    drawn, again = (decoder.sample(fitted, bits[1000:].float(), seed=5) for _ in range(2))

    near = (drawn.float() - images[1000:].float()).abs() < 30
    assert drawn.dtype == torch.uint8 and drawn.shape == (100, 1, 2, 2)
    assert float(near.float().mean()) > 0.95
    assert torch.equal(drawn, again)


def test_a_paired_interval_holds_a_difference_far_smaller_than_the_images_differ_among_themselves() -> None:
    generator = torch.Generator().manual_seed(0)
    nats = 100 + 30 * torch.randn(500, generator=generator, dtype=torch.float64)
    one = Scored(nats, 64)
    other = Scored(nats - 1 + 0.5 * torch.randn(500, generator=generator, dtype=torch.float64), 64)

    found = decoder.gain(one, other)

    assert found.ci95[0] < 1 / 64 < found.ci95[1]
    assert found.ci95[1] - found.ci95[0] < 0.01


def test_three_channels_are_decoded_too() -> None:
    generator = torch.Generator().manual_seed(0)
    grey = torch.randint(0, 256, (200, 1, 4, 4), generator=generator)
    images = torch.cat([grey, 255 - grey, grey], dim=1).to(torch.uint8)

    fitted = decoder.fit(images[:150], None, replace(QUICK, steps=200))
    scored = decoder.nll(fitted, images[150:], None)

    assert scored.dimensions == 48
    assert scored.bits < 5  # 8 without, 8/3 with all that the first channel tells of the others
    assert decoder.sample(fitted, None, count=2).shape == (2, 3, 4, 4)
