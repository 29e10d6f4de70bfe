"""A real S3 server (SeaweedFS) on loopback, for tests and for trying s3:// roots by hand.

    .venv/bin/python -m tests.s3

prints the variables that a shell needs, and serves until Ctrl-C.
"""

import contextlib
import itertools
import json
import os
import random
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

import botocore.session
from botocore.config import Config as BotoConfig
from botocore.exceptions import BotoCoreError, ClientError

BUCKET = "data"
REGION = "us-east-1"
READY_SECONDS = 90.0  # about 1 on free cores; 17 were seen on busy ones, for the volumes to report
STOP_SECONDS = 20.0
ATTEMPTS = 5

# Every server also listens at +GRPC_OFFSET for gRPC. This range and its image lie above the worker ports of
# `ray start` (10002-19999) and below the kernel's ephemeral ports (32768 and up).
PORTS = range(20000, 22700, 10)
GRPC_OFFSET = 10000
SERVICES = ("s3", "master", "volume", "filer", "admin")


class S3Server:
    """One SeaweedFS process with one bucket, an administrator and an identity that may only read.

    Access keys are random, so that a client cannot mistake another session's server for this one.

    Args:
        host: address that it listens at.
    """

    def __init__(self, host: str = "127.0.0.1") -> None:
        self.host = host
        self.folder = Path(tempfile.mkdtemp(prefix="siamdiff-s3-"))
        self.admin, self.reader = _keys("admin"), _keys("reader")
        self.bucket_uri = f"s3://{BUCKET}"
        self._port = 0
        self._has_content = False
        self._process: subprocess.Popen[bytes] | None = None
        self._roots = itertools.count()
        self._write_identities()

    def __enter__(self) -> "S3Server":
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def endpoint(self) -> str:
        """The server's URL."""
        return f"http://{self.host}:{self._port}"

    @property
    def env(self) -> dict[str, str]:
        """The standard AWS variables of the administrator."""
        return self._env(*self.admin)

    @property
    def read_only_env(self) -> dict[str, str]:
        """The standard AWS variables of the identity that may only read."""
        return self._env(*self.reader)

    def new_root(self) -> str:
        """A URI under which nothing was ever written."""
        return f"{self.bucket_uri}/root-{next(self._roots):04d}"

    def client(self, env: dict[str, str] | None = None) -> Any:
        """A botocore client of this server, as the administrator unless `env` names someone else."""
        env = env or self.env
        return botocore.session.Session().create_client(
            "s3",
            region_name=REGION,
            endpoint_url=self.endpoint,
            aws_access_key_id=env["AWS_ACCESS_KEY_ID"],
            aws_secret_access_key=env["AWS_SECRET_ACCESS_KEY"],
            config=BotoConfig(connect_timeout=2, read_timeout=10, retries={"total_max_attempts": 1}),
        )

    def start(self) -> None:
        """Starts the server, or starts it again with its ports and its content after `stop`.

        Raises:
            RuntimeError: it did not become ready; the end of its log is in the message.
        """
        if self._process is not None:
            return
        fixed = [self._port] if self._port else []
        for port in fixed or itertools.islice(_free_ports(), ATTEMPTS):
            self._port = port
            self._launch()
            if self._wait_until_ready():
                return
            self.stop()
        log = (self.folder / "weed.log").read_text(errors="replace")
        raise RuntimeError(f"the S3 server did not become ready at {self.endpoint}:\n{log[-2000:]}")

    def stop(self) -> None:
        """Stops the server and keeps its content: to a client, the store is unreachable."""
        if self._process is None:
            return
        self._process.terminate()
        try:
            self._process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process = None
        for port in _block(self._port):
            for left_behind in Path("/tmp").glob(f"seaweedfs-*-{port}.sock"):
                left_behind.unlink(missing_ok=True)

    @contextlib.contextmanager
    def revoked(self) -> Iterator[None]:
        """While the block runs, after a restart, the administrator's keys so far are nobody's."""
        known, self.admin = self.admin, _keys("admin")
        self._restart()
        try:
            yield
        finally:
            self.admin = known
            self._restart()

    def close(self) -> None:
        """Stops the server and drops its content."""
        self.stop()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _env(self, key: str, secret: str) -> dict[str, str]:
        return {
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_ACCESS_KEY_ID": key,
            "AWS_SECRET_ACCESS_KEY": secret,
            "AWS_DEFAULT_REGION": REGION,
        }

    def _restart(self) -> None:
        self.stop()
        self._write_identities()
        self.start()

    def _write_identities(self) -> None:
        rights = {
            self.admin: ["Admin", "Read", "Write", "List", "Tagging"],
            self.reader: [f"Read:{BUCKET}", f"List:{BUCKET}"],
        }
        identities = [
            {"name": key, "credentials": [{"accessKey": key, "secretKey": secret}], "actions": actions}
            for (key, secret), actions in rights.items()
        ]
        (self.folder / "identities.json").write_text(json.dumps({"identities": identities}))

    def _launch(self) -> None:
        (self.folder / "content").mkdir(exist_ok=True)
        weed = Path(sys.executable).with_name("weed")
        setpriv = shutil.which("setpriv")  # a test session that is killed leaves no server behind
        ports = {service: self._port + offset for offset, service in enumerate(SERVICES)}
        command = [
            *([setpriv, "--pdeathsig=TERM"] if setpriv else []),
            str(weed),
            "mini",
            f"-dir={self.folder / 'content'}",
            f"-bucket={BUCKET}",
            f"-s3.config={self.folder / 'identities.json'}",
            f"-ip={self.host}",
            f"-ip.bind={self.host}",
            *(f"-{service}.port={port}" for service, port in ports.items()),
            *(f"-{service}.port.grpc={port + GRPC_OFFSET}" for service, port in ports.items()),
            "-s3.port.iceberg=0",
            "-s3.port.lance=0",
            "-s3.iam=false",
            "-admin.ui=false",
            "-webdav=false",
            "-master.telemetry=false",
        ]
        with open(self.folder / "weed.log", "ab") as log:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.folder,
                # it would take the keys of its environment for one more administrator's
                env={name: value for name, value in os.environ.items() if not name.startswith("AWS_")},
            )

    def _wait_until_ready(self) -> bool:
        assert self._process is not None
        client = self.client()
        deadline = time.monotonic() + READY_SECONDS
        while time.monotonic() < deadline and self._process.poll() is None:
            try:
                with urllib.request.urlopen(f"{self.endpoint}/healthz", timeout=2):
                    pass
                # It says healthy before the bucket is there and, started again, before it knows its old volumes.
                if self._has_content:
                    client.get_object(Bucket=BUCKET, Key=".ready/first")["Body"].read()
                key = ".ready/again" if self._has_content else ".ready/first"
                client.put_object(Bucket=BUCKET, Key=key, Body=b"ready")
            except (urllib.error.URLError, ClientError, BotoCoreError, OSError):
                time.sleep(0.05)
            else:
                self._has_content = True
                return True
        return False


def _keys(name: str) -> tuple[str, str]:
    return name + secrets.token_hex(8), secrets.token_hex(16)


def _free_ports() -> Iterator[int]:
    """First ports of blocks in which nothing listens, in random order: sessions side by side rarely try the same."""
    blocks = list(PORTS)
    random.SystemRandom().shuffle(blocks)
    for block in blocks:
        if all(_is_free(port) for port in _block(block)):
            yield block


def _block(first: int) -> list[int]:
    return [first + i + offset for i in range(len(SERVICES)) for offset in (0, GRPC_OFFSET)]


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def _main() -> None:
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with S3Server() as server:
        for name, value in server.env.items():
            print(f"export {name}={value}")
        print(f"# roots: {server.bucket_uri}/ANYTHING; Ctrl-C ends it and drops its content", flush=True)
        with contextlib.suppress(KeyboardInterrupt):
            signal.pause()


if __name__ == "__main__":
    _main()
