"""Verify: what was written as it must be passes, and whatever is done to it later is found, with its place."""

import gzip
import hashlib
import json
import random
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import zstandard

from tests.integrity.written import Writer, lines_of, offsets, plain, stream
from tracer.formats.ecs import Ecs
from tracer.formats.ocsf import Ocsf
from tracer.integrity.account import _GROUPS
from tracer.integrity.chain import Chain
from tracer.integrity.files import listed
from tracer.integrity.head import Head
from tracer.integrity.keys import make_keys, read_public
from tracer.integrity.tail import tail_of
from tracer.integrity.verify import Report, Verifier, as_json
from tracer.model import Kind


@pytest.fixture(name="key")
def _key(tmp_path: Path) -> Path:
    make_keys(tmp_path / "key")
    return tmp_path / "key"


@pytest.fixture(name="out")
def _out(tmp_path: Path) -> Path:
    (tmp_path / "out").mkdir()
    return tmp_path / "out"


def public(key: Path) -> bytes:
    """The public key."""
    return read_public(key.with_name("key.pub"))


def verified(paths: list[Path], **asked: Any) -> Report:
    """The report of a stream."""
    return Verifier(**asked).run(paths)


def bad(paths: list[Path], **asked: Any) -> tuple[str, int, int, str]:
    """The file's name, the line, the byte and what is wrong at the first bad place, which there must be."""
    report = verified(paths, **asked)
    assert report.bad is not None
    assert not report.right
    return Path(report.bad.file).name, report.bad.line, report.bad.byte, report.what


def _pieces(data: bytes) -> bytes:
    return b"".join(gzip.compress(data[at : at + 100_000]) for at in range(0, len(data), 100_000))


def write(path: Path, lines: list[bytes]) -> None:
    """Write these lines in place of what is there."""
    path.write_bytes(b"".join(lines))


def test_a_signed_stream_is_right(out: Path, key: Path) -> None:
    """Every line of every file is counted, every segment is signed by the key, and only the end is not provable."""
    files = stream(out, key=key)
    report = verified(files, keys=[public(key)])
    assert report.right, report.what
    assert (report.files, report.sealed, report.signed, report.unsealed) == (4, 4, 4, [])
    assert report.segments == [0, 3]
    assert report.lines == sum(len(lines_of(path)) for path in files)
    assert report.size == sum(path.stat().st_size for path in files)
    assert (report.first, report.last) == (0, report.lines - 1)
    assert report.keys == [public(key).hex()]
    assert (report.sessions, report.complete, report.ended, report.tail) == (1, True, True, False)


@pytest.mark.parametrize("form", [Ecs, Ocsf])
def test_every_format_is_read(out: Path, key: Path, form: type) -> None:
    """Lines of each kind are counted, numbers and segments found, and a line that is missing, wherever it is."""
    files = stream(out, key=key, form=form)
    report = verified(files, keys=[public(key)])
    assert report.right, report.what
    assert (report.lines, report.last, report.sessions, report.complete) == (92, 91, 1, True)
    lines = lines_of(files[1])
    for place in range(len(lines)):
        write(files[1], [*lines[:place], *lines[place + 1 :]])
        assert bad(files)
    single = plain(out, form=form)
    assert verified([single]).right
    lines = lines_of(single)
    write(single, [*lines[:1], lines[1].replace(b"process-exec-failed", b"process-exited"), *lines[2:]])
    assert "the ledger tells of" in bad([single])[3]


def test_an_unsigned_stream_is_right(out: Path) -> None:
    """Without a key it is a chain all the same."""
    report = verified(stream(out))
    assert report.right, report.what
    assert (report.sealed, report.signed, report.keys) == (4, 0, [])


