"""Owns finding a free port, for processes that can't take port 0 and tell which one it became."""

import contextlib
import socket
from collections.abc import Iterator


def free_port() -> int:
    """A port of 127.0.0.1 that was free a moment ago. Another process may take it first: repeat on failure."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


@contextlib.contextmanager
def closed_port() -> Iterator[int]:
    """A port of 127.0.0.1 that refuses every connection, for whoever is to be found down until the end of the block.

    A port that is merely free would not do: another process may be given it, and whoever tries it again and again comes to be
    connected with itself, as it is one of those that the system hands out.
    """
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        port: int = held.getsockname()[1]
        yield port
