"""The chain: each segment carries the digest of the one before, and its own keys, which nothing else can give."""

import hashlib
import json
import os
import subprocess
import sys
from base64 import b64decode
from pathlib import Path
from typing import Any

import pytest

from tracer.integrity.chain import Chain, ChainError, Tail, key_context, sealed_message
from tracer.integrity.keys import (
    DEPTH,
    KeyFileError,
    KeyTree,
    is_certified,
    is_leaf,
    is_signed,
    make_keys,
    public_bytes,
    read_public,
)

ROOT = Path(__file__).parents[2]
CERTIFIES = """
import sys
from pathlib import Path
from tracer.integrity.chain import Chain

chain = Chain(key=Path(sys.argv[1]))
print(chain.first()["segment"]["signing"]["session"]["root"], flush=True)
sys.stdin.read()
"""
LINES = b'{"event":1}\n' * 5


def line_of(body: dict[str, Any]) -> bytes:
    """The body as a line."""
    return json.dumps({"tracer": body}, separators=(",", ":")).encode() + b"\n"


def segment(chain: Chain, *, final: bool = False) -> tuple[bytes, dict[str, Any], dict[str, Any]]:
    """The bytes of a whole segment, and what its first and its last record tell."""
    begin = line_of(chain.first())
    chain.feed(begin)
    chain.feed(LINES)
    end = chain.seal(line_of(chain.last(final=final)))
    chain.feed(end)
    told = [json.loads(line)["tracer"]["segment"] for line in (begin, end)]
    return begin + LINES + end, told[0], told[1]


def test_each_segment_carries_the_digest_of_the_one_before() -> None:
    """It is what sha256sum says of the whole file before; the first one has none, and numbers go up by one."""
    chain = Chain()
    before = b""
    for number in range(4):
        data, begin, end = segment(chain)
        assert begin["number"] == end["number"] == number
        if number:
            digest = hashlib.sha256(before).hexdigest()
            assert begin["previous"] == {"number": number - 1, "digest": digest, "bytes": len(before), "ended": True}
        else:
            assert "previous" not in begin
        assert (end["lines"], end["bytes"]) == (6, len(data.rpartition(b"\n")[0].rpartition(b"\n")[0]) + 1)
        before = data


def test_the_end_has_the_digest_of_all_before_it_and_a_checksum_of_itself() -> None:
    """Without a key: SHA-256 over what is before the last line, and over that line with zeros for the checksum."""
    chain = Chain()
    data, _, end = segment(chain)
    above, last = data.splitlines(keepends=True)[:-1], data.splitlines(keepends=True)[-1]
    assert end["digest"] == hashlib.sha256(b"".join(above)).hexdigest()
    blank = last.replace(end["checksum"].encode(), b"0" * 64)
    assert end["checksum"] == hashlib.sha256(sealed_message(chain.id, 0, end["digest"], blank)).hexdigest()


def test_a_signed_segment_leads_to_the_long_term_key(tmp_path: Path) -> None:
    """The key certifies the session, whose tree leads to the segment's key, which has signed it and names the next."""
    public = read_public(make_keys(tmp_path / "key"))
    chain = Chain(Tail("ab" * 16, 6, "00" * 32, 100, ended=True, torn=0, sequence=99), tmp_path / "key")
    named = ""
    for number in range(7, 10):
        data, begin, end = segment(chain, final=number == 9)
        told, session = begin["signing"], begin["signing"]["session"]
        assert session["first"] == 7
        assert bytes.fromhex(session["key"]) == public
        root, own = bytes.fromhex(session["root"]), bytes.fromhex(told["public"])
        assert is_certified(public, bytes.fromhex(session["certificate"]), chain.id, 7, root)
        assert is_leaf(key_context(chain.id, 7), root, number - 7, told["path"], own)
        assert not is_leaf(key_context(chain.id, 7), root, number - 6, told["path"], own)
        assert named in ("", told["public"])
        named = end.get("next", "")
        blank = data.splitlines(keepends=True)[-1].replace(end["signature"].encode(), b"0" * 128)
        message = sealed_message(chain.id, number, end["digest"], blank)
        assert is_signed(own, bytes.fromhex(end["signature"]), message)
    assert not named, "the last segment names no next"
    with pytest.raises(ChainError, match="has ended"):
        chain.first()


def test_a_certificate_is_of_one_chain_and_place(tmp_path: Path) -> None:
    """That of one session is worth nothing in another chain, at another segment or for another root."""
    public = read_public(make_keys(tmp_path / "key"))
    session = Chain(key=tmp_path / "key").first()["segment"]
    told = session["signing"]["session"]
    given = [public, bytes.fromhex(told["certificate"]), session["chain"], 0, bytes.fromhex(told["root"])]
    assert is_certified(*given)
    for place, other in enumerate([bytes(32), bytes(64), "00" * 16, 1, bytes(32)]):
        assert not is_certified(*[*given[:place], other, *given[place + 1 :]])


