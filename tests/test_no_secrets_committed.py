"""No file of this repository holds what looks like a real key or password."""

import re
import subprocess

import pytest

from tests.conftest import REPOSITORY

LOOKS_SECRET = {
    "a private key": r"-----BEGIN (?:[A-Z]+ )*PRIVATE KEY-----",
    "an access key of Amazon's": r"\b(?:AKIA|ASIA)[0-9A-Z]{16}\b",
    "a token of GitHub's": r"\b(?:gh[pousr]_[0-9A-Za-z]{36}|github_pat_[0-9A-Za-z_]{60})",
    "a token of GitLab's": r"\bglpat-[0-9A-Za-z_-]{20}",
    "a token of Slack's": r"\bxox[abprs]-[0-9A-Za-z-]{10}",
    "a key of Prefect Cloud's": r"\bpn[ub]_[0-9A-Za-z]{30}",
    "a signed token": r"\beyJ[0-9A-Za-z_-]{15,}\.eyJ[0-9A-Za-z_-]{15,}\.",
    "a long password in an address": r"://[^\s:@/]+:(?=[^@/\s]*\d)[0-9A-Za-z+%_-]{20,}@",
    "a key that is assigned": r"(?i:secret|password|token|api_?key)\w*[\"']?\s*[:=]\s*[\"']?"
    r"(?=\S*\d)[0-9A-Za-z+/]{32,}={0,2}(?![^\s\"'])",
}
EXAMPLES = {
    "a private key": "-----BEGIN " + "RSA PRIVATE KEY-----",
    "an access key of Amazon's": "AKIA" + "Q3EGRZ7XKJ2ABCDE",
    "a token of GitHub's": "ghp_" + "a1" * 18,
    "a token of GitLab's": "glpat-" + "a1" * 10,
    "a token of Slack's": "xoxb-" + "1234567890",
    "a key of Prefect Cloud's": "pnu_" + "a1" * 15,
    "a signed token": "eyJ" + "hbGciOiJIUzI1NiJ9.eyJ" + "zdWIiOiIxMjM0NTY3.x",
    "a long password in an address": "mongodb://me:" + "s3cr3t" * 4 + "@host/",
    "a key that is assigned": "AWS_SECRET_ACCESS_KEY=" + "wJalrXUtnFEMI1K7MDENGbPxRfiCYzzz",
}


@pytest.mark.parametrize("what", LOOKS_SECRET)
def test_what_looks_like_a_secret_is_seen(what: str) -> None:
    """Each pattern finds an example of its kind."""
    assert re.search(LOOKS_SECRET[what], EXAMPLES[what])


def test_no_file_holds_one() -> None:
    """None of the files that git tracks does; names and lines of those that do are told, not what they hold."""
    if subprocess.run(["git", "rev-parse"], cwd=REPOSITORY, capture_output=True, check=False).returncode:
        pytest.skip("this is no checkout")
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=REPOSITORY, capture_output=True, check=True).stdout
    either = re.compile("|".join(f"(?:{pattern})" for pattern in LOOKS_SECRET.values()))
    found = []
    for name in filter(None, listed.decode().split("\0")):
        if name.endswith(".lock") or not (REPOSITORY / name).is_file():  # hashes, which are no secrets
            continue
        text = (REPOSITORY / name).read_bytes().decode(errors="replace")
        found += [f"{name}:{number}" for number, line in enumerate(text.splitlines(), 1) if either.search(line)]
    assert found == []
