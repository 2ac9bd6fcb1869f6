"""Is a noisy release where refitting puts it? User weights refitted on the rows that stay, and the distance in units of the noise."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Set
from dataclasses import asdict, dataclass
from math import inf, sqrt
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from scipy.stats import chi2, ncx2

from expunge import show
from expunge.reproduce import CannotReproduce, elsewhere, reading, rows_of, same_file, verified
from models.data import Samples
from models.linear.core import CoreMismatch
from models.linear.curvature import Curvature, measure
from models.linear.descent import cg
from models.linear.tangent import prepare
from models.linear.whole import WholeCore, quadratic
from models.linear.whole_file import load_user, load_whole
from models.nets import Architecture
from service.parquet import Layout
from workers.artifacts import among, samples_of
from workers.device import deterministic

__all__ = ["CannotReproduce", "Distance", "reproduce", "tell"]

CLOSE = 0.02
"""How near to the minimiser the refit goes, in units of the noise."""
PASSES = 3000
TAIL = 0.0005
"""Chance of either side of the central 99.9 % range."""
SLACK = 1.1
"""Of a range without noise: float32 rounding of the weights."""


@dataclass(frozen=True)
class Distance:
    """How far a release is from the refit, and how far it may be."""

    method: str
    squared: float
    """(w_out - w*)^T M (w_out - w*) / sigma^2; of noise alone it is chi-square with `parameters` degrees of freedom."""
    low: float
    high: float
    """The central 99.9 % range of `squared`, the certificate's mu and what the refit here left open included."""
    parameters: int
    """p."""
    sigma: float
    mu: float
    """What the certificate states, or the model's mu_max where it states none."""
    open: float
    """How far the refit may be from the exact minimiser, in units of the noise."""
    passes: int
    user_rows: int
    left_out: int
    forgotten: int
    """Samples that the certificate's own request forgot; earlier requests come on top."""
    elsewhere: tuple[str, ...]
    same_file: bool
    seconds: float

    @property
    def equal(self) -> bool:
        """Whether the distance is one that the certificate explains."""
        return self.low <= self.squared <= self.high

    @property
    def meaning(self) -> str:
        """What the comparison says, in plain words."""
        if self.method == "zero":
            return "The user weights are 0, as without any user row." if self.equal else "The user weights are not 0."
        if self.equal and self.method in ("cg", "sgd"):
            return "The release lies from the refit as far as its noise explains. That is a check of consistency; the proof is the bound."
        if self.equal:
            return "The weights are those of the refit, as near as the solver was asked to go."
        if self.left_out < self.forgotten:
            return (f"Other samples went in: the certificate's request alone forgot {self.forgotten}, and here {self.left_out} were left "
                    "out. Name every sample forgotten so far with --forgotten.")
        return ("The noise does not explain this distance. Check --forgotten (all ids forgotten so far from this data set, no others) and "
                "that the file is the data set's.")

    def document(self) -> dict[str, Any]:
        return {"equal": self.equal, "meaning": self.meaning} | asdict(self)


