"""Trainings that are run again: whether the very same one was done before, and which were cut short.

A training is *running* from the moment its version exists until `finish` says that it went through: gate and reports.
One that was killed on the way stays so, and the next training either completes or archives it.
"""

import json
from collections.abc import Mapping
from typing import Any

from wafer.errors import RegistryError
from wafer.registry.connection import translated
from wafer.registry.ledger import LedgerStore
from wafer.registry.provenance import lineage
from wafer.registry.records import ARCHIVED, FINISHED, RETUNED, RUNNING, TRAINING, Version
from wafer.registry.versions import PARAMS

REPORTS = "reports"
"""Where the reports lie among the files of a training's run."""


class RerunStore(LedgerStore):
    """Finds and ends trainings; see `wafer.registry.versions.VersionStore` for its arguments."""

    def find_same(self, snapshot: str, params: Mapping[str, Any], source: Mapping[str, str]) -> Version | None:
        """The newest version of the very same training, a finished one if there is any; None where there is none.

        Trained again, the same model would come out. An archived version does not count, nor one that was retuned,
        which has no training of its own.

        Args:
            snapshot: digest of the snapshot.
            params: the sections of params.yaml that shape model and scores, by name; others are not looked at.
            source: code and libraries, as `wafer.registry.provenance.describe_source` gives them.

        Returns:
            A version whose `training` says whether it is finished, or running: killed, or in another process.
        """
        wanted, exact = _code_and_libraries(source), json.loads(json.dumps(params))
        if wanted is None:
            return None
        found = [
            version
            for version in self.versions()
            if version.training != ARCHIVED
            and RETUNED not in version.tags
            and version.tags.get("snapshot.digest") == snapshot
            and _code_and_libraries(version.tags) == wanted
            and _agree(self.stored_json(version, PARAMS), exact)
        ]
        return max(found, key=lambda each: (each.training == FINISHED, each.version), default=None)

    def unfinished(self) -> list[Version]:
        """Versions whose training has not gone through, oldest first: it was killed, or runs in another process."""
        return [version for version in self.versions() if version.training == RUNNING]

    def missing(self, which: int | str | Version) -> tuple[str, ...]:
        """What a version still lacks of a whole training, in its sequence: "decision", "reports"."""
        version = self.version(which)
        with translated(self.tracking_uri, f"list the reports of version {version.version}"):
            reports = self._client.list_artifacts(version.run_id, REPORTS)
        decided = any(line.challenger == version.version for line in self.ledger())
        return (*(() if decided else ("decision",)), *(() if reports else (REPORTS,)))

    def finish(self, which: int | str | Version) -> None:
        """Note that a version's training went through, as its last step.

        Raises:
            RegistryError: something is missing yet, or there is no such version.
        """
        version = self.version(which)
        missing = self.missing(version)
        if missing:
            raise RegistryError(f"the training of version {version.version} is not finished: it has no {missing[0]}")
        self._end_run(version, "FINISHED")
        self.tag(version.version, TRAINING, FINISHED)

    def archive(self, which: int | str | Version, why: str) -> bool:
        """Set a version aside whose training will not be completed; False for one that has been champion, which stays.

        The ledger says which have been: aliases are behind where a decision was cut short. One that is still running
        may yet finish.

        Raises:
            RegistryError: no reason is given, or there is no such version.
        """
        version = self.version(which)
        if not why.strip():
            raise RegistryError("archiving needs a reason, which the registry keeps")
        if any(line.promoted and line.challenger == version.version for line in self.ledger()):
            return False
        self._end_run(version, "KILLED")
        for key, value in {"archived": why.strip(), "stage": "archived", TRAINING: ARCHIVED}.items():
            self.tag(version.version, key, value)
        if self.aliases().get("challenger") == version.version:
            with translated(self.tracking_uri, "take the alias from an archived version"):
                self._client.delete_registered_model_alias(self.name, "challenger")
        return True

    def _end_run(self, version: Version, status: str) -> None:
        """End a run that its process left open."""
        with translated(self.tracking_uri, f"end the run of version {version.version}"):
            if self._client.get_run(version.run_id).info.status == "RUNNING":
                self._client.set_terminated(version.run_id, status)


def _code_and_libraries(tags: Mapping[str, str]) -> dict[str, str] | None:
    """What has to be equal for the same code; None where it cannot be told which code it was.

    A commit is enough only where nothing was changed since; the digest of the code itself is enough in any case.
    """
    libraries = {key: value for key, value in lineage(tags).items() if key.startswith(("library.", "python"))}
    if "source.digest" in tags:
        return {**libraries, "source.digest": tags["source.digest"]}
    if tags.get("git.dirty") == "false":
        return {**libraries, "git.commit": tags["git.commit"]}
    return None


def _agree(recorded: Any, wanted: Mapping[str, Any]) -> bool:
    return isinstance(recorded, dict) and all(recorded.get(name) == values for name, values in wanted.items())
