"""In which order many prompts are given to an engine."""

from collections.abc import Sequence

from lynx_jax.engine.host.step_plan import BLOCK_SIZE


def by_shared_prefix(prompts: Sequence[Sequence[int]]) -> list[int]:
  """Indices of the prompts; those with the longest common beginning come one after another.

  A common beginning is then read once, and its blocks are not evicted before their last reader. It is a walk through
  the tree of the prompts' blocks, depth first, with branches in the order of their first prompts. So prompts that share
  nothing stay in their order.
  """
  # For each prompt, the branches that lead to it, each named by its first prompt.
  paths: list[list[int]] = [[] for _ in prompts]
  nodes, depth = [list(range(len(prompts)))], 0
  while nodes:
    deeper = []
    for node in nodes:
      children: dict[tuple[int, ...], list[int]] = {}
      for index in node:
        block = tuple(prompts[index][depth * BLOCK_SIZE : (depth + 1) * BLOCK_SIZE])
        if len(block) == BLOCK_SIZE:
          children.setdefault(block, []).append(index)
      for child in children.values():
        if len(child) > 1:
          for index in child:
            paths[index].append(child[0])
          deeper.append(child)
    nodes, depth = deeper, depth + 1
  return sorted(range(len(prompts)), key=lambda index: (*paths[index], index))
