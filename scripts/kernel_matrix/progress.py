"""Tells how the guests get on: on a terminal a line for each that is rewritten, elsewhere a line for each trap."""

import sys
import time
from typing import TextIO

from scripts.kernel_matrix.guests import Job, Line, Outcome


class Progress:
    """Shows the guests of a run on `stream`; `total` is how many traps each runs, 0 if that is not known."""

    def __init__(self, total: int, stream: TextIO = sys.stderr) -> None:
        self._total = total
        self._stream = stream
        self._terminal = stream.isatty()
        self._began = time.monotonic()
        self._states: dict[str, str] = {}
        self._done: dict[str, int] = {}
        self._shown = 0

    def say(self, text: str) -> None:
        """A line that stays."""
        self._clear()
        self._stream.write(f"{text}\n")
        self._draw()

    def tell(self, job: Job, line: Line) -> None:
        """A line of a guest's results."""
        state = self._state(job.name, line)
        if state is None:
            return
        if self._terminal:
            self._states[job.name] = state
            self._clear()
            self._draw()
        else:
            self.say(f"{self._clock()} {job.name}: {state}")

    def over(self, outcome: Outcome, again: bool) -> None:
        """A guest has ended, or was lost."""
        self._states.pop(outcome.name, None)
        self._done.pop(outcome.name, None)
        how = f"lost: {outcome.lost}" if outcome.lost else "done"
        more = "; it is booted again" if again else ""
        self.say(f"{self._clock()} {outcome.name}: {how} after {outcome.seconds:.0f} s{more}")

    def _state(self, name: str, line: Line) -> str | None:
        if "trap" in line:
            if line["result"] == "coming":
                return None
            self._done[name] = self._done.get(name, 0) + 1
            of = f"{self._done[name]}/{self._total}" if self._total else str(self._done[name])
            return f"{of} trap {line['trap']} {line['result']}, {line['seconds']:.0f} s"
        kind = line.get("guest")
        if kind == "ready":
            return f"Linux {line['kernel']} is ready"
        if kind == "sandbox":
            return f"sandbox proved, Landlock ABI {line['proof']['landlock_abi']}"
        if kind in ("attribution", "bytes"):
            return f"{kind} {'exact' if line['passed'] else 'not exact'}, {line['seconds']:.0f} s"
        return f"{kind}: {line.get('step', '')}" if kind == "error" else None

    def _clock(self) -> str:
        seconds = int(time.monotonic() - self._began)
        return f"{seconds // 60:>2}:{seconds % 60:02}"

    def _clear(self) -> None:
        if self._shown:
            self._stream.write(f"\x1b[{self._shown}A\x1b[J")
            self._shown = 0

    def _draw(self) -> None:
        if self._terminal:
            for name, state in self._states.items():
                self._stream.write(f"{self._clock()} {name}: {state}"[:100] + "\n")
            self._shown = len(self._states)
        self._stream.flush()
