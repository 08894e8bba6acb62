"""Read the ClientHello in the first datagrams of QUIC, versions 1 and 2.

An Initial packet is encrypted with keys that follow from the connection id in it (RFC 9001, 5.2; RFC 9369, 3.3), so
that whoever sees it can read it. The cipher is that of `cryptography`; HKDF is four lines on the standard library's
HMAC. The import of this module costs some 8 MiB and 5 ms, nearly all of it `cryptography`'s OpenSSL, whichever part of
it is asked for: import it only where payload is looked at.
"""

from __future__ import annotations

import hmac
from contextlib import suppress
from typing import Final, NamedTuple

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import CTR, ECB

from tracer.names import tls

__all__ = ["DATAGRAMS_MOST", "Initials", "client_keys"]

DATAGRAMS_MOST: Final = 3  # a hello with a post-quantum key takes two; a lossy start may repeat one
PACKETS_MOST: Final = 8  # coalesced in one datagram, or datagrams that were given to the kernel at once
FRAMES_MOST: Final = 1024
PIECES_MOST: Final = 256  # of the hello; a browser makes some twenty, to keep others from reading its beginning alone
HELLO_MOST: Final = 16_384  # bytes

_TAG: Final = 16
_SAMPLE: Final = 16
_ID_MOST: Final = 20  # RFC 9000, 17.2

_LONG: Final = 0x80
_FIXED: Final = 0x40
_ACK: Final = 2
_ACK_ECN: Final = 3
_CRYPTO: Final = 6
_CLOSE: Final = 0x1C
_CLIENT_HELLO: Final = b"\1"
_KEYS_MOST: Final = 2


class _Version(NamedTuple):
    """What one version of QUIC makes keys of, and which type of packet is its Initial."""

    salt: bytes
    label: bytes
    initial: int


# RFC 9001, 5.2 and RFC 9369, 3.1 to 3.3.
_VERSIONS: Final = {
    0x00000001: _Version(bytes.fromhex("38762cf7f55934b34d179ae6a4c80cadccbb7f0a"), b"quic", 0),
    0x6B3343CF: _Version(bytes.fromhex("0dede3def700a6db819381be6e269dcbf9bd2ed9"), b"quicv2", 1),
}


class Keys(NamedTuple):
    """What protects the Initial packets of a client: key and iv of AES-128-GCM, and the header's key."""

    key: bytes
    iv: bytes
    header: bytes


class _EndError(Exception):
    """The bytes ended, or a bound of ours was reached."""


def _expand(secret: bytes, label: bytes, size: int) -> bytes:
    """HKDF-Expand-Label of RFC 8446, 7.1, for at most 32 bytes: then one block is enough."""
    label = b"tls13 " + label
    info = size.to_bytes(2, "big") + bytes([len(label)]) + label + b"\0\1"
    return hmac.digest(secret, info, "sha256")[:size]


def client_keys(version: int, connection: bytes) -> Keys:
    """Return the keys of the client's Initial packets for the destination's connection id of its first one.

    Raises KeyError for a version that is neither 1 nor 2.
    """
    facts = _VERSIONS[version]
    secret = _expand(hmac.digest(facts.salt, connection, "sha256"), b"client in", 32)
    sizes = ((b" key", 16), (b" iv", 12), (b" hp", 16))
    return Keys(*(_expand(secret, facts.label + label, size) for label, size in sizes))


class _Reader:
    """Numbers and bytes, one after the other. Raises _EndError at the end."""

    __slots__ = ("at", "data")

    def __init__(self, data: bytes, at: int = 0) -> None:
        self.data = data
        self.at = at

    def take(self, size: int) -> bytes:
        end = self.at + size
        if end > len(self.data):
            raise _EndError
        taken = self.data[self.at : end]
        self.at = end
        return taken

    def number(self, size: int) -> int:
        return int.from_bytes(self.take(size), "big")

    def varint(self) -> int:
        """RFC 9000, 16."""
        first = self.number(1)
        size = 1 << (first >> 6)
        return (first & 0x3F) << 8 * (size - 1) | self.number(size - 1)


class _Packet(NamedTuple):
    """A packet with a long header: where it begins, its number and its end, which the capture may not have."""

    version: int
    type: int
    connection: bytes
    begin: int
    number_at: int
    end: int


def _packet(data: bytes, begin: int) -> _Packet | None:
    """The packet that begins there, None if there is no more of a kind that says where it ends."""
    reader = _Reader(data, begin)
    first = reader.number(1)
    version = reader.number(4)
    facts = _VERSIONS.get(version)
    if first & (_LONG | _FIXED) != _LONG | _FIXED or facts is None:
        return None  # a short header, version negotiation (RFC 9000, 17.2.1), a version of another kind
    connection = reader.take(reader.number(1))
    source = reader.take(reader.number(1))
    if len(connection) > _ID_MOST or len(source) > _ID_MOST:
        return None
    # The types are counted from another beginning in version 2 (RFC 9369, 3.2): 0 is made Initial, 3 Retry in both.
    kind = (first >> 4) - facts.initial & 3
    if kind == 3:
        return None
    if kind == 0:
        reader.take(reader.varint())  # the token
    size = reader.varint()
    return _Packet(version, kind, connection, begin, reader.at, reader.at + size)


