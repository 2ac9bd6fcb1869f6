"""The model that a request is about, read in one statement with the moment of asking, its queued job kept as it is."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import bindparam, func, select
from sqlalchemy.orm import Session

from service import jobs
from service.db import moment
from service.problem import not_found
from service.ready import Ready, shared
from service.states import ModelState
from service.tables import Model


@dataclass(frozen=True)
class Addressee:
    """A model, as far as a request to it must know."""

    id: str
    dataset_id: str
    state: ModelState
    spec: dict[str, Any]


_ADDRESSEE = select(Model.id, Model.dataset_id, Model.state, Model.spec).where(Model.name == bindparam("name"))
_FIND = Ready(_ADDRESSEE, shared=_ADDRESSEE.add_columns(func.clock_timestamp(), jobs.JOINING))


def addressee(session: Session, name: str) -> tuple[Addressee, datetime]:
    """The model that is asked to forget, its queued job kept as it is until the transaction ends; and the moment of asking."""
    row = _FIND.first(session, name=name)
    if row is None:
        raise not_found("model")
    return Addressee(*row[:4]), row[4].astimezone(UTC) if shared(session) else moment(session)
