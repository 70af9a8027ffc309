"""Owns finding a free port, for processes that can't take port 0 and tell which one it became."""

import socket


def free_port() -> int:
    """A port of 127.0.0.1 that was free a moment ago. Another process may take it first: repeat on failure."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port
