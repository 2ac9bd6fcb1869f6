"""API keys `exp_<id>_<secret>`: 256 random bits, kept as a hash, compared in constant time, with scopes."""

from __future__ import annotations

import hashlib
import hmac
import math
import re
import secrets
import time
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


TRUSTED = 1.0
"""Seconds for which a key that was good is taken to be good still: how late another process may learn that it was revoked."""


class Callers:
    """Who was let in within the last second: a caller who asks again and again is looked up once a second, not each time."""

    def __init__(self) -> None:
        self._known: dict[bytes, tuple[float, Caller]] = {}
        self._revoked = -math.inf

    def known(self, authorization: str | None) -> Caller | None:
        since, caller = self._known.get(_digest(authorization), (0.0, None))
        return caller if time.monotonic() - since < TRUSTED else None

    def remember(self, authorization: str | None, caller: Caller, since: float) -> None:
        """Trust a key for a while.

        Args:
            since: of `time.monotonic`, before the record was asked: the second runs from there.
        """
        if since <= self._revoked:  # what the record said then may not hold any more
            return
        if len(self._known) >= 1024:
            self._known.clear()
        self._known[_digest(authorization)] = since, caller

    def forget(self, key_id: str) -> None:
        """A key was revoked: here that counts at once."""
        self._revoked = time.monotonic()
        for digest, (_, caller) in list(self._known.items()):
            if caller.id == key_id:
                self._known.pop(digest, None)


def _digest(authorization: str | None) -> bytes:
    # The secret itself is kept nowhere, not even in memory.
    return hashlib.sha256((authorization or "").encode()).digest()


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
