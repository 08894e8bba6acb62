"""What became of a link, where a confined process may not ask the kernel about it."""

import os

import pytest

from tracer.probes import health
from tracer.probes.health import Mark, what_became


@pytest.mark.parametrize("closed", [False, True])
def test_link_that_nobody_may_ask_about(monkeypatch: pytest.MonkeyPatch, *, closed: bool) -> None:
    """On 5.10 it can only be told whether the descriptor is open, by a call that the filter leaves: not fstat(2)."""

    def refuse(_: int) -> bytes:
        raise PermissionError(1, "Operation not permitted")

    reader, writer = os.pipe()
    os.close(writer)
    if closed:
        os.close(reader)
    with monkeypatch.context() as confined:
        confined.setattr(health, "_link", refuse)
        confined.setattr(os, "fstat", refuse)
        found = what_became(reader, Mark(b"link", None))
    if not closed:
        os.close(reader)
    assert found == ("its link is closed" if closed else None)
