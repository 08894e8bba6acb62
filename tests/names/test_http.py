"""The host of an HTTP/1 request is what a server takes it for, and odd heads are flagged."""

import pytest

from tracer.names.http import HOST_MOST, Request, may_begin, parse

HEAD = b"GET /index.html HTTP/1.1\r\nUser-Agent: x\r\nHost: www.Example.org:8080\r\nAccept: */*\r\n\r\n"


def test_request() -> None:
    """A request has its method, host and port."""
    assert parse(HEAD) == Request(b"GET", b"www.Example.org", 8080, "1.1", False, False)


@pytest.mark.parametrize(
    ("head", "method", "host", "port"),
    [
        (b"POST / HTTP/1.0\r\nHOST:a.example\r\n\r\nbody\r\nHost: b", b"POST", b"a.example", 0),
        (b"GET / HTTP/1.0\r\n\r\n", b"GET", b"", 0),
        (b"\r\nGET / HTTP/1.1\nhost: \t a.example \t\n\n", b"GET", b"a.example", 0),
        (b"GET / HTTP/1.1\r\nHost: [2001:db8::1]:81\r\n\r\n", b"GET", b"2001:db8::1", 81),
        (b"GET / HTTP/1.1\r\nHost: 192.0.2.1\r\n\r\n", b"GET", b"192.0.2.1", 0),
        (b"GET / HTTP/1.1\r\nHost:\r\n\r\n", b"GET", b"", 0),
        (b"GET http://a.example:82/x HTTP/1.1\r\nHost: b.example\r\n\r\n", b"GET", b"a.example", 82),
        (b"CONNECT a.example:443 HTTP/1.1\r\nHost: b.example\r\n\r\n", b"CONNECT", b"a.example", 443),
        (b"OPTIONS * HTTP/1.1\r\nHost: a.example\r\n\r\n", b"OPTIONS", b"a.example", 0),
        (b"VERSION-CONTROL /x HTTP/1.1\r\nHost: a.example\r\n\r\n", b"VERSION-CONTROL", b"a.example", 0),
    ],
)
def test_forms(head: bytes, method: bytes, host: bytes, port: int) -> None:
    """Each form of a request names its host where RFC 9112 says."""
    found = parse(head)
    assert found is not None
    assert (found.method, found.host, found.port) == (method, host, port)
    assert not found.malformed
    assert not found.cut


@pytest.mark.parametrize(
    ("head", "host"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", b""),
        (b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", b"a"),
        (b"GET / HTTP/1.1\r\nHost : a\r\n\r\n", b""),
        (b"GET / HTTP/1.1\r\nHost: a\r\n b\r\n\r\n", b"a"),
        (b"GET / HTTP/1.1\r\nHost: a\r\nno colon\r\n\r\n", b"a"),
        (b"GET / HTTP/1.1\r\n: x\r\nHost: a\r\n\r\n", b"a"),
        (b"GET / HTTP/1.1\r\nHost: a:65536\r\n\r\n", b"a:65536"),
        (b"GET / HTTP/1.1\r\nHost: user@a\r\n\r\n", b"user@a"),
        (b"GET / HTTP/1.1\r\nHost: a b\r\n\r\n", b"a b"),
        (b"GET / HTTP/1.1\r\nHost: \x1b[31m\xff\r\n\r\n", b"\x1b[31m\xff"),
        (b"GET / HTTP/1.1\r\nHost: " + b"h" * 300 + b"\r\n\r\n", b"h" * 300),
        (b"GET / HTTP/1.1\r\nHost: " + b"h" * 3000 + b"\r\n\r\n", b"h" * HOST_MOST),
    ],
)
def test_malformed(head: bytes, host: bytes) -> None:
    """What a server should refuse is flagged; the host is what it says, with its bytes as they are."""
    found = parse(head)
    assert found is not None
    assert found.malformed
    assert found.host == host


def test_folded_elsewhere() -> None:
    """A line that goes on after another header than Host does no harm."""
    found = parse(b"GET / HTTP/1.1\r\nHost: a\r\nX: 1\r\n\tHost: b\r\n\r\n")
    assert found == Request(b"GET", b"a", 0, "1.1", False, False)


def test_every_cut() -> None:
    """A head that is cut gives the host if its line is whole, and never a part of it."""
    end = HEAD.index(b"\r\nAccept")
    for length in range(4, len(HEAD)):
        found = parse(HEAD[:length])
        assert found is not None, length
        assert found.cut
        assert not found.malformed
        assert found.host == (b"www.Example.org" if length >= end + 2 else b"")


def test_cut_line() -> None:
    """A request line that goes on beyond the capture counts for the methods that are known."""
    assert parse(b"GET /" + b"x" * 4000) == Request(b"GET", b"", 0, "1.1", True, False)
    assert parse(b"GET http://a.example/" + b"x" * 4000) == Request(b"GET", b"a.example", 0, "1.1", True, False)
    assert parse(b"GET http://a.exam") == Request(b"GET", b"", 0, "1.1", True, False)
    assert parse(b"CONNECT a.exam") == Request(b"CONNECT", b"", 0, "1.1", True, False)
    assert parse(b"EHLO a.example") is None


def test_http2() -> None:
    """HTTP/2 without TLS is told by how it begins, without a host."""
    preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
    assert parse(preface + bytes(50)) == Request(b"PRI", b"", 0, "2", False, False)
    assert parse(preface[:10]) == Request(b"PRI", b"", 0, "2", True, False)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"G",
        b"get / HTTP/1.1\r\n\r\n",
        b"GET / HTTP/2.0\r\n\r\n",
        b"GET  / HTTP/1.1\r\n\r\n",
        b"GET /\r\n",
        b"SSH-2.0-OpenSSH_9.2\r\n",
        b"\x16\x03\x01",
        b"A" * 30 + b" / HTTP/1.1\r\n\r\n",
    ],
)
def test_not_http(data: bytes) -> None:
    """What is no request, or not yet, is none."""
    assert parse(data) is None


def test_may_begin() -> None:
    """One byte may be enough to tell that no request comes."""
    assert may_begin(b"")
    assert may_begin(b"\r\nGE")
    assert may_begin(b"GET ")
    assert not may_begin(b"get")
    assert not may_begin(b"\x16")
    assert not may_begin(b"A" * 21)


@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    "worst",
    [
        b"\n" * 4096,
        b"GET " + b"H" * 4096,
        b"GET / HTTP/1.1\r\n" + b"\r" * 4096,
        HEAD[:26] + b"a\n" * 2048,
        b"A-" * 2048,
    ],
)
def test_work_is_bounded(worst: bytes) -> None:
    """Four thousand bytes of the worst are read in no time: it takes minutes if a pattern goes back and forth."""
    assert {parse(worst) for _ in range(1000)} <= {
        None,
        Request(b"GET", b"", 0, "1.1", True, False),
        Request(b"GET", b"", 0, "1.1", True, True),
    }
