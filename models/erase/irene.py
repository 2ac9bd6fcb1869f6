"""IRENE: the network learns to leave a private head that reads the attribute with nothing to say."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from math import ceil, cos, pi
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from models.erase import epochs
from models.erase.attribute import Attributed, balance, refuse_unusable
from models.erase.epochs import Learning, Watch
from models.erase.exchange import exchanged, relearnt
from models.erase.heads import HeadKind, begin_anew, make
from models.erase.information import answered
from models.erase.scope import Patient, Scope, admit, discharged
from models.linear.features import BATCH, activations
from models.nets import Adapter, Network, build
from models.progress import Progress, Stop, never, silent
from models.train import threads

HELD = 0.1  # share of the rows that a plateau is seen on
DROP = 0.1
LEAST_RATE = 1e-3  # where a schedule by plateaus ends, as in the paper
FLOOR = 0.02  # the rate at a cosine's end, of its beginning


@dataclass(frozen=True, kw_only=True)
class Irene:
    """How the removal is trained. The defaults are the paper's for Biased-MNIST.

    Source: Tartaglione, BMVC 2022, sections 3 and 4. https://arxiv.org/abs/2210.00891
    """

    alpha: float = 0.5
    """Weight of the task's cross-entropy."""

    gamma: float = 0.2
    """Weight of the information that the heads answer with."""

    head: HeadKind = "linear"

    heads: int = 1
    """How many, each begun from other weights; the one that answers most counts."""

    head_steps: int = 1
    """Steps of the heads for each of the network."""

    heads_first: bool = False
    """Whether the heads take their steps before the network's loss is computed, as in the authors' later work."""

    anew: int = 0
    """Epochs after which one head, in turn, is begun anew; 0 = never."""

    balanced: bool = False
    """Whether heads and information weigh every cell (label, value) alike, as the audit does, instead of every row."""

    balanced_task: bool = False
    """Whether the task's loss weighs them alike too: where the attribute tells the label almost always, the few rows in which it does not
    are all that shows another way."""

    epochs: int = 80
    batch: int = 100

    optimiser: Literal["sgd", "adam"] = "sgd"
    """`sgd`: momentum .9. Both decay weights by `weight_decay`."""

    rate: float = 0.1

    head_rate: float = 0.1
    """Never falls."""

    weight_decay: float = 1e-4

    schedule: Literal["steps", "plateau", "cosine"] = "steps"
    """`steps`: times .1 after half and after three quarters. `plateau`: times .1 where the task's loss on held-out rows has not fallen
    for `patience` epochs, until 1e-3."""

    patience: int = 10

    taught: float = 0.0
    """Share of the task's targets that are the given network's own answers instead of the labels: a small set of rows, learnt a second
    time, is learnt by heart."""

    relearn: int = 0
    """`network`: epochs in which the task is first learnt again, from drawn weights, on rows whose attribute is exchanged
    (`models.erase.exchange`); a removal through the network follows, and the one stated here, with these rows, is then at its
    bottleneck. 0 = not."""

    first_gamma: float = 10.0
    """Gamma of that removal through the network, which takes twice as many epochs."""

    hidden: int = 64
    """`bottleneck`: width of the adapter's hidden layer."""

    code: int | None = None
    """`bottleneck`: width of a second, narrow layer; 0 takes one value fewer than there are classes, all that the task's log-odds need."""

    def __post_init__(self) -> None:
        if min(self.heads, self.head_steps, self.epochs, self.patience, self.hidden) < 1 or self.batch < 2:
            raise ValueError("heads, head_steps, epochs, patience and hidden are at least 1, and batch is at least 2")
        weights = (self.alpha, self.gamma, self.first_gamma, self.weight_decay, self.anew, self.code or 0)
        if min(weights) < 0 or min(self.rate, self.head_rate) <= 0:
            raise ValueError("alpha, gammas, weight_decay, anew and code are not negative, and rates are positive")
        if self.relearn < 0 or (self.relearn and self.taught):
            raise ValueError("relearn is not negative, and a task learnt again is not taught by the network before")


PAPER = Irene()
"""Biased-MNIST, as published."""

PAPER_FACES = Irene(schedule="plateau", epochs=200)
"""CelebA, as published: reduce on plateau, stop below 1e-3."""