@pytest.mark.parametrize("seed", range(3))
def test_the_order_that_files_are_given_in_does_not_matter(out: Path, seed: int) -> None:
    """The files say their order themselves, chained or not."""
    files = stream(out)
    random.Random(seed).shuffle(files)
    assert verified(files).right
    whole = lines_of(plain(out))
    parts = [out / f"part{number}" for number in range(4)]
    for number, path in enumerate(parts):
        write(path, whole[number * 20 : (number + 1) * 20 if number < 3 else None])
    random.Random(seed).shuffle(parts)
    assert verified(parts).right


@pytest.mark.parametrize("signed", [False, True])
def test_a_removed_line_is_found(out: Path, key: Path, signed: bool) -> None:
    """The line behind it is the first bad place."""
    files = stream(out, key=key if signed else None)
    lines = lines_of(files[1])
    write(files[1], [*lines[:7], *lines[8:]])
    name, line, byte, what = bad(files)
    assert (name, line, byte) == (files[1].name, 8, list(offsets(files[1]))[7])
    assert "is missing before this one, and no loss record tells of it" in what


def test_swapped_lines_are_found(out: Path) -> None:
    """The first of the two is the bad place."""
    files = stream(out)
    lines = lines_of(files[2])
    lines[4], lines[5] = lines[5], lines[4]
    write(files[2], lines)
    name, line, _, what = bad(files)
    assert (name, line) == (files[2].name, 5)
    assert "comes later: moved" in what


def test_a_line_that_is_there_twice_is_found(out: Path) -> None:
    """The second one is the bad place."""
    files = stream(out)
    lines = lines_of(files[0])
    write(files[0], [*lines[:5], lines[4], *lines[5:]])
    assert bad(files)[1] == 6


def test_a_changed_byte_is_found_in_its_part_of_the_file(out: Path, key: Path) -> None:
    """The digests that the last record has of the beginnings tell between which lines it is."""
    writer = Writer(out, Chain(key=key))
    writer.begin()
    for _ in range(40):
        writer.events(60)
    writer.account(final=True)
    writer.end(final=True)
    (file,) = writer.files
    lines = lines_of(file)
    for place in (1, 700, 1500, len(lines) - 3):
        changed = lines[place].replace(b"x86_64", b"x86_65")
        assert changed != lines[place]
        write(file, [*lines[:place], changed, *lines[place + 1 :]])
        name, line, byte, what = bad([file])
        assert name == file.name
        assert line <= place + 1 < line + 300
        assert byte == list(offsets(file))[line - 1]
        first, last = what.partition("in lines ")[2].partition(":")[0].replace(",", "").split(" to ")
        assert int(first) <= place + 1 <= int(last)


def test_a_removed_file_is_found(out: Path) -> None:
    """One in the midst by its number; the last one, as the one before says that another follows."""
    files = stream(out)
    name, line, _, what = bad([files[0], *files[2:]])
    assert (name, line) == (files[2].name, 1)
    assert "segment 1 is missing" in what
    assert "segments 1 to 2 are missing" in bad([files[0], files[3]])[3]
    name, line, _, what = bad(files[:3])
    assert (name, line) == (files[2].name, len(lines_of(files[2])))
    assert "segment 3 is missing behind this line" in what


def test_files_that_were_pruned_are_no_damage(out: Path, key: Path) -> None:
    """What is left leads to the key by itself, its ledgers are held against what is there; the report says so."""
    files = stream(out, key=key)
    report = verified(files[2:], keys=[public(key)])
    assert report.right, report.what
    assert report.segments == [2, 3]
    assert report.first > 0
    lines = lines_of(files[3])
    write(files[2], lines_of(files[2])[:1] + lines[1:-1])
    assert bad(files[2:])


def test_a_doubled_file_is_found(out: Path) -> None:
    """Whether it was copied, or compressed and left."""
    files = stream(out)
    copy = out / "copy.gz"
    copy.write_bytes(gzip.compress(files[1].read_bytes()))
    what = bad([*files, copy])[3]
    assert "segment 1 is there twice" in what
    assert "events-" in what


