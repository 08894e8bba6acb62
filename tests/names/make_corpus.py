"""Make the corpus that fuzzing starts from: `python -m tests.names.make_corpus` writes tests/names/corpus anew.

Keys and random numbers of the real hellos differ each time; what was found by fuzzing (found-*) stays as it is.
"""

from __future__ import annotations

import struct
from pathlib import Path

from tests.names import makers
from tests.names.makers import alpn, crypto_frame, extension, hello, server_name, vector, versions

CORPUS = Path(__file__).parent / "corpus"
REQUEST = b"GET /index.html HTTP/1.1\r\nHost: www.example.org:8080\r\nAccept: */*\r\n\r\n"


def dns_inputs() -> dict[str, bytes]:
    """Messages of DNS, mDNS and LLMNR."""
    records = [
        ("www.example.org.", 300, "CNAME", "cdn.example.net."),
        ("cdn.example.net.", 60, "A", "192.0.2.1"),
        ("cdn.example.net.", 60, "AAAA", "2001:db8::1"),
        ("cdn.example.net.", 60, "TXT", '"text"'),
        ("cdn.example.net.", 60, "MX", "10 mail.example.net."),
    ]
    answer, query = makers.dns_answer(records), makers.dns_query()
    return {
        "query": query,
        "query-without-edns": makers.dns_query("example.com.", "AAAA", edns=0),
        "answer": answer,
        "nxdomain": makers.dns_answer([], rcode=3),
        "badvers": makers.dns_answer([], rcode=16),
        "escapes": struct.pack(">6H", 1, 256, 1, 0, 0, 0) + b"\3a.b\3\\\xff\n\0\0\1\0\1",
        "mdns": struct.pack(">6H", 0, 0x8400, 1, 1, 0, 0)
        + b"\4host\5local\0\0\1\x80\1\xc0\x0c\0\1\x80\1\0\0\0\x78\0\4\xc0\0\2\1",
        "loop": struct.pack(">6H", 1, 256, 1, 1, 0, 0) + b"\1a\0\0\1\0\1\xc0\x13\0\1\0\1",
        "many": struct.pack(">6H", 1, 0x8180, 9, 70, 20, 20) + b"\1a\0\0\1\0\1" * 9 + b"\1a\0\0\1\0\1\0\0\0\5\0\0" * 40,
        "records": struct.pack(">6H", 1, 0x8180, 0, 70, 20, 20) + b"\0\0\x10\0\1\0\0\0\5\0\0" * 110,
        "additional": struct.pack(">6H", 1, 0x8180, 0, 0, 50, 60) + b"\0\0\x29\0\1\1\0\0\5\0\0" * 110,
        "tcp": vector(query) + vector(answer),
    }


def tls_inputs() -> dict[str, bytes]:
    """Hellos as records."""
    return {
        "openssl": makers.real_hello("www.example.org", ["h2", "http/1.1"]),
        "openssl-without-name": makers.real_hello(None),
        "browser": makers.records(makers.browser_hello()),
        "browser-in-records": makers.records(makers.browser_hello(seed=1), 200),
        "small": makers.records(_small()),
        "alert": b"\x15\x03\x01\0\2\2\x28",
        "server": b"\x16\x03\x03\0\x04\2\0\0\0",
    }


def _small() -> bytes:
    return hello(
        server_name(b"a.example"), alpn(b"h2", b"\x0a\x0a"), versions(0x0304, 0x0A0A), extension(0xFE0D, b"\0")
    )


def handshake_inputs() -> dict[str, bytes]:
    """Hellos without records."""
    return {
        "small": _small(),
        "twice": hello(server_name(b"a"), server_name(b"b"), session=b""),
        "long-name": hello(server_name(b"n" * 1500)),
        "old": b"\1" + vector(b"\x03\x01" + bytes(32) + b"\0\0\2\0\x2f\1\0", 3),
        "many-protocols": hello(alpn(*[b"p%d" % number for number in range(20)])),
    }


def http_inputs() -> dict[str, bytes]:
    """Heads of requests."""
    return {
        "request": REQUEST,
        "absolute": b"POST http://a.example:81/x HTTP/1.0\r\nHost: b\r\n\r\n",
        "connect": b"CONNECT [2001:db8::1]:443 HTTP/1.1\r\nHost: b\r\n\r\n",
        "odd": b"\r\nGET / HTTP/1.1\nHost: a@b\n c\nHost : d\nX\n\n",
        "cut": b"GET http://a.example/" + b"x" * 50,
        "http2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\4\0\0\0\0\0",
        "lines": b"GET / HTTP/1.1\r\n" + b"a:\r\n" * 130,
    }


