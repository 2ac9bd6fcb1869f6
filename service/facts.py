"""What happened, as a certificate will say it: frozen facts, proved ones and measured ones of different types."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

LIMITATIONS = (
    "A signature proves who asserts this and that nothing was altered since; it cannot prove good faith.",
    "Whoever holds both the version before and the version after can compare them; the version before is therefore withdrawn first.",
    "Equal weights can come from other data: this certificate attests the computation that was executed and its inputs.",
    "If the choice of requests depended on a released version, every claim is conditional on the sequence of requests.",
    "Copies, predictions and derived models outside this service are not covered.",
)


ATTRIBUTE_LIMITATIONS = (
    "What is left of an attribute is measured, by three kinds of readers on the issuer's audit samples: another reader, or other people, "
    "may show more. Inputs and labels are as they were, and may tell the attribute themselves.",
    "Where answers are drawn (quantised or noisy bottleneck), what the draw hides is hidden from whoever sees one answer an input, and not "
    "from whoever holds the files, which hold the key.",
)
"""Of versions from which an attribute was removed."""


@dataclass(frozen=True, kw_only=True)
class Threshold:
    """What an audit must find of an attribute that was removed."""

    audit: str
    attribute: str
    metric: str
    most: str
    """The largest value that passes, a decimal text."""
    planted: int = 0
    """Of so many planted leaks at least the audit must have caught every one."""


@dataclass(frozen=True, kw_only=True)
class Policy:
    """What a version needs before it may be called PASSED. Written to policy.json."""

    name: str
    guarantees: tuple[str, ...] = ("equal_to_refit", "equal_to_retrain")
    """One of these must be proved."""
    mu_max: str = "0"
    """The largest mu that a guarantee may carry."""
    audits: tuple[str, ...] = ()
    """Audits that must have been run, have power, and pass."""
    thresholds: tuple[Threshold, ...] = ()
    """What they must find, an attribute at a time."""


EXACT_POLICY = Policy(name="exact-v1")
"""The default of `exact`: equality is proved, nothing further has to be measured."""


def linearised_policy(mu_max: str) -> Policy:
    """Of linearised models: a release that cannot be told from a refit but to the model's own mu_max, or equality. Its fit needs none."""
    return Policy(name="linearised-v1", guarantees=("gaussian_indistinguishable", "equal_to_refit", "equal_to_retrain"), mu_max=mu_max)


@dataclass(frozen=True, kw_only=True)
class Request:
    """The legal requests that one job carried out together."""

    ids: tuple[str, ...]
    kind: Literal["samples", "everything", "attribute"]
    reasons: tuple[str, ...]
    received_at: str
    """The earliest of them. Moments are UTC, `2026-01-31T12:00:00Z`."""
    due_at: str
    """The earliest of them."""
    count: int
    """Samples forgotten: the leaves under `commitment`."""
    commitment: str
    """Merkle root (hex) of `expunge.merkle.commit`."""
    adaptive: bool
    """Whether a request may have been chosen after seeing a released version."""


@dataclass(frozen=True, kw_only=True)
class Parent:
    """The version that this one replaces."""

    digest: str
    """sha256 of its statement."""
    disposition: str


@dataclass(frozen=True, kw_only=True)
class AuxiliaryState:
    """Something besides the weights that was made from user samples, and what became of it."""

    what: str
    disposition: str


