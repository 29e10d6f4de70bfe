"""Known vulnerabilities of the pinned dependencies, and secrets in the files under version control.

    python .ci/audit.py            exit code 1: there are some
    python .ci/audit.py --accept   what the secret scan finds now is none: rewrites .ci/secrets.json

A service of vulnerabilities that does not answer, or knows none of the packages (an index that is a mirror), is said
and is no failure: the build must pass without a network, and another run will tell.
"""

import json
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

ACCEPTED = Path(__file__).with_name("secrets.json")
REPOSITORY = Path(__file__).resolve().parents[1]
WELL_KNOWN = "torch=="
UNSCANNED = (
    r"merges\.txt$",
    r"constraints\.txt$",
    r"\.png$",
    r"\.ci/",
)  # a tokenizer's table, versions, pictures


def main(argv: list[str]) -> int:
    """Runs both; returns the exit code."""
    if argv == ["--accept"]:
        ACCEPTED.write_text(json.dumps(secrets_found(), indent=2) + "\n")
        return 0
    with ThreadPoolExecutor() as pool:  # the one waits for the network, the other computes
        found = [
            line for lines in pool.map(lambda look: look(), (vulnerabilities, new_secrets)) for line in lines
        ]
    for line in found:
        print(line, file=sys.stderr)
    return 1 if found else 0


def vulnerabilities() -> list[str]:
    """A line for each vulnerability that is known of a pinned dependency."""
    pinned = [line for line in (REPOSITORY / "constraints.txt").read_text().splitlines() if "==" in line]
    known = [line for line in pinned if line.startswith(WELL_KNOWN)]
    try:
        if any("skip_reason" in package for package in asked(known)):  # one question instead of all of them
            print("audit: dependencies NOT audited: this index has no records of vulnerabilities")
            return []
        packages = asked(pinned)
    except ConnectionError as error:
        print(f"audit: dependencies NOT audited: no answer ({error})")
        return []
    audited = [package for package in packages if "skip_reason" not in package]
    print(f"audit: {len(audited)} of {len(packages)} dependencies audited")
    return [
        f"{package['name']} {package['version']}: {found['id']}, fixed in {', '.join(found['fix_versions']) or 'none'}"
        for package in audited
        for found in package["vulns"]
    ]


def asked(pinned: list[str]) -> list[dict[str, Any]]:
    """What pip-audit knows of some pinned packages.

    Raises:
        ConnectionError: the service does not answer.
    """
    options = (
        "--no-deps",
        "--disable-pip",
        "--timeout",
        "5",
        "--progress-spinner",
        "off",
        "--format",
        "json",
    )
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as file:
        file.write("\n".join(pinned))
        file.flush()
        done = run("pip_audit", "--requirement", file.name, *options)
    try:
        return json.loads(done.stdout)["dependencies"]
    except (ValueError, KeyError):
        lines = done.stderr.strip().splitlines() or ["nothing was said"]
        if "onnection" not in done.stderr and "imed out" not in done.stderr:
            sys.exit(f"the audit of the dependencies failed: {lines[-1]}")
        raise ConnectionError(lines[-1][:200]) from None


def new_secrets() -> list[str]:
    """A line for each place that looks like a secret and is not among those accepted."""
    accepted = json.loads(ACCEPTED.read_text())
    unknown = {
        file: [found for found in places if found[:2] not in [known[:2] for known in accepted.get(file, [])]]
        for file, places in secrets_found().items()
    }
    told = [
        f"{file}:{line}: looks like a secret ({kind}); remove and replace it, or say with `.ci/audit.py --accept` that "
        "it is none"
        for file, places in unknown.items()
        for kind, _, line in places
    ]
    print(f"audit: {len(told)} new secrets")
    return told


def secrets_found() -> dict[str, list[list[str | int]]]:
    """file -> [kind, SHA-1 of the text, line] of what looks like a secret; nothing is asked of any service."""
    excluded = [option for pattern in UNSCANNED for option in ("--exclude-files", pattern)]
    done = run("detect_secrets", "scan", "--no-verify", *excluded)
    if done.returncode:
        sys.exit(f"the secret scan failed: {done.stderr.strip()}")
    return {
        file: sorted([[one["type"], one["hashed_secret"], one["line_number"]] for one in places])
        for file, places in sorted(json.loads(done.stdout)["results"].items())
    }


def run(module: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """A tool, in the repository's folder."""
    return subprocess.run(
        [sys.executable, "-m", module, *arguments],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
