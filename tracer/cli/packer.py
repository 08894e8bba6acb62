"""The packer: a child of the opener that compresses files, at the lowest priority, and is confined as the opener is."""

from __future__ import annotations

import ctypes
import json
import os
import select
from collections.abc import Callable
from typing import Any, Final, NoReturn, Self

from tracer.sinks.place import Place

__all__ = ["Packer"]

NAME: Final = b"tracer_packer"
"""What it is called in /proc/PID/comm."""
_PR_SET_NAME: Final = 15  # include/uapi/linux/prctl.h
_LOWEST: Final = 19
_TOLD_MOST: Final = 1 << 16


class Packer:
    """The opener's side."""

    def __init__(self, pid: int, asks: int, answers: int, told: dict[str, Any]) -> None:
        """``told`` is how it is confined."""
        self.pid = pid
        self.told = told
        self._asks = asks
        self._answers = answers

    @classmethod
    def start(cls, place: Place, directory: int, leave: int, confine: Callable[[], dict[str, Any]]) -> Self:
        """Fork it; it confines itself, and then waits. It has the descriptor ``directory``, and ``leave`` it closes.

        Raises OSError.
        """
        (asked, asks), (answers, told) = os.pipe(), os.pipe()
        pid = os.fork()
        if not pid:
            os.close(asks)
            os.close(answers)
            os.close(leave)
            _be(place, directory, asked, told, confine)
        os.close(asked)
        os.close(told)
        facts = json.loads(os.read(answers, _TOLD_MOST))
        os.set_blocking(answers, False)
        os.set_blocking(asks, False)
        return cls(pid, asks, answers, facts)

    def ask(self) -> None:
        """Have it look for what is to be compressed; if it is gone, nothing is."""
        try:
            os.write(self._asks, b"!")
        except OSError:
            return  # it is there as often as can be asked for, or is gone, which failed() tells

    def failed(self) -> int:
        """The errno that it met since this was asked last, 0 if none; EPIPE if it is gone."""
        try:
            told = os.read(self._answers, _TOLD_MOST)
        except BlockingIOError:
            return 0
        return max(told) if told else 32


def _be(place: Place, directory: int, asked: int, told: int, confine: Callable[[], dict[str, Any]]) -> NoReturn:
    code = 1
    try:
        from tracer.sinks.packing import pack  # loaded here alone, and before it is confined

        ctypes.CDLL(None).prctl(_PR_SET_NAME, NAME)
        os.nice(_LOWEST)
        os.write(told, json.dumps(confine()).encode())
        poll = select.poll()
        poll.register(asked, 0)  # its end is told in any case
        while os.read(asked, 1 << 12):
            number = 0
            for name in place.packable():
                try:
                    if not pack(directory, name, lambda: not poll.poll(0)):
                        break  # nobody is left to ask, and another tracer may be about to come
                except FileNotFoundError:
                    continue  # somebody else has taken it away
                except OSError as failed:
                    number = failed.errno or 5
            if number:
                os.write(told, bytes([number]))
        code = 0
    except OSError:
        pass  # who asks will see that this has ended
    finally:
        os._exit(code)
