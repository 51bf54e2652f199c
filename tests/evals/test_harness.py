"""The lm-eval adapter, run by lm-eval itself on tasks of local data."""

import json

import jax
import numpy as np
import pytest

import lynx_jax
from lynx_jax.evals.harness import LynxLM

lm_eval = pytest.importorskip("lm_eval")

pytestmark = [
  pytest.mark.slow,
  # Of the harness and of what it imports, not of ours.
  pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning"),
  pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning"),
]

CHOICES = """
task: local_choice
dataset_path: json
dataset_kwargs: {{data_files: {{validation: {data}}}}}
validation_split: validation
output_type: multiple_choice
doc_to_text: "{{{{prompt}}}}"
doc_to_choice: "{{{{choices}}}}"
doc_to_target: gold
metric_list: [{{metric: acc}}, {{metric: acc_norm}}]
"""
GENERATION = """
task: local_generation
dataset_path: json
dataset_kwargs: {{data_files: {{validation: {data}}}}}
validation_split: validation
output_type: generate_until
doc_to_text: "{{{{prompt}}}}"
doc_to_target: "{{{{said}}}}"
generation_kwargs: {{until: ["\\n"], max_gen_toks: 6}}
metric_list: [{{metric: exact_match}}]
"""


@pytest.fixture(scope="module")
def params():
  return lynx_jax.load(dtype="float32")


@pytest.fixture
def offline(tmp_path, monkeypatch):
  for name in ("HF_HOME", "HF_DATASETS_CACHE"):
    monkeypatch.setenv(name, str(tmp_path / "cache"))
  monkeypatch.setenv("HF_HUB_OFFLINE", "1")


def log_probs(params, ids):
  return np.asarray(jax.nn.log_softmax(lynx_jax.forward(params, np.array([ids]))[0]))


def test_tasks_of_local_data(params, tmp_path, offline):
  prompts = ["The man is", "She went to the", "Question: What is"]
  said = [one.text for one in lynx_jax.generate(params, prompts, max_new_tokens=6, stop=("\n",))]
  data = tmp_path / "data.jsonl"
  records = [
    {"prompt": prompt, "choices": [" zqxj", text], "gold": 1, "said": text}
    for prompt, text in zip(prompts, said, strict=True)
  ]
  data.write_text("".join(json.dumps(record) + "\n" for record in records))
  (tmp_path / "choice.yaml").write_text(CHOICES.format(data=data))
  (tmp_path / "generation.yaml").write_text(GENERATION.format(data=data))
  found = lm_eval.simple_evaluate(
    model=LynxLM(params, policy="topk", batch_size=4),
    tasks=["local_choice", "local_generation"],
    task_manager=lm_eval.tasks.TaskManager(include_path=str(tmp_path), include_defaults=False),
    bootstrap_iters=0,
  )
  assert found["results"]["local_choice"]["acc,none"] == 1
  assert found["results"]["local_generation"]["exact_match,none"] == 1


@pytest.mark.parametrize(("policy", "calls"), [("topk", 1), ("prune:k0=1", 1), ("lynx:alpha=1,beta=2", 4)])
def test_requests_of_all_kinds_get_the_texts_of_fixed_batches(params, monkeypatch, policy, calls):
  from lm_eval.api.instance import Instance

  greedy = {"until": ["\n"], "max_gen_toks": 6}
  warm = {"until": [".", " the"], "max_gen_toks": 9, "do_sample": True, "temperature": 0.8}
  contexts = ["The man is", "She went to the", "A dog", "In the kitchen", "Question: What is", "Two people are"]
  options = [greedy, warm, greedy, warm, greedy, warm]
  requests = [
    Instance("generate_until", {}, (context, kind), index)
    for index, (context, kind) in enumerate(zip(contexts, options, strict=True))
  ]
  made = []
  monkeypatch.setattr(
    "lynx_jax.evals.harness.generate", lambda *args, **given: made.append(given) or lynx_jax.generate(*args, **given)
  )
  found = LynxLM(params, policy=policy, batch_size=2, seed=3).generate_until(requests, disable_tqdm=True)
  assert len(made) == calls
  expected = {}
  for kind in (greedy, warm):
    indices = [index for index in range(6) if options[index] is kind]
    for batch in (indices[:2], indices[2:]):
      texts = lynx_jax.generate(
        params, [contexts[index] for index in batch], max_new_tokens=kind["max_gen_toks"], policy=policy,
        stop=kind["until"], sampling=lynx_jax.Sampling(temperature=kind.get("temperature", 0.0), seed=3),
      )  # fmt: skip
      expected |= dict(zip(batch, [one.text for one in texts], strict=True))
  assert found == [expected[index] for index in range(6)]
  assert LynxLM(params, policy=policy).generate_until([]) == []


def test_likelihoods_of_texts_and_of_pairs(params):
  from lm_eval.api.instance import Instance

  model = LynxLM(params, batch_size=3)
  text = "The man is standing in the kitchen. " * 90
  pairs = [("The man", " is standing"), ("", "She went")]
  requests = [Instance("loglikelihood", {}, pair, index) for index, pair in enumerate(pairs)]
  found = model.loglikelihood(requests, disable_tqdm=True)
  encode, stop = params.tokenizer.encode, params.spec.stop_ids[0]
  for (context, continuation), (likelihood, _) in zip(pairs, found, strict=True):
    given = encode(context) if context else [stop]
    ids = given + encode(continuation)
    log = log_probs(params, ids)
    expected = sum(log[at - 1, ids[at]] for at in range(len(given), len(ids)))
    assert likelihood == pytest.approx(expected, abs=1e-3)
  (rolled,) = model.loglikelihood_rolling([Instance("loglikelihood_rolling", {}, (text,), 0)])
  ids = encode(text)
  window = params.spec.context - 1
  assert window < len(ids) <= 2 * window
  first, rest = [stop, *ids[: window - 1]], ids[-window - 1 : -1]
  expected = log_probs(params, first)[range(window), ids[:window]].sum()
  left = len(ids) - window
  expected += log_probs(params, rest)[range(window - left, window), ids[window:]].sum()
  assert rolled == pytest.approx(expected, rel=1e-4)


def test_policies_as_text_and_wrong_arguments(params):
  from lynx_jax.routing import Auto

  assert LynxLM(params, policy="auto").policy == Auto()
  with pytest.raises(ValueError, match="unknown model_args bach_size"):
    LynxLM(params, bach_size=3)
