"""Is the certificate's result what training gives? Trained again from raw rows without the forgotten ones, and compared by digest."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterator, Set
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from expunge import show
from expunge.client import Client
from expunge.verify import verify
from models.linear.core import Core, CoreMismatch, core_statistics, core_tensors, encode, fit_core, load_core
from models.linear.solve import digest as values_digest
from models.linear.solve import solve
from models.linear.statistics import Statistics, digest, zeros
from models.nets import Architecture
from models.train import Training
from service.parquet import Layout, inspect
from service.problem import Problem
from workers.artifacts import pack_weights, rows_with_role, samples_of, unpack_statistics
from workers.device import deterministic, hardware
from workers.encoding import Sums
from workers.failure import Failure
from workers.ingest import blocks

ROUNDING = 1e-6
"""Relative difference of weights that other last bits in the features can explain; another sample in the sums gives far more."""


class CannotReproduce(Exception):
    """The training could not be run: the version does not verify, or the data does not fit it."""


@dataclass(frozen=True)
class Compared:
    """One digest, as certified and as found here."""

    what: str
    certified: str
    here: str

    @property
    def equal(self) -> bool:
        return self.certified == self.here


@dataclass(frozen=True)
class Reproduction:
    """What training again gave."""

    proved: str
    """`equal_to_refit` (the same core) or `equal_to_retrain` (a new one)."""
    digests: tuple[Compared, ...]
    """Of (A, B), of the values of the user weights, of their file; and of the core where that was trained again."""
    weights: Tensor = field(repr=False)
    """`[d, C]` float64, as found here."""
    user_rows: int
    left_out: int
    """Samples of the file that were named as forgotten."""
    forgotten: int
    """Samples that the certificate's own request forgot; earlier requests come on top."""
    differing: int
    """User weights with other bits; -1 where the two have not even the same shape."""
    integers: int
    """How many integers (A, B) have, as found here."""
    differing_integers: int | None
    """How many of them differ from the service's; -1 where the two have not even the same shape, None where it was not asked."""
    largest: float
    """The largest difference of a user weight."""
    size: float
    """The largest certified user weight, in absolute value."""
    elsewhere: tuple[str, ...]
    """What differs between the environment that the certificate names and this one."""
    same_file: bool
    """Whether the data is the very file that the certificate names."""
    removed: tuple[str, ...]
    """Attributes that were removed from the core, which is then taken as it is."""
    seconds: float

    @property
    def equal(self) -> bool:
        return all(pair.equal for pair in self.digests)

    @property
    def meaning(self) -> str:
        """What the comparison says, in plain words."""
        if self.equal:
            return "The very bits of the certificate."
        small = self.differing >= 0 and self.largest <= ROUNDING * max(self.size, 1e-300)
        if self.digests[0].equal:
            return "The same samples went in: the sums (A, B) are equal. The last bits of the solve differ on this machine."
        if small:
            return "Some features were rounded otherwise on this machine. Bits are promised for the environment that the certificate names."
        if self.left_out < self.forgotten:
            return (f"Other samples went in: the certificate's request alone forgot {self.forgotten}, and here {self.left_out} were left "
                    "out. Name every sample forgotten so far with --forgotten.")
        if self.proved == "equal_to_retrain" and self.elsewhere:
            return "Training in float32 takes another path in another environment. Run it again where the certificate was made."
        return ("Other samples went in: check --forgotten (all ids forgotten so far from this data set, no others) and that the file is "
                "the data set's.")

    def document(self) -> dict[str, Any]:
        plain = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in ("digests", "weights")}
        return {"equal": self.equal, "meaning": self.meaning} | plain | {
            "digests": {pair.what: {"certified": pair.certified, "here": pair.here, "equal": pair.equal} for pair in self.digests}}


@dataclass(frozen=True)
class Version:
    """A downloaded version, loaded."""

    core: Core
    weights: Tensor
    """`[d, C]` float64."""
    classes: list[Any]
    said: dict[str, Any] = field(repr=False)
    """The certificate's predicate."""


