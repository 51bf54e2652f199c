"""A step that no program can be compiled with: it turns a wrong platform into an error of ours.

Which platform a program is for is known only when it is compiled. So the branch of a platform that an implementation
cannot run on holds this step, and the step raises if that branch is the one compiled.
"""

from typing import Any, NoReturn

import jax
from jax.core import ShapedArray
from jax.extend.core import Primitive
from jax.interpreters import mlir

_REFUSE = Primitive("lynx_refuse")
_REFUSE.multiple_results = True


def refuse(message: str, results: Any) -> Any:
  """Stands for arrays like `results`, a pytree of shapes and dtypes.

  Raises:
    NotImplementedError: with `message`, once it is compiled.
  """
  leaves, tree = jax.tree.flatten(results)
  shapes = tuple((tuple(leaf.shape), jax.numpy.dtype(leaf.dtype)) for leaf in leaves)
  return jax.tree.unflatten(tree, _REFUSE.bind(message=message, shapes=shapes))


@_REFUSE.def_impl
def _run(*, message: str, shapes: tuple) -> NoReturn:
  raise NotImplementedError(message)


@_REFUSE.def_abstract_eval
def _shapes(*, message: str, shapes: tuple) -> list[ShapedArray]:
  return [ShapedArray(shape, dtype) for shape, dtype in shapes]


def _lower(context: Any, *, message: str, shapes: tuple) -> NoReturn:
  raise NotImplementedError(message)


mlir.register_lowering(_REFUSE, _lower)
