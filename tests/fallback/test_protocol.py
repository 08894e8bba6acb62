"""The protocol between worker and broker is closed: whatever is no question or answer is refused, whole."""

import errno
import gc
import os
import socket
import struct
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tracer.fallback import protocol
from tracer.fallback.files import EACH_MOST, FILES, GLANCES, LINKS, READ_MOST
from tracer.fallback.protocol import Asks, ProtocolError, Question, hear, parse, receive, say

PIDS = st.integers(1, 1 << 22)
STARTS = st.integers(0, (1 << 64) - 1)


def questions(what: Asks, names: int, *more: st.SearchStrategy[int]) -> st.SearchStrategy[Question]:
    """Questions of a kind with ``names`` names, and with a pid, a start, and a number of bytes if given."""
    return st.tuples(st.integers(0, names - 1), *more).map(lambda fields: Question(what, *fields))


QUESTIONS = st.one_of(
    questions(Asks.PIDS, 1),
    questions(Asks.READ, len(FILES), PIDS, STARTS, st.integers(0, READ_MOST)),
    st.tuples(st.integers(0, len(FILES) - 1), st.integers(0, EACH_MOST), st.lists(PIDS, max_size=50).map(tuple)).map(
        lambda fields: Question(Asks.EACH, fields[0], most=fields[1], pids=fields[2])
    ),
    questions(Asks.LINK, len(LINKS), PIDS, STARTS),
    *(questions(what, 1, PIDS, STARTS) for what in (Asks.FDS, Asks.EXE, Asks.CGROUP)),
    questions(Asks.DIAG, 1, PIDS),
    questions(Asks.GLANCE, len(GLANCES), PIDS),
    questions(Asks.OUTPUT, 1, st.just(0), STARTS, st.integers(0, (1 << 64) - 1)),
    questions(Asks.ROTATE, 16, PIDS, STARTS, st.integers(0, 1 << 63)),
    questions(Asks.LOOK, 1, st.just(0), STARTS),
    questions(Asks.CONFIG, 2, st.just(0), STARTS),
    questions(Asks.ALIVE, 16, st.just(0), STARTS, st.integers(0, 1 << 63)),
    st.tuples(st.integers(0, 15), STARTS, st.integers(0, 1 << 63), st.binary(max_size=1024)).map(
        lambda fields: Question(Asks.LOST, fields[0], 0, *fields[1:3], text=fields[3])
    ),
)
HEAD = struct.Struct("<BBHIQQI")


@pytest.fixture(name="ends")
def _ends() -> Iterator[tuple[socket.socket, socket.socket]]:
    """Two ends of a line."""
    with pair() as ends:
        yield ends


class pair:  # noqa: N801
    """Two ends of a line, for a while; both give up after some seconds rather than hang."""

    def __enter__(self) -> tuple[socket.socket, socket.socket]:
        self.ends = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        for end in self.ends:
            end.settimeout(20)
        return self.ends

    def __exit__(self, *_: object) -> None:
        for end in self.ends:
            end.close()


def descriptors() -> int:
    """How many are open."""
    return len(os.listdir("/proc/self/fd"))  # noqa: PTH208


@given(QUESTIONS)
def test_questions_come_through(question: Question) -> None:
    """Each question is understood as it was asked."""
    assert parse(question.pack()) == question


@given(st.binary(max_size=200))
def test_noise_is_no_question(data: bytes) -> None:
    """Whatever bytes come, they are a question that packs to the same bytes, or refused."""
    try:
        question = parse(data)
    except ProtocolError:
        return
    assert question.pack() == data


@given(QUESTIONS, st.data())
def test_changed_questions(question: Question, data: st.DataObject) -> None:
    """A question with a byte changed, cut off or added is another question, or refused."""
    packed = bytearray(question.pack())
    at = data.draw(st.integers(0, len(packed) - 1))
    how = data.draw(st.sampled_from(["change", "cut", "add"]))
    if how == "change":
        packed[at] ^= data.draw(st.integers(1, 255))
    elif how == "cut":
        del packed[at:]
    else:
        packed.insert(at, data.draw(st.integers(0, 255)))
    try:
        assert parse(bytes(packed)).pack() == bytes(packed)
    except ProtocolError:
        return


