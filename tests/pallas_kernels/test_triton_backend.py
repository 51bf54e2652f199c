"""A version of JAX that has no Pallas Triton backend: every op runs in plain JAX, and says why."""

import subprocess
import sys
import textwrap

# A program's beginning, for a JAX of which a part is missing.
WITHOUT_IMPORT = "import sys; sys.modules['jax.experimental.pallas.triton'] = None"
WITHOUT_LOAD = "import jax.experimental.pallas.triton as triton; del triton.load"


def ran(beginning, program):
  command = [sys.executable, "-W", "always::RuntimeWarning", "-c", beginning + textwrap.dedent(program)]
  return subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)


def test_ops_run_in_plain_jax_and_explain_says_why():
  program = """
    import jax, jax.numpy as jnp, pallas_kernels
    x, weight = jnp.ones((2, 16), jnp.bfloat16), jnp.ones((4, 16), jnp.bfloat16)
    for implementation in (None, "reference"):
      print(pallas_kernels.row_matmul(x, weight, implementation=implementation)[0, 0])
    text = jax.jit(pallas_kernels.row_matmul).trace(x, weight).lower(lowering_platforms=("cuda",)).as_text()
    print("dot_general" in text, "triton" in text)
    print(pallas_kernels.explain())
    try:
      pallas_kernels.row_matmul(x, weight, implementation="pallas")
    except NotImplementedError as error:
      print(error)
    """
  for beginning in (WITHOUT_IMPORT, WITHOUT_LOAD):
    done = ran(beginning, program)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("16\n16\nTrue False\n")
    assert "row_matmul  pallas: cannot run: jax " in done.stdout
    assert "row_matmul: implementation 'pallas' cannot run: jax " in done.stdout
    assert "has no Pallas Triton backend" in done.stdout
    assert "RuntimeWarning" not in done.stderr, "no GPU, so nothing is slower"


def test_a_machine_with_a_gpu_is_warned_once():
  program = """
    import jax, jax.numpy as jnp, pallas_kernels
    jax.default_backend = lambda: "gpu"
    for rows in (1, 2):
      x = jnp.ones((rows, 16), jnp.bfloat16)
      jax.jit(pallas_kernels.row_matmul).trace(x, x).lower(lowering_platforms=("cuda",))
      pallas_kernels.greedy_token(jnp.ones((rows, 4)))
      jax.jit(lambda x: pallas_kernels.rms_norm(x, x[0], 1e-6)).trace(x).lower(lowering_platforms=("cuda",))
    """
  done = ran(WITHOUT_IMPORT, program)
  assert done.returncode == 0, done.stderr
  assert done.stderr.count("RuntimeWarning: the ops of pallas_kernels run in plain JAX on this GPU: jax ") == 1
