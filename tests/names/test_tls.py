"""The hello of TLS is read as OpenSSL and browsers send it, split and cut as may be."""

import pytest

from tests.names import makers
from tracer.names.tls import NAME_MOST, Hello, handshake, stream

LONG_NAME = ".".join(["a" * 63, "b" * 63, "c" * 63, "d" * 57])


def read(data: bytes) -> Hello:
    """The hello of a stream, which must have one."""
    found = stream(data)
    assert found is not None
    return found


@pytest.mark.parametrize("name", ["www.example.org", LONG_NAME, "xn--bcher-kva.example"])
@pytest.mark.parametrize("protocols", [(), ("h2", "http/1.1"), ("x" * 255, "spdy/3", "h2")])
def test_openssl(name: str, protocols: tuple[str, ...]) -> None:
    """OpenSSL's hello has the name, the protocols in their order, and TLS 1.3 as the highest version."""
    found = read(makers.real_hello(name, protocols))
    assert found == Hello(name.encode(), tuple(p.encode() for p in protocols), 0x0304, False, False, False)


def test_without_a_name() -> None:
    """A hello without a name has none, and is a hello."""
    assert read(makers.real_hello(None)) == Hello(b"", (), 0x0304, False, False, False)


@pytest.mark.parametrize("seed", range(8))
def test_browsers(seed: int) -> None:
    """Shuffled extensions, GREASE, a key of 1,216 bytes and an encrypted hello: the outer name is told, and marked."""
    message = makers.browser_hello(b"outer.example.org", seed)
    assert len(message) > 1460
    expected = Hello(b"outer.example.org", (b"h2", b"http/1.1"), 0x0304, True, False, False)
    assert read(makers.records(message)) == expected
    assert handshake(message) == expected


@pytest.mark.parametrize("size", [1, 3, 4, 5, 100, 517])
def test_several_records(size: int) -> None:
    """A hello in several records is put together, however small they are."""
    message = makers.browser_hello()
    assert read(makers.records(message, size)) == handshake(message)


def test_more_after_it() -> None:
    """What follows the hello on the stream does not matter."""
    data = makers.real_hello()
    assert read(data + b"\x14\x03\x03\0\1\1" + b"\x17\x03\x03\0\x20" + bytes(32)) == read(data)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("size", [16_384, 200])
def test_every_cut(seed: int, size: int) -> None:
    """A capture that ends early gives what it has, marked as cut: the right name or none, never a part of it."""
    data = makers.records(makers.browser_hello(seed=seed), size)
    whole = read(data)
    named = False
    for length in range(1, len(data)):
        found = read(data[:length])
        assert found.cut
        assert not found.malformed
        assert found.server_name in {b"", whole.server_name}
        assert found.server_name or not named
        assert whole.protocols[: len(found.protocols)] == found.protocols
        named = bool(found.server_name)
    assert named


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x15\x03\x01\0\2\2\x28",
        b"\x16\x02\0\0\1\1",
        b"\x16\x03\x05\0\1\1",
        b"\x16\x03\x01\0\1\2",
        b"\x16\x03\x01\0\0\1",
        b"\x16\x03\x01\xff\xff\1",
        b"\x16\x03\x01\0\x04\1\xff\xff\xff",
        b"GET / HTTP/1.1",
    ],
)
def test_not_a_hello(data: bytes) -> None:
    """Alerts, other versions, other messages of the handshake and impossible lengths are no hello."""
    assert stream(data) is None


def test_records_that_do_not_follow() -> None:
    """A record of another type amid the hello: what was read before it counts, and is malformed."""
    data = makers.records(makers.hello(makers.server_name(b"a.example"), makers.alpn(b"h2")), 110)
    assert stream(data[:115] + b"\x17\x03\x03\0\1\0") == Hello(b"a.example", (), 0x0303, False, False, True)
    assert not read(data).malformed


@pytest.mark.parametrize(
    ("bad", "name"),
    [
        pytest.param([makers.server_name(b"a"), makers.server_name(b"b")], b"a", id="twice"),
        pytest.param([makers.extension(0, b"")], b"", id="empty"),
        pytest.param([makers.extension(0, b"\0\1\0")], b"", id="short"),
        pytest.param([makers.extension(0, b"\0\3\0\0\0")], b"", id="empty name"),
        pytest.param([makers.extension(0, b"\0\4\1\0\1a")], b"", id="another type of name"),
        pytest.param([makers.extension(0, b"\0\4\0\0\2a")], b"", id="name beyond the extension"),
        pytest.param([makers.extension(0, b"\0\5\0\0\1a")], b"", id="list of another length"),
        pytest.param([makers.server_name(b"n" * 256)], b"n" * 256, id="256 bytes"),
        pytest.param([makers.server_name(b"n" * 9000)], b"n" * NAME_MOST, id="9,000 bytes"),
        pytest.param([makers.server_name(b"a"), makers.extension(16, b"")], b"a", id="ALPN without a list"),
        pytest.param([makers.server_name(b"a"), makers.alpn(b"")], b"a", id="empty protocol"),
        pytest.param([makers.server_name(b"a"), makers.extension(16, b"\0\2\5h")], b"a", id="protocol beyond the end"),
        pytest.param([makers.server_name(b"a"), makers.extension(43, b"")], b"a", id="no versions"),
        pytest.param([makers.server_name(b"a"), makers.extension(0xFE0D, b"\1")], b"a", id="inner hello outside"),
    ],
)
def test_malformed_extensions(bad: list[bytes], name: bytes) -> None:
    """What is not as it should be is flagged, and does not hide the rest."""
    found = handshake(makers.hello(*bad, makers.extension(23, b"")))
    assert found is not None
    assert found.malformed
    assert not found.cut
    assert found.server_name == name


def test_extensions_that_end_elsewhere() -> None:
    """Lengths that do not fit together are flagged at each place."""
    message = makers.hello(makers.server_name(b"a.example"))
    for at in (38, 71, 83, len(message) - 20, len(message) - 16):
        found = handshake(message[:at] + bytes([message[at] ^ 0x10]) + message[at + 1 :])
        assert found is not None
        assert found.malformed, at


def test_old_hello() -> None:
    """A hello without extensions, as before TLS 1.2, is one without a name."""
    body = b"\x03\x01" + bytes(32) + b"\0" + b"\0\2\0\x2f" + b"\1\0"
    assert handshake(b"\1" + makers.vector(body, 3)) == Hello(b"", (), 0x0301, False, False, False)
    assert handshake(b"\1" + makers.vector(body + b"\0", 3)) == Hello(b"", (), 0x0301, False, False, True)


def test_grease_is_left_out() -> None:
    """Made-up protocols and versions, which are there to be ignored, are not told."""
    found = handshake(makers.hello(makers.alpn(b"\x0a\x0a", b"h2"), makers.versions(0xFAFA, 0x0303)))
    assert found is not None
    assert found.protocols == (b"h2",)
    assert found.version == 0x0303
    assert not found.malformed


def test_many_protocols() -> None:
    """Of more protocols than anyone offers the first are told."""
    found = handshake(makers.hello(makers.alpn(*[b"p%d" % number for number in range(100)])))
    assert found is not None
    assert found.protocols == tuple(b"p%d" % number for number in range(16))
