"""Keys of a signed chain: one of a person certifies a session, and each segment has one that no later state can give.

The keys of a session are the leaves of a binary tree. Every node's key signs those of its two children, and is dropped
once they are made; a right child waits until all below the left one is used up. So a segment is tied to the session,
and that to the long-term key, by a path of DEPTH signatures in the segment itself, whatever other files are gone; and
who takes the process over finds the keys of this segment and of later ones, none of an earlier one.
"""

from __future__ import annotations

import os
import stat
from base64 import b64decode, b64encode
from collections.abc import Sequence
from pathlib import Path
from typing import Final, NamedTuple

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

__all__ = [
    "DEPTH",
    "KeyFileError",
    "KeyTree",
    "KeysSpentError",
    "certify",
    "is_certified",
    "is_leaf",
    "is_signed",
    "make_keys",
    "public_bytes",
    "read_public",
]

DEPTH: Final = 24  # of the tree: 16,777,216 segments in a session, which at one a minute last 31 years
PUBLIC_BYTES: Final = 32  # of Ed25519: RFC 8032, 5.1.5
SIGNATURE_BYTES: Final = 64  # 5.1.6
_FILE_MOST: Final = 4096  # bytes of a key file; a PEM of Ed25519 has some 120


class KeyFileError(Exception):
    """A key file can't be used or made; the message is one line with the fix."""


class KeysSpentError(Exception):
    """A session has had as many segments as its tree has leaves."""


class _Node(NamedTuple):
    """A key that waits, where it is in the tree, and the path from the root to it."""

    level: int
    place: int  # from the left
    key: Ed25519PrivateKey
    path: tuple[str, ...]


def public_bytes(key: Ed25519PrivateKey) -> bytes:
    """The raw public key of a private one."""
    return key.public_key().public_bytes_raw()


def _session_message(chain: str, first: int, root: bytes) -> bytes:
    return f"tracer session 1\n{chain}\n{first}\n{root.hex()}\n".encode()


def _branch_message(context: str, level: int, place: int, public: bytes) -> bytes:
    return f"tracer branch 1\n{context}\n{level}\n{place}\n{public.hex()}\n".encode()


class KeyTree:
    """The keys of a session's segments, one after the other."""

    def __init__(self, context: str) -> None:
        """``context`` is what no other session has: it is in everything that is signed."""
        self._context = context
        root = Ed25519PrivateKey.generate()
        self.root = public_bytes(root)
        self._waiting = [_Node(0, 0, root, ())]

    def take(self) -> tuple[Ed25519PrivateKey, list[str]]:
        """The next segment's key, which this no longer has, and the path to it: base64 of public keys and signatures.

        Raises KeysSpentError.
        """
        if not self._waiting:
            raise KeysSpentError(f"a session has at most {1 << DEPTH} segments: start it again")
        node = self._waiting.pop()
        while node.level < DEPTH:
            left, right = (self._child(node, side) for side in (0, 1))
            self._waiting.append(right)
            node = left  # the parent's key is dropped with its node
        return node.key, list(node.path)

    def _child(self, parent: _Node, side: int) -> _Node:
        key = Ed25519PrivateKey.generate()
        level, place, public = parent.level + 1, 2 * parent.place + side, public_bytes(key)
        signature = parent.key.sign(_branch_message(self._context, level, place, public))
        return _Node(level, place, key, (*parent.path, b64encode(public + signature).decode()))


def is_leaf(context: str, root: bytes, index: int, path: Sequence[object], public: bytes) -> bool:
    """Whether ``path`` leads from a tree's root to the key of its segment ``index``, which is ``public``."""
    if len(path) != DEPTH or not 0 <= index < 1 << DEPTH:
        return False
    above = root
    for level, link in enumerate(path, 1):
        try:
            told = b64decode(link, validate=True) if isinstance(link, str) else b""
        except ValueError:
            return False
        if len(told) != PUBLIC_BYTES + SIGNATURE_BYTES:
            return False
        below, signature = told[:PUBLIC_BYTES], told[PUBLIC_BYTES:]
        if not is_signed(above, signature, _branch_message(context, level, index >> (DEPTH - level), below)):
            return False
        above = below
    return above == public


