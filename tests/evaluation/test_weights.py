"""Downloads of weights: checked by hash, kept on the node, told in one line where they fail."""

import hashlib
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest

from siamdiff.errors import SiamdiffError, UserError
from siamdiff.evaluation import weights
from siamdiff.evaluation.weights import download


class Handler(SimpleHTTPRequestHandler):
    """Silent."""

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Path, str]]:
    """A folder, and the URL at which a server of this machine gives its files away."""
    monkeypatch.setenv("SIAMDIFF_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(weights, "is_offline_mode", lambda: False)  # tests are offline otherwise
    folder = tmp_path / "served"
    folder.mkdir()
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(folder))) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield folder, f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_a_download_is_checked_and_kept(served: tuple[Path, str]) -> None:
    folder, url = served
    (folder / "a.pt").write_bytes(b"weights")
    sha256 = hashlib.sha256(b"weights").hexdigest()
    found = download(f"{url}/a.pt", sha256[:8], "a file")
    assert (found.sha256, found.name) == (sha256, f"a.pt (sha256 {sha256[:16]})")
    (folder / "a.pt").unlink()
    assert download(f"{url}/a.pt", sha256[:8], "a file") == found


def test_a_download_that_fails_is_told_in_one_line(served: tuple[Path, str]) -> None:
    folder, url = served
    (folder / "a.pt").write_bytes(b"other")
    with pytest.raises(SiamdiffError, match=r"is not what it was .* give inception=FILE") as caught:
        download(f"{url}/a.pt", "0" * 64, "inception=FILE")
    assert "\n" not in str(caught.value)
    for missing in (f"{url}/none.pt", "http://127.0.0.1:9/a.pt"):
        with pytest.raises(UserError, match=r"cannot be reached .* give inception=FILE") as caught:
            download(missing, "0" * 64, "inception=FILE")
        assert "\n" not in str(caught.value)
