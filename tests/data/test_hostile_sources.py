"""Raw folders from anywhere: pictures that were made to fill the memory, links, names; each is a reason, no harm."""

import io
import os
import resource
import subprocess
import sys
import tracemalloc
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread

import pytest

from siamdiff.data.checking import Fault, decode_raw
from siamdiff.data.pairing import scan
from siamdiff.data.raw import examine
from siamdiff.data.sample import decode_image, decode_mask
from siamdiff.errors import SiamdiffError, UserError, one_line
from siamdiff.sections import Data
from tests.data.hostile import bomb, chunk, endless_jpeg, png
from tests.data.raw_folders import image, make_folder

MEMORY = 64 * 2**20


def gif() -> bytes:
    buffer = io.BytesIO()
    image(1).save(buffer, "GIF", save_all=True, append_images=[image(2)])
    return buffer.getvalue()


PICTURES = {
    "enormous": png(100_000, 100_000, pixels=b"\0"),
    "the largest that can be said": png(2**31 - 1, 2**31 - 1, pixels=b"\0"),
    "100,000 wide": png(100_000, 20),
    "text": png(8, 8, chunk(b"zTXt", b"a\0\0" + bomb())),
    "international text": png(8, 8, chunk(b"iTXt", b"a\0\1\0\0\0" + bomb())),
    "colour profile": png(8, 8, chunk(b"iCCP", b"a\0\0" + bomb())),
    "many texts": png(8, 8, chunk(b"zTXt", b"a\0\0" + bomb(10**6)) * 200),
    "scans": endless_jpeg(),
    "animated GIF called PNG": gif(),
    "cut": png(64, 64)[:-30],
    "corrupt": png(64, 64).replace(b"IDAT", b"IDAX"),
    "a script": b"#!/bin/sh\ntouch /tmp/x\n",
    "SVG": b'<svg xmlns="http://www.w3.org/2000/svg"><image href="file:///etc/passwd"/></svg>',
    "PostScript": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(/etc/passwd) run\n",
}


@pytest.mark.parametrize("data", PICTURES.values(), ids=PICTURES)
def test_a_picture_made_to_harm_is_one_line_and_little_memory(data: bytes) -> None:
    assert len(data) < 2**20
    tracemalloc.start()
    try:
        with pytest.raises(Fault) as fault:
            decode_raw(data, "image")
        for decode in (decode_image, decode_mask):
            with pytest.raises(SiamdiffError) as error:
                decode(data)
            assert "\n" not in str(error.value)
        assert tracemalloc.get_traced_memory()[1] < MEMORY + 100 * len(data)
    finally:
        tracemalloc.stop()
    assert fault.value.reason in ("image cannot be read", "image is too large")


def test_what_is_deflated_beyond_the_pixels_is_not_inflated() -> None:
    data = png(8, 8, pixels=bytes(72) + bytes(50_000_000))
    assert len(data) < 100_000
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert decode_raw(data, "image").size == (8, 8) and decode_mask(data).shape == (8, 8)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 20_000  # KiB


def test_a_sound_picture_that_compresses_well_is_taken() -> None:
    data = png(2048, 2048)
    assert len(data) < 10_000
    assert decode_mask(data).shape == (2048, 2048)


def read(folder: Path) -> tuple[list[str], dict[str, list[str]]]:
    source = scan(Data.model_validate({"source": str(folder)}))
    reasons: dict[str, list[str]] = {}
    for bad in source.rejected:
        reasons.setdefault(bad.reason, []).extend(bad.files)
    return [pair.image for pair in source.pairs], reasons


def test_links_are_not_followed_and_listed(tmp_path: Path) -> None:
    folder, other = make_folder(tmp_path / "raw", ["a"]), make_folder(tmp_path / "other", ["private"])
    for kind in ("images", "masks"):
        (folder / kind / "b.png").symlink_to(other / kind / "private.png")
        (folder / kind / "c.png").symlink_to("a.png")
        (folder / kind / "d.png").symlink_to("/nowhere")
    (folder / "images/e.png").symlink_to("/dev/zero")
    (folder / "images/more").symlink_to(other / "images")
    (folder / "images/around").symlink_to(folder)
    os.mkfifo(folder / "images/f.png")
    pairs, reasons = read(folder)
    assert pairs == ["images/a.png"]
    assert reasons == {
        "is a link": [
            *("images/around", "images/b.png", "images/c.png", "images/d.png", "images/e.png", "images/more"),
            *("masks/b.png", "masks/c.png", "masks/d.png"),
        ]
    }


def test_a_source_of_links_alone_says_so(tmp_path: Path) -> None:
    other = make_folder(tmp_path / "other", ["a"])
    (tmp_path / "raw").mkdir()
    for kind in ("images", "masks"):
        (tmp_path / "raw" / kind).symlink_to(other / kind)
    with pytest.raises(UserError, match="links are not followed"):
        read(tmp_path / "raw")


def test_a_file_that_becomes_a_pipe_is_a_fault(tmp_path: Path) -> None:
    folder = make_folder(tmp_path, ["a"])
    data = Data.model_validate({"source": str(folder)})
    (pair,) = scan(data).pairs
    (folder / "images/a.png").unlink()
    (folder / "images/a.png").mkdir()
    assert examine(str(folder), pair, data).reason == "image cannot be read"


def test_names_cannot_forge_lines_or_drive_a_terminal(tmp_path: Path) -> None:
    told = one_line(f"{tmp_path}/a\nerror: all is well\x1b[2J\x07\N{RIGHT-TO-LEFT OVERRIDE}.png is \xe4")
    assert told.isprintable() and told.endswith("all is well\\x1b[2J\\x07\\u202e.png is \xe4")


def test_a_forged_name_is_one_line_of_a_command(tmp_path: Path) -> None:
    given = str(tmp_path / "a\n\x1b[31mdone: 1 \x1b[0m")
    done = subprocess.run(
        [sys.executable, "-m", "siamdiff", "verify", given], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and "\x1b" not in done.stderr


class HostileStore(BaseHTTPRequestHandler):
    """A store that lists a name which leads out of its folder, and would serve it."""

    def do_GET(self) -> None:
        listing = (
            '<ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/"><Name>b</Name><KeyCount>1</KeyCount>'
            "<IsTruncated>false</IsTruncated><Contents><Key>model/../../../escaped.txt</Key><Size>1</Size>"
            "<LastModified>2026-01-01T00:00:00Z</LastModified><ETag>&quot;0&quot;</ETag></Contents></ListBucketResult>"
        )
        body = listing.encode() if "list-type" in self.path else b"x"
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Nothing: the default writes to stderr."""


def test_names_in_a_store_that_lead_out_of_a_folder_are_refused(tmp_path: Path) -> None:
    server = HTTPServer(("127.0.0.1", 0), HostileStore)
    Thread(target=server.serve_forever, daemon=True).start()
    code = (
        "import sys; from pathlib import Path; from siamdiff import transfer; from siamdiff.errors import UserError\n"
        "try: transfer.download_folder('s3://b/model', Path(sys.argv[1]))\n"
        "except UserError as error: print(error)\n"
    )
    environment = os.environ | {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{server.server_port}",
        "AWS_ACCESS_KEY_ID": "a",
        "AWS_SECRET_ACCESS_KEY": "b",
    }
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "1" / "2" / "model")],
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
    )
    server.shutdown()
    server.server_close()
    assert "s3://b/model holds names that lead out of it" in done.stdout, done.stderr
    assert not list(tmp_path.rglob("escaped.txt"))
