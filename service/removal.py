"""What a request to remove an attribute may ask for: its budget, and one schema of options a method, with the papers' defaults."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StrictInt, StrictStr

EraseMethod = Literal["irene", "lnl", "quantized", "leace"]
"""The names in `models/erase`; `auto` tries points of them in order."""

Scope = Literal["bottleneck", "network"]
Share = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
Weight = Annotated[float, Field(ge=0, le=1e4, allow_inf_nan=False)]
Rate = Annotated[float, Field(gt=0, le=10, allow_inf_nan=False)]
Count = Annotated[StrictInt, Field(ge=1, le=10_000)]
Width = Annotated[StrictInt, Field(ge=1, le=4096)]
Batch = Annotated[StrictInt, Field(ge=2, le=65_536)]
Seed = Annotated[StrictInt, Field(ge=0, le=2**31 - 1)]
Noise = Annotated[float, Field(gt=0, le=1e4, allow_inf_nan=False)]
"""Standard deviation of Gaussian noise that is served with the bottleneck's values, one draw an input from a secret key."""


class _In(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ForgetAttribute(_In):
    """One attribute of the data set: a new version whose bottleneck says as little as possible about it. No row is forgotten."""

    kind: Literal["attribute"]
    name: Annotated[StrictStr, Field(min_length=1, max_length=256)]
    """Without the column's `attr_`."""


class BudgetIn(_In):
    """What removing an attribute may cost, and what may be left. Decided by fresh probes on audit rows that nothing was chosen by."""

    max_accuracy_drop: Share = 0.01
    """Of the right answers on audit rows, against the same model refitted on the same taps with nothing removed."""
    max_leakage_nats: Annotated[float, Field(gt=0, le=10, allow_inf_nan=False)] = 0.05
    """The probes' upper 95 % limit: the most that a fresh reader finds, in nats, over rows balanced by label and value."""


class LeaceIn(_In):
    """LEACE, closed form, no random choice: afterwards no linear reader finds the attribute on the rows it was fitted to.

    Source: Belrose et al., NeurIPS 2023. https://arxiv.org/abs/2306.03819
    """

    balanced: bool | None = None
    """Whether covariances weigh every cell (label, value) alike, as the audit does. Paper: false."""
    noise: Noise | None = None


class IreneIn(_In):
    """IRENE: the information that private heads find is minimised through the bottleneck.

    Source: Tartaglione, BMVC 2022. https://arxiv.org/abs/2210.00891
    """

    preset: Literal["strong", "paper", "paper_faces"] = "strong"
    """Where the other options begin. `paper`: its Biased-MNIST, one linear head, gamma .2, 80 epochs. `paper_faces`: its CelebA.
    `strong`: what fresh probes bear out: two MLP heads, begun anew in turn, three steps each, gamma 10, a narrow code."""
    scope: Scope | Literal["auto"] = "auto"
    alpha: Weight | None = None
    """Weight of the task's cross-entropy. Paper: .5; strong: 1."""
    gamma: Weight | None = None
    """Weight of the information. Paper: .2; strong: 10."""
    head: Literal["linear", "mlp"] | None = None
    """Paper: linear; strong: mlp."""
    heads: Annotated[StrictInt, Field(ge=1, le=16)] | None = None
    """Paper: 1; strong: 2."""
    head_steps: Annotated[StrictInt, Field(ge=1, le=100)] | None = None
    """Steps of the heads for each of the network. Paper: 1; strong: 3."""
    heads_first: bool | None = None
    """The heads step before the network's loss is computed: the authors' later variant. Paper: false."""
    anew: Annotated[StrictInt, Field(ge=0, le=10_000)] | None = None
    """Epochs after which a head, in turn, is begun anew; 0 never. Paper: 0; strong: 4."""
    balanced: bool | None = None
    """Whether heads and information weigh every cell (label, value) alike. Paper: false; strong: true."""
    epochs: Count | None = None
    batch: Batch | None = None
    optimiser: Literal["sgd", "adam"] | None = None
    """Paper: sgd with momentum .9; strong: adam."""
    rate: Rate | None = None
    """Paper: .1; strong: .001."""
    head_rate: Rate | None = None
    """Never falls. Paper: .1; strong: .002."""
    weight_decay: Share | None = None
    """Paper: 1e-4; strong: 0."""
    schedule: Literal["steps", "plateau", "cosine"] | None = None
    """Paper: steps (faces: plateau); strong: cosine."""
    patience: Count | None = None
    """Of `plateau`, in epochs. Paper: 10."""
    balanced_task: bool | None = None
    """Whether the task's loss weighs every cell (label, value) alike too: for rows in which the attribute tells the label. Paper: false."""
    taught: Share | None = None
    """Share of the task's targets that are the given network's own answers instead of the labels. Paper: 0."""
    relearn: Annotated[StrictInt, Field(ge=0, le=10_000)] | None = None
    """Scope network: epochs in which the task is first learnt again, from drawn weights, on rows whose attribute is exchanged. Paper: 0."""
    first_gamma: Weight | None = None
    """Gamma of the removal through the network after that; `gamma` is then of the one at its bottleneck."""
    hidden: Width | None = None
    """Of the adapter at the bottleneck."""
    code: Annotated[StrictInt, Field(ge=0, le=4096)] | None = None
    """Width of a second, narrow layer of the adapter; 0: one value fewer than there are classes."""
    seed: Seed = 0
    noise: Noise | None = None


class LnlIn(_In):
    """Learning Not to Learn: the head's uncertainty is raised, then its gradient reversed.

    Source: Kim et al., CVPR 2019. https://arxiv.org/abs/1812.10352
    """

    scope: Scope | Literal["auto"] = "auto"
    weight: Weight | None = None
    """Lambda of the entropy. Paper: .01."""
    reversal: Weight | None = None
    """Factor of the reversed gradient. Paper: .1."""
    head: Literal["linear", "mlp"] | None = None
    epochs: Count | None = None
    batch: Batch | None = None
    rate: Rate | None = None
    """Paper: .001, from a trained model."""
    momentum: Annotated[float, Field(ge=0, lt=1, allow_inf_nan=False)] | None = None
    """Paper: .9."""
    weight_decay: Share | None = None
    """Paper: 5e-4."""
    hidden: Width | None = None
    """Of the adapter at the bottleneck."""
    seed: Seed = 0
    noise: Noise | None = None


class QuantizedIn(_In):
    """A stochastically quantised bottleneck, served with one draw an input from a secret key. Thresholding is not offered: it tells
    what the draw hides.

    Source: Koeppel et al., AAAI 2023. https://arxiv.org/abs/2208.02656
    """

    scope: Scope | Literal["auto"] = "auto"
    bits: Annotated[StrictInt, Field(ge=1, le=1024)] | None = None
    """Binary neurons, default 8. Up to 14 their joint information is computed exactly; above it is bounded."""
    gamma: Annotated[float, Field(ge=0, lt=1, allow_inf_nan=False)] | None = None
    """The loss is (1 - gamma) times the cross-entropy plus gamma times the information in bits. Default .5."""
    balanced: bool | None = None
    """Whether the information weighs every cell (label, value) alike."""
    epochs: Count | None = None
    batch: Batch | None = None
    rate: Rate | None = None
    seed: Seed = 0


class AutoIn(_In):
    """Of `auto`, for attributes: the methods' own settings, their random choices from one seed."""

    epochs: Count | None = None
    """Of every trained point, instead of its own number."""
    seed: Seed = 0
    noise: Noise | None = None


ERASE_OPTIONS: dict[str, type[BaseModel]] = {
    "auto": AutoIn,
    "irene": IreneIn,
    "lnl": LnlIn,
    "quantized": QuantizedIn,
    "leace": LeaceIn,
}
"""The schema of each method's options."""

OWN = ("preset", "scope", "seed", "noise")
"""Options of the service's own; all others are the method's settings in `models/erase`, by the same names."""

EraseOptions = IreneIn | LnlIn | QuantizedIn | AutoIn | LeaceIn


def options_of(method: str, given: Any) -> Any:
    """Read what a caller sent as options by the schema of the method that it names.

    Raises:
        ValidationError: by field.
    """
    schema = ERASE_OPTIONS.get(method)
    return given if schema is None or isinstance(given, BaseModel) else schema.model_validate(given)
