"""What a linearised model's next version is made of, the core as it was and new user weights, and what it says of the ones before."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load as load_tensors
from sqlalchemy import select

from models.linear.whole import logits
from service.home import open_home
from service.settings import Settings
from service.tables import Dataset, DatasetBlock, Model, Version
from tests.copies import copy_of
from tests.digits import Digits
from tests.live import Live
from tests.service.test_forget_over_http import statement
from tests.service.test_linearised_over_http import fresh, guarantee, loaded, samples, tensors

SMALL = 1024
"""Bytes that a version may add beside its user weights and its index: the receipts of five samples."""

WIDE: dict[str, Any] = {"linearize": ["stage4", "fc"], "release": {"sigma": 0.1, "rank": 64}, "ridge": 3.0}
"""On the wide network: of a core of which one more copy would show beside an index."""


@dataclass(frozen=True)
class Stored:
    """What is stored for one model and its data set, at one moment."""

    sizes: dict[str, int]
    """Of every blob that can still be read."""
    files: list[dict[str, str]]
    """By version, the blob of each file."""
    state: dict[str, str]
    """The blobs that the latest version needs to forget further."""
    rows: set[str]
    """The data set's own blobs: its rows, rewritten without those forgotten, and its index."""


def stored(live: Live, model: str) -> Stored:
    home = open_home(Settings(data_dir=copy_of(live.directory / "data")))
    with home.db.read() as session:
        record = session.scalars(select(Model).where(Model.name == model)).one()
        versions = session.scalars(select(Version).where(Version.model_id == record.id).order_by(Version.number)).all()
        blocks = session.scalars(select(DatasetBlock.blob).where(DatasetBlock.dataset_id == record.dataset_id)).all()
        index = session.scalars(select(Dataset.index_blob).where(Dataset.id == record.dataset_id)).one()
        files = [{name: file["blob"] for name, file in version.files.items()} for version in versions]
        found = Stored({blob: home.vault.stat(blob).size for blob in home.vault.ids()}, files, dict(record.state_blobs or {}),
                       {*blocks, str(index)})  # fmt: skip
    home.close()
    return found


def test_everything_leaves_the_very_model_that_a_core_without_any_user_row_makes(live: Live, data: Digits, tmp_path: Path) -> None:
    model, bare = fresh(live, data, tmp_path), fresh(live, data.without(set(data.of(role="user"))), tmp_path)
    inputs, digest = samples(data, data.of(role="audit")).inputs, live.sha256(model, "core.safetensors")
    served = logits(*loaded(live, model), inputs)

    answer = live.client.post("/forget", json={"model": model, "forget": {"kind": "everything"}}).json()
    ended = live.request(answer["id"])

    assert (answer["method"], ended["state"], ended["dispositions"]["counts"]) == ("zero", "fulfilled", {"forgotten": 1147})
    assert digest == live.sha256(model, "core.safetensors") == live.sha256(bare, "core.safetensors")
    without = logits(*loaded(live, bare), inputs)
    assert float((served - without).abs().max()) > 0.1  # before, the user rows show
    assert torch.equal(logits(*loaded(live, model), inputs), without)
    assert live.sha256(model) == live.sha256(bare)
    weights = tensors(live, model, "user.safetensors")
    assert sum(value.numel() for value in weights.values()) == loaded(live, model)[0].tangent.p
    assert not any(bool(value.any()) for value in weights.values())
    entry = guarantee(live, model)
    assert (entry["name"], set(entry["value"]), entry["value"]["mu"]) == ("equal_to_refit", {"mu", "weights"}, "0")


def test_a_new_version_adds_its_user_weights_and_an_index_and_shares_the_core(own_live: Live, data: Digits) -> None:
    live = own_live
    live.fit("m", "digits", **WIDE)
    before = stored(live, "m")

    live.request(live.forget("m", ids=data.of(role="user")[:5]).json()["id"])
    after = stored(live, "m")

    (parent, version), core = after.files, load_tensors(live.client.get("/models/m/versions/2/files/core.safetensors").content)
    assert {name for name in version if version[name] != parent[name]} == {"user.safetensors"}
    assert (before.state["curvature"], set(after.state)) == (after.state["curvature"], {"index", "curvature"})
    assert after.sizes[version["core.safetensors"]] >= sum(value.nbytes for value in core.values()) > 100 * SMALL
    assert after.sizes[after.state["curvature"]] > 100 * SMALL
    new = {blob: size for blob, size in after.sizes.items() if blob not in before.sizes}
    user, index = (after.sizes[blob] for blob in (version["user.safetensors"], after.state["index"]))
    assert user + index < sum(size for blob, size in new.items() if blob not in after.rows) <= user + index + SMALL
    assert sum(after.sizes.values()) - sum(before.sizes.values()) <= user + SMALL  # what rewrote rows or index took their place


def test_of_two_requests_in_a_row_the_second_says_what_it_adds_to_the_first(live: Live, data: Digits, tmp_path: Path) -> None:
    model, users = fresh(live, data, tmp_path, linearize=["stage4", "fc"]), data.of(role="user")

    live.request(live.forget(model, ids=users[:30], guarantee={"nats": 0.02}).json()["id"])
    first = statement(live, model)["predicate"]
    live.request(live.forget(model, ids=users[30:60], guarantee={"nats": 0.005}).json()["id"])
    second = statement(live, model)["predicate"]

    assert [said["guarantee"][0]["value"]["mu"] for said in (first, second)] == ["0.2", "0.1"]  # each of its own samples
    assert [said["request"]["forgetSet"]["count"] for said in (first, second)] == [30, 30]
    assert first["stillInForce"] == []
    (counted,) = first["assumptions"]
    assert counted.startswith("Accuracy on the split forgotten is counted on the forgotten samples, before by weights that held them: ")
    assert [row["before"]["n"] for row in first["utility"] if row["split"] == "forgotten"] == [30]
    assert second["stillInForce"] == [second["model"]["parent"]["digest"]]
    composed, again = second["assumptions"]
    assert again == counted
    assert "earlier statements in stillInForce, of which there are 1: " in composed
    assert "computed from the release before it, from which they were already gone, and from samples that remain" in composed
    assert "it adds nothing to the mu that those statements name" in composed
    assert "mu is of this release and of those computed from it, not of the versions before" in composed
