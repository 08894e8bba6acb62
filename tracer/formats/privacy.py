"""What is taken out of events before anybody sees them: secrets, and on request parts of addresses and users."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from tracer.formats.redact import Redactor
from tracer.model import Event, Session

__all__ = ["KEY_LEAST", "Lines", "Privacy"]

KEY_LEAST: Final = 16  # bytes of a key that is worth one


class Lines(Protocol):
    """A format: see tracer/cli/stream.py."""

    def lines(self, events: Sequence[Event], offset: int, sequence: int) -> list[bytes]:
        """A line for each event."""
        ...

    def header(self) -> bytes:
        """What a file begins with."""
        ...


@dataclass(frozen=True, slots=True)
class Privacy:
    """What was asked for. Secrets are taken out unless ``redactor`` is None; ``key`` is that of users' pseudonyms."""

    redactor: Redactor | None = None
    truncate: bool = False
    key: bytes = b""

    def session(self, session: Session) -> Session:
        """The session without the names of users and groups, if there are to be none."""
        return session._replace(users={}, groups={}) if self.key else session

    def form(self, form: Lines) -> Lines:
        """A format that shows no more than it should."""
        if not self.truncate and not self.key:
            return form
        from tracer.formats.discreet import Discreet  # loaded by load(), where nothing can be loaded any more

        return Discreet(form, truncate=self.truncate, key=self.key)

    def load(self) -> None:
        """Load what form() takes: a confined process can load nothing."""
        if self.truncate or self.key:
            import tracer.formats.discreet  # noqa: F401
