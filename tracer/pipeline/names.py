"""Join DNS answers to later flows: which name a process asked for to get the address that it talks to now.

An answer counts where a process received it and had asked that question; it holds for its address, in its network
namespace, until its time to live is over. Bounded: what has to go before its time is counted.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, NamedTuple

from tracer.names.dns import AAAA, CNAME, A, Answer, Message, Question

__all__ = ["Heard", "Known", "NameTable"]

ADDRESSES_MOST: Final = 8192  # (namespace, process, address): some 7 MB when full
OF_PROCESS_MOST: Final = 2048  # of one process, so that it can't push out those of all others
HOLDERS_MOST: Final = 64  # processes that one address is remembered for
QUESTIONS_MOST: Final = 4096
RESOLVERS_MOST: Final = 1024
CHAIN_MOST: Final = 16  # CNAMEs followed

_NS: Final = 1_000_000_000
_TTL_MOST: Final = 7 * 86_400  # s; resolvers hold nothing for longer than a week
_HOLD_LEAST: Final = 5  # s: an answer is good for the connection it was asked for, even with a time to live of 0
_QUESTION_HOLD: Final = 60 * _NS  # for longer no resolver waits

_QUERY: Final = 0
_NOERROR: Final = 0
_ADDRESS_TYPES: Final = frozenset({A, AAAA})
_IN: Final = 1  # the class of the Internet; in others an address is something else
_LOCAL: Final = b".local"  # the names that are mDNS's (RFC 6762, 3)


class Heard(NamedTuple):
    """A DNS message that a process sent or received.

    ``time`` is boottime ns, ``process`` its entity id, ``protocol`` dns, mdns or llmnr.
    """

    time: int
    netns: int
    process: str
    outgoing: bool
    protocol: str
    message: Message


class Known(NamedTuple):
    """The name of an address.

    ``name`` is what was asked for, in lower case. ``how`` is ``process`` when the process itself had asked,
    ``resolver`` when one had that answers DNS questions of others in this network namespace, and ``netns`` when some
    other process of it had. ``chain`` are the names that this is an alias of (CNAME), ending with the one that has the
    address. ``ambiguous``: in the same way the address is known by another name too; the one that was heard last is
    given.
    """

    name: bytes
    how: str
    chain: tuple[bytes, ...]
    ambiguous: bool


class _Entry(NamedTuple):
    name: bytes
    chain: tuple[bytes, ...]
    heard: int
    expires: int
    other_until: int  # when the time is over of another name that the process knew the address by


class NameTable:
    """Give it the DNS messages in order; ask it for names. Times are passed in, so a replay gives the same."""

    def __init__(self, most: int = ADDRESSES_MOST, of_process_most: int = OF_PROCESS_MOST) -> None:
        """``most`` addresses are remembered over all processes, ``of_process_most`` for each."""
        self._most = most
        self._of_process_most = of_process_most
        # Both levels in the order in which they were heard last.
        self._of: dict[tuple[int, str], dict[str, _Entry]] = {}
        self._holders: dict[tuple[int, str], dict[str, None]] = {}
        self._asked: dict[tuple[int, str, int, bytes, int], int] = {}
        self._resolvers: dict[tuple[int, str], None] = {}
        self._size = 0
        self.evicted = 0  # answers forgotten before their time, for want of room
        self.unasked = 0  # answers to no question that was seen: not believed

    def __len__(self) -> int:
        """How many addresses are remembered, those whose time is over included."""
        return self._size

    def serves(self, netns: int, process: str) -> None:
        """A process answers DNS questions in a network namespace: what it learns is learned for others."""
        self._resolvers.pop((netns, process), None)
        self._resolvers[netns, process] = None
        if len(self._resolvers) > RESOLVERS_MOST:
            del self._resolvers[next(iter(self._resolvers))]

    def heard(self, event: Heard) -> None:
        """Take in a message."""
        message = event.message
        if message.opcode != _QUERY:
            return
        if not message.response:
            if event.outgoing:
                self._ask(event)
        elif event.outgoing:
            if event.protocol == "dns":
                self.serves(event.netns, event.process)
        elif message.rcode == _NOERROR and not message.malformed:
            if event.protocol == "mdns":  # answers without questions, to everybody
                names = dict.fromkeys(
                    answer.name.lower() for answer in message.answers if answer.type in _ADDRESS_TYPES
                )
                self._learn(event, [name for name in names if name.endswith(_LOCAL)])
            else:
                self._learn(event, [question.name.lower() for question in self._answered(event)])

    def name_of(self, netns: int, address: str, process: str, now: int) -> Known | None:
        """Return the name of a text address for a process, at a time (boottime ns); None where none is known."""
        holders = self._holders.get((netns, address))
        if holders is None:
            return None
        if process in holders:
            entry = self._of[netns, process][address]
            if entry.expires > now:
                return Known(entry.name, "process", entry.chain, entry.other_until > now)
        for how, among in (
            ("resolver", [holder for holder in holders if (netns, holder) in self._resolvers]),
            ("netns", holders),
        ):
            entries = [self._of[netns, holder][address] for holder in among]
            entries = [entry for entry in entries if entry.expires > now]
            if entries:
                last = max(entries, key=lambda entry: entry.heard)
                return Known(last.name, how, last.chain, any(entry.name != last.name for entry in entries))
        return None

    def _ask(self, event: Heard) -> None:
        for question in event.message.questions:
            key = self._key(event, question)
            self._asked.pop(key, None)
            self._asked[key] = event.time
        while len(self._asked) > QUESTIONS_MOST:
            del self._asked[next(iter(self._asked))]

    def _answered(self, event: Heard) -> list[Question]:
        """The questions of an answer that this process had asked."""
        asked = []
        for question in event.message.questions:
            time = self._asked.pop(self._key(event, question), None)
            if time is None or event.time - time > _QUESTION_HOLD:
                self.unasked += 1
            else:
                asked.append(question)
        return asked

    @staticmethod
    def _key(event: Heard, question: Question) -> tuple[int, str, int, bytes, int]:
        # The name in lower case: resolvers mix the cases as they like.
        return event.netns, event.process, event.message.id, question.name.lower(), question.type

    def _learn(self, event: Heard, names: Iterable[bytes]) -> None:
        """Follow each name to its addresses. What no name leads to is not believed."""
        answers = [answer for answer in event.message.answers if answer.class_ == _IN]
        aliases = {answer.name.lower(): answer for answer in answers if answer.type == CNAME}
        for name in names:
            chain: list[bytes] = []
            ttl = _TTL_MOST
            last = name
            while last in aliases and len(chain) < CHAIN_MOST:
                ttl = min(ttl, aliases[last].ttl)
                last = aliases[last].data.lower()
                chain.append(last)
            for answer in answers:
                if answer.address and answer.name.lower() == last:
                    self._keep(event, name, tuple(chain), min(ttl, answer.ttl), answer)

    def _keep(self, event: Heard, name: bytes, chain: tuple[bytes, ...], ttl: int, answer: Answer) -> None:
        owner = (event.netns, event.process)
        place = (event.netns, answer.address)
        before = self._of.get(owner, {}).get(answer.address)
        other = 0 if before is None else before.other_until if before.name == name else before.expires
        self._forget(owner, answer.address)
        own = self._of[owner] = self._of.pop(owner, {})
        holders = self._holders.setdefault(place, {})
        own[answer.address] = _Entry(name, chain, event.time, event.time + max(ttl, _HOLD_LEAST) * _NS, other)
        holders[event.process] = None
        self._size += 1
        if len(holders) > HOLDERS_MOST:
            self._evict((event.netns, next(iter(holders))), answer.address, event.time)
        if len(own) > self._of_process_most:
            self._evict(owner, next(iter(own)), event.time)
        if self._size > self._most:
            oldest = next(iter(self._of))
            self._evict(oldest, next(iter(self._of[oldest])), event.time)

    def _evict(self, owner: tuple[int, str], address: str, now: int) -> None:
        self.evicted += self._of[owner][address].expires > now
        self._forget(owner, address)

    def _forget(self, owner: tuple[int, str], address: str) -> None:
        own = self._of.get(owner)
        if own is None or own.pop(address, None) is None:
            return
        if not own:
            del self._of[owner]
        self._size -= 1
        netns, process = owner
        holders = self._holders[netns, address]
        del holders[process]
        if not holders:
            del self._holders[netns, address]