def _opened(data: bytes, packet: _Packet, keys: Keys) -> bytes | None:
    """What an Initial packet carries, None if these are not its keys.

    Of a packet that the capture has cut nothing can be verified: what comes out is right, or noise.
    """
    at = packet.number_at
    sample = data[at + 4 : at + 4 + _SAMPLE]  # RFC 9001, 5.4.2
    if len(sample) < _SAMPLE or packet.end < at + 4 + _TAG:
        return None
    mask = Cipher(AES(keys.header), ECB()).encryptor().update(sample)  # noqa: S305  one block, as 5.4.3 has it
    first = data[packet.begin] ^ mask[0] & 0x0F
    size = (first & 3) + 1
    number = bytes(a ^ b for a, b in zip(data[at : at + size], mask[1:], strict=False))
    header = bytes([first]) + data[packet.begin + 1 : at] + number
    # The first packets of a connection: their number is what its truncated form says (RFC 9000, 17.1).
    nonce = (int.from_bytes(keys.iv, "big") ^ int.from_bytes(number, "big")).to_bytes(12, "big")
    if packet.end <= len(data):
        try:
            return AESGCM(keys.key).decrypt(nonce, data[at + size : packet.end], header)
        except InvalidTag:
            return None
    # GCM encrypts with AES in counter mode from 2 on (NIST SP 800-38D, 7.1).
    return Cipher(AES(keys.key), CTR(nonce + b"\0\0\0\2")).decryptor().update(data[at + size : packet.end - _TAG])


def _crypto(payload: bytes) -> tuple[dict[int, bytes], bool]:
    """What the CRYPTO frames of an Initial carry, by offset, and whether something is not as it should be.

    RFC 9000, 12.4 has the frames that may be there.
    """
    reader = _Reader(payload)
    pieces: dict[int, bytes] = {}
    try:
        for _ in range(FRAMES_MOST):
            reader.at = len(payload) - len(payload[reader.at :].lstrip(b"\0\1"))  # PADDING and PING
            if reader.at == len(payload):
                return pieces, False
            kind = reader.varint()
            if kind == _CRYPTO:
                offset, size = reader.varint(), reader.varint()
                piece = payload[reader.at : reader.at + size]
                reader.at += len(piece)
                if len(piece) > len(pieces.get(offset, b"")):
                    pieces[offset] = piece
                if len(piece) < size:
                    return pieces, True
            elif kind in {_ACK, _ACK_ECN}:
                _skip_ack(reader, kind)
            else:
                return pieces, kind != _CLOSE
    except _EndError:
        return pieces, True
    return pieces, True


def _skip_ack(reader: _Reader, kind: int) -> None:
    """RFC 9000, 19.3."""
    reader.varint()
    reader.varint()
    ranges = reader.varint()
    reader.varint()
    for _ in range(2 * ranges + (3 if kind == _ACK_ECN else 0)):
        reader.varint()


class Initials:
    """The client's first packets on one flow: give it the datagrams as they come."""

    __slots__ = ("_complete", "_keys", "_malformed", "_pieces", "datagrams", "version")

    def __init__(self) -> None:
        """Nothing is known yet."""
        self._keys: dict[bytes, Keys] = {}  # by the connection id they follow from: the first, and one after a Retry
        self._pieces: dict[int, bytes] = {}
        self._complete = False
        self._malformed = False
        self.version = 0  # of the first Initial that could be read
        self.datagrams = 0

    @property
    def spent(self) -> bool:
        """Whether nothing more will be looked at."""
        return self._complete or self.datagrams >= DATAGRAMS_MOST

    def add(self, data: bytes, whole: bool = True) -> None:
        """Take in one datagram, or several that went to the kernel as one; what is no Initial is passed over.

        ``whole`` is False when the capture has only its first bytes.
        """
        if self.spent:
            return
        self.datagrams += 1
        begin = 0
        with suppress(_EndError):
            for _ in range(PACKETS_MOST):
                packet = _packet(data, begin)
                if packet is None or (whole and packet.end > len(data)):
                    return
                if packet.type == 0:
                    self._initial(data, packet)
                begin = packet.end
                while data[begin : begin + 1] == b"\0":  # some pad the datagram, and not the packet
                    begin += 1

    def hello(self) -> tls.Hello | None:
        """Return what there is of the hello, None if no Initial was read or it has no hello."""
        if not self.version:
            return None
        hello = tls.handshake(self._joined())
        if hello is None:
            return None
        self._complete = not hello.cut
        return hello._replace(malformed=True) if self._malformed else hello

    def _initial(self, data: bytes, packet: _Packet) -> None:
        """Later packets of the client have a connection id that the server chose, and still the keys of the first."""
        candidates = dict(self._keys)
        if packet.connection not in candidates:
            candidates[packet.connection] = client_keys(packet.version, packet.connection)
        for connection, keys in candidates.items():
            payload = _opened(data, packet, keys)
            if payload is None:
                continue
            pieces, malformed = _crypto(payload)
            if packet.end > len(data):
                if not self.version and pieces.get(0, b"")[:1] != _CLIENT_HELLO:
                    return  # noise, or nothing that it could be told from
                malformed = False  # it ends somewhere
            if len(self._keys) < _KEYS_MOST:
                self._keys[connection] = keys
            self.version = self.version or packet.version
            self._malformed |= malformed
            for offset, piece in pieces.items():
                self._keep(offset, piece)
            return

    def _keep(self, offset: int, piece: bytes) -> None:
        known = self._pieces.get(offset)
        if offset + len(piece) > HELLO_MOST or (known is None and len(self._pieces) >= PIECES_MOST):
            self._malformed = True
        elif known is None or len(piece) > len(known):
            self._pieces[offset] = piece

    def _joined(self) -> bytes:
        """The beginning of the hello, as far as it has no hole."""
        joined = bytearray()
        for offset in sorted(self._pieces):
            if offset > len(joined):
                break
            joined += self._pieces[offset][len(joined) - offset :]
        return bytes(joined)