def load(directory: Path, said: dict[str, Any]) -> Version:
    """Load a verified directory.

    Raises:
        CannotReproduce: its tensors do not fit its architecture.
    """
    try:
        form = json.loads((directory / "model.json").read_bytes())
        core = load_core(Architecture.read(form["architecture"]), load_file(directory / "core.safetensors"))
        weights = load_file(directory / "user.safetensors")["user.weight"]
    except (CoreMismatch, SafetensorError, KeyError, TypeError, ValueError) as error:
        raise CannotReproduce(f"the version's files do not fit together ({error})") from error
    return Version(core, weights, form["classes"], said)


def reproduce(directory: Path, data: Path, forgotten: Set[str], *, key: Path | None = None, fingerprint: str | None = None,
              service: Client | None = None, progress: Callable[[str, float], None] = lambda phase, fraction: None) -> Reproduction:
    """Train a version again from its data set's file, without the forgotten samples.

    For `equal_to_refit` the downloaded core is taken as it is; for `equal_to_retrain` it is trained again, from the hyperparameters that
    the certificate records.

    Args:
        forgotten: ids of all samples forgotten so far. Of a certificate about everything, all user rows are left out anyway.
        service: asked for its own sums (A, B), to count how many of their integers differ.

    Raises:
        CannotReproduce: the version does not verify, the data does not fit it, or the service's sums are not those of the certificate.
        Problem, Unreachable: the service does not give its sums.
        OSError: a file cannot be read.
    """
    said = verified(directory, key, fingerprint)
    begun = time.perf_counter()
    deterministic()
    version = load(directory, said)
    held = None if service is None else _held(service, version)
    with reading(data, version.core.architecture) as layout:
        found = _trained(version, data, layout, forgotten, progress)
    return _compared(version, found, held, data, time.perf_counter() - begun)


def verified(directory: Path, key: Path | None, fingerprint: str | None) -> dict[str, Any]:
    """Verify a version, and give its certificate's predicate.

    Raises:
        CannotReproduce: naming the step that failed.
    """
    report = verify(directory, key=key, fingerprint=fingerprint)
    if report.failed is not None or report.certificate is None:
        step = report.failed
        raise CannotReproduce(f"{directory} does not verify: step {step.number} ({step.name}): {step.detail}" if step else "no certificate")
    predicate: dict[str, Any] = report.certificate["predicate"]
    return predicate


@contextmanager
def reading(data: Path, architecture: Architecture) -> Iterator[Layout]:
    """The layout of a data set's file that this network can read; whatever is wrong with the file is a `CannotReproduce`."""
    try:
        with data.open("rb", buffering=0) as source:
            layout = inspect(source, max_rows=1 << 40, max_expansion=float("inf"))
        if layout.shape != architecture.input_shape:
            raise CannotReproduce(f"the file's inputs are {layout.shape}, the model's {architecture.input_shape}")
        yield layout
    except Problem as error:
        raise CannotReproduce(f"{data}: {error.detail}") from error
    except Failure as error:
        raise CannotReproduce(f"{data}: {error.detail}" + ("" if error.row is None else f" (row {error.row}, counted from 0)")) from error


def _held(service: Client, version: Version) -> Statistics:
    """The service's sums, which the certificate vouches for."""
    model = version.said["model"]["name"]
    try:
        held = unpack_statistics(service.statistics(model))
    except (SafetensorError, KeyError) as error:
        raise CannotReproduce(f"What {service.url} answers holds no sums. Is this an Expunge service?") from error
    if digest(held) != _value(version)["statistics"]["sha256"]:
        raise CannotReproduce(f"{service.url} holds the sums of another version of {model!r}: something was forgotten since. "
                              "Download the latest version, or leave out --service.")
    return held


@dataclass(frozen=True)
class _Trained:
    core: Core
    statistics: Statistics
    weights: Tensor
    left_out: int


