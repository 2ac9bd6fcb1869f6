"""What comes in and what goes out: every body is checked here, once, and trusted inside."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    StrictBool,
    StrictFloat,
    StrictInt,
    StrictStr,
    ValidationInfo,
    field_validator,
    model_validator,
)

from service.auth import Scope
from service.removal import BudgetIn, EraseMethod, EraseOptions, ForgetAttribute, options_of
from service.states import DatasetState, JobState, ModelState, RequestState, VersionState

Name = Annotated[StrictStr, Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,62}$")]
SampleId = Annotated[StrictStr, Field(min_length=1, max_length=256)]
Label = StrictInt | Annotated[StrictStr, Field(max_length=256)]
Value = StrictStr | StrictInt | StrictFloat | StrictBool
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]

Method = Literal["exact", "retrain", "cg", "sgd", "zero"]
"""The names in `models/forget`; `auto` chooses among them. Those for attributes are `service.removal.EraseMethod`."""
RequestAudit = Literal["membership", "differencing", "decoder"]
"""The names in `workers/beside.py`."""
Reason = Literal["gdpr-17", "consent-withdrawn", "ccpa-1798.105", "court-order", "data-quality", "other"]


class In(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Out(BaseModel):
    model_config = ConfigDict(from_attributes=True)


class Where(In):
    """Rows whose label and attributes equal all of these."""

    label: Label | None = None
    attributes: Annotated[dict[str, Value], Field(max_length=50)] = {}

    @model_validator(mode="after")
    def _says_something(self) -> Where:
        if self.label is None and not self.attributes:
            raise ValueError("name a label or at least one attribute")
        return self


class ForgetSamples(In):
    """Ids, subjects and `where` are united. Ids that the data set does not hold are answered `not_found`."""

    kind: Literal["samples"]
    ids: Annotated[list[SampleId], Field(max_length=1_000_000)] = []
    subjects: Annotated[list[SampleId], Field(max_length=100_000)] = []
    where: Where | None = None

    @model_validator(mode="after")
    def _not_empty(self) -> ForgetSamples:
        if not (self.ids or self.subjects or self.where):
            raise ValueError("the forget set is empty: give ids, subjects or where (or kind `everything`)")
        return self


class ForgetEverything(In):
    """All user rows of the model: the user weights become zero."""

    kind: Literal["everything"]


class GuaranteeIn(In):
    """How hard it must be to tell the release from one that never saw the samples: epsilon and delta together, or nats.

    Stricter than the model's own mu_max costs more passes; laxer changes nothing. Methods that are exact meet any wish.
    """

    epsilon: Annotated[float, Field(ge=0, le=1000, allow_inf_nan=False)] | None = None
    delta: Annotated[float, Field(gt=0, lt=1)] | None = None
    nats: Annotated[float, Field(gt=0, le=1000, allow_inf_nan=False)] | None = None
    """The largest Kullback-Leibler divergence: mu^2 / 2."""

    @model_validator(mode="after")
    def _one_of_two(self) -> GuaranteeIn:
        if (self.epsilon is None) != (self.delta is None) or (self.epsilon is None) == (self.nats is None):
            raise ValueError("give epsilon and delta, or nats")
        return self


class OptionsIn(In):
    """Options of `cg` and `sgd`."""

    most_passes: Annotated[int, Field(ge=1, le=1_000_000)] | None = None
    """Passes over the kept rows after which to give up: nothing is published then. A job of several requests takes the largest."""


class ForgetBody(In):
    model: Name
    forget: Annotated[ForgetSamples | ForgetEverything | ForgetAttribute, Field(discriminator="kind")]
    method: Literal["auto"] | Method | EraseMethod = "auto"
    guarantee: GuaranteeIn | None = None
    """Of samples."""
    budget: BudgetIn | None = None
    """Of attributes."""
    data: Literal["core", "all"] | None = None
    """Of attributes: which rows the erasing is trained on. With `all` the core holds user data, and later requests about samples
    train it again. Default `core`."""
    claim: Literal["linear", "any"] | None = None
    """Of attributes, under `auto` and `leace`: whether no linear reader may find it, which LEACE reaches in seconds, or no probe. Default
    `any`."""
    options: OptionsIn | EraseOptions | None = None
    """One schema a method."""
    audits: Annotated[list[RequestAudit], Field(max_length=3)] = []
    """Of samples: what to measure beside the proof, shown in the job's evidence. `membership`, by `exact`, `cg` and `sgd`, takes about a
    minute; of a linearised model that is too large it says so instead. `differencing`, by `exact`, `cg` and `sgd` (what whoever holds
    both versions can tell, and what is left once one is withdrawn), takes seconds. `decoder`, by the same (images redrawn from what is
    served), takes half a minute or more; its pictures of forgotten samples are destroyed with the version before."""
    reason: Reason | None = None
    reference: Annotated[StrictStr, Field(pattern=r"^[A-Za-z0-9._/-]{1,64}$")] | None = None

    @field_validator("budget", "data", "claim")
    @classmethod
    def _of_an_attribute(cls, value: Any, info: ValidationInfo) -> Any:
        if value is not None and "forget" in info.data and not isinstance(info.data["forget"], ForgetAttribute):
            raise ValueError("belongs to requests about an attribute")
        return value

    @field_validator("audits")
    @classmethod
    def _of_named_samples(cls, value: list[str], info: ValidationInfo) -> list[str]:
        if value and "forget" in info.data and not isinstance(info.data["forget"], ForgetSamples):
            raise ValueError("belongs to requests about samples")
        return value

    @field_validator("guarantee")
    @classmethod
    def _of_samples(cls, value: GuaranteeIn | None, info: ValidationInfo) -> GuaranteeIn | None:
        if value is not None and isinstance(info.data.get("forget"), ForgetAttribute):
            raise ValueError("belongs to requests about samples; what removing an attribute must reach is its `budget`")
        return value

    @field_validator("options", mode="before")
    @classmethod
    def _by_method(cls, value: Any, info: ValidationInfo) -> Any:
        if value is None or not isinstance(info.data.get("forget"), ForgetAttribute):
            return value if value is None or isinstance(value, BaseModel) else OptionsIn.model_validate(value)
        return options_of(str(info.data.get("method")), value)


class ArchitectureIn(In):
    """A named network. Options that a network does not have are refused by the fit, by name."""

    name: Literal["linear", "mlp", "convnet", "convnet7", "resnet20", "resnet18", "mobilenet_v2"]
    activation: Literal["leaky_relu", "relu", "tanh"] = "leaky_relu"
    taps: Annotated[list[StrictStr], Field(min_length=1, max_length=32)] | None = None
    bottleneck: StrictStr | None = None
    hidden: Annotated[list[Annotated[int, Field(ge=1, le=8192)]], Field(max_length=8)] | None = None
    grid: Annotated[int, Field(ge=1, le=16)] | None = None
    """Cells a side that the taps of images are averaged over; default 4, or less where that gives over 4,096 features. With many user
    rows a finer grid is worth its price: forgetting costs the cube of the number of features."""


class TrainingIn(In):
    """What to change in the architecture's own training defaults."""

    epochs: Annotated[int, Field(ge=1, le=10_000)] | None = None
    batch: Annotated[int, Field(ge=2, le=65_536)] | None = None
    rate: Positive | None = None
    momentum: Annotated[float, Field(ge=0, lt=1)] | None = None
    weight_decay: Annotated[float, Field(ge=0, le=1)] | None = None
    seed: Annotated[int, Field(ge=0, le=2**31 - 1)] | None = None
    augment: bool | None = None
    threads: Annotated[int, Field(ge=1, le=256)] | None = None
    """Part of the result: another number gives other last bits. Default 1."""