def reproduce(directory: Path, data: Path, forgotten: Set[str], *, key: Path | None = None, fingerprint: str | None = None,
              service: object = None, progress: Callable[[str, float], None] = lambda phase, fraction: None) -> Distance:
    """Refit a linearised version's user weights on the rows that stay, on its own core, and measure the distance to the release.

    M, the shape of the noise, is measured again, from core rows.

    Args:
        forgotten: ids of all samples forgotten so far, of the core too. Of a certificate about everything, all user rows are left out.
        service: not used: there are no sums to ask for.

    Raises:
        CannotReproduce: the version does not verify, or the data does not fit it.
        OSError: a file cannot be read.
    """
    said = verified(directory, key, fingerprint)
    begun = time.perf_counter()
    deterministic()
    form, core, released = _loaded(directory)
    method, written = said["method"]["name"], said["method"]["hyperparameters"]
    mu = float(said["guarantee"][0]["value"]["mu"]) if said["guarantee"] else 0.0
    with reading(data, core.tangent.net.architecture) as layout:
        core_rows, _ = _kept(data, layout, "core", form["classes"], forgotten)
        user, left_out = _kept(data, layout, "user", form["classes"], forgotten)
    if method == "zero":
        user, left_out = user.select([]), left_out + len(user)
    prepared = prepare(core.tangent, core_rows.inputs)
    M = measure(core.tangent.double(), prepared, ridge=core.ridge, rank=int(written["release.rank"]),
                seed=int(written["training.seed"]), progress=progress)
    shape = M.flat() if written["release.noise"] == "isotropic" else M
    nearest, left_open, passes = torch.zeros_like(released), 0.0, 0
    if len(user):
        loss = quadratic(core, prepare(core.tangent, user.inputs), user.labels, prepared)
        found = cg(loss, released, M, shape=shape, target=CLOSE * core.sigma, most=PASSES, progress=progress)
        nearest, left_open, passes = found.w, found.error / core.sigma, loss.passes.total
    low, high = _range(method, core.tangent.p, mu, float(written["release.mu_max"]), left_open)
    return Distance(
        method=method, squared=_squared(shape, released - nearest) / core.sigma**2, low=low, high=high, parameters=core.tangent.p,
        sigma=core.sigma, mu=mu or float(written["release.mu_max"]), open=left_open, passes=passes, user_rows=len(user),
        left_out=left_out, forgotten=said["dispositions"]["forgotten"], elsewhere=elsewhere(said), same_file=same_file(data, said),
        seconds=time.perf_counter() - begun)


def _loaded(directory: Path) -> tuple[dict[str, Any], WholeCore, torch.Tensor]:
    try:
        form: dict[str, Any] = json.loads((directory / "model.json").read_bytes())
        given: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in form["architecture"].items()}
        layers = None if form["linearize"] == "all" else tuple(form["linearize"])
        core = load_whole(Architecture(**given), layers, load_file(directory / "core.safetensors"))
        return form, core, load_user(core.tangent, load_file(directory / "user.safetensors"))
    except (CoreMismatch, SafetensorError, KeyError, TypeError, ValueError) as error:
        raise CannotReproduce(f"the version's files do not fit together ({error})") from error


def _kept(data: Path, layout: Layout, role: str, classes: list[Any], forgotten: Set[str]) -> tuple[Samples, int]:
    """The rows of a role that were not forgotten, and how many were."""
    rows: pa.Table = rows_of(data, layout, role)
    kept = rows.filter(pc.invert(among(rows["sample_id"], forgotten)))
    some = kept if len(kept) else rows.slice(0, 1)
    if not len(some):
        raise CannotReproduce(f"{data} has no {role} rows")
    samples = samples_of(some, layout.shape, classes)
    return (samples if len(kept) else samples.select([])), len(rows) - len(kept)


def _squared(shape: Curvature, apart: torch.Tensor) -> float:
    """v^T M v."""
    return float(shape.ridge * apart.square().sum() + (shape.values * shape.along(apart).square()).sum())


def _range(method: str, p: int, mu: float, mu_max: float, left_open: float) -> tuple[float, float]:
    """Where the squared distance lies, in units of the noise: chi-square, moved by at most mu^2; without noise, the solver's bound."""
    if method == "zero":
        return 0.0, 0.0
    if method not in ("cg", "sgd"):
        return 0.0, (SLACK * (mu_max + left_open)) ** 2
    low, high = sqrt(chi2.ppf(TAIL, p)), sqrt(ncx2.ppf(1 - TAIL, p, max(mu * mu, 1e-12)))
    return (max(0.0, low - left_open) ** 2, (high + left_open) ** 2) if left_open < inf else (0.0, inf)


def tell(found: Distance) -> None:
    """Show a distance on the terminal."""
    show.say(f"Refitted the user weights on the version's core from {found.user_rows} user rows, {found.left_out} samples left out, in "
             f"{found.seconds:.2f} s and {found.passes} passes.")
    show.say(f"  squared distance to the release, in units of the noise (sigma {found.sigma:.4g}): {found.squared:.6g}")
    show.say(f"  expected with {found.parameters} parameters and mu {found.mu:.4g}: {found.low:.6g} to {found.high:.6g}")
    if not found.same_file:
        show.say("  The file is not byte for byte the one that the certificate names.")
    for difference in found.elsewhere:
        show.say(f"  Another environment: {difference}.")
    show.say(found.meaning)
