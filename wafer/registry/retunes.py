"""Another policy for a version: the same parts with another threshold, from stored scores and without training again.

Whatever a training with the other policy would give stands here too, to the bit: parts and threshold by the model's own
held-out scores, alarms and metrics of its evaluation by the tails that stand with its scores.
"""

import tempfile
from dataclasses import asdict
from pathlib import Path

import pandas as pd

from wafer.errors import RetuneError
from wafer.learning.decision import TAILS, Policy
from wafer.learning.evaluation import measured
from wafer.learning.parts import model_digest
from wafer.registry.packaging import split_probe
from wafer.registry.provenance import lineage
from wafer.registry.records import FINISHED, RETUNED, TRAINING, WHY, Version
from wafer.registry.reruns import RerunStore
from wafer.registry.runs import flatten
from wafer.registry.versions import LIBRARIES, MANIFEST, PARAMS, PROBE
from wafer.scoring.bundle import Bundle
from wafer.storage import write_json


class RetuneStore(RerunStore):
    """Registers versions with another policy; see `wafer.registry.versions.VersionStore` for its arguments."""

    def _retuned(self, parent: Version, policy: Policy, why: str) -> Version:
        """A new version with the parts of `parent` and the threshold of `policy`.

        Raises:
            RetuneError: the policy is the parent's own, the champion is that model already, or the scores of the
                evaluation do not tell what another policy makes of them.
            ModelError: the model keeps no held-out scores.
            TamperedError: the parent is not what was registered.
        """
        scores = rescored(self.scores(parent), policy, parent.version)
        params = {**(self.stored_json(parent, PARAMS) or {}), "policy": asdict(policy)}
        found, _ = measured(scores, policy, seed=params.get("evaluate", {}).get("seed", 0))
        example, _ = split_probe(self.stored_frame(parent, PROBE))
        with tempfile.TemporaryDirectory() as scratch:
            self._with_policy(parent, policy).save(Path(scratch, "model"))
            champion = self.champion()
            if champion is not None and champion.digest == model_digest(Path(scratch, "model")):
                raise RetuneError(f"version {champion.version} is that model already, and in use")
            return self._log_version(
                *("retune", params, self.metrics(parent) | flatten(found), scores, Path(scratch, "model"), example),
                files=self._documents_of(parent, Path(scratch)),
                tags=lineage(parent.tags) | {RETUNED: str(parent.version), WHY: why, TRAINING: FINISHED},
            )

    def _with_policy(self, parent: Version, policy: Policy) -> Bundle:
        bundle = self.load(parent)
        if bundle.classifier.policy_ == policy:
            raise RetuneError(f"version {parent.version} has this policy already, so there is nothing to retune")
        return bundle.with_policy(policy)

    def _documents_of(self, parent: Version, folder: Path) -> dict[str, Path | pd.DataFrame]:
        """What a rebuild needs of the training that made the parts, by the name of its file."""
        found = {name: self.stored_json(parent, name) for name in (MANIFEST, LIBRARIES)}
        files: dict[str, Path | pd.DataFrame] = {}
        for name, content in found.items():
            if content is not None:
                files[name] = folder / Path(name).name
                write_json(folder / Path(name).name, content)
        return files


def rescored(scores: pd.DataFrame, policy: Policy, version: int) -> pd.DataFrame:
    """An evaluation's scores with the alarms that another policy would have raised.

    Raises:
        RetuneError: the scores have no column that tells, as those of earlier releases.
    """
    column = TAILS[policy.threshold]
    if column not in scores or scores[column].isna().any():
        raise RetuneError(
            f"the evaluation of version {version}, which an earlier release registered, does not tell which alarms "
            "another policy would have raised: train it again"
        )
    tail, probability = scores[column].to_numpy(float), scores["probability"].to_numpy(float)
    return scores.assign(alarm=policy.alarms(probability, tail))