class ReleaseIn(In):
    """How user weights of a linearised model leave the service: fixed here, from core data alone, before anything is forgotten."""

    mu_max: Annotated[float, Field(ge=1e-3, le=10)] = 0.2
    """The largest mu of a release. 0.2: the best attack tells it from one that never saw the samples 8 % better than guessing."""
    sigma: Annotated[float, Field(ge=1e-9, le=1e5)] | None = None
    """Size of the noise in units of its shape; chosen on core rows when absent, to cost at most half a point of accuracy there."""
    noise: Literal["core", "isotropic"] = "core"
    """Shaped by the core's curvature, or the same in every direction."""
    rank: Annotated[int, Field(ge=1, le=65_536)] | None = None
    """Directions of the core's curvature that are kept; when absent 3,072, or as many as 1 GiB holds."""


LayerName = Annotated[StrictStr, Field(min_length=1, max_length=256)]


class ModelBody(In):
    name: Name
    dataset: StrictStr
    architecture: ArchitectureIn
    core: Literal["train", "upload", "none"] = "train"
    """Train the core on core rows; wait for PUT /models/{m}/core; or no core at all (a plain linear model)."""
    training: TrainingIn = TrainingIn()
    classes: Annotated[list[Label], Field(min_length=2, max_length=10_000)] | None = None
    linearize: Literal["all"] | Annotated[list[LayerName], Field(min_length=1, max_length=64)] | None = None
    """Null: user weights are linear in fixed features, and forgetting is exact to the bit. `all`, or names of layers: user weights over
    all their parameters, by the network's first-order expansion, forgotten with a stated mu."""
    release: ReleaseIn | None = None
    """With `linearize` only."""
    target: Positive = 5.0
    """Size a of the one-hot target."""
    ridge: Positive | None = None
    """L of the sum form; chosen on core data when absent."""
    expected_rows: Annotated[int, Field(ge=1)] | None = None
    """At most about so many user rows: more than float64 can sum exactly are refused. Default: as many as there are core rows."""
    range: Positive | None = None
    """`core: none` only: inputs are divided by this."""

    @field_validator("linearize")
    @classmethod
    def _has_a_network(cls, layers: str | list[str] | None, info: ValidationInfo) -> str | list[str] | None:
        if layers is not None and info.data.get("core") == "none":
            raise ValueError("core `none` has no network to linearise")
        if isinstance(layers, list) and len(set(layers)) != len(layers):
            raise ValueError("layers must be distinct")
        form = info.data.get("architecture")
        if layers is not None and form is not None and (form.taps or form.grid):
            raise ValueError("taps and grid choose features of models without `linearize`: leave them out")
        return layers

    @field_validator("release")
    @classmethod
    def _is_linearised(cls, release: ReleaseIn | None, info: ValidationInfo) -> ReleaseIn | None:
        if release is not None and info.data.get("linearize") is None:
            raise ValueError("release belongs to models with `linearize`")
        return release

    @model_validator(mode="after")
    def _fits(self) -> ModelBody:
        if self.core == "none" and (self.ridge is None or self.range is None or self.classes is None):
            raise ValueError("core `none` needs ridge, range and classes: there are no core rows to choose them from")
        if self.core == "none" and self.architecture.name != "linear":
            raise ValueError("core `none` is the plain linear model: use architecture `linear`")
        if self.core != "none" and self.range is not None:
            raise ValueError("range belongs to core `none` only")
        if self.classes and len(set(map(repr, self.classes))) != len(self.classes):
            raise ValueError("classes must be distinct")
        if self.classes and len({type(c) for c in self.classes}) != 1:
            raise ValueError("classes must be all numbers or all text")
        return self


