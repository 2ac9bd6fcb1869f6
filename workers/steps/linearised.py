"""A linearised model is fitted, and forgets: a core from core rows, user weights by conjugate gradients, releases with noise."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Set
from dataclasses import asdict
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from torch import Tensor

from models.data import Samples
from models.forget import newton, retrain, zero
from models.guarantee import Proved
from models.linear.curvature import Curvature
from models.linear.descent import Descent, Way, cg, onwards
from models.linear.quadratic import Quadratic
from models.linear.whole import WholeCore
from models.linear.whole import zero as nothing
from workers import linearised, slopes
from workers.artifacts import Shelf, pack_table, unpack_table, unpack_weights
from workers.beside import OF_RELEASES, measure_beside
from workers.failure import Failure
from workers.linearised import Loaded, compared, cost_of_noise, held_rows, samples
from workers.parts import Split
from workers.recipe import architecture_of, whole_hyperparameters, whole_of
from workers.released import Release
from workers.report import Report
from workers.selection import Asked, Selection
from workers.stored import stored_loss

AUDIT = "audit (final half)"


def fit(plan: Mapping[str, Any], shelf: Shelf, report: Report) -> dict[str, Any]:
    """Fit a linearised model's first version. Nothing is forgotten by it, so it is released as it is, and proves nothing."""
    report.plan = {"loading": 0.02, "training the core": 0.7, "fitting user weights": 0.22, "measuring": 0.03, "writing": 0.03}
    report.phase("loading")
    given = unpack_weights(shelf.vault.read(plan["given_core"])) if plan["given_core"] else None
    return _fitted(plan, shelf, report, keep=None, given=given, proved=None) | {"method": "fit", "seconds": report.end()}


def _fitted(
    plan: Mapping[str, Any], shelf: Shelf, report: Report, *, keep: Set[str] | None, given: Mapping[str, Tensor] | None,
    proved: Proved | None,
) -> dict[str, Any]:  # fmt: skip
    """A core from core rows, then user weights from 0 on user rows; of all rows, or of those in `keep` alone."""
    spec, shape = plan["spec"], tuple(plan["dataset"]["shape"])
    rows = held_rows(plan, shelf, keep, roles=("core", "audit"))
    classes = spec["classes"] or sorted(set(rows.core["label"].to_pylist()))
    if len(classes) < 2:
        raise Failure("classes", "A model needs at least 2 classes; declare `classes`, or upload core rows of more labels.")
    linearised.refuse_unknown_labels(plan, shelf, classes, keep)
    core_rows = samples(rows.core, plan, classes)
    report.phase("training the core")
    whole = whole_of(spec, architecture_of(spec, shape, len(classes)), core_rows, given=given, progress=report.progress)
    report.phase("fitting user weights")
    core, begun = whole.core, time.perf_counter()
    w, descent, target = nothing(core), None, spec["release"]["mu_max"] * core.sigma
    loss = stored_loss(plan, shelf, core, classes, keep)
    if len(loss.rows):
        shaped = _shape(plan, whole.curvature)
        descent = cg(loss, w, whole.curvature, shape=shaped, target=target, most=newton.MOST_PASSES, progress=report.progress)
        w = descent.w
    record = _record("cg", descent, passes=loss.passes.total, seconds=time.perf_counter() - begun, target=target)
    report.phase("measuring")
    tested = samples(rows.audit, plan, classes)
    utility = compared(core, None if proved else nothing(core), w.float(), tested, split=AUDIT)
    report.phase("writing")
    files = {
        "core.safetensors": shelf.put_file(linearised.pack_core(core, mu_max=spec["release"]["mu_max"])),
        "user.safetensors": shelf.put_file(linearised.pack_user(core, w)),
    }
    state = {
        "index": shelf.put(linearised.index_of_model(plan, shelf, classes, keep)).blob_id,
        "curvature": shelf.put(linearised.pack_curvature(whole.curvature)).blob_id,
    }
    resolved = whole_hyperparameters(spec, core, len(core_rows))
    return {
        "files": files,
        "state": state,
        "blocks": [],
        "spec": dict(spec) | {"classes": classes, "resolved": resolved},
        "utility": utility,
        "solver": record,
        "facts": _facts(core, classes, proved, files),
    }


# Forgetting -----------------------------------------------------------------------------------------------------------