def _trained(version: Version, data: Path, layout: Layout, forgotten: Set[str], progress: Callable[[str, float], None]) -> _Trained:
    retrain = version.said["method"]["name"] == "retrain" and not _removed(version)
    progress("reading core rows", 0.0)
    core_rows = rows_of(data, layout, "core")
    absent = pc.is_in(core_rows["sample_id"], value_set=pa.array(list(forgotten), pa.string()))
    kept = core_rows.filter(pc.invert(absent))
    if retrain:
        samples = samples_of(kept, layout.shape, version.classes)
        core = _trained_core(version, samples, progress)
        begun = core_statistics(core, samples.inputs)
    else:
        core = version.core
        begun = zeros(core.d, core.classes)
        if core.net is not None:
            begun = core_statistics(core, samples_of(core_rows, layout.shape, version.classes).inputs)
    found = _refitted(version, core, begun, data, layout, forgotten, progress)
    if retrain:
        return _Trained(core, found.statistics, found.weights, found.left_out + int(pc.sum(absent).as_py() or 0))
    if len(kept) == len(core_rows) or core.net is None or digest(found.statistics) == _value(version)["statistics"]["sha256"]:
        return found
    # Core samples were named: an earlier retraining may have left them out of this core, and so of its sums.
    fewer = core_statistics(core, samples_of(kept, layout.shape, version.classes).inputs)
    statistics = Statistics(found.statistics.A - begun.A + fewer.A, found.statistics.B, found.statistics.rows)
    return _Trained(core, statistics, _solved(core, statistics), found.left_out + len(core_rows) - len(kept))


def _trained_core(version: Version, samples: Any, progress: Callable[[str, float], None]) -> Core:
    written = version.said["method"]["hyperparameters"]
    read: dict[str, Callable[[str], Any]] = {"int": int, "float": float, "bool": lambda text: text == "True"}
    try:
        training = Training(**{f.name: read[str(f.type)](written[f"training.{f.name}"]) for f in fields(Training)})
        return fit_core(version.core.architecture, samples, training, expected_rows=int(written["expected_rows"]),
                        target=float(written["target"]), ridge=float(written["ridge"]),
                        progress=lambda _, fraction: progress("training the core", fraction))
    except KeyError as error:
        raise CannotReproduce(f"the certificate does not record {error}") from error
    except ValueError as error:
        raise CannotReproduce(f"a core cannot be trained from these rows: {error}") from error


def _refitted(version: Version, core: Core, begun: Statistics, data: Path, layout: Layout, forgotten: Set[str],
              progress: Callable[[str, float], None]) -> _Trained:
    """Encode the remaining user rows and solve."""
    everything = (version.said["request"] or {}).get("kind") == "everything"
    sums, left_out, seen = Sums(begun), 0, 0
    gone = pa.array(list(forgotten), pa.string())
    for block in _blocks(data, layout):
        rows = rows_with_role([block], "user")
        kept = rows.slice(0, 0) if everything else rows.filter(pc.invert(pc.is_in(rows["sample_id"], value_set=gone)))
        left_out += len(rows) - len(kept)
        if len(kept):
            samples = samples_of(kept, layout.shape, version.classes)
            sums.take(encode(core, samples.inputs, samples.labels))
        seen += len(block)
        progress("fitting user rows", seen / layout.rows)
    statistics = sums.total()
    return _Trained(core, statistics, _solved(core, statistics), left_out)


def _solved(core: Core, statistics: Statistics) -> Tensor:
    return solve(statistics, feature_scale=core.feature_scale, target_scale=core.target_scale, ridge=core.ridge)


