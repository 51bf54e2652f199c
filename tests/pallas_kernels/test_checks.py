"""Settings' checks: numbers of Python, NumPy and JAX alike, and one grammar of errors."""

import dataclasses
import math
from fractions import Fraction

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pallas_kernels import checks


@dataclasses.dataclass(frozen=True, slots=True)
class Knobs:
  count: int = 1
  share: float = 0.5

  def __post_init__(self):
    checks.whole_fields(self, "count", least=1, most=8)
    checks.number_fields(self, "share", above=0, most=1)


@pytest.mark.parametrize(
  "three", [3, 3.0, np.int64(3), np.uint8(3), np.float32(3), np.array(3), jnp.int32(3), jnp.bfloat16(3), Fraction(3)]
)
def test_a_whole_number_is_one_whoever_made_it(three):
  found = checks.whole_number("x", three)
  assert (found, type(found)) == (3, int)
  assert Knobs(count=three) == Knobs(count=3)
  assert hash(Knobs(count=three)) == hash(Knobs(count=3))


@pytest.mark.parametrize("half", [0.5, np.float32(0.5), np.array(0.5), jnp.float32(0.5), Fraction(1, 2)])
def test_a_number_is_one_whoever_made_it(half):
  found = checks.number("x", half)
  assert (found, type(found)) == (0.5, float)
  assert Knobs(share=half) == Knobs(share=0.5)


@pytest.mark.parametrize(
  "value",
  [True, np.True_, jnp.array(True), "3", None, b"3", [3], np.array([3]), 3 + 0j, math.nan, np.float32("inf")],
)
def test_what_is_no_number_is_refused(value):
  with pytest.raises(ValueError, match=r"x is .*: expected a number"):
    checks.number("x", value)
  with pytest.raises(ValueError, match=r"x is .*: expected a whole number"):
    checks.whole_number("x", value)


def test_a_whole_number_may_be_larger_than_any_float():
  assert checks.whole_number("x", 10**400) == 10**400
  with pytest.raises(ValueError, match="expected a number"):
    checks.number("x", 10**400)


@pytest.mark.parametrize(
  ("options", "value", "message"),
  [
    ({}, 2.5, "x is 2.5: expected a whole number"),
    ({"least": 1}, 0, "x is 0: expected a whole number of at least 1"),
    ({"most": 2**31 - 1}, 2**31, "x is 2147483648: expected a whole number of at most 2147483647"),
    ({"least": 0, "most": 3}, np.int64(-1), "x is np.int64(-1): expected a whole number from 0 to 3"),
    ({"least": 1, "remedy": "None is off"}, 0, "x is 0: expected a whole number of at least 1; None is off"),
  ],
)
def test_an_error_names_the_setting_its_value_the_range_and_the_remedy(options, value, message):
  with pytest.raises(ValueError) as error:  # noqa: PT011 (the whole message is compared)
    checks.whole_number("x", value, **options)
  assert str(error.value) == message


@given(st.integers(-5, 15) | st.floats(-5, 15))
def test_a_range_is_kept_exactly(value):
  def accepts(check, **options):
    try:
      return check("x", value, **options) == value
    except ValueError:
      return False

  assert accepts(checks.number, above=0, most=1) == (0 < value <= 1)
  assert accepts(checks.number, least=0, most=1) == (0 <= value <= 1)
  assert accepts(checks.whole_number, least=1, most=8) == (value in range(1, 9))


def test_fields_are_named_by_their_class_and_long_values_are_cut():
  with pytest.raises(ValueError, match=r"^Knobs.share is 2: expected a number above 0 and at most 1$"):
    Knobs(share=2)
  with pytest.raises(ValueError, match=r"^Knobs.count is 'aaa") as error:
    Knobs(count="a" * 10_000)  # pyright: ignore[reportArgumentType]
  assert len(str(error.value)) < 300
