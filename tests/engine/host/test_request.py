"""Requests say at once, and by name, what is wrong with them."""

import numpy as np
import pytest

from lynx_jax.engine.host.request import Request

WRONG = [
  ({"id": ""}, "Request.id is ''"),
  ({"prompt": ()}, "Request.prompt is (): expected at least one token id"),
  ({"prompt": "text"}, "Request.prompt is 'text': expected token ids"),
  ({"prompt": (1, -2)}, "Request.prompt is (1, -2): expected token ids"),
  ({"prompt": (1, True)}, "Request.prompt is (1, True): expected token ids"),
  ({"max_new_tokens": -1}, "Request.max_new_tokens is -1"),
  ({"stop_token_ids": frozenset({-1})}, "Request.stop_token_ids is frozenset({-1})"),
  ({"stop_strings": "end"}, "Request.stop_strings is 'end': expected a tuple of strings"),
  ({"stop_strings": ("",)}, "Request.stop_strings is ('',): expected a tuple of strings, none empty"),
  ({"stop_strings": ("a",) * 17}, "expected at most 16 strings"),
  ({"quality": "best"}, "Request.quality is 'best': expected one of exact, high, standard, economy"),
  ({"priority": 9}, "Request.priority is 9: expected a whole number from -8 to 8"),
  ({"logprobs": 21}, "Request.logprobs is 21: expected a whole number from 0 to 20"),
  ({"prompt_logprobs": -1}, "Request.prompt_logprobs is -1"),
  ({"deterministic": True}, "Request.quality is 'standard': expected 'exact' if deterministic"),
]


@pytest.mark.parametrize(("change", "message"), WRONG)
def test_a_wrong_field_is_named(own_errors, change: dict, message: str):
  with pytest.raises(ValueError) as raised:  # noqa: PT011 (the whole message is compared below)
    Request(**{"id": "a", "prompt": (1, 2), **change})
  assert message in str(raised.value)


def test_token_ids_may_come_from_numpy_and_are_stored_as_ints(own_errors):
  request = Request(id="a", prompt=np.array([3, 4], np.int32), stop_token_ids={np.int64(5)})  # pyright: ignore
  assert request.prompt == (3, 4)
  assert type(request.prompt[0]) is int
  assert request.stop_token_ids == frozenset({5})
  assert hash(request) == hash(Request(id="a", prompt=(3, 4), stop_token_ids=frozenset({5})))
