"""The rows of a step over a paged cache, as attention parts read them."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int32

from pallas_kernels import chunk_attention, decode_attention, latent_attention
from pallas_kernels.block_tables import BlockTables
from pallas_kernels.chunk_attention import QueryTiles


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class PagedRows:
  """T rows: those of decoding sequences, one each, come first; behind them lie chunks of prompts.

  Attributes:
    positions: of each row in its sequence, in tokens; an absent row has -1.
    lengths: tokens of each row's sequence: all of a prompt, and those up to a token that was drawn; only LongRoPE reads
      them.
    decodes: whether the row is a decoding one.
    blocks: where each row's sequence lies in the cache.
    used: rows up to the last that is there.
    tiles: the rows of chunks, up to 16 consecutive ones of a sequence a tile; None if there are none.
    most_decoding: the decoding rows are among the first so many (static).
  """

  positions: Int32[Array, "T"]
  lengths: Int32[Array, "T"]
  decodes: Bool[Array, "T"]
  blocks: BlockTables
  used: Int32[Array, ""]
  tiles: QueryTiles | None
  most_decoding: int = dataclasses.field(metadata={"static": True})

  @property
  def first(self) -> tuple[Int32[Array, "R"], BlockTables]:
    """Positions and blocks of the rows that may decode; those that do not are absent."""
    most = self.most_decoding
    positions = jnp.where(self.decodes[:most], self.positions[:most], -1)
    return positions, BlockTables(self.blocks.tables, self.blocks.slots[:most])


def attend_blocks(
  query: Float[Array, "T N H"],
  key: Float[Array, "P G _ H"],
  value: Float[Array, "P G _ H"],
  rows: PagedRows,
  *,
  window: int | None,
  chunk: int | None,
  scale: float | None,
  sinks: Float[Array, "N"] | None,
) -> Float[Array, "T N H"]:
  """Every row attends to what its sequence holds up to it; keywords as for `decode_attention`."""
  bounds = {"window": window, "chunk": chunk, "scale": scale, "sinks": sinks}
  positions, blocks = rows.first
  decoded = decode_attention(query[: rows.most_decoding], key, value, positions, blocks=blocks, **bounds)
  if rows.tiles is None:
    return decoded
  return _both(decoded, chunk_attention(query, key, value, rows.tiles, rows.blocks.tables, **bounds))


def attend_latent_blocks(
  query: Float[Array, "T N W"],
  latent: Float[Array, "P _ W"],
  rows: PagedRows,
  *,
  value_width: int,
  scale: float,
) -> Float[Array, "T N _"]:
  """Every row attends to the latents that its sequence holds up to it; keywords as for `latent_attention`."""
  sizes: dict[str, Any] = {"value_width": value_width, "scale": scale}
  positions, blocks = rows.first
  decoded = latent_attention(query[: rows.most_decoding], latent, positions, blocks=blocks, **sizes)
  if rows.tiles is None:
    return decoded
  return _both(decoded, chunk_attention(query, latent[:, None], None, rows.tiles, rows.blocks.tables, **sizes))


def _both(decoded: jax.Array, chunks: jax.Array) -> jax.Array:
  """The two results in one array: each is zero in the rows of the other."""
  most = decoded.shape[0]
  return jnp.concatenate([decoded + chunks[:most], chunks[most:]])
