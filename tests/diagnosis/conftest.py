"""The small wafers of the tests of learning serve here too."""

from tests.learning.conftest import quick, real_table, wafers

__all__ = ["quick", "real_table", "wafers"]
