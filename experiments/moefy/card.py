"""The model card of a llama that was cut into experts."""

from typing import Any


def model_card(source: dict[str, Any], report: dict[str, Any]) -> str:
  """Markdown: where the weights are from, how they were cut, what is left.

  `source` are the `general.*` fields of the GGUF file, `report` is what `experiments.moefy_smollm2` measured.
  """
  cut = report["cut"]
  name, licence = source.get("general.name", "a llama"), source.get("general.license", "see the source")
  rows = "\n".join(_row(one, cut["experts"]) for one in report["perplexity"])
  return f"""---
license: {licence}
library_name: lynx_jax
---

# {name}, its feed-forward parts cut into experts

Made by `experiments/moefy_smollm2.py` of lynx_jax from a quantised GGUF file of {name}; the licence is that model's.
{cut["shared"]} neurons of each layer always run, the others make {cut["experts"]} experts of which a token runs
{cut["top_k"]}. No weight was trained but the routers'. With all experts on this is the dense model.

The cut and the routers were learnt from {report["calibration_tokens"]} tokens, perplexity is taken on
{report["judged_tokens"]} tokens of other documents (Wikipedia, web pages, stories).

| experts a token runs | chosen by | perplexity | of all on |
|---|---|---|---|
{rows}

The oracle takes the experts whose outputs are largest. A dense model's neurons are busy on nearly all tokens, so that
leaving experts out costs much more than in a model that was trained with them.
"""


def _row(kept: dict[str, Any], experts: int) -> str:
  choice = kept["choice"] if kept["experts"] < experts else "all"
  return f"| {kept['experts']} | {choice} | {kept['perplexity']['value']:.2f} | {kept['times']['value']:.2f} |"
