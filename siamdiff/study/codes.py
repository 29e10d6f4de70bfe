"""Readers' personal codes: drawn at random, shown once, kept as salted hashes."""

import hashlib
import hmac
import secrets

from siamdiff.study.folder import Readers

_LETTERS = "ABCDEFGHJKMNPQRSTUVWXYZ23456789"  # none that looks like another
_GROUPS, _GROUP = 3, 4  # 12 of 31 letters: 59 bits
MAX_LENGTH = 64  # of what is typed


def new_code() -> str:
    """A code such as "K7QF-2M9X-TR4B"."""
    groups = ("".join(secrets.choice(_LETTERS) for _ in range(_GROUP)) for _ in range(_GROUPS))
    return "-".join(groups)


def hashed(codes: dict[str, str]) -> Readers:
    """What is kept of the readers' codes."""
    salt = secrets.token_bytes(16)
    return Readers(salt=salt.hex(), hashes={reader: _digest(code, salt) for reader, code in codes.items()})


def reader_of(code: str, readers: Readers) -> str | None:
    """Whose code it is, written with or without hyphens, in small or capital letters; None: nobody's."""
    digest = _digest(code[:MAX_LENGTH], bytes.fromhex(readers.salt))
    found = None
    for reader, known in readers.hashes.items():  # all of them: how long it takes tells nothing
        if hmac.compare_digest(digest, known):
            found = reader
    return found


def _digest(code: str, salt: bytes) -> str:
    plain = "".join(letter for letter in code.upper() if letter.isalnum())
    return hashlib.scrypt(plain.encode(), salt=salt, n=2**14, r=8, p=1, dklen=32).hex()
