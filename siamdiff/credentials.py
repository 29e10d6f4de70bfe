"""What looks like a credential, so that it is refused where none belongs: in configurations, arguments, URIs.

Credentials come from the standard AWS variables, from the pod's role, or from HF_TOKEN. A configuration is written
beside every output and an argument is shown by `ps`, so neither may hold one. This finds slips, not what is hidden.
"""

import re
from collections.abc import Iterator
from typing import Any

from siamdiff.errors import UserError

_KINDS = {
    "a user and a password in a URL": r"[A-Za-z][\w+.-]*://[^/\s@:]*:[^/\s@]*@",
    "an AWS access key": r"\b(?:AKIA|ASIA)[A-Z0-9]{16}\b",
    "a signed URL": r"[?&]X-Amz-(?:Signature|Credential)=",
    "a Hugging Face token": r"\bhf_[A-Za-z0-9]{30,}\b",
    "a GitHub token": r"\bgh[pousr]_[A-Za-z0-9]{36,}\b",
    "a private key": r"-----BEGIN [A-Z ]*PRIVATE KEY-----",
}
_PATTERNS = {kind: re.compile(pattern) for kind, pattern in _KINDS.items()}


def kind_of(text: str) -> str | None:
    """What kind of credential a text seems to hold; None: none that is known."""
    return next((kind for kind, pattern in _PATTERNS.items() if pattern.search(text)), None)


def refuse_in(values: Any, where: str = "") -> None:
    """Looks through plain values, however deep, names of fields included.

    Args:
        values: of a configuration: mappings, lists, scalars.
        where: dotted name of the field that has them.

    Raises:
        UserError: one looks like a credential; names its field and kind, never itself.
    """
    for field, text in _texts(values, where):
        if kind := kind_of(text):
            raise UserError(f"{field or 'a field'} {_told(kind)}")


def refuse_in_uri(uri: str) -> None:
    """Raises UserError for a URI that holds a credential, which is not repeated."""
    if kind := kind_of(uri):
        raise UserError(f"a URI {_told(kind)}")


def _told(kind: str) -> str:
    return (
        f"holds what looks like {kind}: refused, and not shown; credentials come from the standard AWS variables, the "
        "pod's role or HF_TOKEN (docs/security.md). Take it out, and if it was ever saved, replace it at its issuer"
    )


def _texts(values: Any, where: str) -> Iterator[tuple[str, str]]:
    """Every text with the name of its field; of each container once, for YAML may let one hold itself."""
    seen: set[int] = set()
    left = [(where, values)]
    while left:
        field, value = left.pop()
        if isinstance(value, str):
            yield field, value
        elif isinstance(value, dict | list | tuple) and id(value) not in seen:
            seen.add(id(value))
            if isinstance(value, dict):
                yield from ((field, name) for name in value if isinstance(name, str))
                left += [(_below(field, name), entry) for name, entry in value.items()]
            else:
                left += [(field, entry) for entry in value]


def _below(field: str, name: Any) -> str:
    """The field's name, unless the name itself is what must not be shown."""
    return field if kind_of(str(name)) else f"{field}.{name}" if field else str(name)
