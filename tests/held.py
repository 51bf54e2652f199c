"""What a loaded model holds."""

from typing import Any

from flax import nnx

from pallas_kernels import QuantizedWeight


def held(params: Any) -> dict[str, Any]:
  """Parameters by path, as the decoder holds them."""
  flat = nnx.to_flat_state(nnx.state(params.decoder))
  return {".".join(map(str, path)): variable.get_value() for path, variable in flat}


def packed(params: Any) -> dict[str, QuantizedWeight]:
  """Those that are quantised."""
  return {path: weight for path, weight in held(params).items() if isinstance(weight, QuantizedWeight)}