def _compared(version: Version, found: _Trained, held: Statistics | None, data: Path, seconds: float) -> Reproduction:
    said, certified = version.said, _value(version)
    pairs = [Compared("statistics", certified["statistics"]["sha256"], digest(found.statistics)),
             Compared("user weights", certified["weightValues"]["sha256"], values_digest(found.weights)),
             Compared("user.safetensors", certified["weights"]["sha256"], _sha256(pack_weights({"user.weight": found.weights})))]
    if found.core is not version.core:
        core = _sha256(pack_weights(core_tensors(found.core)))
        pairs.append(Compared("core.safetensors", said["model"]["core"]["digest"]["sha256"], core))
    same_shape = found.weights.shape == version.weights.shape
    difference = (found.weights - version.weights).abs() if same_shape else torch.tensor([float("inf")])
    sums = found.statistics.A, found.statistics.B
    apart = None if held is None else -1
    if held is not None and same_shape:
        apart = sum(int((here != there).sum()) for here, there in zip(sums, (held.A, held.B), strict=True))
    return Reproduction(
        proved=said["guarantee"][0]["name"], digests=tuple(pairs), weights=found.weights, user_rows=found.statistics.rows,
        left_out=found.left_out, forgotten=said["dispositions"]["forgotten"], differing=int((difference > 0).sum()) if same_shape else -1,
        integers=sum(map(Tensor.numel, sums)), differing_integers=apart,
        largest=float(difference.max()), size=float(version.weights.abs().max()),
        elsewhere=elsewhere(said), same_file=same_file(data, said), removed=_removed(version), seconds=seconds)


def elsewhere(said: dict[str, Any]) -> tuple[str, ...]:
    """What differs between the environment that the certificate names and this one."""
    here, there = hardware(), said["method"]["hardware"]
    return tuple(f"{name}: {there[name]} there, {here[name]} here" for name in sorted(here) if here[name] != there[name])


def same_file(data: Path, said: dict[str, Any]) -> bool:
    """Whether the data is the very file that the certificate names."""
    with data.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    return bool(found == said["reproduce"]["dataset"]["digest"]["sha256"])


def tell(found: Reproduction) -> None:
    """Show a reproduction on the terminal."""
    whole = found.proved == "equal_to_retrain" and not found.removed
    what = "the core and the user weights" if whole else "the user weights, on the version's core,"
    show.say(f"Trained {what} again from {found.user_rows} user rows, {found.left_out} samples left out, in {found.seconds:.2f} s.")
    for pair in found.digests:
        show.say(f"  {pair.what:<17} {'equal' if pair.equal else 'DIFFERENT'}  {pair.certified}")
        if not pair.equal:
            show.say(f"  {'':<17} {'here':<9}  {pair.here}")
    if (apart := found.differing_integers) is not None:
        show.say(f"  {apart if apart >= 0 else 'All'} of the {found.integers} integers of (A, B) differ from the service's.")
    if not found.equal:
        show.say(f"  {found.differing if found.differing >= 0 else 'all'} weights differ; the largest difference is {found.largest:.3g}, "
                 f"the largest weight {found.size:.3g}.")
    if found.removed:
        show.say(f"  The core's bottleneck passes an adapter: {', '.join(found.removed)} was removed. How that was done is not repeated "
                 "here, and what is left of it is measured by the issuer, on audit rows.")
    if not found.same_file:
        show.say("  The file is not byte for byte the one that the certificate names.")
    for difference in found.elsewhere:
        show.say(f"  Another environment: {difference}.")
    show.say(found.meaning)


def _removed(version: Version) -> tuple[str, ...]:
    return tuple(entry["name"] for entry in version.said.get("attributes", ()))


def _value(version: Version) -> dict[str, Any]:
    value: dict[str, Any] = version.said["guarantee"][0]["value"]
    return value


def rows_of(data: Path, layout: Layout, role: str) -> pa.Table:
    """All rows of one role."""
    return rows_with_role(_blocks(data, layout), role)


def _blocks(data: Path, layout: Layout) -> Iterator[pa.Table]:
    with data.open("rb", buffering=0) as source:
        yield from blocks(source, layout)


def _sha256(packed: bytes) -> str:
    return hashlib.sha256(packed).hexdigest()
