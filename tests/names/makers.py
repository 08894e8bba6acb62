"""Make the traffic that the names are read from, by others' code where there is any: ssl, aioquic, dnspython."""

from __future__ import annotations

import random
import ssl
from collections.abc import Sequence

import dns.flags
import dns.message
import dns.rrset
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.connection import QuicConnection
from aioquic.quic.crypto import CryptoPair

GREASE = (0x0A0A, 0x3A3A, 0xFAFA)
X25519MLKEM768 = 0x11EC
KEY_SHARE = 1216  # bytes that a client sends of X25519MLKEM768: 1,184 of ML-KEM-768 and 32 of X25519
QUIC_V1 = 1
QUIC_V2 = 0x6B3343CF


def vector(data: bytes, width: int = 2) -> bytes:
    """Data with its length before it."""
    return len(data).to_bytes(width, "big") + data


def real_hello(server_name: str | None = "www.example.org", protocols: Sequence[str] = ()) -> bytes:
    """The records that OpenSSL sends first, by way of the ssl module and without a network."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    if protocols:
        context.set_alpn_protocols(list(protocols))
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = context.wrap_bio(incoming, outgoing, server_hostname=server_name)
    try:
        client.do_handshake()
    except ssl.SSLWantReadError:
        return outgoing.read()
    raise AssertionError("a handshake without a server has ended")


def extension(kind: int, body: bytes) -> bytes:
    """One extension of a hello."""
    return kind.to_bytes(2, "big") + vector(body)


def server_name(name: bytes) -> bytes:
    """The extension that names the server."""
    return extension(0, vector(b"\0" + vector(name)))


def alpn(*protocols: bytes) -> bytes:
    """The extension that offers protocols."""
    return extension(16, vector(b"".join(vector(protocol, 1) for protocol in protocols)))


def versions(*numbers: int) -> bytes:
    """The extension that offers versions of TLS."""
    return extension(43, vector(b"".join(number.to_bytes(2, "big") for number in numbers), 1))


def key_share(*groups: tuple[int, int]) -> bytes:
    """The extension with keys, each of a group and so many bytes."""
    return extension(51, vector(b"".join(group.to_bytes(2, "big") + vector(bytes(size)) for group, size in groups)))


def encrypted_hello(inner: bytes = bytes(160)) -> bytes:
    """The extension of an outer hello that carries an encrypted one (RFC 9849, 5)."""
    return extension(0xFE0D, b"\0" + b"\0\1\0\1" + b"\7" + vector(bytes(32)) + vector(inner))


def hello(*extensions: bytes, session: bytes = bytes(32)) -> bytes:
    """A ClientHello as a handshake message, as browsers make it."""
    ciphers = b"".join(number.to_bytes(2, "big") for number in (GREASE[0], 0x1301, 0x1302, 0x1303, 0xC02B))
    body = (
        b"\x03\x03" + bytes(range(32)) + vector(session, 1) + vector(ciphers) + b"\1\0" + vector(b"".join(extensions))
    )
    return b"\1" + vector(body, 3)


def browser_hello(name: bytes = b"www.example.org", seed: int = 0, *more: bytes) -> bytes:
    """A hello like today's: GREASE, a key for after quantum computers, an encrypted hello, extensions shuffled."""
    extensions = [
        server_name(name),
        alpn(b"h2", b"http/1.1"),
        versions(GREASE[1], 0x0304, 0x0303),
        key_share((GREASE[2], 1), (X25519MLKEM768, KEY_SHARE), (0x001D, 32)),
        encrypted_hello(),
        extension(23, b""),
        extension(10, vector(b"".join(group.to_bytes(2, "big") for group in (GREASE[2], X25519MLKEM768, 0x1D)))),
        *more,
    ]
    random.Random(seed).shuffle(extensions)
    return hello(extension(GREASE[0], b""), *extensions, extension(GREASE[1], b"\0"))


def records(message: bytes, size: int = 16_384) -> bytes:
    """A handshake message in records of at most so many bytes."""
    pieces = [message[at : at + size] for at in range(0, len(message), size)]
    return b"".join(b"\x16\x03\x01" + vector(piece) for piece in pieces)


def quic_datagrams(
    name: str = "quic.example.org", protocols: Sequence[str] = ("h3",), version: int = QUIC_V1
) -> list[bytes]:
    """What a client of aioquic sends first; many protocols make a hello that takes several datagrams."""
    configuration = QuicConfiguration(
        is_client=True,
        server_name=name,
        alpn_protocols=list(protocols),
        original_version=version,
        supported_versions=[version],
    )
    connection = QuicConnection(configuration=configuration)
    connection.connect(("192.0.2.1", 443), now=0.0)
    return [data for data, _ in connection.datagrams_to_send(now=0.0)]


def varint(number: int) -> bytes:
    """A number as QUIC writes it (RFC 9000, 16), in four bytes."""
    return (0x80000000 | number).to_bytes(4, "big")


def crypto_frame(message: bytes, begin: int, end: int) -> bytes:
    """The frame with this part of a handshake message."""
    return b"\6" + varint(begin) + vector_of(message[begin:end])


def vector_of(data: bytes) -> bytes:
    """Data with its length before it, as QUIC writes that."""
    return varint(len(data)) + data


def initial(
    payload: bytes,
    number: int = 0,
    version: int = QUIC_V1,
    connection: bytes = b"\x83\x94\xc8\xf0\x3e\x51\x57\x08",
    destination: bytes | None = None,
    token: bytes = b"",
    size: int = 1200,
) -> bytes:
    """An Initial packet, sealed by aioquic with the keys that follow from ``connection``; padded to ``size`` bytes.

    ``destination`` is the connection id that is in it, if that is another one.
    """
    first = 0xC1 if version == QUIC_V1 else 0xD1
    header = bytes([first]) + version.to_bytes(4, "big") + vector(connection if destination is None else destination, 1)
    header += vector(b"\5\6\7\x08", 1) + vector_of(token)
    payload += bytes(max(0, size - len(header) - 4 - 2 - 16 - len(payload)))
    payload += bytes(max(0, 4 - len(payload)))
    header += varint(2 + len(payload) + 16) + number.to_bytes(2, "big")
    pair = CryptoPair()
    pair.setup_initial(connection, is_client=True, version=version)
    return pair.encrypt_packet(header, payload, number)


def dns_query(name: str = "www.example.org.", kind: str = "A", number: int = 4711, edns: int = 1232) -> bytes:
    """A question as a stub resolver sends it."""
    query = dns.message.make_query(name, kind, use_edns=0 if edns else -1, payload=edns or 512)
    query.id = number
    return query.to_wire()


def dns_answer(
    records: Sequence[tuple[str, int, str, str]],
    name: str = "www.example.org.",
    kind: str = "A",
    number: int = 4711,
    rcode: int = 0,
    flags: str = "QR RD RA",
) -> bytes:
    """An answer: records are (name, time to live, type, text). Names are compressed."""
    query = dns.message.make_query(name, kind, use_edns=0, payload=1232)
    query.id = number
    response = dns.message.make_response(query)
    response.flags = dns.flags.from_text(flags)
    response.set_rcode(dns.rcode.Rcode(rcode))
    response.answer = [dns.rrset.from_text(owner, ttl, "IN", type_, text) for owner, ttl, type_, text in records]
    return response.to_wire()