@pytest.mark.parametrize("last", [False, True])
def test_a_cut_last_line_is_named_as_such(out: Path, last: bool) -> None:
    """In the last file, in one in the midst, and in a stream without a chain."""
    files = stream(out)
    victim = files[-1 if last else 1]
    lines = lines_of(victim)
    write(victim, [*lines[:-1], lines[-1][:100]])
    name, line, byte, what = bad(files)
    assert (name, line, byte) == (victim.name, len(lines), sum(map(len, lines[:-1])))
    assert what == "the last line is cut short: 100 bytes without a newline"
    single = plain(out)
    single.write_bytes(single.read_bytes()[:-5])
    assert "the last line is cut short" in bad([single])[3]


def test_a_cut_off_end_is_found_where_something_follows(out: Path) -> None:
    """Whole lines that are missing at the end of a file are told by the next one's first record."""
    files = stream(out)
    lines = lines_of(files[1])
    write(files[1], lines[:-1])
    name, line, _, what = bad(files)
    assert "the last record of segment 1 is missing behind this line" in what
    assert (name, line) == (files[1].name, len(lines) - 1)


def test_a_removed_tail_is_found_with_a_head_only(out: Path, tmp_path: Path) -> None:
    """Lines at the end of what is still being written, and whole files behind them."""
    chain = Chain()
    writer = Writer(out, chain)
    for _ in range(3):
        writer.begin()
        writer.events(20)
        writer.end()
    writer.begin()
    writer.events(20)
    report = verified(writer.files)
    assert report.right, report.what
    assert report.head is not None
    report.head.save(tmp_path / "head")
    head = Head.load(tmp_path / "head")
    assert head == report.head
    assert hashlib.sha256(writer.files[-1].read_bytes()).hexdigest() == head.digest
    assert verified(writer.files, expect=head).tail
    lines = lines_of(writer.files[-1])
    write(writer.files[-1], lines[:-4])
    assert verified(writer.files).right, "not provable without a head"
    assert "the end was removed" in bad(writer.files, expect=head)[3]
    assert "the end was removed" in bad(writer.files[:3], expect=head)[3]
    changed = lines[3].replace(b"x86_64", b"x86_65")
    write(writer.files[-1], [*lines[:3], changed, *lines[4:]])
    assert "it was changed since" in bad(writer.files, expect=head)[3]
    write(writer.files[-1], lines)
    writer.events(20)
    assert verified(writer.files, expect=head).tail, "it may have grown"
    writer.account(final=True)
    writer.end(final=True)
    assert verified(writer.files, expect=head).tail, "or ended"
    assert verified(writer.files[3:], expect=head).tail


def test_files_may_begin_right_behind_a_head(out: Path) -> None:
    """What the head knows of may have been pruned, if it was the whole of a segment; else nothing ties the two."""
    files = stream(out)
    head = Head(tail_of(files[1]).chain, 1, 0, files[1].stat().st_size, "", ended=True)  # type: ignore[union-attr]
    head = head._replace(digest=hashlib.sha256(files[1].read_bytes()).hexdigest())
    assert verified(files[2:], expect=head).tail
    assert "nothing ties that" in bad(files[2:], expect=head._replace(digest="00" * 32))[3]
    assert "nothing ties that" in bad(files[3:], expect=head)[3]
    assert "another chain" in bad(files, expect=head._replace(chain="00" * 16))[3]


def test_a_wrong_key_is_found(out: Path, key: Path, tmp_path: Path) -> None:
    """A stream that another key has certified, and one that is not signed."""
    (tmp_path / "other").mkdir()
    make_keys(tmp_path / "other/key")
    files = stream(out, key=key)
    name, line, _, what = bad(files, keys=[public(tmp_path / "other/key")])
    assert (name, line) == (files[0].name, 1)
    assert "another key has certified" in what
    assert verified(files, keys=[public(tmp_path / "other/key"), public(key)]).right
    assert "is not signed" in bad(stream(tmp_path / "other"), keys=[public(key)])[3]
    assert "there is no chain" in bad([plain(out)], keys=[public(key)])[3]


