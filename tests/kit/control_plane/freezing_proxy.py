"""A TCP proxy whose connections can be made to fall silent: neither data nor an end comes through.

What a load balancer does that forgets an idle stream.
"""

from __future__ import annotations

import contextlib
import socket
import threading


class FreezingProxy:
    """On a free port of loopback, to ``target``. Connections made after :meth:`freeze` work."""

    def __init__(self, target: tuple[str, int]) -> None:
        self._target = target
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._frozen: set[int] = set()
        self._pairs: dict[int, tuple[socket.socket, socket.socket]] = {}
        self._threads = [threading.Thread(target=self._accept_for_ever, daemon=True)]
        self._threads[0].start()

    def freeze(self) -> int:
        """All present connections fall silent; how many there are."""
        self._frozen |= self._pairs.keys()
        return len(self._frozen)

    def close(self) -> None:
        # A thread that waits in accept or recv wakes by a shutdown, not by a close.
        for one in (self._listener, *(s for pair in self._pairs.values() for s in pair)):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join()
        for one in (self._listener, *(s for pair in self._pairs.values() for s in pair)):
            one.close()

    def _accept_for_ever(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
                far = socket.create_connection(self._target)
            except OSError:
                return
            number = len(self._pairs)
            self._pairs[number] = (near, far)
            for pair in ((near, far), (far, near)):
                thread = threading.Thread(target=self._pump, args=(number, *pair), daemon=True)
                self._threads.append(thread)
                thread.start()

    def _pump(self, number: int, source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                if number not in self._frozen:
                    sink.sendall(data)
        if number not in self._frozen:  # of a frozen one, not even the end is heard
            with contextlib.suppress(OSError):
                sink.shutdown(socket.SHUT_WR)
