"""What files tell of a tree that was really traced is what the tree says of itself, also where a pid comes again."""

import json
import os
import socket
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from tests.report.test_html import page
from tests.tracing import BACKEND, Trace
from tracer.history.explain import explain
from tracer.history.gather import context, search
from tracer.history.past import Past, Wanted
from tracer.history.story import Story
from tracer.report.summary import summarize

pytestmark = pytest.mark.live

ROOT = Path(__file__).parents[2]
# Makes what is nested in its argument; the root connects 18 times, the deepest process 5 times where nobody listens.
# Each tells who it is, and the ports that it used.
TREE = """
import json, os, socket, subprocess, sys
out, nested, port, refused = sys.argv[1], json.loads(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
is_root, depth = len(sys.argv) == 5, 0 if len(sys.argv) == 5 else int(sys.argv[5])
def tell(**what): os.write(int(out), (json.dumps(what) + "\\n").encode())
tell(pid=os.getpid(), parent=os.getppid(), depth=depth)
for _ in range(18 if is_root else 0):
    with socket.create_connection(("127.0.0.1", port)) as one: tell(port=one.getsockname()[1])
for _ in range(5 if depth == 3 else 0):
    with socket.socket() as one: assert one.connect_ex(("127.0.0.1", refused))
for each in nested:
    command = [sys.executable, "-I", "-S", __file__, out, json.dumps(each), *sys.argv[3:5], str(depth + 1)]
    subprocess.run(command, check=True, pass_fds=[int(out)])
if is_root: subprocess.run(["/bin/true", "the seventh"], check=True)
"""
NESTED = [[[[]], []], [[]]]  # six descendants, three deep
# Pid N runs one program and then, as another process, another: not within one tick of 10 ms, to which an entity id has
# the start of a process.
AGAIN = """
import subprocess, time
for _ in range(50):
    first = subprocess.Popen(["/bin/echo", "first"], stdout=subprocess.DEVNULL)
    first.wait()
    time.sleep(0.02)
    with open("/proc/sys/kernel/ns_last_pid", "w") as last: last.write(str(first.pid - 1))
    second = subprocess.Popen(["/bin/true", "second"])
    second.wait()
    if second.pid == first.pid: break
print(first.pid, second.pid)
"""


@pytest.fixture(name="files", scope="module")
def _files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A traced run of both programs: its file in ECS and in OCSF, and what the programs say."""
    directory = tmp_path_factory.mktemp("history")
    record, ecs, ocsf = (directory / name for name in ("record", "ecs.jsonl", "ocsf.jsonl"))
    reading, writing = os.pipe()
    with Trace("--record", str(record), "--no-snapshot") as seen, socket.create_server(("127.0.0.1", 0)) as server:
        with socket.socket() as closed:
            closed.bind(("127.0.0.1", 0))
            refused = closed.getsockname()[1]
            port = server.getsockname()[1]
            program = directory / "tree.py"
            program.write_text(TREE)
            command = [
                sys.executable,
                "-I",
                "-S",
                str(program),
                str(writing),
                json.dumps(NESTED),
                str(port),
                str(refused),
            ]
            subprocess.run(command, check=True, pass_fds=[writing], timeout=60)
        os.close(writing)
        again = subprocess.run([sys.executable, "-I", "-S", "-c", AGAIN], check=True, capture_output=True, timeout=60)
    with os.fdopen(reading, "rb") as pipe:
        truth = [json.loads(line) for line in pipe]
    ecs.write_bytes(b"".join(line + b"\n" for line in seen.lines))
    replay = [sys.executable, "-m", "tracer", "replay", "--format", "ocsf", "-o", str(ocsf), str(record)]
    subprocess.run(replay, check=True, timeout=60, cwd=ROOT)
    return {"ecs": ecs, "ocsf": ocsf, "truth": truth, "again": again.stdout.split(), "port": port, "seen": seen}


@pytest.mark.parametrize("form", ["ecs", "ocsf"])
def test_the_tree_and_the_flows_are_those_that_there_were(files: dict[str, Any], form: str) -> None:
    """Seven descendants, three deep, each below its parent; 23 connects, of which 5 are refused; nothing else."""
    truth = files["truth"]
    lives = [each for each in truth if "pid" in each]
    root = next(each for each in lives if each["depth"] == 0)
    with Past([files[form]], threads=1) as past:
        (found,) = past.find(Wanted(pid=root["pid"]))
        with Story(past, found, "the tree") as story:
            bundle, events = story.bundle, list(story.events())
    told: dict[int, int] = {}

    def walk(children: list[dict[str, Any]], parent: int) -> None:
        for child in children:
            told[child["pid"]] = parent
            walk(child["children"], child["pid"])

    walk(bundle["children"], root["pid"])
    known = {each["pid"]: each["parent"] for each in lives if each["depth"]}
    assert {pid: parent for pid, parent in told.items() if pid in known} == known
    (seventh,) = [child for child in bundle["children"] if child["pid"] not in known]
    assert seventh["args"] == ["/bin/true", "the seventh"]
    assert len(told) == 7
    summary = summarize(bundle, events)
    opened = {flow.local[1] for flow in summary.flows.values() if flow.remote[1] == files["port"]}
    assert opened == {each["port"] for each in truth if "port" in each}
    assert sum(flow.error == "ECONNREFUSED" for flow in summary.flows.values()) == 5
    assert len(summary.flows) == 23
    assert bundle["past"]["complete"] is True
    assert summary.size == 8
    assert ("8", "processes") in pairwise(page(bundle, events).parts)


@pytest.mark.parametrize("form", ["ecs", "ocsf"])
def test_a_pid_that_came_again_is_never_mixed(files: dict[str, Any], form: str) -> None:
    """Both lives of the pid fit it; by its entity id each has its own program, and none of the other's."""
    first, second = map(int, files["again"])
    assert first == second, "the kernel gave the pid away each time"
    with Past([files[form]], threads=1) as past:
        lives = past.find(Wanted(pid=first))
        assert len(lives) == 2
        ran = []
        for life in lives:
            with Story(past, life, "a life") as story:
                assert {each["process"]["entity_id"] for each in story.events()} == {life.entity}
                ran.append(story.bundle["process"]["args"][1])
                assert past.find(Wanted(pid=first, at=story.bundle["process"]["end"])) == [life]
    assert ran == ["first", "second"]


def test_each_event_is_explained_and_certain(files: dict[str, Any]) -> None:
    """Of each process of the tree: its exec and its exit lead back to it, with its identity made again."""
    sources = [("ecs", files["ecs"])]
    pids = {each["pid"] for each in files["truth"] if "pid" in each}
    wanted = [
        event["event"]["sequence"]
        for event in files["seen"].events
        if event.get("process", {}).get("pid") in pids
        and event["event"]["action"] in ("process-executed", "process-exited", "connection-opened")
    ]
    assert len(wanted) >= 2 * 7
    for sequence in wanted[:: max(len(wanted) // 16, 1)]:
        (found,) = search(sources, sequence)
        told = explain(found, context(sources, found))
        assert any("it agrees" in link.says for link in told.chain), told
        assert told.sure is (BACKEND in (None, "", "auto", "core", "bcc")), told