def strong(rows: int, *, gamma: float = 3.0, code: int | None = 0, scope: Scope = "bottleneck", biased: bool = False) -> Irene:
    """Return the setting that fresh probes bear out, where the paper's linear head removes next to nothing.

    MLP heads with several steps for each of the network's, begun anew in turn, and the information balanced over (label, value). At the
    bottleneck also a narrow code, so that what the task does not need cannot hide in directions that the heads overlook, and the given
    network's own answers as targets: labels of rows that it has already learnt would be learnt by heart.

    Args:
        rows: rows to learn from; the fewer, the more epochs.
        gamma: more removes more, and costs more accuracy.
        code: width of the narrow layer, 0 for one value fewer than there are classes, None for none.
        biased: whether the attribute tells most of the label among the rows: the task is then learnt from labels, every cell alike.

    Measured (best of fresh linear and tree probes in nats, balanced; accuracy in points; seeds 0, 1, 2):
        Adult, sex, not an input    vanilla .32 .33 .36   gamma 3: .007 .009 .008 at -.1 -.1 -.1   gamma 10: .003 .001
        COMPAS, race, an input      vanilla .67 .69 .68   gamma 3: .013 .027 .033 at -1.3 -.2 -.1   gamma 10: .013 .027 .014
        Adult without a narrow code, gamma 10: .22. COMPAS with labels as targets: .024 at -3.8.
    Coloured digits, rho .99, through the network: unbiased accuracy .35, with biased=True and gamma 0: .48, 1: .65, 5: .62, 20: .18.
    """
    steps = 1000
    network = scope == "network"
    batch = 128 if network else 256
    return Irene(
        alpha=1.0, gamma=gamma, head="mlp", heads=2, head_steps=3, heads_first=True, anew=4, balanced=True, batch=batch,
        epochs=min(60, max(8, ceil(steps * batch / rows))), optimiser="adam", rate=1e-3, head_rate=2e-3, weight_decay=0.0,
        schedule="cosine", code=None if network else code, taught=0.0 if network or biased else 1.0, balanced_task=biased,
    )  # fmt: skip


def relearning(rows: int, *, gamma: float = 40.0) -> Irene:
    """Return the setting for rows in which the attribute tells the label almost always, and a network that reads it instead.

    Measured (digits against background colour, rho .99, 5,000 rows, `convnet`; best of three fresh probes in nats, balanced; accuracy on
    evenly coloured rows): vanilla 2.302 and .100; seed 0: .306 and .631, seed 1: .308 and .586. Behind noise of .4, seed 0: .187 and .592.
    """
    return replace(strong(rows, gamma=gamma, biased=True), relearn=5, epochs=min(60, max(12, ceil(250 * 256 / rows))))


def erase(
    net: Network,
    rows: Attributed,
    values: int,
    how: Irene,
    *,
    scope: Scope,
    seed: int,
    watch: Watch | None = None,
    resume: Mapping[str, Tensor] | None = None,
    progress: Progress = silent,
    stop: Stop = never,
) -> Network:
    """Return a new network whose bottleneck, behind an adapter, tells private heads as little as possible about the attribute.

    Minimises  alpha CE(y) + gamma max_h I(v; h)  over the network, and CE(v) over each head h, in turns.

    Args:
        net: trained for the task; it is left as it is.
        rows: core rows; those without a value are used for the task only.
        values: K, 2 to 20.
        seed: with all else it determines the result to the bit.
        resume: a state that an earlier run's watch was given.

    Raises:
        Stopped: when `stop` answers True, asked before every batch.
        ValueError: on unusable rows, or a training that diverged.
    """
    refuse_unusable(rows, values, net.architecture.classes)
    link = adapter(how, net.architecture.classes, scope)
    if how.relearn:
        if scope == "bottleneck":
            raise ValueError("the task is learnt again through the whole network, not at the bottleneck")
        rows, scope = exchanged(rows, values, seed=seed), "bottleneck"
        net = again(net, rows, values, how, seed=seed, resume=resume, progress=progress, stop=stop)
    patient = admit(net, rows.samples.inputs, rows.samples.labels, link, scope=scope, seed=seed, progress=progress, stop=stop)
    treatment = Treatment(net, patient, rows, values, how, seed=seed)
    epochs.run(
        treatment.learning, treatment.step, len(treatment.learnt), epochs=how.epochs, batch=how.batch, after=treatment.after,
        resume=resume, watch=watch, progress=progress, stop=stop,
    )  # fmt: skip
    return discharged(patient.net)