def _by_newton(
    plan: Mapping[str, Any], shelf: Shelf, report: Report, held: pa.Table, selection: Selection, asked: list[Asked]
) -> dict[str, Any]:
    """One Newton step on the rows that stay, to the smallest mu that was wished for, and noise. Or a refusal, and nothing is written."""
    release, users = plan["spec"]["release"], held.filter(pc.equal(held["role"], "user"))["sample_id"].to_pylist()
    if selection.gone.issuperset(users):  # no user row is left: exactly 0, whatever the way
        return _at_zero(plan, shelf, report, held, selection, asked)
    mu = min(linearised.mu_of(request.guarantee, mu_max=release["mu_max"]) for request in asked)
    if mu == 0:
        return {"refusal": _refusal("0, which equality alone meets (method retrain)", float("inf"), 0)}
    most = max(request.most_passes or newton.MOST_PASSES for request in asked)
    model, held_ids, begun = linearised.load(plan, shelf), set(held["sample_id"].to_pylist()), time.perf_counter()
    report.phase("forgetting")
    found = _forgotten(plan, shelf, report, model, held_ids - selection.gone, mu=mu, most=most)
    if isinstance(found, Split):
        return found.outcome(report)
    spent = slopes.seconds(plan) + time.perf_counter() - begun
    record = _record(plan["method"], found.descent, passes=found.passes, seconds=spent, target=mu * model.core.sigma)
    record |= {"shared": bool(plan.get("groups"))}
    best = newton.best_mu(found, sigma=model.core.sigma)
    found.descent.w.zero_()  # the way to the noise that was drawn
    if found.weights is None:
        return {"refusal": _refusal(f"{mu:.6g}", best, found.passes), "solver": record}
    proved = newton.proved(sigma=model.core.sigma, mu_max=mu, isotropic=release["noise"] == "isotropic")
    tested, gone = _judges(plan, shelf, held, selection)
    outcome = _published(plan, shelf, report, model, held, selection, (tested, gone), found.weights.double(), proved)
    outcome |= _beside(plan, shelf, report, model, held_ids, selection, asked, found.weights.double(), mu=mu, most=most)
    shaped = _shape(plan, model.curvature)
    outcome["utility"] += cost_of_noise(model.core, found.weights.double(), shaped, tested, split=AUDIT, random_bytes=os.urandom)
    return outcome | {"solver": record}


def _forgotten(
    plan: Mapping[str, Any], shelf: Shelf, report: Report, model: Loaded, keep: Set[str], *, mu: float, most: int
) -> newton.Release | Split:
    """Keep the rows in `keep` alone. Of many rows: the steps are made here, and every gradient in float64 is summed in parts."""

    def loss() -> Quadratic:
        return stored_loss(plan, shelf, model.core, plan["spec"]["classes"], keep)

    noise: dict[str, Any] = {"sigma": model.core.sigma, "random_bytes": os.urandom}
    solver: dict[str, Any] = {"most": most, "progress": report.progress}
    if not plan.get("groups"):
        isotropic = plan["spec"]["release"]["noise"] == "isotropic"
        method = plan["method"]
        return newton.forget(loss(), model.weights, model.curvature, method=method, mu_max=mu, isotropic=isotropic, **noise, **solver)
    solver |= {"shape": _shape(plan, model.curvature), "target": mu * model.core.sigma}
    if "parts" in plan:
        judged, gradient = slopes.gathered(plan, shelf, ridge=model.core.ridge)
        found = onwards(judged, gradient, loss, model.curvature, **solver)
    else:
        whole = loss()
        found = onwards(Way(model.weights), whole.rough(model.weights), lambda: whole, model.curvature, sure=False, **solver)
    if isinstance(found, Descent):
        return newton.release(found, solver["shape"], **noise)
    index = unpack_table(shelf.vault.read(plan["dataset"]["index"]))
    return slopes.split(found, plan, shelf, set(index["sample_id"].to_pylist()) - keep)


def _at_zero(
    plan: Mapping[str, Any], shelf: Shelf, report: Report, held: pa.Table, selection: Selection, asked: list[Asked]
) -> dict[str, Any]:
    """No user row stays: the user weights become 0."""
    report.phase("forgetting")
    model, held_ids = linearised.load(plan, shelf), set(held["sample_id"].to_pylist())
    weights = nothing(model.core)
    judges = _judges(plan, shelf, held, selection)
    outcome = _published(plan, shelf, report, model, held, selection, judges, weights, zero.proved_whole())
    return outcome | _beside(plan, shelf, report, model, held_ids, selection, asked, weights, mu=0.0, most=0) | {"method": "zero"}


