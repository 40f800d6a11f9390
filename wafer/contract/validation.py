"""Great Expectations at work: many expectations over one frame, and the rows that break each.

The only importer of `great_expectations`, which takes seconds: it is imported when the first suite is made.
"""

from collections.abc import Mapping, Sequence, Set
from typing import TYPE_CHECKING, Any

from wafer.contract.rules import Rule
from wafer.errors import AgreementError

if TYPE_CHECKING:
    import pandas as pd

# they compare the rows of a frame with each other, and so would judge files by their neighbours
_ACROSS_ROWS = frozenset({"expect_column_values_to_be_unique", "expect_compound_columns_to_be_unique"})


class Suite:
    """The expectations of some rules, ready to judge frames.

    Raises:
        AgreementError: Great Expectations does not know an expectation, refuses its arguments or drops it, or it
            judges a frame as a whole and could not say which row breaks it.
    """

    def __init__(self, name: str, rules: Sequence[Rule]) -> None:
        import great_expectations as gx
        from great_expectations.core import ExpectationSuite
        from great_expectations.data_context.types.base import ProgressBarsConfig

        self._rules = {rule.name: rule for rule in rules}
        self._expectations = {rule.name: _expectation(rule) for rule in rules}
        self._suite = ExpectationSuite(name=name, expectations=list(self._expectations.values()))
        loaded = len(self._suite.expectations)
        if loaded != len(rules) or not rules:
            raise AgreementError(f"suite {name}: {loaded} expectations were loaded of {len(rules)} that it lists")
        context = gx.get_context(mode="ephemeral")
        context.variables.progress_bars = ProgressBarsConfig(globally=False)
        asset = context.data_sources.add_pandas("wafer").add_dataframe_asset(name)
        self._batches = asset.add_batch_definition_whole_dataframe("frame")

    def broken(self, frame: "pd.DataFrame") -> dict[str, list[int]]:
        """The index labels of the rows that break each rule, by rule; rules that all rows keep are left out.

        Raises:
            AgreementError: a rule could not be evaluated; the message names it.
        """
        from great_expectations.core import ExpectationSuite

        batch = self._batches.get_batch({"dataframe": frame})
        failing = self._results(batch, self._suite, "BOOLEAN_ONLY").keys()
        if not failing:
            return {}
        # which rows break a rule costs twice as much to find out as whether one does, and most rules are kept
        few = ExpectationSuite(name="failing", expectations=[self._expectations[name] for name in sorted(failing)])
        broken = {}
        for name, result in self._results(batch, few, "COMPLETE").items():
            rows = result.result.get("unexpected_index_list")
            if not rows:
                raise AgreementError(f"rule {name}: is broken, but {self._rules[name].type} names no rows")
            broken[name] = sorted(set(rows))
        if broken.keys() != failing:
            lost = ", ".join(sorted(failing - broken.keys()))
            raise AgreementError(f"suite {self._suite.name}: no rows for {lost}")
        return broken

    def rehearse(self, text: Set[str] = frozenset()) -> None:
        """Apply each rule to a row made up for it, "x" in the columns of `text` and 1 in others.

        Raises:
            AgreementError: as `broken`, before there is anything to judge.
        """
        import pandas as pd

        columns = sorted({column for rule in self._rules.values() for column in rule.columns})
        self.broken(pd.DataFrame({column: ["x" if column in text else 1.0] for column in columns}))

    def _results(self, batch: Any, suite: Any, detail: str) -> dict[str, Any]:
        """The results of the rules that `batch` breaks, by rule; each rule of the suite must have one."""
        outcome = batch.validate(suite, result_format={"result_format": detail})
        results = {_name(result): result for result in outcome.results}
        asked = {expectation.meta["rule"] for expectation in suite.expectations}
        if results.keys() != asked:
            lost = ", ".join(sorted(asked - results.keys()))
            raise AgreementError(f"suite {self._suite.name}: no result for {lost}")
        for name, result in results.items():
            if error := _raised(result.exception_info):
                raise AgreementError(f"rule {name}: could not be evaluated: {error}")
        return {name: result for name, result in results.items() if not result.success}


def _name(result: Any) -> str:
    return str(result.expectation_config.meta["rule"])


def _expectation(rule: Rule) -> Any:
    from great_expectations.exceptions.exceptions import GreatExpectationsError
    from great_expectations.expectations.expectation import (
        ColumnMapExpectation,
        ColumnPairMapExpectation,
        MulticolumnMapExpectation,
    )
    from great_expectations.expectations.expectation_configuration import ExpectationConfiguration

    judges_rows = (ColumnMapExpectation, ColumnPairMapExpectation, MulticolumnMapExpectation)
    try:
        configuration = ExpectationConfiguration(type=rule.type, kwargs=dict(rule.kwargs), meta={"rule": rule.name})
        expectation = configuration.to_domain_obj()
    except GreatExpectationsError as error:
        raise AgreementError(f"rule {rule.name}: {rule.type} is no known expectation") from error
    except (TypeError, ValueError) as error:
        said = "; ".join(line.strip() for line in str(error).splitlines()[1:3])
        raise AgreementError(f"rule {rule.name}: {rule.type} refuses its kwargs: {said or error}") from error
    if rule.type in _ACROSS_ROWS or not isinstance(expectation, judges_rows):
        raise AgreementError(f"rule {rule.name}: {rule.type} does not judge each row by itself")
    return expectation


def _raised(info: Mapping[str, Any] | None) -> str | None:
    """What went wrong in an evaluation: one record, or one for each metric."""
    if not info:
        return None
    records = [info] if "raised_exception" in info else list(info.values())
    for record in records:
        if record["raised_exception"]:
            return str(record["exception_message"])[:300]
    return None
