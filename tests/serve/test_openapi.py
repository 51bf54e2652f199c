"""Whatever the OpenAPI file allows, and much that it does not, is answered without a fault of the server."""

import hypothesis
import pytest
import schemathesis
from schemathesis.checks import not_a_server_error

# Examples of a whole API are large.
SLOW = (hypothesis.HealthCheck.too_slow, hypothesis.HealthCheck.data_too_large, hypothesis.HealthCheck.filter_too_much)
PATHS = (
  ("POST", "/v1/chat/completions"),
  ("POST", "/v1/completions"),
  ("POST", "/tokenize"),
  ("POST", "/detokenize"),
  ("GET", "/v1/models/{model}"),
  ("GET", "/metrics"),
)


@pytest.mark.parametrize(("method", "path"), PATHS)
def test_no_request_is_a_fault_of_the_server(serving, method, path):
  api = schemathesis.openapi.from_url(f"{serving.url}/openapi.json")

  @hypothesis.given(api[path][method].as_strategy())
  @hypothesis.settings(max_examples=15, suppress_health_check=SLOW)
  def try_it(case):
    case.call_and_validate(checks=[not_a_server_error])

  try_it()
  assert serving.serves()


def test_the_file_says_what_errors_look_like(serving):
  paths = serving.http.get("/openapi.json").json()["paths"]
  for path in ("/v1/chat/completions", "/v1/completions", "/tokenize", "/detokenize"):
    responses = paths[path]["post"]["responses"]
    assert "422" not in responses
    error = responses["4XX"]["content"]["application/json"]["schema"]["properties"]["error"]
    assert error["required"] == ["message", "type", "param", "code"]
