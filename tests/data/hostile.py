"""Tars and pictures that were made to do harm, for the tests that they do none."""

import io
import struct
import tarfile
import zlib

from PIL import Image

KEY = "0123456789abcdef"


def member(
    name: str, size: int | bytes = 0, kind: bytes = tarfile.REGTYPE, link: str = "", content: bytes = b""
) -> bytes:
    """One member of a tar with the header that is asked for, its checksum right; `size` may be its raw field."""
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, link
    header = bytearray(info.tobuf(tarfile.USTAR_FORMAT, "utf-8", "surrogateescape"))
    header[124:136] = size if isinstance(size, bytes) else wide(size)
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    return bytes(header) + content + bytes(-len(content) % tarfile.BLOCKSIZE)


def wide(number: int) -> bytes:
    """A size as GNU tar writes those that have no room in octal digits: any, below zero too."""
    return b"\x80" + number.to_bytes(11, "big") if number >= 0 else (256**12 + number).to_bytes(12, "big")


def tar_of(*members: bytes) -> bytes:
    """A tar of some members, padded as it should be."""
    data = b"".join(members) + bytes(2 * tarfile.BLOCKSIZE)
    return data + bytes(-len(data) % tarfile.RECORDSIZE)


def chunk(kind: bytes, content: bytes) -> bytes:
    """One chunk of a PNG."""
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png(width: int, height: int, more: bytes = b"", pixels: bytes | None = None) -> bytes:
    """A grey PNG of zeros of the size that is declared, or with the rows that are given; `more` chunks before them."""
    rows = bytes((width + 1) * height) if pixels is None else pixels
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    content = chunk(b"IHDR", header) + more + chunk(b"IDAT", zlib.compress(rows, 9)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + content


def bomb(size: int = 200_000_000) -> bytes:
    """Deflated zeros: a thousandth of what they become."""
    return zlib.compress(bytes(size), 9)


def endless_jpeg(scans: int = 600, side: int = 256) -> bytes:
    """A progressive JPEG that repeats its last scan, a few bytes each, all of which pass over every pixel."""
    buffer = io.BytesIO()
    Image.new("RGB", (side, side)).save(buffer, "JPEG", progressive=True)
    data = buffer.getvalue()
    last = data[data.rfind(b"\xff\xc4", 0, data.rfind(b"\xff\xda")) : -2]
    return data[:-2] + last * scans + data[-2:]
