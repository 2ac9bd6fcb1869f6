"""What features still tell of an image: a decoder trained to redraw it. An estimate that can show a leak, and never that there is none."""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace
from math import cos, log, pi, prod

import numpy as np
import torch
from torch import Tensor, nn

from models.audit import beginning, mixture
from models.audit.causal import Form, Pixels, Told
from models.audit.reading import Reading, read
from models.progress import Progress, Stop, check, never, silent
from models.train import threads

PHASE = "train decoder"
LARGEST_GRADIENT = 5.0  # the norm to which a longer gradient is cut
MEMORY = 0.98
"""How much of the mean stays at a step: it is over about the last fifty."""
LOOKS = 8
"""How often the held-out images are looked at: the weights that did best there are kept."""
HELD_OUT = 8
"""One image in so many is held out."""
BATCH = 256
"""Images scored at once."""


@dataclass(frozen=True, kw_only=True)
class Decoding:
    """How a decoder is built and trained: one budget for all that are compared."""

    steps: int = 600
    batch: int = 16
    rate: float = 1e-2
    """Adam's, at its peak; it rises over the first twentieth and falls to nothing along a cosine."""
    filters: int = 16
    blocks: int = 1
    levels: int = 1
    components: int = 8
    seed: int = 0
    threads: int = 1

    def __post_init__(self) -> None:
        if min(self.steps, self.batch, self.filters, self.blocks, self.levels, self.components, self.threads) < 1 or self.rate <= 0:
            raise ValueError("steps, batch, filters, blocks, levels, components and threads are at least 1, and the rate is positive")


def default_decoding(shape: tuple[int, int, int], *, seed: int = 0) -> Decoding:
    """Choose a size that one core can train in a minute or so.

    Args:
        shape: `[C, H, W]`. Up to 12 pixels wide one resolution is enough; beyond, most of the work is done at half of it.
    """
    return Decoding(levels=1 if max(shape[1:]) <= 12 else 2, seed=seed)


@dataclass(frozen=True)
class Decoder:
    """q(x | h), trained; use its functions, which keep it in eval mode."""

    net: Pixels
    reading: Reading | None
    """How h is standardised, and the linear guess; None where nothing is known."""
    device: torch.device
    held_out: float
    """Bits a dimension on the held-out images: the best of the looks."""
    how: Decoding


@dataclass(frozen=True)
class Scored:
    """How well images were foretold."""

    nats: Tensor
    """`[n]` float64: -log q(x | h) of each image."""
    dimensions: int
    """C H W."""

    @property
    def mean(self) -> float:
        """Nats a dimension."""
        return float(self.nats.mean()) / self.dimensions

    @property
    def bits(self) -> float:
        """Bits a dimension."""
        return self.mean / log(2)


@dataclass(frozen=True)
class Gain:
    """How much better one condition foretells the same images than another. An estimate, in nats a dimension."""

    value: float
    ci95: tuple[float, float]
    """Percentiles of a paired bootstrap over the images."""
    n: int