@pytest.mark.parametrize(
    "packed",
    [
        b"",
        HEAD.pack(0, 0, 0, 0, 0, 0, 0),
        HEAD.pack(99, 0, 0, 0, 0, 0, 0),
        HEAD.pack(Asks.PIDS, 1, 0, 0, 0, 0, 0),
        HEAD.pack(Asks.PIDS, 0, 1, 0, 0, 0, 0),
        HEAD.pack(Asks.PIDS, 0, 0, 0, 1, 0, 0),
        HEAD.pack(Asks.PIDS, 0, 0, 5, 0, 0, 0),
        HEAD.pack(Asks.PIDS, 0, 0, 0, 0, 0, 1) + b"/",
        HEAD.pack(Asks.READ, len(FILES), 0, 1, 0, 0, 0),
        HEAD.pack(Asks.READ, 0, 0, (1 << 22) + 1, 0, 0, 0),
        HEAD.pack(Asks.READ, 0, 0, 1, 0, READ_MOST + 1, 0),
        HEAD.pack(Asks.READ, 0, 0, 1, 0, 0, 11) + b"/etc/shadow",
        HEAD.pack(Asks.LINK, len(LINKS), 0, 1, 0, 0, 0),
        HEAD.pack(Asks.EACH, 0, 0, 0, 0, EACH_MOST + 1, 0),
        HEAD.pack(Asks.EACH, 0, 0, 1, 0, 0, 0),
        HEAD.pack(Asks.EACH, 0, 0, 0, 0, 0, 3) + b"abc",
        HEAD.pack(Asks.EACH, 0, 0, 0, 0, 0, 4) + struct.pack("<I", 0),
        HEAD.pack(Asks.EACH, 0, 0, 0, 0, 0, 4) + struct.pack("<I", (1 << 22) + 1),
        HEAD.pack(Asks.EACH, 0, 0, 0, 0, 0, 4 * 8193) + bytes(range(1, 5)) * 8193,
        HEAD.pack(Asks.DIAG, 0, 0, 1, 1, 0, 0),
        HEAD.pack(Asks.GLANCE, len(GLANCES), 0, 1, 0, 0, 0),
        HEAD.pack(Asks.GLANCE, 0, 0, 1, 1, 0, 0),
        HEAD.pack(Asks.GLANCE, 0, 0, 1, 0, 1, 0),
        HEAD.pack(Asks.OUTPUT, 1, 0, 0, 0, 0, 0),
        HEAD.pack(Asks.OUTPUT, 0, 0, 1, 0, 0, 0),
        HEAD.pack(Asks.LOST, 0, 0, 0, 0, 0, 1025) + bytes(1025),
        HEAD.pack(Asks.LOST, 0, 0, 0, 0, 0, 5) + b"four",
    ],
)
def test_out_of_bounds(packed: bytes) -> None:
    """What is out of a bound, has what its kind can't have, or says a wrong length, is no question."""
    with pytest.raises(ProtocolError):
        parse(packed)


def test_long_questions_are_refused(ends: tuple[socket.socket, socket.socket]) -> None:
    """A datagram longer than any question is refused, not taken for its beginning; so is one with a descriptor."""
    here, there = ends
    before = descriptors()
    here.send(Question(Asks.PIDS).pack() + bytes(1 << 16))
    with pytest.raises(ProtocolError):
        receive(there)
    socket.send_fds(here, [Question(Asks.PIDS).pack()], [0])
    with pytest.raises(ProtocolError):
        receive(there)
    assert descriptors() == before
    here.close()
    assert receive(there) == b""


@given(st.integers(0, 4095), st.integers(0, 300_000).map(lambda n: bytes(range(256)) * (n // 256)), st.booleans())
def test_answers_come_through(number: int, data: bytes, with_fd: bool) -> None:
    """Each answer is heard as it was said, of any length, with its descriptor."""
    with pair() as (here, there):
        there.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
        say(there, number, data, 0 if with_fd else None)
        heard = hear(here)
        assert (heard.errno, heard.data) == (number, data)
        assert (heard.fd is not None) == with_fd
        if heard.fd is not None:
            assert os.path.sameopenfile(heard.fd, 0)
            os.close(heard.fd)


@pytest.fixture(scope="module")
def _collected() -> None:
    """What other tests have left open is not closed while descriptors are counted here."""
    gc.collect()


@pytest.mark.usefixtures("_collected")
@given(st.lists(st.binary(max_size=300), max_size=5), st.booleans())
def test_noise_is_no_answer(parts: list[bytes], with_fd: bool) -> None:
    """Whatever comes, and however it ends, is an answer or one of the named errors, and no descriptor stays open."""
    before = descriptors()
    with pair() as (here, there):
        for part in parts:
            if with_fd:
                socket.send_fds(there, [part], [0, 0])
            else:
                there.send(part)
        there.close()
        try:
            heard = hear(here)
        except (ProtocolError, ConnectionError):
            pass
        else:
            assert heard.fd is None
    assert descriptors() == before


def test_answers_are_bounded(ends: tuple[socket.socket, socket.socket], monkeypatch: pytest.MonkeyPatch) -> None:
    """An answer that would be too long is EFBIG, and one that says so is refused unread."""
    here, there = ends
    monkeypatch.setattr(protocol, "ANSWER_MOST", 10)
    say(there, 0, bytes(11))
    assert hear(here) == (errno.EFBIG, b"", None)
    there.send(struct.pack("<iI", 0, 1 << 30))
    with pytest.raises(ProtocolError):
        hear(here)
