"""The commands about the service."""

import json
from pathlib import Path

from tests.terminal import wafer


def test_a_token_is_made_listed_and_revoked(tmp_path: Path) -> None:
    """Standard output is the token alone, once; the list has no secret, and a revoked one stays in it."""
    place = {"WAFER_STORAGE": str(tmp_path)}
    made = wafer("token", "create", "sca\u202eda", "--scope", "read", "--scope", "score", **place)
    assert (made.returncode, "printable" in made.stderr) == (2, True)
    made = wafer("token", "create", "scada", "--scope", "read", "--scope", "score", "--days", "30", **place)
    token = made.stdout.strip()
    assert (made.returncode, token.startswith("wafer_"), len(token)) == (0, True, 62)
    number = token.split("_")[1]
    (listed,) = json.loads(wafer("token", "list", "--json", **place).stdout)
    assert (listed["id"], listed["name"], listed["scopes"], listed["valid"]) == (
        number,
        "scada",
        ["read", "score"],
        True,
    )
    assert "digest" not in listed
    assert wafer("token", "revoke", number, **place).returncode == 0
    told = wafer("token", "list", **place).stdout
    assert ("revoked" in told, token in told) == (True, False)
    assert "there is no token" in wafer("token", "revoke", "0" * 12, **place).stderr


def test_others_are_not_served_without_tokens(tmp_path: Path) -> None:
    """An address that others reach needs tokens, and one that is valid."""
    place = {"WAFER_STORAGE": str(tmp_path)}
    refused = wafer("serve", "--host", "0.0.0.0", "--no-tokens", **place)
    assert (refused.returncode, "tokens cannot be left out" in refused.stderr) == (2, True)
    refused = wafer("serve", "--host", "0.0.0.0", **place)
    assert (refused.returncode, "wafer token create" in refused.stderr) == (2, True)