def quic_inputs() -> dict[str, bytes]:
    """Datagrams, each with its length before it."""
    many = [f"protocol-{number:04}" for number in range(100)]
    small = crypto_frame(_small(), 0, len(_small()))
    return {
        "v1": vector(makers.quic_datagrams()[0]),
        "v2": vector(makers.quic_datagrams(version=makers.QUIC_V2)[0]),
        "two": b"".join(map(vector, makers.quic_datagrams(protocols=many))),
        "coalesced": vector(
            b"\xd1\0\0\0\1\1a\1b\x40\x04abcd" + makers.initial(small, size=300) + bytes(50) + b"\x40rest"
        ),
        "negotiation": vector(b"\xc0\0\0\0\0\4abcd\4efgh\0\0\0\1\x6b\x33\x43\xcf"),
        "retry": vector(b"\xf0\0\0\0\1\4abcd\4efgh" + bytes(40)),
        "bare": makers.initial(small, token=b"token", size=0),
    }


def sealed_inputs() -> dict[str, bytes]:
    """Frames that are sealed by the target."""
    browser, small = makers.browser_hello(), _small()
    size = len(browser)
    parts = [crypto_frame(browser, at, min(at + 300, size)) for at in range(0, size, 300)]
    whole = crypto_frame(small, 0, len(small))
    return {
        "small": b"\0" + vector(whole),
        "v2": b"\1" + vector(whole + bytes(20)),
        "shuffled": b"\0" + vector(b"\1".join(parts[2:] + parts[:2])),
        "two": b"\0" + vector(b"".join(parts[:3])) + b"\0" + vector(b"\2\0\0\1\0\0\0" + b"".join(parts[3:])),
        "coalesced": b"\0" + vector(parts[0]) + b"\x08" + vector(b"".join(parts[1:])),
        "retry": b"\0" + vector(parts[0]) + b"\4" + vector(b"".join(parts[:4])) + b"\4" + vector(b"".join(parts[4:])),
        "frames": b"\2" + vector(b"\3\0\0\0\0\1\1\1" + b"\2\5\0\1\0\0\0" + whole + b"\x1c\0\0\0"),
        "pieces": b"\6"
        + vector(b"".join(b"\6" + (0x4000 | at).to_bytes(2, "big") + b"\1x" for at in range(200, 900, 2))),
        "far": b"\0" + vector(b"\6\x80\0\x50\0\1x" + whole),
    }


def flows_inputs() -> dict[str, bytes]:
    """Pieces of flows: choice, kind, length and data, as the target reads them."""
    browser = makers.records(makers.browser_hello())
    query, answer = makers.dns_query(), dns_inputs()["answer"]
    two = makers.quic_datagrams(protocols=[f"protocol-{number:04}" for number in range(100)])

    def piece(data: bytes, choice: int = 0, transport: int = 0, port: int = 0, cut: bool = False) -> bytes:
        return bytes([choice, transport | port << 3 | (0xC0 if cut else 0)]) + vector(data)

    return {
        "tls": piece(browser[:1448]) + piece(browser[1448:]),
        "tls-lost": piece(browser[:700]) + piece(browser[700:], choice=31 << 3),
        "tls-cut": piece(browser[:700], cut=True),
        "http": piece(b"GET / ") + piece(REQUEST[6:20]) + piece(REQUEST[20:]) + piece(b"more"),
        "http-end": piece(b"GET / HTTP/1.1\r\nHost: A\r\n") + piece(b"GET", choice=30 << 3 | 1),
        "dns": piece(query, transport=1, port=2) + piece(answer, choice=4, transport=1, port=2),
        "mdns": piece(dns_inputs()["mdns"], transport=1, port=3, choice=5) + piece(b"\xff" * 20, transport=1, port=4),
        "dns-tcp": piece(vector(query)[:1], port=2) + piece(vector(query)[1:] + vector(answer)[:50], port=2),
        "quic": piece(two[0], transport=1) + piece(two[1], transport=1),
        "both": piece(browser[:9]) + piece(REQUEST, choice=4) + piece(browser[9:]) + piece(b"SSH-2.0-x\r\n", choice=1),
        "small": piece(b"\r") + piece(b"\n") + piece(b"P") + piece(b"OST"),
    }


def main() -> None:
    """Write each input to a file of its own."""
    makers_of = {
        "dns": dns_inputs,
        "tls": tls_inputs,
        "handshake": handshake_inputs,
        "http": http_inputs,
        "quic": quic_inputs,
        "sealed": sealed_inputs,
        "flows": flows_inputs,
    }
    for target, make in makers_of.items():
        folder = CORPUS / target
        folder.mkdir(parents=True, exist_ok=True)
        for path in folder.iterdir():
            if not path.name.startswith("found-"):
                path.unlink()
        for name, data in make().items():
            (folder / name).write_bytes(data)


if __name__ == "__main__":
    main()
