"""API keys `exp_<id>_<secret>`: 256 random bits, kept as a hash, compared in constant time, with scopes."""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from dataclasses import dataclass
from datetime import datetime
from typing import Literal, get_args

from sqlalchemy import select
from sqlalchemy.orm import Session

from service import locks
from service.problem import Problem
from service.tables import ApiKey

Scope = Literal["forget:create", "forget:read", "model:read", "model:download", "model:admin"]
SCOPES: tuple[str, ...] = get_args(Scope)
_FORM = re.compile(r"exp_([0-9a-f]{12})_([A-Za-z0-9_-]{43})")


@dataclass(frozen=True)
class Caller:
    """Who is calling, by the id of the key."""

    id: str
    scopes: frozenset[str]

    def need(self, scope: str) -> None:
        if scope not in self.scopes:
            raise Problem(403, "scope_missing", f"This key lacks the scope {scope}. Ask an administrator for a key that has it.")


def create(session: Session, *, name: str, scopes: list[str], now: datetime) -> tuple[ApiKey, str]:
    """Make a key. The second value is its only copy."""
    identity, secret = secrets.token_hex(6), secrets.token_urlsafe(32)
    key = ApiKey(id=identity, name=name, secret_hash=_hash(secret), scopes=sorted(set(scopes)), created_at=now)
    session.add(key)
    return key, f"exp_{identity}_{secret}"


def any_key(session: Session) -> bool:
    locks.exclusive(session, "keys")  # several processes start at once: one of them makes the first key
    return session.scalars(select(ApiKey.id).where(ApiKey.revoked_at.is_(None))).first() is not None


def authenticate(session: Session, authorization: str | None) -> Caller:
    """The caller behind an `Authorization: Bearer` header.

    Raises:
        Problem: 401, the same words whatever is wrong with the key.
    """
    scheme, _, token = (authorization or "").partition(" ")
    form = _FORM.fullmatch(token) if scheme.lower() == "bearer" else None
    key = session.get(ApiKey, form[1]) if form else None
    good = hmac.compare_digest(key.secret_hash if key else "-", _hash(form[2]) if form else "+")
    if key is None or not good or key.revoked_at is not None:
        raise Problem(
            401, "unauthenticated", "Send a valid API key: `Authorization: Bearer exp_...`.", headers={"WWW-Authenticate": "Bearer"}
        )
    return Caller(key.id, frozenset(key.scopes))


def _hash(secret: str) -> str:
    # A plain hash is enough: the secret has 256 random bits, there is nothing to guess.
    return hashlib.sha256(secret.encode()).hexdigest()