def again(
    net: Network,
    rows: Attributed,
    values: int,
    how: Irene,
    *,
    seed: int,
    resume: Mapping[str, Tensor] | None,
    progress: Progress,
    stop: Stop,
) -> Network:
    """Return the network that has learnt the task again on these rows and has been through a first removal, its bottleneck bare.

    Args:
        resume: holds the weights of such a network: there is nothing to learn.

    Raises:
        ValueError: behind an adapter: what comes before it stays as it is.
    """
    if net.architecture.adapter is not None:
        raise ValueError("the task is not learnt again after an earlier removal")
    out = build(net.architecture, seed)
    if resume is not None:
        found = {name[len("net.") :]: value for name, value in resume.items() if name.startswith("net.")}
    else:
        learnt = relearnt(net.architecture, rows, how.relearn, seed=seed, progress=progress, stop=stop)
        first = replace(strong(len(rows), gamma=how.first_gamma, scope="network", biased=True), epochs=2 * how.relearn)
        found = erase(learnt, rows, values, first, scope="network", seed=seed, progress=progress, stop=stop).state_dict()
    out.load_state_dict({name: found[name] for name in out.state_dict()})
    return discharged(out)


def adapter(how: Irene, classes: int, scope: Scope = "bottleneck") -> Adapter:
    """Return the adapter that stands after the bottleneck; it learns nothing where the network itself does to the end."""
    if scope == "network" and not how.relearn:
        return Adapter(kind="identity")
    return Adapter(kind="mlp", hidden=(how.hidden,), code=0 if how.code is None else how.code or classes - 1)


