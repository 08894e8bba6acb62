"""Programs that are instructions in memory: their maps are put in, and the kernel takes or refuses them."""

import os
import struct

import pytest

from tracer.probes import program, tracefs
from tracer.probes.bpf_map import Declaration, Map, create_map
from tracer.probes.libbpf import run_program
from tracer.probes.libbpf_binding import BpfError, LoadError

EXIT = struct.pack("=BBhi", 0x95, 0, 0, 0)
RETURN_7 = struct.pack("=BBhi", 0xB7, 0, 0, 7) + EXIT
MAP_FD, MAP_VALUE, PLAIN = 1, 2, 0


def load_64(register: int, source: int, number: int, upper: int = 0) -> bytes:
    """A load of 64 bits: a number, a map, or what is in it."""
    return struct.pack("=BBhiBBhi", 0x18, source << 4 | register, 0, number, 0, 0, 0, upper)


def test_maps_are_placed() -> None:
    """Numbers of maps become descriptors, also where a map's content is meant; plain numbers stay."""
    # The upper half of a number may look like an instruction that loads a map.
    plain = load_64(1, PLAIN, 1000, 0x18)
    code = plain + load_64(1, MAP_FD, 1000) + load_64(2, MAP_VALUE, 1001) + RETURN_7
    expected = plain + load_64(1, MAP_FD, 5) + load_64(2, MAP_VALUE, 6) + RETURN_7
    assert program.place_maps(code, {1000: 5, 1001: 6}) == expected


def test_unknown_map() -> None:
    """A number that stands for no map is an error that tells it: it would be somebody else's descriptor."""
    with pytest.raises(BpfError, match=r"\(1001\)"):
        program.place_maps(load_64(1, MAP_FD, 1001) + RETURN_7, {1000: 5})


def test_field_offset() -> None:
    """A field's position is that of the kernel's own description; what is not described has none."""
    events = tracefs.open_events()
    if events is None:
        pytest.skip("needs tracefs")
    try:
        assert tracefs.field_offset(events, "syscalls", "sys_exit_execve", "ret") == 16
        assert tracefs.field_offset(events, "syscalls", "sys_exit_execve", "common_pid") == 4
        assert tracefs.field_offset(events, "syscalls", "sys_exit_execve", "et") is None
        assert tracefs.field_offset(events, "syscalls", "sys_exit_nothing", "ret") is None
    finally:
        os.close(events)


@pytest.mark.live
def test_program_runs_with_its_map() -> None:
    """A program that reads the element of a map by its address gives what is in it, as constant data are read."""
    fd = create_map("value", Declaration(2, 4, 8, 1))
    try:
        Map("value", fd).update(bytes(4), struct.pack("=Q", 42))
        read = struct.pack("=BBhi", 0x61, 1 << 4 | 0, 0, 0)  # r0 = *(u32 *)(r1 + 0)
        loaded = program.load(
            "reads", program.RAW_TRACEPOINT, program.place_maps(load_64(1, 2, 9) + read + EXIT, {9: fd})
        )
        try:
            assert run_program(loaded.fd) == 42
        finally:
            loaded.destroy()
    finally:
        os.close(fd)


@pytest.mark.live
def test_refusal_has_the_verifiers_reason() -> None:
    """A program that the verifier refuses is named, with the verifier's last word."""
    with pytest.raises(LoadError, match=r"'bad' refused with EACCES.*R0 !read_ok") as error:
        program.load("bad", program.RAW_TRACEPOINT, EXIT)
    assert (error.value.program, "\n" in str(error.value)) == ("bad", False)


@pytest.mark.live
def test_attached_until_destroyed() -> None:
    """Both ways to attach give a descriptor whose end detaches; a tracepoint that isn't there is an error."""
    raw = program.load("raw", program.RAW_TRACEPOINT, RETURN_7)
    classic = program.load("classic", program.TRACEPOINT, RETURN_7)
    events = tracefs.open_events()
    assert events is not None
    number = tracefs.tracepoint_id(events, "syscalls", "sys_exit_execve")
    os.close(events)
    assert number is not None
    for link in (program.attach_raw_tracepoint(raw, "sched_process_exit"), program.attach_tracepoint(classic, number)):
        fd = link.fd
        link.destroy()
        link.destroy()
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(fd)
        with pytest.raises(BpfError, match="gone"):
            _ = link.fd
    with pytest.raises(BpfError, match="no_such_tracepoint"):
        program.attach_raw_tracepoint(raw, "no_such_tracepoint")
    with pytest.raises(BpfError, match="attaching to tracepoint"):
        program.attach_tracepoint(classic, 1 << 30)
    raw.destroy()
    classic.destroy()