def test_a_segment_forged_with_another_key_is_found(out: Path, key: Path, tmp_path: Path) -> None:
    """Put in place of the last one, as whole as can be, by somebody who has all but the key."""
    (tmp_path / "other").mkdir()
    make_keys(tmp_path / "other/key")
    files = stream(out, key=key)
    before = tail_of(files[2])
    assert before is not None
    (tmp_path / "forged").mkdir()
    forged = stream(tmp_path / "forged", segments=1, key=tmp_path / "other/key", after=before)
    for keys in ([public(key)], []):
        name, line, _, what = bad([*files[:3], *forged], keys=keys)
        assert (name, line) == (forged[0].name, 1)
        assert "another key" in what
    forged[0].unlink()
    assert "not signed" in bad([*files[:3], *stream(tmp_path / "forged", segments=1, after=before)])[3]


def test_a_segment_can_not_be_resigned_by_a_later_key(out: Path, key: Path) -> None:
    """Who takes the process over in segment 2 has its key, and can't change segment 1 with that."""
    chain = Chain(key=key)
    writer = Writer(out, chain)
    for number in range(3):
        writer.begin()
        writer.events(20)
        if number < 2:
            writer.end()
    taken = chain._own
    assert taken is not None
    before = tail_of(writer.files[0])
    assert before is not None
    forger = Chain(before)
    forger._own = taken
    forger._session = chain._session
    writer.files[1].unlink()
    forged = Writer(out, forger, sequence=before.sequence + 1)
    forged.begin()
    assert "its key is not the one that its session has for this segment" in bad([writer.files[0], *forged.files])[3]


def test_sessions_go_on_in_one_chain(out: Path, key: Path) -> None:
    """One that ended, and one that was killed in the midst of a line: the next begins behind what is on disk."""
    files = stream(out, segments=2, key=key)
    killed = Writer(out, Chain(tail_of(files[-1]), key), sequence=_next(files[-1]), name="killed")
    killed.begin()
    killed.events(20)
    with killed.files[-1].open("ab") as file:
        file.write(b'{"torn')
    files += killed.files
    tail = tail_of(files[-1])
    assert tail is not None
    assert (tail.torn, tail.ended) == (6, False)
    files += stream(out, segments=2, key=key, after=tail, name="after")
    report = verified(files, keys=[public(key)])
    assert report.right, report.what
    assert (report.sessions, report.open_ended, report.unsealed, report.signed) == (3, 1, [2], 4)
    assert not report.complete
    data = files[2].read_bytes()
    files[2].write_bytes(data.replace(b"x86_64", b"x86_65", 1))
    assert bad(files)[0] == files[2].name, "what the killed session wrote is under the next one's seal"
    files[2].write_bytes(data[:-1])
    assert "cut short" in bad(files)[3]


def _next(path: Path) -> int:
    tail = tail_of(path)
    assert tail is not None
    return tail.sequence + 1


def test_a_killed_session_may_end_between_two_segments(out: Path, key: Path) -> None:
    """The last record says that a segment follows, and that is the next session's."""
    writer = Writer(out, Chain(key=key))
    writer.begin()
    writer.events(20)
    writer.end()
    assert "segment 1 is missing" in bad(writer.files)[3]
    files = [*writer.files, *stream(out, key=key, after=tail_of(writer.files[0]), name="next")]
    assert verified(files, keys=[public(key)]).right


