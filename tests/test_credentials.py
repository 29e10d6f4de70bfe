"""Credentials: refused where none belongs, and never in what a job writes, says or passes on."""

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from siamdiff import storage
from siamdiff.commandline import load
from siamdiff.credentials import kind_of
from siamdiff.errors import UserError
from tests.jobs import REPOSITORY, command, config_file
from tests.s3 import S3Server
from tests.sets import small_config

DEMO = REPOSITORY / "jobs" / "configs" / "demo.yaml"
# made here: a scanner that looks through this repository shall find none
ACCESS_KEY = "AKIA" + "Q" * 16
SECRET = hashlib.sha1(b"nobody's").hexdigest()
SLIPS = {
    "a user and a password in a URL": f"s3://{ACCESS_KEY.lower()}:{SECRET}@bucket/polyps",
    "an AWS access key": f"s3://bucket/{ACCESS_KEY}",
    "a signed URL": f"s3://bucket/x?X-Amz-Signature={SECRET}",
    "a Hugging Face token": "hf_" + "a" * 34,
    "a GitHub token": "ghp_" + "a" * 36,
    "a private key": "-----BEGIN RSA " + "PRIVATE KEY-----",
}


def refusal(*argv: str) -> str:
    with pytest.raises(UserError) as caught:
        load(list(argv), DEMO, "a test")
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(("kind", "slip"), SLIPS.items(), ids=SLIPS)
def test_a_configuration_with_a_credential_is_refused_and_it_is_not_shown(
    kind: str, slip: str, tmp_path: Path
) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(json.dumps({"data": {"source": slip}}))
    for told in (refusal("--config", str(file)), refusal("--data.source", slip)):
        assert told.startswith(f"data.source holds what looks like {kind}: refused, and not shown")
        assert slip not in told and SECRET not in told and ACCESS_KEY not in told


@pytest.mark.parametrize(
    "content",
    [
        f"data: {{license: [1, {{deep: '{ACCESS_KEY}'}}]}}",
        f"cluster: {{'{ACCESS_KEY}': 1}}",
        f"unknown: {{key: '{ACCESS_KEY}'}}",
        f"evaluate: {{synthetic: {{ours: 's3://u:{SECRET}@b/c'}}}}",
        f"data: 's3://u:{SECRET}@b/c'",
        f"a: &a ['{ACCESS_KEY}', *a]",
    ],
)
def test_it_is_found_wherever_it_stands(content: str, tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(content)
    told = refusal("--config", str(tmp_path / "mine.yaml"))
    assert "holds what looks like" in told and ACCESS_KEY not in told and SECRET not in told


@pytest.mark.parametrize(
    "text",
    [
        "s3://bucket/a:b@c",
        "/data/user@host/a:b",
        "stabilityai/model@fp16",
        "a polyp: small, @ 10 o'clock",
        "file:///data/AKIA",
        "ab" * 32,
    ],
)
def test_what_is_none_passes(text: str) -> None:
    assert kind_of(text) is None


def test_every_example_passes() -> None:
    for file in sorted((REPOSITORY / "jobs" / "configs").glob("*.yaml")):
        load(["--config", str(file)], DEMO, "a test")


def test_a_uri_with_a_password_is_refused_by_every_tool() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "siamdiff", "verify", f"s3://user:{SECRET}@bucket/set"],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert "a user and a password in a URL" in done.stderr and SECRET not in done.stderr
    with pytest.raises(UserError, match="a user and a password"):
        storage.normalize(f"https://user:{SECRET}@host/x")


YAMLS = {
    "calls a function": "root: !!python/object/apply:os.system ['touch {trace}']",
    "makes an object": "root: !!python/object/new:os.system ['touch {trace}']",
    "imports": "root: !!python/module:antigravity",
    "deep": "[" * 1_500,
    "laughs": "a: &a [x,x,x,x,x,x,x,x,x]\n"
    + "".join(f"{b}: &{b} [{','.join([f'*{a}'] * 9)}]\n" for a, b in zip("abcdefgh", "bcdefghi", strict=True))
    + "data: *i",
    "laughs below": "x: &a {b: &b {c: 1}}\ndata:\n"
    + "  l0: &l0 {k: v}\n"
    + "".join(f"  l{i + 1}: &l{i + 1} {{{', '.join(f'k{j}: *l{i}' for j in range(9))}}}\n" for i in range(9)),
    "holds itself": "root: &a [*a]",
    "bytes": "\x00\x01",
}


@pytest.mark.parametrize("content", YAMLS.values(), ids=YAMLS)
def test_yaml_that_is_more_than_a_configuration_is_one_line(content: str, tmp_path: Path) -> None:
    trace = tmp_path / "it ran"
    (tmp_path / "mine.yaml").write_text(content.replace("{trace}", str(trace)))
    told = refusal("--config", str(tmp_path / "mine.yaml"))
    assert len(told) < 2000 and not trace.exists()


def shows_no_key(s3: S3Server, *arguments: str) -> str:
    """What a command says with a wrong secret, in which there is no credential."""
    done = subprocess.run(
        arguments,
        env=os.environ | s3.env | {"AWS_SECRET_ACCESS_KEY": SECRET},
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert done.returncode == 2 and "check the credentials" in done.stderr.splitlines()[-1], done.stderr
    said = done.stdout + done.stderr
    for hidden in (SECRET, s3.env["AWS_ACCESS_KEY_ID"], s3.env["AWS_SECRET_ACCESS_KEY"]):
        assert hidden not in said
    return said


def test_a_wrong_secret_is_told_without_it(s3: S3Server) -> None:
    shows_no_key(s3, sys.executable, "-m", "siamdiff", "verify", s3.new_root())


@pytest.mark.soak
def test_a_job_with_a_wrong_secret_tells_it_without_it(s3: S3Server, tmp_path: Path) -> None:
    shows_no_key(s3, *command("train", "--config", config_file(small_config(s3.new_root()), tmp_path)))
