"""The first packets of QUIC are opened and their hello is read, as aioquic and browsers send it, and hostile ones."""

from itertools import pairwise

import pytest
from aioquic.quic.crypto import CryptoPair

from tests.names import makers
from tests.names.makers import QUIC_V1, QUIC_V2, crypto_frame, initial, quic_datagrams
from tracer.names.quic import DATAGRAMS_MOST, Initials, client_keys
from tracer.names.tls import Hello, handshake

CONNECTION = bytes.fromhex("8394c8f03e515708")

# The plaintext of RFC 9001, A.2 and RFC 9369, A.2, and the first and last bytes of the packets that it becomes.
PLAIN = bytes.fromhex(
    "060040f1010000ed0303ebf8fa56f12939b9584a3896472ec40bb863cfd3e86804fe3a47f06a2b69484c0000041301130201"
    "0000c000000010000e00000b6578616d706c652e636f6dff01000100000a00080006001d0017001800100007000504616c70"
    "6e000500050100000000003300260024001d00209370b2c9caa47fbabaf4559fedba753de171fa71f50f1ce15d43e994ec74"
    "d748002b0003020304000d0010000e0403050306030203080408050806002d00020101001c00024001003900320408ffffff"
    "ffffffffff05048000ffff07048000ffff0801100104800075300901100f088394c8f03e51570806048000ffff"
)
SEALED = {
    QUIC_V1: ("c000000001088394c8f03e5157080000449e7b9aec34d1b1c98dd7689fb8ec11", "e221af44860018ab0856972e194cd934"),
    QUIC_V2: ("d76b3343cf088394c8f03e5157080000449ea0c95e82ffe67b6abcdb4298b485", "a18b2faa745b6fe189cf772a9f84cbfc"),
}
BROWSER = makers.browser_hello(b"quic.example.org")
BROWSER_HELLO = handshake(BROWSER)
SMALL = makers.hello(makers.server_name(b"a.example"), makers.alpn(b"h3"))


def read(*datagrams: bytes) -> Hello | None:
    """The hello that these datagrams have."""
    initials = Initials()
    for datagram in datagrams:
        initials.add(datagram)
    return initials.hello()


@pytest.mark.parametrize(
    ("version", "key", "iv", "header"),
    [
        (QUIC_V1, "1f369613dd76d5467730efcbe3b1a22d", "fa044b2f42a3fd3b46fb255c", "9f50449e04a0e810283a1e9933adedd2"),
        (QUIC_V2, "8b1a0bc121284290a29e0971b5cd045d", "91f73e2351d8fa91660e909f", "45b95e15235d6f45a6b19cbcb0294ba9"),
    ],
)
def test_keys(version: int, key: str, iv: str, header: str) -> None:
    """The keys are those of RFC 9001, A.1 and of RFC 9369, A.1."""
    assert client_keys(version, CONNECTION) == tuple(map(bytes.fromhex, (key, iv, header)))


@pytest.mark.parametrize("version", [QUIC_V1, QUIC_V2])
def test_packets_of_the_standards(version: int) -> None:
    """The packets of RFC 9001, A.2 and RFC 9369, A.2, made here by aioquic, are opened."""
    first = "c300000001" if version == QUIC_V1 else "d36b3343cf"
    header = bytes.fromhex(first + "088394c8f03e5157080000449e00000002")
    pair = CryptoPair()
    pair.setup_initial(CONNECTION, is_client=True, version=version)
    packet = pair.encrypt_packet(header, PLAIN + bytes(1162 - len(PLAIN)), 2)
    begin, end = SEALED[version]
    assert packet.hex().startswith(begin)
    assert packet.hex().endswith(end)
    assert read(packet) == Hello(b"example.com", (b"alpn",), 0x0304, False, False, False)


@pytest.mark.parametrize("version", [QUIC_V1, QUIC_V2])
def test_aioquic(version: int) -> None:
    """A client of aioquic is read, and so is one whose hello takes two datagrams, whichever comes first."""
    expected = Hello(b"quic.example.org", (b"h3",), 0x0304, False, False, False)
    assert read(*quic_datagrams(version=version)) == expected
    many = quic_datagrams(protocols=[f"protocol-{number:04}" for number in range(100)], version=version)
    assert len(many) == 2
    hello = read(*many)
    assert hello is not None
    assert (hello.server_name, len(hello.protocols), hello.cut) == (b"quic.example.org", 16, False)
    assert read(*reversed(many)) == hello
    assert read(b"".join(many)) == hello  # given to the kernel at once (UDP_SEGMENT)
    assert read(many[0], many[0], many[1]) == hello
    first = read(many[0])
    assert first is not None
    assert first.cut