def test_a_file_may_hold_several_segments(out: Path, key: Path) -> None:
    """Where it was reopened in place, also by the next session; what is done to it is found as between files."""
    chain = Chain(key=key)
    writer = Writer(out, chain)
    for number in range(3):
        writer.begin(in_place=number > 0)
        for _ in range(10):
            writer.events(30)
        if number < 2:
            writer.end()
    (file,) = writer.files
    tail = tail_of(file)
    assert tail is not None
    assert (tail.number, tail.ended) == (2, False)
    other = Writer(out, Chain(tail, key), sequence=tail.sequence + 1, name="next")
    other.files = [file]
    other.begin(in_place=True)
    other.events(10)
    other.account(final=True)
    other.end(final=True)
    report = verified([file], keys=[public(key)])
    assert report.right, report.what
    assert (report.segments, report.unsealed, report.sealed) == ([0, 3], [2], 3)
    assert report.size == file.stat().st_size
    assert verified([file], expect=report.head).tail
    lines = lines_of(file)
    begins = [number for number, line in enumerate(lines) if b'"tracer-segment"' in line]
    for place in (begins[1] + 5, begins[2] + 5, begins[3] + 5):
        write(file, [*lines[:place], lines[place].replace(b"x86_64", b"x86_65"), *lines[place + 1 :]])
        assert bad([file])[3]
    place = begins[1] + 250
    write(file, [*lines[:place], lines[place].replace(b"x86_64", b"x86_65"), *lines[place + 1 :]])
    assert begins[1] < bad([file])[1] <= place + 1
    for first, last in ((begins[1], begins[2]), (begins[1] - 1, begins[1]), (begins[3] - 1, begins[3])):
        write(file, [*lines[:first], *lines[last:]])
        assert bad([file])


def test_losses_that_are_told_are_no_damage(out: Path) -> None:
    """The numbers may have gaps of so many lines as loss records say; the report sums up."""
    writer = Writer(out, Chain())
    writer.begin()
    writer.events(10)
    writer.lose(5)
    writer.events(10)
    writer.lose(2, told=False)
    writer.events(1)
    writer.put(writer.loss(2))
    writer.account(final=True)
    writer.end(final=True)
    report = verified(writer.files)
    assert report.right, report.what
    assert report.lost == {"sink": 7}
    assert not report.complete


def test_a_loss_that_is_told_too_small_is_found(out: Path) -> None:
    """The gap is the bad place."""
    writer = Writer(out, None)
    writer.begin()
    writer.events(10)
    writer.lose(5, told=False)
    writer.events(10)
    writer.put(writer.loss(4))
    name, line, _, what = bad(writer.files)
    assert (name, line) == (writer.files[0].name, 11)
    assert "lines 10 to 14 are missing" in what


def test_every_ledger_is_held_against_the_lines(out: Path) -> None:
    """One line of a kind more or less than the ledger delivers is found, in the midst and at the end."""
    for kind in (Kind.EXEC, Kind.CLOSE, Kind.PAYLOAD, Kind.SOCKET_FOUND, Kind.UPDATE, Kind.AGGREGATE):
        for wrong in (1, -1):
            writer = Writer(out, None)
            writer.begin()
            writer.events(34)
            writer.ledger.delivered[kind] += wrong
            writer.ledger.found[kind] += wrong
            writer.account()
            assert "the ledger tells of" in bad(writer.files)[3], (kind, wrong)
            writer.files[0].unlink()


def test_every_kind_of_a_ledger_is_recounted(out: Path) -> None:
    """There is none that is taken for one of another version, whose lines can't be counted."""
    writer = Writer(out, None)
    assert writer.state()["by_kind"].keys() <= _GROUPS.keys()


def test_what_is_in_flight_may_be_there_or_not(out: Path) -> None:
    """Of what a ledger calls in flight any part may have been written before it."""
    for here in range(4):
        writer = Writer(out, None)
        writer.begin()
        writer.events(17)
        writer.ledger.delivered[Kind.EXEC] -= here
        body = writer.state(in_flight=Counter({Kind.EXEC: 2}))
        writer.put(writer.notice("tracer-ledger", {"ledger": body}))
        assert verified(writer.files).right == (here <= 2)
        writer.files[0].unlink()


