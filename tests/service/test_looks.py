"""How often the deciding rows of a data set were looked at: by refused removals, and by refused retrainings, of any of its models."""

from __future__ import annotations

from datetime import UTC, datetime

from service import migrate
from service.db import Database
from service.tables import Dataset, Job, Model
from workers.plan import looks_at

T0 = datetime(2026, 1, 31, 12, tzinfo=UTC)
JOBS = (
    ("a", "m1", "erase", "irene", "refused"), ("a", "m2", "erase", "leace", "refused"), ("a", "m1", "forget", "retrain", "refused"),
    ("a", "m1", "erase", "irene", "done"), ("a", "m1", "erase", "irene", "failed"), ("a", "m1", "forget", "exact", "refused"),
    ("b", "m3", "erase", "irene", "refused"),
)  # fmt: skip


def test_refused_looks_count_by_data_set_and_nothing_else_does(record: str) -> None:
    migrate.upgrade(record)
    database = Database(record)
    with database.write() as session:
        session.add_all(Dataset(id=name, name=name, state="ready", source_sha256="0", created_at=T0) for name in "abc")
        session.flush()
        for name, dataset in {(model, dataset) for dataset, model, *_ in JOBS}:
            session.add(Model(id=name, name=name, dataset_id=dataset, state="ready", spec={}, created_at=T0))
        session.flush()
        for number, (dataset, model, kind, method, state) in enumerate(JOBS):
            session.add(Job(id=f"job-{number}", kind=kind, lane=dataset, dataset_id=dataset, model_id=model, method=method, state=state,
                            run_after=T0, created_at=T0, finished_at=T0))  # fmt: skip

    with database.read() as session:
        found = [looks_at(session, name) for name in "abc"]
    database.close()

    assert found == [3, 1, 0]