def _beside(
    plan: Mapping[str, Any], shelf: Shelf, report: Report, model: Loaded, ids: Set[str], selection: Selection, asked: list[Asked],
    after: Tensor, *, mu: float, most: int,
) -> dict[str, Any]:  # fmt: skip
    """The audits that were asked for. They see what is released, never the weights before its noise."""
    names = {name for request in asked for name in request.audits}
    if not names:
        return {}
    user, gone = frozenset(selection.user), frozenset(selection.gone)
    done = Release(plan, shelf, model, held_rows(plan, shelf, ids), user, gone, after, mu=mu, most=most)
    return {"evidence": measure_beside(names, done, report, OF_RELEASES)}


def _by_retraining(
    plan: Mapping[str, Any], shelf: Shelf, report: Report, held: pa.Table, selection: Selection, asked: list[Asked]
) -> dict[str, Any]:
    """A new core without the rows, and user weights from 0 on it."""
    keep = set(held["sample_id"].to_pylist()) - selection.gone
    return _fitted(plan, shelf, report, keep=keep, given=None, proved=retrain.proved_whole())


METHODS: dict[str, Callable[..., dict[str, Any]]] = {"cg": _by_newton, "sgd": _by_newton, "zero": _at_zero, "retrain": _by_retraining}


def _published(
    plan: Mapping[str, Any],
    shelf: Shelf,
    report: Report,
    model: Loaded,
    held: pa.Table,
    selection: Selection,
    judges: tuple[Samples, Samples],
    weights: Tensor,
    proved: Proved,
) -> dict[str, Any]:
    """Measure, and write what the new version is made of: its user weights alone are new."""
    report.phase("measuring")
    classes = plan["spec"]["classes"]
    utility = [one for rows, split in zip(judges, (AUDIT, "forgotten"), strict=True)
               for one in compared(model.core, model.weights, weights, rows, split=split)]  # fmt: skip
    report.phase("writing")
    files = dict(plan["files"]) | {"user.safetensors": shelf.put_file(linearised.pack_user(model.core, weights))}
    left = held.filter(pa.array([i not in selection.gone for i in held["sample_id"].to_pylist()], pa.bool_()))
    return {
        "files": files,
        "state": dict(plan["state"]) | {"index": shelf.put(pack_table(left)).blob_id},
        "blocks": [],
        "spec": plan["spec"],
        "utility": utility,
        "facts": _facts(model.core, classes, proved, files),
    }


def _judges(plan: Mapping[str, Any], shelf: Shelf, held: pa.Table, selection: Selection) -> tuple[Samples, Samples]:
    """The audit rows of the final half that stay, and the user rows that go, in one reading of the data set."""
    audit = set(held.filter(pc.equal(held["role"], "audit"))["sample_id"].to_pylist()) - selection.gone
    gone = set(selection.user).intersection(held["sample_id"].to_pylist())
    rows = held_rows(plan, shelf, audit | gone, roles=("audit", "user"))
    return tuple(samples(table, plan, plan["spec"]["classes"]) for table in (rows.audit, rows.user))  # type: ignore[return-value]


def _shape(plan: Mapping[str, Any], curvature: Curvature) -> Curvature:
    return curvature.flat() if plan["spec"]["release"]["noise"] == "isotropic" else curvature


def _refusal(asked: str, best: float, passes: int) -> dict[str, str]:
    reached = (
        f"after {passes} passes over the rows that stay the best was mu {linearised.rounded_up(best)}" if passes else "nothing was tried"
    )
    return {
        "code": "guarantee_not_met",
        "detail": f"Asked for mu {asked}; {reached}. "
        "Nothing was published and nothing was erased. Ask again with more passes (options.most_passes) or a laxer guarantee.",
    }


def _record(method: str, descent: Descent | None, *, passes: int, seconds: float, target: float) -> dict[str, Any]:
    """How the solver came there: it depends on what is gone, so it is for the auditor and never in a certificate."""
    if descent is None:
        return {"method": method, "passes": 0, "seconds": round(seconds, 6)}
    return {
        "method": method,
        "reached": descent.reached,
        "target": target,
        "error": descent.error,
        "residual": descent.residual,
        "passes": passes,
        "seconds": round(seconds, 6),
        "history": list(descent.history),
    }


def _facts(core: WholeCore, classes: list[Any], proved: Proved | None, files: Mapping[str, Any]) -> dict[str, Any]:
    found = []
    if proved is not None:
        found = [asdict(proved) | {"value": {**proved.value, "weights": files["user.safetensors"]["sha256"]}}]
    shape = list(core.tangent.net.architecture.input_shape)
    return {"classes": classes, "input_shape": shape, "guarantees": found}
