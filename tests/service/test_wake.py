"""Who is told of a new request: the dispatcher at once if a job was made for it, nobody if it joins one that waits already."""

from __future__ import annotations

import json
from datetime import timedelta
from pathlib import Path

import service.routes.forget as route
from service import jobs
from service.auth import SCOPES, Caller
from service.db import now
from service.home import Home, open_home
from service.schemas import ForgetBody
from service.settings import Settings
from service.tables import Dataset, DatasetBlock, Model
from tests.simulation.computing import SPEC

CALLER = Caller("client", frozenset(SCOPES))


def furnished(directory: Path) -> Home:
    """A record with one fitted model `m`."""
    home, instant = open_home(Settings(data_dir=directory)), now()
    index, block = (home.vault.put(name, json.dumps(["a", "b", "c"]).encode()).blob_id for name in ("d-index", "d-block"))
    with home.db.write() as session:
        summary = {"shape": [1], "text_labels": True, "attributes": {}}
        session.add(Dataset(id="ds", name="ds", state="ready", source_sha256="0" * 64, created_at=instant,
                            index_blob=index, summary=summary))  # fmt: skip
        session.flush()
        session.add(DatasetBlock(dataset_id="ds", number=0, blob=block, rows=3))
        session.add(Model(id="mod", name="m", dataset_id="ds", state="ready", spec=SPEC, created_at=instant))
    return home


def woken(home: Home, sample: str) -> bool:
    """Whether a request for one sample wakes the dispatcher."""
    home.wake.clear()
    body = ForgetBody.model_validate({"model": "m", "forget": {"kind": "samples", "ids": [sample]}, "method": "exact"})
    assert route.forget(body, home, CALLER, None).status_code == 202
    return home.wake.is_set()


def test_a_request_that_joins_a_waiting_job_wakes_nobody_and_one_that_makes_a_job_does(tmp_path: Path) -> None:
    home = furnished(tmp_path)
    try:
        made, joined = woken(home, "a"), woken(home, "b")
        with home.db.write() as session:
            assert jobs.claim(session, worker="w", queue="cpu", now=now(), lease=timedelta(minutes=1)) is not None
        made_again = woken(home, "c")
    finally:
        home.close()

    assert (made, joined, made_again) == (True, False, True)
