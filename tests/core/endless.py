"""The work of a helper that never ends by itself, for test_processes.py."""

from __future__ import annotations

from multiprocessing.connection import Connection


def serve(pipe: Connection) -> None:
    pipe.send("at work")
    while True:
        pass