def is_signed(public: bytes, signature: bytes, message: bytes) -> bool:
    """Whether the key has signed the message."""
    try:
        Ed25519PublicKey.from_public_bytes(public).verify(signature, message)
    except (InvalidSignature, ValueError):  # ValueError: no 32 bytes
        return False
    return True


def is_certified(public: bytes, certificate: bytes, chain: str, first: int, root: bytes) -> bool:
    """Whether a long-term key has certified the session that begins with segment ``first`` of the chain."""
    return is_signed(public, certificate, _session_message(chain, first, root))


def certify(path: Path, chain: str, first: int, root: bytes) -> tuple[bytes, bytes]:
    """Have the long-term key in a file certify a session; its public key and the certificate.

    A process of its own reads the key and ends: this one never has it. Call it while there is one thread. Raises
    KeyFileError, OSError.
    """
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        _answer(path, _session_message(chain, first, root), writer)
    os.close(writer)
    with os.fdopen(reader, "rb") as told:
        answer = told.read()
    os.waitpid(child, 0)
    if answer[:1] != b"\0" or len(answer) != 1 + PUBLIC_BYTES + SIGNATURE_BYTES:
        raise KeyFileError(answer[1:].decode(errors="replace") or f"{path}: the process that reads this key has died")
    return answer[1 : 1 + PUBLIC_BYTES], answer[1 + PUBLIC_BYTES :]


def _answer(path: Path, message: bytes, writer: int) -> None:
    """What the process that reads a long-term key does."""
    status = 1
    try:
        try:
            key = _read_private(path)
            answer = b"\0" + public_bytes(key) + key.sign(message)
        except KeyFileError as error:
            answer = b"\1" + str(error).encode(errors="replace")
        os.write(writer, answer)  # less than a pipe takes at once
        status = 0
    finally:
        os._exit(status)


def _read(path: Path, *, private: bool) -> bytes:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError as refused:
        raise KeyFileError(f"can't read {path}: {refused.strerror}; name a file of tracer keygen") from refused
    try:
        found = os.fstat(fd)
        if not stat.S_ISREG(found.st_mode):
            raise KeyFileError(f"{path} is no regular file: name a file of tracer keygen")
        if private and (found.st_mode & 0o077 or found.st_uid not in {0, os.geteuid()}):
            raise KeyFileError(f"others than its owner may use {path}: chmod 600 it, and let it be root's or yours")
        return os.read(fd, _FILE_MOST)
    except OSError as failed:
        raise KeyFileError(f"can't read {path}: {failed.strerror}") from failed
    finally:
        os.close(fd)


def _read_private(path: Path) -> Ed25519PrivateKey:
    try:
        key = serialization.load_pem_private_key(_read(path, private=True), None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as odd:  # TypeError: it has a passphrase
        raise KeyFileError(f"{path} is no Ed25519 private key without a passphrase: make one by tracer keygen") from odd
    if not isinstance(key, Ed25519PrivateKey):
        raise KeyFileError(f"{path} is a key of another kind than Ed25519: make one by tracer keygen")
    return key


def read_public(path: Path) -> bytes:
    """The raw public key in a file that make_keys() has written. Raises KeyFileError."""
    try:
        key = serialization.load_pem_public_key(_read(path, private=False))
    except (ValueError, UnsupportedAlgorithm) as odd:
        raise KeyFileError(f"{path} is no public key: give the .pub file of tracer keygen") from odd
    if not isinstance(key, Ed25519PublicKey):
        raise KeyFileError(f"{path} is a key of another kind than Ed25519: give the .pub file of tracer keygen")
    return key.public_bytes_raw()


def make_keys(path: Path) -> Path:
    """Make a long-term key in ``path``, for its owner alone, and its public key beside it, in the file returned.

    Neither may be there before. Raises KeyFileError.
    """
    key = Ed25519PrivateKey.generate()
    secret = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    told = key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    public = path.with_name(f"{path.name}.pub")
    for file, mode, data in ((path, 0o600, secret), (public, 0o644, told)):
        try:
            fd = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, mode)
            with os.fdopen(fd, "wb") as made:
                made.write(data)
                made.flush()
                os.fsync(fd)
        except OSError as refused:
            raise KeyFileError(f"can't make {file}: {refused.strerror}; name a file that is not there") from refused
    return public