def test_a_ledger_must_balance(out: Path) -> None:
    """The last one, kind by kind, and no event comes behind it."""
    writer = Writer(out, None)
    writer.begin()
    writer.ledger.found[Kind.EXEC] += 1
    writer.account(final=True)
    assert "does not balance for exec: 1 attempts, and 0 delivered" in bad(writer.files)[3]
    writer = Writer(out, None)
    writer.files = [out / "other"]
    writer.account(final=True)
    writer.events(1)
    assert "behind the last ledger" in bad(writer.files)[3]


@pytest.mark.parametrize(("pack", "suffix"), [(gzip.compress, ".gz"), (zstandard.compress, ".zst"), (_pieces, ".gz")])
def test_compressed_files_are_read(out: Path, pack: Callable[[bytes], bytes], suffix: str) -> None:
    """As one, or as several parts in one file; what stands there is what counts."""
    files = stream(out, events=400)
    for path in files[:3]:
        path.with_name(path.name + suffix).write_bytes(pack(path.read_bytes()))
        path.unlink()
    assert [path.suffix for path in listed(out)] == [suffix] * 3 + [".jsonl"]
    assert verified(listed(out)).right
    packed = listed(out)[1]
    data = packed.read_bytes()
    packed.write_bytes(data[:-20])
    assert "compressed data is cut short" in bad(listed(out))[3]
    packed.write_bytes(data + b"more")
    assert "something follows the compressed data" in bad(listed(out))[3]


def test_damage_of_compressed_data_is_found(out: Path) -> None:
    """By the format's own checksum, by the lines, or by the chain."""
    files = stream(out, segments=2)
    packed = files[0].with_name(files[0].name + ".gz")
    packed.write_bytes(gzip.compress(files[0].read_bytes()))
    files[0].unlink()
    data = packed.read_bytes()
    for at in range(30, len(data), len(data) // 40):
        packed.write_bytes(data[:at] + bytes([data[at] ^ 4]) + data[at + 1 :])
        assert bad([packed, files[1]])


def test_a_plain_stream_is_right_as_far_as_can_be_known(out: Path) -> None:
    """Without a chain lines, numbers and ledgers are checked; the report names no segment."""
    report = verified([plain(out)])
    assert report.right, report.what
    assert (report.chain, report.segments, report.head) == ("", [], None)
    assert report.complete


def test_a_plain_stream_may_have_several_sessions(out: Path) -> None:
    """Each is numbered from 0 on; one that begins later has lost its beginning."""
    first = lines_of(plain(out))
    other = Writer(out, None, name="other")
    other.files = [out / "other"]
    other.events(10)
    other.account(final=True)
    both = out / "both"
    write(both, [*first, *lines_of(other.files[0])])
    report = verified([both])
    assert report.right, report.what
    assert report.sessions == 2
    write(both, [*first, *lines_of(other.files[0])[1:]])
    assert "whose first line has number 1" in bad([both])[3]


def test_a_chained_file_without_its_first_line_is_no_plain_stream(out: Path) -> None:
    """Alone or among others."""
    files = stream(out)
    write(files[1], lines_of(files[1])[1:])
    assert "no tracer-segment" in bad(files)[3]
    assert "a chain that has no beginning" in bad([files[1]])[3]


def test_another_chain_is_not_taken_for_the_next(out: Path) -> None:
    """Files of two chains, one after the other, are not one stream."""
    files = stream(out, segments=2)
    tail = tail_of(files[-1])
    assert tail is not None
    files += stream(out, segments=1, after=tail._replace(chain="00" * 16))
    assert "another chain begins here" in bad(files)[3]


def test_the_report_is_json(out: Path) -> None:
    """Every member is there, right or wrong."""
    files = stream(out)
    right = json.loads(json.dumps(as_json(verified(files))))
    assert right["ok"] is True
    assert right["bad"] is None
    wrong = json.loads(json.dumps(as_json(verified(files[1:3]))))
    assert wrong["ok"] is False
    assert wrong["bad"]["file"] == str(files[2])
    assert right.keys() == wrong.keys()
