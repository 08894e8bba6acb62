"""Runs a function in a fork of the test, which may confine itself, and gives back what it returned or raised."""

import os
import pickle
from collections.abc import Callable
from typing import Any, TypeVar

T = TypeVar("T")


class ForkError(Exception):
    """The function raised; the text is the exception's."""


def in_fork(function: Callable[[], T]) -> T:
    """What the function returns when a fork calls it. Raises ForkError when it raised, OSError for one of those."""
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        answer: Any
        try:
            answer = (True, function())
        except OSError as error:
            answer = (False, OSError(error.errno, error.strerror))
        except BaseException as error:  # noqa: BLE001  # the parent raises it
            answer = (False, ForkError(repr(error)))
        os.write(writer, pickle.dumps(answer))
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        data = pipe.read()
    status = os.waitpid(child, 0)[1]
    if not data:
        raise ForkError(f"it ended with status {status}")
    good, value = pickle.loads(data)  # noqa: S301  # from our own fork
    if not good:
        raise value
    return value  # type: ignore[no-any-return]