@dataclass(frozen=True, kw_only=True)
class Model:
    """Which model, on which core, after which version."""

    name: str
    architecture: str
    architecture_digest: str
    """sha256 of the canonical JSON of `architecture` in model.json."""
    core: str
    """sha256 of core.safetensors."""
    parent: Parent | None = None
    auxiliary_state: tuple[AuxiliaryState, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Hardware:
    """Where the last bits of the weights come from."""

    cpu: str
    torch: str
    lapack: str
    threads: int


@dataclass(frozen=True, kw_only=True)
class Method:
    """Which computation was run."""

    name: str
    solver: str
    implementation: str
    """sha256 over the code that ran."""
    hyperparameters: Mapping[str, str]
    """Numbers as decimal texts."""
    seed: str
    hardware: Hardware
    deterministic: bool = True


@dataclass(frozen=True, kw_only=True)
class Proved:
    """What follows from a theorem, as the mathematics stated it."""

    name: str
    """What is claimed, such as `equal_to_refit`."""
    value: Mapping[str, str]
    """Numbers as decimal texts, and digests in hex; among them `weights`, the sha256 of user.safetensors. CERTIFICATE.md says of what."""
    theorem: str
    assumptions: Sequence[str]


@dataclass(frozen=True, kw_only=True)
class Finding:
    """Measured by an audit: what was seen, with its interval and the audit's power. Never a proof."""

    audit: str
    access: str
    metric: str
    value: str
    ci95: tuple[str, str]
    n: int
    threshold: str
    passed: bool
    planted: int
    caught: int
    reference: str
    attribute: str | None = None
    """What it is about, where it is about an attribute that was removed."""
    measured_in: str | None = None
    """sha256 of the earlier statement that it is restated from; None: measured for this one."""


@dataclass(frozen=True, kw_only=True)
class Figure:
    """Measured: one number about an attribute that was removed, shown and deciding nothing."""

    name: str
    value: str
    low: str | None = None
    high: str | None = None
    """Its 95 % interval, where it has one."""
    access: str


@dataclass(frozen=True, kw_only=True)
class Attribute:
    """An attribute that was removed from this version, or is to be."""

    name: str
    values: int
    data: Literal["core", "all"]
    """The rows that the erasing was trained on. With `all` the core holds user data."""
    claim: Literal["linear", "any"]
    """Which readers the threshold is about."""
    method: str
    scope: str
    parameters: Mapping[str, str]
    figures: tuple[Figure, ...]
    removed_in: str | None = None
    """sha256 of the earlier statement under which it was removed; None: this one."""


@dataclass(frozen=True, kw_only=True)
class Accuracy:
    """Measured: `correct` of `n` rows, with the 95 % interval of the fraction as decimal texts."""

    correct: int
    n: int
    ci95: tuple[str, str]


Cell = Accuracy | Literal["withheld"]


@dataclass(frozen=True, kw_only=True)
class Utility:
    """Measured: one split before forgetting, after it, and retrained."""

    metric: str
    split: str
    before: Cell
    after: Cell
    retrained: Cell


@dataclass(frozen=True, kw_only=True)
class Reproduce:
    """How to run it again: `expunge reproduce`, over the dataset with this digest."""

    command: str
    dataset: str


@dataclass(frozen=True, kw_only=True)
class Refusal:
    """Why nothing was published."""

    code: str
    detail: str


@dataclass(frozen=True, kw_only=True)
class Facts:
    """Everything a certificate says. No clock, no fence, no place in the log: the same facts give the same bytes."""

    issuer: str
    """A URI."""
    issued_at: str
    """The job's submission time."""
    job_id: str
    policy: Policy
    model: Model
    method: Method
    reproduce: Reproduce
    request: Request | None = None
    """None for the first fit."""
    dispositions: Mapping[str, int] | None = None
    """Samples by disposition; those left out are 0."""
    emptied_classes: tuple[str, ...] = ()
    """Classes that the request left without any user sample."""
    guarantees: tuple[Proved, ...] = ()
    findings: tuple[Finding, ...] = ()
    attributes: tuple[Attribute, ...] = ()
    utility: tuple[Utility, ...] = ()
    assumptions: tuple[str, ...] = ()
    """What holds for the whole statement; a guarantee's own stand beside it."""
    limitations: tuple[str, ...] = LIMITATIONS
    still_in_force: tuple[str, ...] = ()
    """sha256 of earlier statements whose forgotten samples and removed attributes are absent from this version too."""
    refusal: Refusal | None = None
    evidence: Mapping[str, str] | None = None
    """sha256 (hex) of the files that the job left as evidence."""
