"""Read the ClientHello of TLS: the server's name (SNI), the protocols offered (ALPN), and whether ECH is.

Used on the beginning of a TCP stream and on what CRYPTO frames of QUIC carry. Only what RFC 8446, 6066 (server_name),
7301 (ALPN), 8701 (GREASE) and 9849 (ECH) make public is read; nothing is verified.
"""

from __future__ import annotations

from typing import Final, NamedTuple

__all__ = ["Hello", "handshake", "stream"]

NAME_MOST: Final = 1024  # bytes kept of a name; a true one has at most 255
PROTOCOLS_MOST: Final = 16
_HOST_MOST: Final = 255  # RFC 1035, 2.3.4

_HANDSHAKE: Final = 22  # the type of record
_CLIENT_HELLO: Final = 1
_RECORD_MOST: Final = 1 << 14  # RFC 8446, 5.1: the plaintext of a record
_HELLO_MOST: Final = 1 << 17  # more than any extension of any hello takes; a longer one is no TLS

_SERVER_NAME: Final = 0
_ALPN: Final = 16
_SUPPORTED_VERSIONS: Final = 43
_ECH: Final = 0xFE0D


class Hello(NamedTuple):
    """What a client says first.

    ``server_name`` is empty where there was none. ``protocols`` are the names offered by ALPN, ``version`` is the
    highest offered, 0x0304 for TLS 1.3. ``ech``: an encrypted hello is offered, so ``server_name`` may be only the
    outer name (or the client pretends to have one, as browsers do). ``cut``: there was less than the whole hello;
    ``malformed``: something is not as it should be.
    """

    server_name: bytes
    protocols: tuple[bytes, ...]
    version: int
    ech: bool
    cut: bool
    malformed: bool


def _u16(data: bytes, at: int) -> int:
    return data[at] << 8 | data[at + 1]


def _is_grease(value: int) -> bool:
    return value & 0x0F0F == 0x0A0A and value >> 8 == value & 0xFF


class _Draft:
    """A hello while it is read: what was found before it could not be read on."""

    __slots__ = ("cut", "ech", "malformed", "name", "protocols", "version")

    def __init__(self) -> None:
        self.name = b""
        self.protocols: tuple[bytes, ...] = ()
        self.version = 0
        self.ech = False
        self.cut = False
        self.malformed = False

    def finished(self) -> Hello:
        return Hello(self.name, self.protocols, self.version, self.ech, self.cut, self.malformed)


def stream(data: bytes) -> Hello | None:
    """Return the hello at the beginning of a TCP stream, or None if there is none.

    The hello may be in several records. What is not here is taken to have been cut off.
    """
    if not data or data[0] != _HANDSHAKE or (len(data) > 1 and data[1] != 3) or (len(data) > 2 and data[2] > 4):
        return None
    message = bytearray()
    needed = 4
    begin = 0
    malformed = False
    while len(message) < needed and begin + 5 <= len(data):
        size = _u16(data, begin + 3)
        if data[begin] != _HANDSHAKE or data[begin + 1] != 3 or not 0 < size <= _RECORD_MOST:
            malformed = True
            break
        message += data[begin + 5 : begin + 5 + size]
        begin += 5 + size
        if len(message) >= 4:
            needed = 4 + int.from_bytes(message[1:4], "big")
    if not message:
        return None if malformed else Hello(b"", (), 0, False, True, False)
    hello = handshake(bytes(message))
    if hello is None or not malformed:
        return hello
    return hello._replace(cut=False, malformed=True)


def handshake(data: bytes) -> Hello | None:
    """Return the hello that a handshake begins with, as it is in QUIC, or None if there is none."""
    if data[:1] and data[0] != _CLIENT_HELLO:
        return None
    draft = _Draft()
    if len(data) < 4:
        draft.cut = True
        return draft.finished()
    size = int.from_bytes(data[1:4], "big")
    if size > _HELLO_MOST:
        return None
    end = 4 + size
    draft.cut = len(data) < end
    _hello(data[:end], end, draft)
    return draft.finished()


def _hello(data: bytes, end: int, draft: _Draft) -> None:
    """Read the fields; ``end`` is where the hello ends, which may be beyond ``data``."""
    at = 4 + 2 + 32  # type and length, version, random
    if len(data) >= 6:
        draft.version = _u16(data, 4)
    for width in (1, 2, 1):  # session id, cipher suites, compression methods
        if at + width > end:
            draft.malformed = True
            return
        if at + width > len(data):
            return
        at += width + int.from_bytes(data[at : at + width], "big")
    if at == end:
        return  # TLS 1.2 and older may do without extensions
    if at + 2 > end:
        draft.malformed = True
        return
    if at + 2 > len(data):
        return
    if at + 2 + _u16(data, at) != end:
        draft.malformed = True
    _extensions(data, at + 2, min(end, at + 2 + _u16(data, at)), draft)


def _extensions(data: bytes, at: int, end: int, draft: _Draft) -> None:
    seen = set()
    while at < end:
        if at + 4 > end:
            draft.malformed = True
            return
        if at + 4 > len(data):
            return
        kind, size = _u16(data, at), _u16(data, at + 2)
        at += 4
        if at + size > end:
            draft.malformed = True
            return
        body = data[at : at + size]
        at += size
        if kind in seen:  # RFC 8446, 4.2: not twice; the first counts
            draft.malformed = True
        elif kind == _SERVER_NAME:
            _server_name(body, size, draft)
        elif kind == _ALPN:
            _protocols(body, size, draft)
        elif kind == _SUPPORTED_VERSIONS:
            _versions(body, size, draft)
        elif kind == _ECH and body[:1]:
            draft.ech = True
            draft.malformed |= body[0] != 0  # 1 is for inside of the encrypted hello
        seen.add(kind)


def _server_name(body: bytes, size: int, draft: _Draft) -> None:
    """A name that the capture has cut is not given: it would be another name."""
    if size < 5:
        draft.malformed = True
        return
    if len(body) < 5:
        return
    length = _u16(body, 3)
    if body[2] != 0 or not length or _u16(body, 0) != size - 2 or 5 + length > size:
        draft.malformed = True
        return
    if 5 + length > len(body):
        return
    draft.malformed |= length > _HOST_MOST
    draft.name = body[5 : 5 + min(length, NAME_MOST)]


def _protocols(body: bytes, size: int, draft: _Draft) -> None:
    found: list[bytes] = []
    at = 2
    while at < len(body) and len(found) < PROTOCOLS_MOST:
        end = at + 1 + body[at]
        if end == at + 1 or end > size:
            draft.malformed = True
            break
        if end > len(body):
            break
        name = body[at + 1 : end]
        if len(name) != 2 or not _is_grease(_u16(name, 0)):
            found.append(name)
        at = end
    draft.malformed |= size < 2 or (len(body) >= 2 and _u16(body, 0) != size - 2)
    draft.protocols = tuple(found)


def _versions(body: bytes, size: int, draft: _Draft) -> None:
    draft.malformed |= not size or (body[:1] != b"" and body[0] != size - 1)
    offered = [_u16(body, at) for at in range(1, len(body) - 1, 2)]
    draft.version = max([version for version in offered if not _is_grease(version)], default=draft.version)
