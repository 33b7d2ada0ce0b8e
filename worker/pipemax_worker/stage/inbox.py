"""Where the driver's messages arrive."""

from __future__ import annotations

import zmq

from pipemax_worker.contract.messages import STAGE_INPUT_DECODER, Shutdown, StageInput

ZmqContext = zmq.Context[zmq.Socket[bytes]]


class ZmqInbox:
    """The driver's messages, and the mover's wake-up while there are none."""

    def __init__(self, context: ZmqContext, address: str) -> None:
        self._socket = context.socket(zmq.PULL)
        self._socket.rcvhwm = 0
        self._socket.linger = 0
        self._socket.bind(address)

    def receive(self, wakeup_fd: int) -> StageInput | Shutdown | None:
        poller = zmq.Poller()
        poller.register(self._socket, zmq.POLLIN)
        poller.register(wakeup_fd, zmq.POLLIN)
        ready = dict(poller.poll())
        if self._socket not in ready:
            return None
        return self._decode(self._socket.recv())

    def receive_now(self) -> StageInput | Shutdown | None:
        try:
            return self._decode(self._socket.recv(zmq.NOBLOCK))
        except zmq.Again:
            return None

    @staticmethod
    def _decode(frame: bytes) -> StageInput | Shutdown:
        message: StageInput | Shutdown = STAGE_INPUT_DECODER.decode(frame)
        return message