def test_keys_of_the_past_are_gone() -> None:
    """What the tree still has are keys of segments to come: at most one a level, none above a leaf that was taken."""
    tree = KeyTree("context")
    taken = [tree.take() for _ in range(9)]
    assert len({public_bytes(key) for key, _ in taken}) == 9
    for index, (key, path) in enumerate(taken):
        assert is_leaf("context", tree.root, index, path, public_bytes(key))
    waiting = tree._waiting
    assert len(waiting) <= DEPTH
    for node in waiting:
        assert node.place << (DEPTH - node.level) > 8, "its first segment is still to come"


def test_the_long_term_key_is_not_in_this_process(tmp_path: Path) -> None:
    """The memory of a process that had a session certified has the key nowhere, neither raw nor as text."""
    make_keys(tmp_path / "key")
    text = (tmp_path / "key").read_bytes().splitlines()[1]
    secret = b64decode(text)[-32:]  # the last member of PKCS #8 for Ed25519 (RFC 8410, 7)
    with subprocess.Popen(
        [sys.executable, "-c", CERTIFIES, str(tmp_path / "key")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=ROOT,
    ) as signer:
        assert signer.stdin is not None
        assert signer.stdout is not None
        root = signer.stdout.readline().strip()
        memory = memory_of(signer.pid)
        signer.stdin.close()
    assert root in memory, "the search finds what is there"
    assert secret not in memory
    assert text not in memory


def memory_of(pid: int) -> bytes:
    """All that a process can write to."""
    found = []
    with Path(f"/proc/{pid}/mem").open("rb", 0) as memory:
        for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
            place, rights, *_ = line.split()
            if rights.startswith("rw"):
                begin, end = (int(part, 16) for part in place.split("-"))
                memory.seek(begin)
                found.append(memory.read(end - begin))
    return b"".join(found)


@pytest.mark.parametrize("path", [[], ["a"] * DEPTH, [1] * DEPTH, [""] * DEPTH, ["AAAA"] * DEPTH, [None]])
def test_paths_of_anybody_lead_nowhere(path: list[object]) -> None:
    """A path that is no path is refused, and raises nothing."""
    assert not is_leaf("context", bytes(32), 0, path, bytes(32))


def test_an_unfinished_segment_is_told_by_the_next_session() -> None:
    """What is known of it from disk stands in the first record of the next."""
    told = Chain(Tail("ab" * 16, 3, "cd" * 32, 1000, ended=False, torn=7, sequence=12)).first()["segment"]
    assert told["number"] == 4
    assert told["chain"] == "ab" * 16
    assert told["previous"] == {"number": 3, "digest": "cd" * 32, "bytes": 1000, "ended": False, "torn": 7}


def test_the_order_of_calls_is_kept() -> None:
    """A segment begins once, ends once, and is sealed with the line that was asked for."""
    chain = Chain()
    with pytest.raises(ChainError, match="no segment is open"):
        chain.last()
    with pytest.raises(ChainError, match="no segment is being ended"):
        chain.seal(b"{}\n")
    chain.first()
    with pytest.raises(ChainError, match="not ended"):
        chain.first()
    body = chain.last()
    with pytest.raises(ChainError, match="no segment is open"):
        chain.last()
    for line in (b"{}\n", line_of(body)[:-1], line_of(body) * 2):
        with pytest.raises(ChainError, match="no line of the record"):
            chain.seal(line)
    chain.feed(chain.seal(line_of(body)))
    chain.first()
    assert chain.number == 1


def test_key_files_are_for_their_owner_alone(tmp_path: Path) -> None:
    """The private key has mode 0600 whatever the umask, and neither file is ever written over."""
    before = os.umask(0)
    try:
        public = make_keys(tmp_path / "key")
    finally:
        os.umask(before)
    assert (tmp_path / "key").stat().st_mode & 0o777 == 0o600
    assert public == tmp_path / "key.pub"
    with pytest.raises(KeyFileError, match="name a file that is not there"):
        make_keys(tmp_path / "key")
    (tmp_path / "key").unlink()
    with pytest.raises(KeyFileError, match=r"key\.pub"):
        make_keys(tmp_path / "key")


def test_unfit_key_files_are_refused_with_the_fix(tmp_path: Path) -> None:
    """A key that others may read, a link, a directory, no key, a public one, and one that is not there."""
    key = tmp_path / "key"
    public = make_keys(key)
    (tmp_path / "link").symlink_to(key)
    (tmp_path / "open").write_bytes(key.read_bytes())
    (tmp_path / "open").chmod(0o640)
    (tmp_path / "none").write_bytes(b"\xff" * 100)
    (tmp_path / "none").chmod(0o600)
    public.chmod(0o600)
    for path, why in (
        (tmp_path / "link", "symbolic"),
        (tmp_path / "open", "chmod 600"),
        (tmp_path / "none", "make one by tracer keygen"),
        (public, "make one by tracer keygen"),
        (tmp_path, "no regular file"),
        (tmp_path / "nowhere", "No such file"),
    ):
        with pytest.raises(KeyFileError, match=why):
            Chain(key=path)
    with pytest.raises(KeyFileError, match=r"give the \.pub file"):
        read_public(key)