class Treatment:
    """A network and its private heads while they learn."""

    def __init__(self, net: Network, patient: Patient, rows: Attributed, values: int, how: Irene, *, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        width = patient.net.links.width
        self.patient, self.how, self.values_of = patient, how, rows.values
        self.heads = nn.ModuleList([make(how.head, width, values, generator) for _ in range(how.heads)])
        self.weights = balance(rows, values) if how.balanced else torch.ones(len(rows))
        self.task_weights = torch.where(rows.values < 0, 1.0, balance(rows, values)) if how.balanced_task else torch.ones(len(rows))
        order = torch.randperm(len(rows), generator=generator)
        held = int(HELD * len(rows)) if how.schedule == "plateau" else 0
        self.held, self.learnt = order[:held], order[held:].sort().values
        self.answers = answers_of(net, patient, rows) if how.taught else torch.empty(0)
        self.known = self.learnt[rows.values[self.learnt] >= 0]
        movers = {
            "net": optimiser_of(how, patient.learning(), how.rate),
            "heads": optimiser_of(how, self.heads.parameters(), how.head_rate),
        }
        numbers = {"rate": how.rate, "best": float("inf"), "waited": 0.0}
        self.learning = Learning({"net": patient.net, "heads": self.heads}, movers, generator, numbers)

    def step(self, numbers: Tensor, fraction: float) -> None:
        """Take one step of network and heads on the rows learnt of these numbers."""
        rows, optimisers = self.learnt[numbers], self.learning.optimisers
        epochs.rate(optimisers["net"], self.rate_at(fraction))
        optimisers["net"].zero_grad()
        features = self.patient.features(rows)
        if self.how.heads_first:
            self.teach(rows, features.detach(), self.how.head_steps)
            self.loss(rows, features).backward()  # type: ignore[no-untyped-call]
            optimisers["net"].step()
            return
        self.gradients(rows, features)
        optimisers["net"].step()
        optimisers["heads"].step()
        self.teach(rows, features.detach(), self.how.head_steps - 1)

    def gradients(self, rows: Tensor, features: Tensor) -> None:
        """Leave the gradients of alpha CE(y) + gamma I on the network and those of CE(v) on the heads, and nothing else on either.

        The order is the paper's: CE(v) reads detached features, so that the network never sees it; the information's gradient on the
        heads is dropped before theirs is computed, so that they learn to answer and nothing else.
        """
        optimisers = self.learning.optimisers
        private = self.private(rows, features.detach())
        optimisers["net"].zero_grad()
        self.loss(rows, features).backward()  # type: ignore[no-untyped-call]
        optimisers["heads"].zero_grad()
        if private.requires_grad:
            private.backward()  # type: ignore[no-untyped-call]

    def loss(self, rows: Tensor, features: Tensor) -> Tensor:
        """Return alpha CE(y) + gamma I, which the network minimises."""
        logits = self.patient.logits(features)
        losses = functional.cross_entropy(logits, self.patient.labels[rows], reduction="none")
        task = (self.task_weights[rows] * losses).mean()
        if self.how.taught:
            task = (1 - self.how.taught) * task + self.how.taught * functional.cross_entropy(logits, self.answers[rows])
        return self.how.alpha * task + self.how.gamma * self.information(rows, features)

    def private(self, rows: Tensor, features: Tensor) -> Tensor:
        """Return sum_h CE(v) over the rows that have a value; 0 where none has."""
        known = self.values_of[rows] >= 0
        weights, answers = self.weights[rows][known], self.values_of[rows][known]
        if not len(answers):
            return features.new_zeros(())
        losses = [functional.cross_entropy(head(features[known]), answers, reduction="none") for head in self.heads]
        return torch.stack([(weights * loss).mean() for loss in losses]).sum()

    def information(self, rows: Tensor, features: Tensor) -> Tensor:
        """Return the most that a head answers about the attribute, over the rows that have a value; 0 where none has."""
        known = self.values_of[rows] >= 0
        if not bool(known.any()):
            return features.new_zeros(())
        weights = self.weights[rows][known] if self.how.balanced else None
        return torch.stack([answered(head(features[known]), self.values_of[rows][known], weights) for head in self.heads]).max()

    def teach(self, rows: Tensor, features: Tensor, steps: int) -> None:
        """Take steps of the heads alone: the first on these features, the others, where activations are cached, on other rows.

        Through a whole network the same features serve again: another forward pass would cost as much as a step, and move the
        statistics of batch normalisation once more.
        """
        optimiser = self.learning.optimisers["heads"]
        for number in range(steps):
            if number and self.patient.scope == "bottleneck":
                drawn = torch.randint(0, len(self.known), (len(rows),), generator=self.learning.generator)
                with torch.no_grad():
                    rows, features = self.known[drawn], self.patient.features(self.known[drawn])
            loss = self.private(rows, features)
            optimiser.zero_grad()
            if loss.requires_grad:
                loss.backward()  # type: ignore[no-untyped-call]
                optimiser.step()

    def rate_at(self, fraction: float) -> float:
        """Return the network's learning rate at a fraction of all steps."""
        if self.how.schedule == "plateau":
            return self.learning.numbers["rate"]
        if self.how.schedule == "cosine":
            return self.how.rate * (FLOOR + (1 - FLOOR) * (1 + cos(pi * fraction)) / 2)
        return float(self.how.rate * DROP ** ((fraction >= 0.5) + (fraction >= 0.75)))

    def after(self, done: int) -> bool:
        """Begin a head anew where it is its turn; lower the rate where the task stands still. True = the rate is at its end."""
        if self.how.anew and done % self.how.anew == 0 and done < self.how.epochs - 1:
            turn = (done // self.how.anew - 1) % len(self.heads)
            begin_anew(self.heads[turn], self.learning.optimisers["heads"], self.learning.generator)
        return self.how.schedule == "plateau" and self._plateau()

    @torch.no_grad()
    def _plateau(self) -> bool:
        modes = [(module, module.training) for module in self.patient.net.modules()]
        self.patient.net.eval()
        parts = [self.patient.logits(self.patient.features(some)) for some in torch.split(self.held, 1024)]
        for module, training in modes:
            module.training = training
        loss = float(functional.cross_entropy(torch.cat(parts), self.patient.labels[self.held]))
        memory = self.learning.numbers
        memory["waited"] = 0.0 if loss < memory["best"] else memory["waited"] + 1
        memory["best"] = min(loss, memory["best"])
        if memory["waited"] > self.how.patience:
            memory["rate"], memory["waited"] = memory["rate"] * DROP, 0.0
        return memory["rate"] < LEAST_RATE * (1 - 1e-9)


@torch.no_grad()
def answers_of(net: Network, patient: Patient, rows: Attributed) -> Tensor:
    """Return the softmax of the given network's logits, `[n, C]`; from cached activations where there are any: encoding costs the most."""
    if patient.scope == "network":
        return activations(net, rows.samples.inputs)[1].softmax(dim=1).clone()
    with threads(1):
        values = [net.run(some.view(-1, *patient.shape), patient.net.after) for some in torch.split(patient.rows, BATCH)]
    return torch.cat(values).softmax(dim=1)


def optimiser_of(how: Irene, parameters: Iterable[nn.Parameter], rate: float) -> torch.optim.Optimizer:
    """Return the optimiser that both sides use."""
    if how.optimiser == "adam":
        return torch.optim.Adam(parameters, lr=rate, weight_decay=how.weight_decay)
    return torch.optim.SGD(parameters, lr=rate, momentum=0.9, weight_decay=how.weight_decay)
