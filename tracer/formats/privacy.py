"""What is taken out of events before anybody sees them: secrets, and on request parts of addresses and users."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

from tracer.formats.redact import Redactor
from tracer.model import Session

if TYPE_CHECKING:
    from tracer.formats.discreet import Lines

__all__ = ["KEY_LEAST", "Privacy"]

KEY_LEAST: Final = 16  # bytes of a key that is worth one


class Privacy(NamedTuple):
    """What was asked for. Secrets are taken out unless ``redactor`` is None; ``key`` is that of users' pseudonyms.

    ``rules`` is the file that rules of somebody's own are from.
    """

    redactor: Redactor | None = None
    truncate: bool = False
    key: bytes = b""
    rules: Path | None = None

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
