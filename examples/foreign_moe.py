"""`lynx_route` in a model that knows nothing of it: the Mixture-of-Experts layer of Google's Tunix.

The layer routes by `jax.lax.top_k` and runs its experts itself. Here a subclass routes by `lynx_route`, under a policy,
and runs the chosen experts by `expert_ffn`, which reads only those. Weights, router and the rest of the model stay.

    pip install google-tunix
    python -m examples.foreign_moe
"""

import jax
import jax.numpy as jnp
from flax import nnx
from tunix.models.qwen3.model import ModelConfig, MoELayer

import lynx_jax
from pallas_kernels import expert_ffn


class LynxMoELayer(MoELayer):
  """Tunix' layer with batch-aware routing; under `TopK()` it computes what the original computes."""

  def __init__(self, layer: MoELayer, policy: lynx_jax.RoutingPolicy):
    """Takes the parameters of a layer that is there."""
    self.router, self.dtype = layer.router, layer.dtype
    assert layer.experts_per_tok is not None
    self.top_k = layer.experts_per_tok
    self.policy = policy
    # [experts, in, out] there; [experts, out, in] here, gate rows before up rows.
    gate_up = jnp.concatenate([layer.gate_proj[...], layer.up_proj[...]], axis=-1)
    self.gate_up = nnx.Param(gate_up.swapaxes(1, 2))
    self.down = nnx.Param(layer.down_proj[...].swapaxes(1, 2))

  def __call__(self, x, use_megablox: bool = True):
    """Runs the rows of a batch: x [B, T, D]."""
    rows = x.reshape(-1, x.shape[-1])
    logits = self.router(rows).astype(jnp.float32)
    routing = lynx_jax.lynx_route(logits, self.top_k, policy=self.policy)
    y = expert_ffn(rows.astype(self.dtype), routing.ids, routing.weights, self.gate_up[...], self.down[...])
    return y.reshape(x.shape)


def layer_of(seed: int = 0) -> MoELayer:
  """A layer as Tunix makes it, with random weights."""
  config = ModelConfig(
    num_layers=1, vocab_size=64, embed_dim=64, hidden_dim=96, num_heads=4, head_dim=16, num_kv_heads=2,
    rope_theta=10_000, norm_eps=1e-6, num_experts=32, num_experts_per_tok=4,
  )  # fmt: skip
  return MoELayer(config, rngs=nnx.Rngs(seed))


def experts_read(layer: LynxMoELayer, x: jax.Array) -> int:
  """Distinct experts that the rows of a batch run."""
  logits = layer.router(x.reshape(-1, x.shape[-1])).astype(jnp.float32)
  return int(lynx_jax.lynx_route(logits, layer.top_k, policy=layer.policy).active.sum())


def main() -> None:
  """Compares the layer with itself under three policies."""
  layer = layer_of()
  x = jax.random.normal(jax.random.key(1), (16, 1, 64))
  expected = layer(x)
  scale = float(jnp.abs(expected).max())
  for policy in (lynx_jax.TopK(), lynx_jax.Auto(), lynx_jax.Lynx(alpha=3, beta=2)):
    ours = LynxMoELayer(layer, policy)
    away = float(jnp.abs(ours(x) - expected).max()) / scale
    print(f"{lynx_jax.format_policy(policy)}: {experts_read(ours, x)} experts, largest difference {away:.2g}")


if __name__ == "__main__":
  main()