class KeyBody(In):
    name: Name
    scopes: Annotated[list[Scope], Field(min_length=1)]


class KeyOut(Out):
    id: str
    name: str
    scopes: list[str]
    created_at: datetime
    revoked_at: datetime | None


class NewKeyOut(KeyOut):
    key: str | None
    """Shown once: null in a repeated answer."""


class DatasetOut(Out):
    id: str
    name: str
    state: DatasetState
    sha256: str
    summary: dict[str, Any] | None
    error: dict[str, Any] | None
    created_at: datetime
    job: str | None


class ModelOut(Out):
    id: str
    name: str
    dataset: str
    state: ModelState
    spec: dict[str, Any]
    error: dict[str, Any] | None
    latest_certified: int | None
    created_at: datetime
    job: str | None


class FileOut(Out):
    name: str
    sha256: str
    size: int
    url: str


class VersionOut(Out):
    model: str
    number: int
    digest: str
    """sha256 of the signed statement."""
    state: VersionState
    job: str
    created_at: datetime
    withdrawn_at: datetime | None
    successor: str | None
    method: str
    utility: list[Any]
    removed: list[Any]
    """Attributes that were removed so far, each with its findings and figures."""
    evidence: list[FileOut]
    files: list[FileOut]
    certificate: str


class JobOut(Out):
    id: str
    kind: str
    parent: str | None
    """The job that this is a part of."""
    state: JobState
    model: str | None
    dataset: str
    method: str | None
    phase: str | None
    progress: float
    eta_seconds: float | None
    attempt: int
    version: int | None
    """The version that this job published, once it is done."""
    requests: list[str]
    error: dict[str, Any] | None
    evidence: list[FileOut]
    """Files that show how the result was reached."""
    seconds: dict[str, Any] | None
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None


class RequestOut(Out):
    id: str
    model: str
    kind: str
    state: RequestState
    method: str
    why: str
    guarantee: dict[str, Any]
    """`asked`: what the request wished for, or null. `given`: what its certificate states, once there is one; mu 0 is equality."""
    reason: str | None
    reference: str | None
    job: str | None
    version: int | None
    received_at: datetime
    due_at: datetime
    finished_at: datetime | None
    dispositions: dict[str, Any] | None
    """Counts, and one word for each id in the order in which the request gave them; the ids themselves are gone by then."""
    certificate: str | None


class ReceiptBody(In):
    ids: Annotated[list[SampleId], Field(min_length=1, max_length=10_000)]


class Page(Out):
    items: list[Any]
    next: str | None
