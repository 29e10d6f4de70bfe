"""What an image's file carries beside its pixels, told from its bytes without decoding it.

The files are not trusted: every length is held against what there is, nothing is unpacked.
"""

import struct
from collections.abc import Iterator

PNG = b"\x89PNG\r\n\x1a\n"
_PIXELS = {b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND", b"sRGB", b"gAMA", b"cHRM", b"pHYs", b"sBIT", b"bKGD"}
_PNG_KINDS = {
    b"eXIf": "EXIF",
    b"tEXt": "text chunk",
    b"zTXt": "text chunk",
    b"iTXt": "text chunk",
    b"tIME": "time of change",
    b"iCCP": "colour profile",
}
TRAILING = "bytes after the image's end"
BROKEN = "file that cannot be taken apart"
THUMBNAIL = "embedded thumbnail"
_NO_LENGTH = {0x01, 0xD8, *range(0xD0, 0xD8)}  # markers of JPEG without a segment
_CODING = {0xC0, 0xC1, 0xC2, 0xC4, 0xDA, 0xDB, 0xDD}  # frames, tables, scans: the picture itself
_SOS, _EOI, _COMMENT, _ADOBE = 0xDA, 0xD9, 0xFE, 0xEE

Extra = tuple[str, bytes]  # what it is, and its content


def extras(data: bytes) -> Iterator[Extra]:
    """Everything in a PNG or JPEG that its pixels do not need."""
    try:
        yield from _png(data) if data.startswith(PNG) else _jpeg(data)
    except (struct.error, IndexError):
        yield BROKEN, data


def _png(data: bytes) -> Iterator[Extra]:
    position = len(PNG)
    while position < len(data):
        size, kind = struct.unpack_from(">I4s", data, position)
        content = data[position + 8 : position + 8 + size]
        position += size + 12
        if position > len(data):
            yield BROKEN, content
            return
        if kind not in _PIXELS:
            yield _PNG_KINDS.get(kind, "unknown chunk"), content
        if kind == b"IEND":
            break
    if position < len(data):
        yield TRAILING, data[position:]


def _jpeg(data: bytes) -> Iterator[Extra]:
    position = 2
    while True:
        position = _next_marker(data, position)
        marker = data[position + 1]
        position += 2
        if marker == _EOI:
            break
        if marker in _NO_LENGTH:
            continue
        (size,) = struct.unpack_from(">H", data, position)
        content = data[position + 2 : position + size]
        if size < 2 or position + size > len(data):
            yield BROKEN, content
            return
        if (kind := _segment(marker, content)) is not None:
            yield kind, content
        position += size
        if marker == _SOS:
            position = _after_scan(data, position)
    if position < len(data):
        yield TRAILING, data[position:]


def _next_marker(data: bytes, position: int) -> int:
    """Where the next marker is; fill bytes before it are skipped."""
    if data[position] != 0xFF:
        raise IndexError
    while data[position + 1] == 0xFF:
        position += 1
    return position


def _after_scan(data: bytes, position: int) -> int:
    """The first marker after a scan's data, in which FF is followed by 00 or is a restart."""
    while True:
        position = data.find(b"\xff", position)
        if position < 0:
            raise IndexError
        if data[position + 1] not in (0x00, 0xFF, *range(0xD0, 0xD8)):
            return position
        position += 1


def _segment(marker: int, content: bytes) -> str | None:
    """What a segment is; None: the picture's own."""
    if marker in _CODING or marker == _ADOBE:
        return None
    if marker == 0xE0:
        is_plain = content.startswith(b"JFIF\0") and len(content) == 14
        return None if is_plain else THUMBNAIL
    if marker == 0xE1:
        return "XMP" if b"adobe.com/xap" in content[:40] else "EXIF"
    if marker == 0xE2 and content.startswith(b"ICC_PROFILE"):
        return "colour profile"
    if marker == 0xED:
        return "IPTC"
    if marker == _COMMENT:
        return "comment"
    return "unknown segment"
