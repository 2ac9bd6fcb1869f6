"""What one would write by hand to accept a request: FastAPI, one SQLAlchemy insert, one commit, and nothing that Expunge promises.

`python -m benchmarks.bare DATABASE_URL` serves it on a free port of the loopback and says which.
"""

from __future__ import annotations

import socket
import sys
import uuid
from datetime import UTC, datetime
from typing import Any

import uvicorn
from fastapi import FastAPI, Response
from pydantic import BaseModel
from sqlalchemy import Text, create_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column


class Base(DeclarativeBase):
    pass


class Asked(Base):
    __tablename__ = "asked"

    id: Mapped[str] = mapped_column(Text, primary_key=True)
    model: Mapped[str] = mapped_column(Text)
    ids: Mapped[str] = mapped_column(Text)
    state: Mapped[str] = mapped_column(Text)
    received_at: Mapped[str] = mapped_column(Text)


class Forget(BaseModel):
    kind: str
    ids: list[str]


class Body(BaseModel):
    model: str
    forget: Forget


def create_app(url: str) -> FastAPI:
    engine = create_engine(url, pool_size=20, max_overflow=20)
    Base.metadata.create_all(engine)
    app = FastAPI()

    @app.post("/forget", status_code=202)
    def forget(body: Body, response: Response) -> dict[str, Any]:
        identity = uuid.uuid4().hex
        now = datetime.now(UTC).isoformat()
        with Session(engine) as session, session.begin():
            session.add(Asked(id=identity, model=body.model, ids=",".join(body.forget.ids), state="received", received_at=now))
        response.headers["Location"] = f"/jobs/{identity}"
        return {"id": identity, "model": body.model, "state": "received", "received_at": now}

    @app.get("/jobs/{identity}")
    def job(identity: str) -> dict[str, Any]:
        with Session(engine) as session:
            row = session.get_one(Asked, identity)
            return {"id": row.id, "model": row.model, "state": row.state, "received_at": row.received_at}

    return app


def main(url: str) -> None:
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.bind(("127.0.0.1", 0))
    listener.listen(128)
    sys.stdout.write(f"listening on http://127.0.0.1:{listener.getsockname()[1]}\n")
    sys.stdout.flush()
    uvicorn.Server(uvicorn.Config(create_app(url), log_config=None, access_log=False)).run(sockets=[listener])


if __name__ == "__main__":
    main(sys.argv[1])