def test_browsers() -> None:
    """A hello in many pieces out of order, with PING and PADDING between them, over two packets, is put together."""
    size = len(BROWSER)
    cuts = [0, 7, 90, 91, 400, 700, 1100, size]
    frames = [crypto_frame(BROWSER, begin, end) for begin, end in pairwise(cuts)]
    one = initial(frames[4] + b"\1" + frames[2] + bytes(9) + frames[0] + b"\1\1" + frames[5])
    two = initial(b"\2\0\0\0\0" + frames[6] + frames[3] + frames[1], number=1)
    assert read(one, two) == BROWSER_HELLO
    assert read(two, one) == BROWSER_HELLO
    hole = read(one)
    assert hole is not None
    assert hole.cut
    assert not hole.malformed


def test_overlaps() -> None:
    """Pieces that are sent again, longer, shorter or overlapping, are no trouble."""
    frames = [(0, 300), (200, 500), (0, 300), (100, 200), (100, 900), (450, len(BROWSER))]
    data = [crypto_frame(BROWSER, *frame) for frame in frames]
    assert read(initial(b"".join(data[:4])), initial(data[4], number=1), initial(data[5], number=2)) == BROWSER_HELLO


def test_other_packets() -> None:
    """Other packets before and behind it in the datagram are passed over, and so is what pads the datagram."""
    hello = crypto_frame(SMALL, 0, len(SMALL))
    zero_rtt = b"\xd1\0\0\0\1" + b"\1a\1b" + makers.vector_of(bytes(100))
    expected = read(initial(hello))
    assert expected == handshake(SMALL)
    assert read(zero_rtt + initial(hello)) == expected
    assert read(initial(hello, size=300) + bytes(900)) == expected
    assert read(initial(b"\1", size=100) + initial(hello, number=1)) == expected
    assert read(initial(hello, token=b"t" * 64)) == expected
    short = b"\x40" + bytes(60)
    assert read(short, initial(hello)) == expected
    assert read(initial(hello) + short) == expected


def test_later_connection_id() -> None:
    """Later packets have the id that the server chose and the first one's keys; after a Retry the keys are new."""
    one = crypto_frame(BROWSER, 0, 900)
    two = crypto_frame(BROWSER, 900, len(BROWSER))
    assert read(initial(one), initial(two, number=1, destination=b"chosen")) == BROWSER_HELLO
    again = [initial(frame, number=1 + n, connection=b"retried", token=b"t") for n, frame in enumerate((one, two))]
    assert read(initial(one), *again) == BROWSER_HELLO
    third = read(initial(one), initial(one, connection=b"retried"), initial(two, connection=b"a third"))
    assert third == BROWSER_HELLO


def test_ack_frames() -> None:
    """ACK frames of both kinds are passed over."""
    hello = crypto_frame(SMALL, 0, len(SMALL))
    ack = b"\2\5\0\2\1" + b"\0\1" * 2
    assert read(initial(ack + hello)) == handshake(SMALL)
    assert read(initial(b"\3" + ack[1:] + b"\1\2\3" + hello)) == handshake(SMALL)


def test_every_cut() -> None:
    """Of a packet that is cut what there is is read, unverified: the right name or none."""
    hello = crypto_frame(BROWSER, 0, 1000)
    data = initial(hello)
    whole = read(data)
    assert whole is not None
    named = 0
    for length in range(len(data)):
        initials = Initials()
        initials.add(data[:length], whole=False)
        found = initials.hello()
        if found is not None:
            assert found.cut
            assert not found.malformed
            assert found.server_name in {b"", whole.server_name}
            named += bool(found.server_name)
    assert named > 100


