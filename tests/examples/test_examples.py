"""Every example runs as its docstring says, on a tiny model or the embedded one."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from lynx_jax.models.families import FAMILIES

ROOT = Path(__file__).parents[2]


def run(*arguments):
  done = subprocess.run(
    [sys.executable, "-m", *arguments],
    cwd=ROOT,
    env=os.environ | {"JAX_PLATFORMS": "cpu"},
    capture_output=True,
    text=True,
  )
  assert done.returncode == 0, done.stderr
  return done.stdout


# An example of each kind of attention is run every time.
OFTEN = {"deepseek_v3", "gpt_oss", "olmoe"}
EXAMPLES = [pytest.param(name, marks=() if name in OFTEN else pytest.mark.slow) for name in sorted(FAMILIES)]


@pytest.mark.parametrize("family", EXAMPLES)
def test_each_family_has_its_three_files_and_its_example_says_what_was_saved(family):
  for path in (f"lynx_jax/models/families/{family}.py", f"tests/families/test_{family}.py"):
    assert (ROOT / path).is_file()
  out = run(f"examples.{family}", "--tiny", "--max-new-tokens", "6")
  title, *particular = out.split("\n\n")[0].splitlines()
  assert title.startswith(f"{family}: ")
  assert len(particular) >= 2
  assert all(line.startswith("- ") for line in particular)
  own, chosen = (line.split() for line in out.splitlines()[-2:])
  # Experts a layer, and the share of tokens that are the model's own.
  assert own[0] == "topk"
  assert own[4:] == ["100%", "100%"]
  assert 1 <= float(chosen[1]) <= float(own[1])


def test_llama4_does_not_send_every_row_to_one_expert():
  """Its rows run one expert each; the published knobs of Lynx keep one for the whole batch."""
  kept, lynx = (
    float(run("examples.llama4_text", "--tiny", "--max-new-tokens", "6", *policy).splitlines()[-1].split()[1])
    for policy in ((), ("--policy", "lynx:alpha=1,beta=20"))
  )
  assert lynx == 1.0
  assert kept > 1.5


def test_jit_decode_prints_both_policies():
  out = run("examples.jit_decode")
  assert "topk\n  The man is standing" in out
  assert "lynx:alpha=1,beta=2\n  The man is standing" in out or "lynx:alpha=1.0,beta=2\n  The man is standing" in out


def test_custom_policy_saves_experts():
  first, second = run("examples.custom_policy").splitlines()
  assert first.startswith("a random batch: ")
  assert "distinct experts" in second