def fit(
    images: Tensor,
    h: Tensor | None,
    how: Decoding,
    *,
    untold: Decoder | None = None,
    device: str = "cpu",
    progress: Progress = silent,
    stop: Stop = never,
) -> Decoder:
    """Train a decoder q(x | h) by the likelihood of held-back images; the same arguments give the same bits on the same machine.

    Args:
        images: `[n, C, H, W]` uint8, audit images: never those whose decoding is judged.
        h: `[n, d]` or `[n, k, a, b]`, what is known of each image; None trains q(x).
        untold: a decoder of the same images that is told nothing. Training goes on from it, so that decoders which do so differ in what
            they are told and not in the luck of their trainings; with fewer steps each, because the images are learnt once.

    Raises:
        Stopped: when `stop` answers True, asked before every step.
        ValueError: on fewer than 16 images, a loss that is no longer finite, or an `untold` of another form.
    """
    if len(images) < 2 * HELD_OUT or (h is not None and len(h) != len(images)):
        raise ValueError(f"a decoder needs at least {2 * HELD_OUT} images, and one h for each")
    place = torch.device(device)
    generator = torch.Generator().manual_seed(how.seed)
    order = torch.randperm(len(images), generator=generator)
    kept, judged = order[len(order) // HELD_OUT :], order[: len(order) // HELD_OUT]
    known = (0,) if h is None else tuple(h.shape[1:])
    shape = (images.shape[1], images.shape[2], images.shape[3])
    with threads(how.threads), torch.random.fork_rng(devices=[]):
        torch.manual_seed(how.seed)
        net = Pixels(_form(shape, known, how, untold))
        reading = None if h is None else read(images, h, kept, judged)
        some = images[kept], None if h is None else h[kept], reading
        if untold is None:
            beginning.near(net, *some)
        else:
            beginning.after(net, untold.net, *some)
        decoder = Decoder(net.to(place), reading, place, float("inf"), how)
        best = _train(decoder, images, h, kept, judged, generator, progress, stop)
    net.requires_grad_(False).eval()
    return replace(decoder, held_out=best)


def nll(decoder: Decoder, images: Tensor, h: Tensor | None) -> Scored:
    """Score images that the decoder was not trained on.

    Args:
        images: `[n, C, H, W]` uint8.
        h: as in `fit`.
    """
    with threads(decoder.how.threads), torch.no_grad():
        batches = torch.split(torch.arange(len(images)), BATCH)
        parts = [_loss(decoder, images[rows], None if h is None else h[rows]).double().cpu() for rows in batches]
    return Scored(torch.cat(parts) if parts else torch.zeros(0, dtype=torch.float64), prod(images.shape[1:]))


def sample(decoder: Decoder, h: Tensor | None, *, count: int = 1, seed: int = 0, temperature: float = 1.0) -> Tensor:
    """Draw an image for each h, pixel by pixel in reading order: one pass of the network a pixel.

    Args:
        h: `[n, ...]`; None draws `count` images of nothing known.

    Returns:
        `[n, C, H, W]` uint8.
    """
    channels, height, width = decoder.net.form.shape
    n = count if h is None else len(h)
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.zeros(n, channels, height, width, device=decoder.device)
    cell = 1 << (decoder.how.levels - 1)
    with threads(decoder.how.threads), torch.no_grad():
        told = _told(decoder, h)
        for row in range(height):
            rows = height if height % cell else (row // cell + 1) * cell  # what lies below has no say
            for column in range(width):
                said = decoder.net(pixels[:, :, :rows], told)[:, :, row, column]
                pixels[:, :, row, column] = mixture.draw(said, pixels[:, :, row, column], temperature=temperature, generator=generator)
    return ((pixels + 1) / mixture.STEP).round().clamp(0, 255).to(torch.uint8).cpu()


def gain(without: Scored, given: Scored, *, resamples: int = 1000, seed: int = 0) -> Gain:
    """How many nats a dimension `given` saves over `without`, on the same images in the same order.

    Positive: what `given` was told says more of these images. With q(x) for `without` it estimates I(x; h) / dimensions, and is no
    bound of it: two decoders, both imperfect, are subtracted.
    """
    if len(without.nats) != len(given.nats) or without.dimensions != given.dimensions or len(given.nats) < 2:
        raise ValueError("two scores of the same images, at least 2, are compared")
    saved = ((without.nats - given.nats) / given.dimensions).numpy()
    rows = np.random.default_rng(seed).integers(0, len(saved), (resamples, len(saved)))
    means = saved[rows].mean(axis=1)
    low, high = np.quantile(means, [0.025, 0.975])
    return Gain(float(saved.mean()), (float(low), float(high)), len(saved))


def under_trained(bits_by_depth: list[float], *, tolerance: float = 0.02) -> str | None:
    """Say that decoders do not agree with theory: a deeper layer is a function of the one before, so it can tell no more.

    Args:
        bits_by_depth: bits a dimension of decoders with the same budget, told of ever deeper layers.

    Returns:
        a warning, or None.
    """
    best = bits_by_depth[0]
    for depth, bits in enumerate(bits_by_depth[1:], start=1):
        if bits < best - tolerance:
            return f"under-trained: layer {depth} seems to tell {best - bits:.3f} bits a dimension more than one before it, which cannot be"
        best = max(best, bits)
    return None


def _form(shape: tuple[int, int, int], known: tuple[int, ...], how: Decoding, untold: Decoder | None) -> Form:
    own = Form(shape=shape, known=known, filters=how.filters, blocks=how.blocks, levels=how.levels, components=how.components)
    if untold is None:
        return own
    if untold.net.form != replace(own, known=(0,)):
        raise ValueError("`untold` is a decoder of the same size for images of the same shape, and was told nothing")
    return own if known == (0,) else replace(own, components=own.components + beginning.following(own.components))


def _train(
    decoder: Decoder,
    images: Tensor,
    h: Tensor | None,
    kept: Tensor,
    judged: Tensor,
    generator: torch.Generator,
    progress: Progress,
    stop: Stop,
) -> float:
    how, net = decoder.how, decoder.net
    net.train()
    optimiser = torch.optim.Adam(net.parameters(), lr=how.rate, betas=(0.95, 0.999))
    best, state = float("inf"), copy.deepcopy(net.state_dict())
    mean = copy.deepcopy(net)  # a running mean of the weights: sharp bumps make single steps jump
    averaged = replace(decoder, net=mean)
    dimensions, look = prod(images.shape[1:]), max(1, how.steps // LOOKS)
    waiting = torch.zeros(0, dtype=torch.int64)
    for step in range(how.steps):
        check(stop)
        while len(waiting) < how.batch:
            waiting = torch.cat([waiting, kept[torch.randperm(len(kept), generator=generator)]])
        rows, waiting = waiting[: how.batch], waiting[how.batch :]
        for group in optimiser.param_groups:
            group["lr"] = how.rate * _rate(step / how.steps)
        loss = _loss(decoder, images[rows], None if h is None else h[rows]).mean() / dimensions
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(net.parameters(), LARGEST_GRADIENT)
        optimiser.step()
        with torch.no_grad():
            share = max(1 - MEMORY, 1 / (step + 1))
            for slow, fast in zip(mean.parameters(), net.parameters(), strict=True):
                slow.lerp_(fast, share)
        progress(PHASE, (step + 1) / how.steps)
        if (step + 1) % look == 0 or step + 1 == how.steps:
            if not float(loss.detach()) < float("inf"):
                raise ValueError("the decoder diverged: its loss is not finite; try a smaller rate")
            found = nll(averaged, images[judged], None if h is None else h[judged]).bits
            if found < best:
                best, state = found, copy.deepcopy(mean.state_dict())
    net.load_state_dict(state)
    return best


def _rate(fraction: float) -> float:
    """The learning rate as a fraction of its peak."""
    return min(1.0, fraction / 0.05 + 0.02) * (1 + cos(pi * fraction)) / 2


def _told(decoder: Decoder, h: Tensor | None) -> Told | None:
    """h as the network takes it."""
    if h is None or decoder.reading is None:
        return None
    return decoder.net.tell(decoder.reading.standard(h).to(decoder.device), decoder.reading.guess(h).to(decoder.device))


def _loss(decoder: Decoder, images: Tensor, h: Tensor | None) -> Tensor:
    """-log q(x | h) of each image, in nats: `[n]`."""
    pixels = images.to(decoder.device).float() * mixture.STEP - 1
    return -mixture.log_probability(decoder.net(pixels, _told(decoder, h)), pixels).flatten(1).sum(dim=1)
