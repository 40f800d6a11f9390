"""The registry: every training as an MLflow run, every model as a version, one of them the champion.

This package is the only importer of `mlflow`. What is in use is said by aliases: `champion`, `challenger` (the newest
version that has not become champion) and `previous` (the champion before). The tag `stage` of each version reads
`production`, `staging` or `archived`. Aliases and stages follow the ledger (`wafer.registry.ledger`): a decision counts
once its line is written, and what a process that was killed then left undone is made up for by the next decision.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, replace

from wafer.errors import ModelError, RegistryError
from wafer.learning.decision import Policy
from wafer.records import SAME_MODEL
from wafer.registry import gate, later
from wafer.registry.connection import translated
from wafer.registry.gate import Best
from wafer.registry.ledger import InUse, promoted_by_gate, same_model
from wafer.registry.packaging import probe_deviation, probe_tolerance
from wafer.registry.provenance import lineage
from wafer.registry.records import RETUNED, WHY, Check, Comparison, Decision, GateRules, Version
from wafer.registry.retunes import RetuneStore
from wafer.registry.runs import as_tags
from wafer.registry.trainings import now
from wafer.registry.versions import MANIFEST, PARAMS, PROBE
from wafer.store.snapshot import Snapshot

ATTEMPTS = 100  # each one that fails means that another process has decided
LONGEST_REASON = 1000
FRESHNESS = (
    "they measure freshness too: a version that was trained more recently is expected to do better on them than an old "
    "one, whatever its recipe"
)


class Registry(RetuneStore):
    """Trainings, versions and the champion, in MLflow; see `VersionStore` for its arguments."""

    def decide(self, challenger: int | str | Version, rules: GateRules, snapshot: Snapshot | None = None) -> Decision:
        """Let a version become champion if it stands up to the present one, and write the decision to the ledger.

        Each must reach an absolute minimum, load verified and score its probe wafers as it did before. A later one is
        compared with the champion and with the best version that the gate ever promoted, on scores that neither
        training saw: `compare_for_gate` says which. The champion's own model again is a decision of the kind "same
        model" and changes nothing. Asked again about the champion, the decision that made it so is returned.

        Args:
            challenger: a version, its number, or an alias.
            rules: what it must show.
            snapshot: what the challenger was trained on; without it, stored forward scores alone are compared.

        Raises:
            RegistryError: there is no such version, or the registry cannot be reached.
        """
        version = self.version(challenger)
        judged: Decision | None = None
        for _ in range(ATTEMPTS):
            lines, digests = self.ledger(), self._digests()
            champion = InUse.after(lines, digests).champion
            if champion == version.version:
                self._settle()
                return [line for line in lines if line.promoted][-1]
            # another training may have promoted its version meanwhile: then this one has to beat that
            if judged is None or judged.champion != champion:
                if champion is not None and same_model(version.version, champion, digests):
                    judged = _nothing_new(version.version, champion)
                else:
                    judged = self._judge(version, champion, lines, rules, snapshot)
            decision = replace(judged, time=now())
            if self._append(decision, len(lines) + 1):
                return self._settled(decision)
        raise RegistryError(f"version {version.version} could not be decided: other decisions came again and again")

    def _digests(self) -> dict[int, str]:
        return {version.version: version.digest for version in self.versions()}

    def _judge(
        self,
        version: Version,
        champion: int | None,
        lines: Sequence[Decision],
        rules: GateRules,
        snapshot: Snapshot | None,
    ) -> Decision:
        metrics = self.metrics(version)
        checks = (*self.verify(version), self._check_canary(version, metrics, rules))
        checks += (gate.check_calibration(metrics, rules), gate.check_minimum(metrics, rules))
        comparison, best = None, Best()
        if champion is not None:
            try:
                comparison = self.compare_for_gate(version, self.version(champion), rules, snapshot)
                checks += gate.check_comparison(comparison, rules)
            except RegistryError as error:
                text = f"version {version.version} cannot be compared with version {champion}: {error}"
                checks += (Check("comparison", False, None, None, text),)
            best = self._compare_with_best(version, champion, lines, rules, snapshot)
            checks += best.checks
        reason = gate.explain(checks, version.version, champion, comparison, best.text)
        parent = version.tags.get(RETUNED)
        if parent is not None:
            reason = f"Version {version.version} is version {parent} with another policy: {version.tags[WHY]}. {reason}"
        return Decision(
            kind="gate" if parent is None else "retune",
            challenger=version.version,
            champion=champion,
            promoted=all(check.passed for check in checks),
            reason=reason,
            time=now(),
            checks=checks,
            comparison=comparison,
            rules=asdict(rules),
            best=best.version,
            best_comparison=best.comparison,
        )

    def _check_canary(self, version: Version, metrics: dict[str, float], rules: GateRules) -> Check:
        try:
            return gate.check_canary(metrics, self.scores(version), rules)
        except RegistryError as error:
            return Check("canary", False, None, None, str(error))

    def _compare_with_best(
        self,
        challenger: Version,
        champion: int,
        lines: Sequence[Decision],
        rules: GateRules,
        snapshot: Snapshot | None,
    ) -> Best:
        """The challenger against the best version that the gate ever promoted, so that small losses do not add up.

        A version that can no longer be compared is told, and the next best takes its place.
        """
        gone: list[str] = []
        for number, auc in self._best_promoted(lines):
            if number in (champion, challenger.version):
                return Best.found(number, auc, gone, None, rules)
            named = gate.named_with_auc(number, auc)
            try:
                found = self.compare_for_gate(challenger, self.version(number), rules, snapshot)
            except RegistryError as error:
                gone.append(f"{named} was promoted too and can no longer be compared: {error}")
                continue
            if found is not None and found.auc_low is not None:
                return Best.found(number, auc, gone, found, rules)
            gone.append(
                f"{named} was promoted too and has no batch of both kinds in common with version {challenger.version}"
            )
        return Best.nobody(gone)

    def _best_promoted(self, lines: Sequence[Decision]) -> list[tuple[int, float | None]]:
        """Versions that the gate has promoted, with their forward ROC AUC, the best first, of equals the newest."""
        found = promoted_by_gate(lines)
        for number, auc in found.items():
            if auc is None and self._lookup(number) is not None:
                found[number] = self.metrics(number).get("forward.auc")
        return sorted(found.items(), key=lambda each: (-1.0 if each[1] is None else each[1], each[0]), reverse=True)

    def compare(self, first: int | str | Version, second: int | str | Version, rules: GateRules) -> Comparison | None:
        """Two versions on the stored forward scores of their common wafers; None where there are none."""
        return gate.compare_scores(self.scores(first), self.scores(second), rules)

    def changes(self, first: int | str | Version, second: int | str | Version) -> list[dict[str, str | None]]:
        """What differs in the making of two versions: parameters, training table, code and libraries.

        Returns:
            A row each, by name: name (dotted), first, second; None where one has no such entry.
        """
        made = [self._made_of(self.version(which)) for which in (first, second)]
        names = sorted(name for name in made[0].keys() | made[1].keys() if made[0].get(name) != made[1].get(name))
        return [{"name": name, "first": made[0].get(name), "second": made[1].get(name)} for name in names]

    def _made_of(self, version: Version) -> dict[str, str]:
        """How a version came about, as texts by dotted name."""
        manifest = self.stored_json(version, MANIFEST) or {}
        counts = {f"snapshot.{name}": manifest[name] for name in ("wafers", "faulty") if name in manifest}
        params = as_tags({"params": self.stored_json(version, PARAMS) or {}})
        return {**lineage(version.tags), **as_tags(counts), **params}

    def compare_for_gate(
        self, challenger: Version, champion: Version, rules: GateRules, snapshot: Snapshot | None = None
    ) -> Comparison | None:
        """Two versions on scores that neither training saw; None where they have no wafer in common.

        Where the challenger's snapshot holds labelled batches that came entirely after the champion's training, with
        `rules.min_later_faults` faulty wafers and a batch of both labels among them, the champion itself scores these,
        and the challenger counts with its forward scores of them, each by a model of the batches before. Else both
        count with their stored forward scores on the wafers that they have in common.
        """
        comparison, why_not = self._compare_later(challenger, champion, rules, snapshot)
        if comparison is not None and why_not is None:
            text = f"batches that came after the training of version {champion.version}, which scored them itself"
            return replace(comparison, evidence="later batches", evidence_text=f"{text}; {FRESHNESS}")
        own = gate.within_budget(self.scores(champion), rules.policy, champion.threshold_kind)
        stored = gate.compare_scores(self.scores(challenger), own, rules)
        if stored is None:
            return None
        return replace(stored, evidence_text=f"both versions' stored forward scores, because {why_not}")

    def _compare_later(
        self, challenger: Version, champion: Version, rules: GateRules, snapshot: Snapshot | None
    ) -> tuple[Comparison | None, str | None]:
        """The comparison on later batches, and why it cannot be used; None where it can."""
        if snapshot is None:
            return None, "no snapshot was given to look for later batches"
        trained = self.stored_json(champion, MANIFEST)
        if trained is None:
            return None, f"version {champion.version} has no record of the batches that it was trained on"
        last = champion.tags.get("snapshot.last_order")
        rows = later.later_wafers(snapshot, trained, None if last is None else int(last))
        if rows is None or not rows.any():
            return None, f"no labelled batch came entirely after the training of version {champion.version}"
        try:
            own = later.score_as_champion(self.load(champion), snapshot, rows)
        except (ModelError, RegistryError) as error:
            return None, f"version {champion.version} cannot score the batches after its training ({error})"
        own = gate.within_budget(own, rules.policy, champion.threshold_kind)
        comparison = gate.compare_scores(self.scores(challenger), own, rules)
        return comparison, gate.too_little(comparison, champion.version, rules)

    def _in_use(self) -> InUse:
        return InUse.after(self.ledger(), self._digests())

    def retune(self, which: int | str | Version, policy: Policy, why: str, rules: GateRules) -> Decision:
        """Register a version with the same parts and the threshold of another policy, and let the gate decide on it.

        Nothing is trained. The gate judges the costs of the policy: alarms of the new threshold against those of the
        champion's, of which none counts that a lower ceiling leaves no room for.

        Args:
            which: a version, its number, or an alias.
            policy: what an alarm may cost.
            why: the reason, which version and ledger keep.
            rules: what it must show; of `policy` it has its costs.

        Raises:
            RegistryError: no reason is given, the policy is the version's own, or its scores tell too little.
            ModelError: the model keeps no held-out scores, as those of earlier releases.
        """
        version = self._retuned(self.version(which), policy, _as_reason("retune", why))
        return self.decide(version, replace(rules, policy=policy))

    def promote(self, which: int | str | Version, why: str) -> Decision:
        """Make a version champion by hand, if it loads verified.

        Raises:
            RegistryError: no reason is given, or the version is champion already or does not load as it was registered.
        """
        version = self.version(which)
        return self._by_hand("promote", why, lambda _: version)

    def rollback(self, why: str) -> Decision:
        """Make the champion before this one champion again: the latest that was another model.

        Raises:
            RegistryError: no reason is given, there was no champion before, or the champion changes meanwhile.
        """
        first = self._in_use()

        def choose(present: InUse) -> Version:
            if present.previous is None:
                raise RegistryError("there is no previous champion to go back to")
            if present.champion != first.champion:
                raise RegistryError(
                    f"version {present.champion} became champion meanwhile, in the place of version {first.champion}: "
                    "see whether it should still be rolled back"
                )
            return self.version(present.previous)

        return self._by_hand("rollback", why, choose)

    def _by_hand(self, kind: str, why: str, choose: Callable[[InUse], Version]) -> Decision:
        why = _as_reason(kind, why)
        checked: dict[int, tuple[Check, ...]] = {}
        for _ in range(ATTEMPTS):
            lines = self.ledger()
            present = InUse.after(lines, self._digests())
            version = choose(present)
            if present.champion == version.version:
                self._settle()
                raise RegistryError(f"version {version.version} is the champion already")
            if version.version not in checked:
                checked[version.version] = self.verify(version)
            checks = checked[version.version]
            failed = [check.text for check in checks if not check.passed]
            if failed:
                raise RegistryError(f"version {version.version} cannot become champion: {'; '.join(failed)}")
            decision = Decision(kind, version.version, present.champion, True, why, now(), checks)
            if self._append(decision, len(lines) + 1):
                return self._settled(decision)
        raise RegistryError(f"the {kind} could not be carried out: other decisions came again and again")

    def verify(self, which: int | str | Version) -> tuple[Check, ...]:
        """Whether a version's files are those that were registered, and score its probe wafers as they did then.

        What cannot be fetched is a check that failed.

        Raises:
            RegistryError: there is no such version.
        """
        version = self.version(which)
        try:
            model = self.load(version)
        except (ModelError, RegistryError) as error:
            return (Check("loads verified", False, None, None, str(error)),)
        loaded = Check("loads verified", True, None, None, "every file is what was registered")
        limit = probe_tolerance(model)
        try:
            probe = self.stored_frame(version, PROBE)
        except RegistryError as error:
            return loaded, Check("probe", False, None, limit, str(error))
        deviation = probe_deviation(model, probe)
        text = f"{len(probe)} probe wafers score as before reloading (largest deviation {deviation:.1g})"
        return loaded, Check("probe", deviation <= limit, deviation, limit, text)

    def _settled(self, decision: Decision) -> Decision:
        """The decision, once its line is written and aliases and stages say what the ledger says."""
        self._settle()
        self.tag(decision.challenger, "decision", decision.reason)
        return decision

    def _settle(self) -> None:
        """Make aliases and stages say what the ledger says, also when it grows meanwhile."""
        for _ in range(ATTEMPTS):
            present = self._in_use()
            with translated(self.tracking_uri, f"make version {present.champion} champion"):
                self._point(present)
            if self._in_use() == present:
                return
        raise RegistryError("the aliases could not be brought to what the ledger says: it grew again and again")

    def _point(self, present: InUse) -> None:
        if present.champion is None:
            return
        aliases, stages = self.aliases(), {version.version: version.stage for version in self.versions()}
        if present.previous in stages and aliases.get("previous") != present.previous:
            self._client.set_registered_model_alias(self.name, "previous", str(present.previous))
        if present.previous is None and "previous" in aliases:
            self._client.delete_registered_model_alias(self.name, "previous")
        if aliases.get("champion") != present.champion:
            self._client.set_registered_model_alias(self.name, "champion", str(present.champion))
        if aliases.get("challenger") == present.champion:
            self._client.delete_registered_model_alias(self.name, "challenger")
        for version, stage in stages.items():
            if version == present.champion and stage != "production":
                self.tag(version, "stage", "production")
            elif version != present.champion and stage == "production":
                self.tag(version, "stage", "archived")


def _as_reason(kind: str, why: str) -> str:
    why = why.strip()
    if not why:
        raise RegistryError(f"a {kind} needs a reason, which the ledger keeps")
    if len(why) > LONGEST_REASON:
        raise RegistryError(f"the reason may have {LONGEST_REASON} characters, got {len(why)}")
    return why


def _nothing_new(challenger: int, champion: int) -> Decision:
    """The decision on a version that is the champion's model again."""
    text = f"version {challenger} is the same model as version {champion}, which stays champion"
    check = Check("another model", False, None, None, text)
    return Decision(SAME_MODEL, challenger, champion, False, f"{text[0].upper()}{text[1:]}.", now(), (check,))
