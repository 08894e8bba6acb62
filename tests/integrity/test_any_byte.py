"""Whatever single thing is done to a signed chain is found: any byte changed, removed or added, any line, anywhere."""

from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.integrity.written import stream
from tracer.integrity.keys import make_keys, read_public
from tracer.integrity.verify import Verifier


@cache
def signed() -> tuple[tuple[bytes, ...], bytes]:
    """The files of a signed stream, and the public key."""
    with TemporaryDirectory() as name:
        directory = Path(name)
        public = make_keys(directory / "key")
        files = stream(directory, segments=3, events=6, key=directory / "key")
        return tuple(path.read_bytes() for path in files), read_public(public)


def is_right(contents: list[bytes]) -> bool:
    """Whether the stream in files of these contents is verified."""
    with TemporaryDirectory() as name:
        paths = [Path(name, f"part{number}") for number in range(len(contents))]
        for path, data in zip(paths, contents, strict=True):
            path.write_bytes(data)
        return Verifier([signed()[1]]).run(paths).right


def test_as_it_was_written_it_is_right() -> None:
    """Else the other tests would say nothing."""
    assert is_right(list(signed()[0]))


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_any_changed_byte_is_found(data: st.DataObject) -> None:
    """Any byte of any file, to any other value."""
    contents = list(signed()[0])
    victim = data.draw(st.integers(0, len(contents) - 1))
    at = data.draw(st.integers(0, len(contents[victim]) - 1))
    mask = data.draw(st.integers(1, 255))
    old = contents[victim]
    contents[victim] = old[:at] + bytes([old[at] ^ mask]) + old[at + 1 :]
    assert not is_right(contents)


def test_every_byte_of_the_last_record_is_under_the_seal() -> None:
    """The last line of all is followed by nothing that could tell of it: each of its bytes is tried."""
    contents = list(signed()[0])
    last = contents[-1]
    for at in range(last.rindex(b"\n", 0, -1) + 1, len(last)):
        changed = [*contents[:-1], last[:at] + bytes([last[at] ^ 1]) + last[at + 1 :]]
        assert not is_right(changed), at


@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_anything_cut_out_or_put_in_is_found(data: st.DataObject) -> None:
    """A piece of any length out of a file, or any bytes into it, but for whole lines at its very end."""
    contents = list(signed()[0])
    victim = data.draw(st.integers(0, len(contents) - 1))
    old = contents[victim]
    begin = data.draw(st.integers(0, len(old) - 1))
    end = data.draw(st.integers(begin, len(old)))
    put = data.draw(st.binary(max_size=20))
    new = old[:begin] + put + old[end:]
    if new == old:
        return
    contents[victim] = new
    unsealed_end = victim == len(contents) - 1 and old.startswith(new) and new.endswith(b"\n")
    assert is_right(contents) == unsealed_end
