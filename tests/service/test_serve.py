"""How the embedded service starts: on loopback alone, with one first key, and with answers that do not wait."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from expunge.serve import NotLoopback, _listener, serve
from service.settings import Settings
from tests.live import Live


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.0.1", "example.org"])
def test_the_embedded_service_refuses_to_leave_the_machine(host: str, tmp_path: Path) -> None:
    with pytest.raises(NotLoopback):
        serve(Settings(host=host, data_dir=tmp_path / "data"), key_file=None, announce=print)

    assert not (tmp_path / "data").exists()


def test_the_listener_names_its_protocol_so_that_answers_go_out_at_once() -> None:
    """asyncio sets TCP_NODELAY on accepted sockets only if their listener's protocol is TCP and not 0."""
    with _listener(Settings(port=0)) as listener, socket.create_connection(listener.getsockname()):
        accepted, _ = listener.accept()
        with accepted:
            assert accepted.proto == socket.IPPROTO_TCP


def test_the_first_key_is_written_once_for_its_owner_alone(own_live: Live) -> None:
    path = own_live.directory / "key"
    first, mode = path.read_text(), path.stat().st_mode & 0o777

    own_live.kill()
    own_live.start()

    assert mode == 0o600
    assert path.read_text() == first
    assert len(own_live.client.get("/keys").json()) == 1
    assert first.strip() not in own_live.log