@pytest.mark.parametrize(
    "datagram",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(b"\xc0", id="one byte"),
        pytest.param(b"\xc0\0\0\0\0\4abcd\4efgh\0\0\0\1\x6b\x33\x43\xcf", id="version negotiation"),
        pytest.param(b"\xc0\xff\0\0\x1d" + bytes(1200), id="another version"),
        pytest.param(b"\xf0\0\0\0\1\4abcd\4efgh" + bytes(40), id="Retry"),
        pytest.param(b"\xc0\0\0\0\1\x15" + bytes(1200), id="id of 21 bytes"),
        pytest.param(b"\xc0\0\0\0\1\4abcd\4efgh\0\x40\x04" + bytes(4), id="too short for a sample"),
        pytest.param(b"\xc0\0\0\0\1\4abcd\4efgh\xff" + b"\xff" * 7 + bytes(1200), id="endless token"),
        pytest.param(b"\x80\0\0\0\1\4abcd\4efgh" + bytes(1200), id="without the fixed bit"),
        pytest.param(b"\xc0\0\0\0\1\4abcd\4efgh\0\x44\x00" + bytes(1024), id="of no key"),
        pytest.param(b"\xc0\0\0\0\1\4abcd\4efgh\0\x48\x00" + bytes(1024), id="noise that is cut"),
        pytest.param(initial(b"\1"), id="without a hello"),
        pytest.param(initial(b"\6" + makers.varint(0) + makers.vector_of(b"\2\0\0\1\0")), id="another handshake"),
    ],
)
def test_no_hello(datagram: bytes) -> None:
    """What is no Initial, of another version or without a hello says nothing, and does not hide the next datagram."""
    found = read(datagram)
    assert found is None or (found.cut and not found.server_name)
    assert read(datagram, initial(crypto_frame(SMALL, 0, len(SMALL)))) == handshake(SMALL)


def test_tampering() -> None:
    """A packet with one bit changed anywhere is not believed: nothing of it is told."""
    data = bytearray(initial(crypto_frame(SMALL, 0, len(SMALL)), size=0))
    for at in range(14, len(data)):
        data[at] ^= 0x04
        found = read(bytes(data))
        assert found is None or found.server_name == b"", at
        data[at] ^= 0x04
    assert read(bytes(data)) == handshake(SMALL)


@pytest.mark.parametrize(
    "frames",
    [
        pytest.param(b"\x0d\0\0\0", id="a frame that may not be there"),
        pytest.param(b"\x40\6\0", id="cut frame"),
        pytest.param(b"\2\xff", id="cut ACK"),
        pytest.param(b"\2\0\0" + b"\xff" * 8, id="ACK with endless ranges"),
        pytest.param(b"\6" + makers.varint(20_000) + makers.vector_of(b"x"), id="far beyond"),
    ],
)
def test_malformed_frames(frames: bytes) -> None:
    """What may not be in an Initial is flagged, and what came before it is kept."""
    hello = crypto_frame(SMALL, 0, len(SMALL))
    found = read(initial(hello + frames, size=0))
    assert found is not None
    assert found.server_name == b"a.example"
    assert found.malformed


def test_connection_close() -> None:
    """A client that gives up says so in an Initial; nothing is wrong with that."""
    found = read(initial(crypto_frame(SMALL, 0, len(SMALL)) + b"\x1c\0\0\0"))
    assert found == handshake(SMALL)


def test_many_pieces() -> None:
    """Of more pieces or frames than anyone sends the first are looked at, and it is flagged."""
    hello = crypto_frame(SMALL, 0, len(SMALL))
    pieces = b"".join(b"\6" + (0x4000 | at).to_bytes(2, "big") + b"\1x" for at in range(1000, 1600, 2))
    for frames in (pieces, b"\2\0\0\0\0" * 1100):
        found = read(initial(hello + frames))
        assert found == Hello(b"a.example", (b"h3",), 0x0303, False, False, True)


def test_three_datagrams() -> None:
    """After three datagrams, or a whole hello, nothing more is looked at."""
    hello = initial(crypto_frame(SMALL, 0, len(SMALL)))
    assert read(b"", b"", hello) == handshake(SMALL)
    assert read(b"", b"", b"", hello) is None
    assert DATAGRAMS_MOST == 3
    initials = Initials()
    initials.add(hello)
    assert [initials.spent, initials.hello(), initials.spent] == [False, handshake(SMALL), True]
    initials.add(initial(b"\x0d", number=1))
    assert initials.hello() == handshake(SMALL)
    assert initials.datagrams == 1
