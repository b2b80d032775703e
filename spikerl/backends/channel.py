"""A local socket that carries whole messages, keeps deadlines and lets in only who has the key.

Imports the standard library only. Each message is preceded by its length in 8 bytes. Both sides
prove that they know the key, by HMAC-SHA256 of the other's challenge, before anything else is read.
"""

from __future__ import annotations

import hmac
import os
import socket
import tempfile
import time
from collections.abc import Callable
from typing import Any

PROOF_S = 1.0  # for one who knocks to prove that it has the key; the next one waits so long
QUEUE_S = 60.0  # for the worker to be let in, whoever else stands at the door
SLICE_S = 0.05  # between two looks at whether the other side still lives, while it is starting
PATIENCE_S = 1.0  # the same, while it is at work
_CHALLENGE = 32
_HEAD = 8
_GULP = 2**16
_LARGE = 2**22

Alive = Callable[[], bool]


class ChannelClosed(Exception):
    """The other side is gone, or is not who it should be."""


class Channel:
    """One end of a connection; send() and receive() move whole messages."""

    def __init__(self, connection: socket.socket) -> None:
        self._socket = connection
        self._came = bytearray()  # received, and not yet given out
        self._patience: float | None = -1.0  # of the socket, so that it is set only if it changes

    def send(self, message: bytes, timeout: float | None = None) -> None:
        """Send one message; raises ChannelClosed, or TimeoutError after so many seconds."""
        self._wait(timeout)
        try:
            self._socket.sendall(len(message).to_bytes(_HEAD, "little") + message)
        except TimeoutError:
            raise
        except OSError as error:
            raise ChannelClosed(str(error)) from None

    def receive(
        self,
        timeout: float | None = None,
        *,
        limit: int | None = None,
        alive: Alive | None = None,
    ) -> bytearray:
        """The next message; raises ChannelClosed, or TimeoutError after so many seconds.

        limit: bytes a message may have.
        alive: asked now and then; False is taken for a closed connection. A process that the other
               side has started may hold its end open.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        while len(self._came) < _HEAD:
            self._came += self._some(_GULP, deadline, alive)
        length = int.from_bytes(self._came[:_HEAD], "little")
        if limit is not None and length > limit:
            raise ChannelClosed(f"a message of {length} bytes came, at most {limit} were expected")
        data = self._came[_HEAD : _HEAD + length]
        del self._came[: _HEAD + length]
        while len(data) < length:
            data += self._some(min(length - len(data), _LARGE), deadline, alive)
        return data

    def _some(self, most: int, deadline: float | None, alive: Alive | None) -> bytes:
        """At least one byte, as soon as there is one."""
        while True:
            left = None if deadline is None else deadline - time.monotonic()
            if left is not None and left <= 0:
                raise TimeoutError
            self._wait(left if alive is None else min(left or PATIENCE_S, PATIENCE_S))
            try:
                data = self._socket.recv(most)
            except TimeoutError:
                if alive is not None and not alive():
                    raise ChannelClosed("the process is gone") from None
                continue
            except OSError as error:
                raise ChannelClosed(str(error)) from None
            if not data:
                raise ChannelClosed("the connection was closed")
            return data

    def _wait(self, patience: float | None) -> None:
        if patience != self._patience:
            self._socket.settimeout(patience)
            self._patience = patience

    def close(self) -> None:
        """Close this end; calling it again does nothing."""
        self._socket.close()


def authenticate(channel: Channel, key: bytes, mine: bytes, theirs: bytes, timeout: float) -> None:
    """Prove to the other side that this one has the key, and see the same of it.

    mine, theirs: what the two sides are; an answer cannot be sent back to the one who gave it.
    Raises ChannelClosed if the other side has another key, TimeoutError if it does not answer.
    """
    challenge = os.urandom(_CHALLENGE)
    channel.send(challenge, timeout)
    asked = channel.receive(timeout, limit=_CHALLENGE)
    channel.send(hmac.digest(key, mine + bytes(asked), "sha256"), timeout)
    answer = channel.receive(timeout, limit=_CHALLENGE)
    if not hmac.compare_digest(answer, hmac.digest(key, theirs + challenge, "sha256")):
        raise ChannelClosed("the other side does not have the key")


class Door:
    """Where one worker knocks: a Unix socket in a private directory, else a port of this machine.

    address: what connect() takes.
    """

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="spikerl-")
        self.address: Any
        try:
            self.address = os.path.join(self._folder.name, "worker")
            self._socket = socket.socket(_unix())
            self._try(lambda: self._socket.bind(self.address))
        except OSError:  # no such sockets here, or the path is too long for one
            self._socket = socket.socket(socket.AF_INET)
            self._try(lambda: self._socket.bind(("127.0.0.1", 0)))
            self.address = list(self._socket.getsockname())
        self._socket.listen()

    def _try(self, bind: Callable[[], None]) -> None:
        try:
            bind()
        except OSError:
            self._socket.close()
            raise

    def admit(self, key: bytes, timeout: float, alive: Alive) -> Channel:
        """The connection of the one that has the key; others are turned away.

        Raises TimeoutError after so many seconds, ChannelClosed if alive() says that nobody comes.
        """
        deadline = time.monotonic() + timeout
        while True:
            left = deadline - time.monotonic()
            if left <= 0:
                raise TimeoutError
            self._socket.settimeout(min(SLICE_S, left))
            try:
                connection, _ = self._socket.accept()
            except TimeoutError:
                if not alive():
                    raise ChannelClosed("the process is gone") from None
                continue
            channel = Channel(connection)
            try:
                authenticate(channel, key, b"caller", b"worker", min(PROOF_S, left))
            except (ChannelClosed, TimeoutError):
                channel.close()
                continue
            return channel

    def close(self) -> None:
        """Close the door and remove what it left in the file system."""
        self._socket.close()
        self._folder.cleanup()


def connect(address: Any, key: bytes) -> Channel:
    """The worker's end: connect to a Door and authenticate; raises ChannelClosed."""
    unix = isinstance(address, str)
    connection = socket.socket(_unix() if unix else socket.AF_INET)
    channel = Channel(connection)
    try:
        connection.connect(address if unix else tuple(address))
        authenticate(channel, key, b"worker", b"caller", QUEUE_S)
    except BaseException:
        channel.close()
        raise
    return channel


def _unix() -> int:
    family = getattr(socket, "AF_UNIX", None)
    if family is None:
        raise OSError("no Unix sockets here")
    return int(family)
