"""Length-prefixed messages between the caller and a server."""

from __future__ import annotations

import socket
import struct

__all__ = ["receive", "send"]

_HEADER = struct.Struct("!Q")
_CHUNK = 1 << 20


def send(channel: socket.socket, message: bytes) -> None:
    """Sends one message."""
    channel.sendall(_HEADER.pack(len(message)) + message)


def receive(channel: socket.socket) -> bytes | None:
    """Returns the next message, or ``None`` if the other side is gone.

    >>> here, there = socket.socketpair()
    >>> send(here, b"spam"); receive(there)
    b'spam'
    >>> here.close(); receive(there) is None
    True
    >>> there.close()
    """
    header = _exactly(channel, _HEADER.size)
    return None if header is None else _exactly(channel, _HEADER.unpack(header)[0])


def _exactly(channel: socket.socket, size: int) -> bytes | None:
    parts = bytearray()
    while len(parts) < size:
        part = channel.recv(min(_CHUNK, size - len(parts)))
        if not part:
            return None
        parts += part
    return bytes(parts)
