"""The command line: what it prints, and that bad input is one line on standard error, exit code 2, nothing written."""

import json
import os
import subprocess
import sys

import pytest

import lynx_jax
from lynx_jax.models.released import RELEASED
from tests.command_line import run
from tests.families.cases import OLMOE, checkpoint


def test_generate_prints_prompts_with_their_completions_in_order(capsys):
  prompts = ["The man is", "She went to"]
  code, out, err = run(capsys, "generate", *prompts, "--max-new-tokens", 8, "--quiet")
  done = lynx_jax.generate(lynx_jax.load(), prompts, max_new_tokens=8)
  assert (code, err) == (0, "")
  assert out == "\n\n".join(prompt + completion.text for prompt, completion in zip(prompts, done, strict=True)) + "\n"


def test_generate_reads_a_file_and_prints_json_and_statistics(capsys, tmp_path):
  (tmp_path / "prompts.txt").write_text("The man is\n\nShe went to\nÉté\n", encoding="utf-8")
  code, out, err = run(
    capsys, "generate", "--prompts", tmp_path / "prompts.txt", "--json", "--stats", "--policy", "lynx:alpha=1,beta=2",
    "--max-new-tokens", 6, "--quiet",
  )  # fmt: skip
  lines = [json.loads(line) for line in out.splitlines()]
  assert code == 0
  assert [line["prompt"] for line in lines] == ["The man is", "She went to", "Été"]
  assert all(1 <= len(line["token_ids"]) <= 6 and line["finish_reason"] for line in lines)
  assert err.startswith("lynx:alpha=1,beta=2: distinct experts per layer and step: ")
  assert "the model's own routing" in err


def test_int8_weights_generate_and_are_described(capsys):
  code, out, err = run(capsys, "generate", "The man is", "--max-new-tokens", 8, "--weights", "int8", "--quiet")
  done = lynx_jax.generate(lynx_jax.load(weights="int8"), ["The man is"], max_new_tokens=8)
  assert (code, out, err) == (0, f"The man is{done[0].text}\n", "")
  code, out, _ = run(capsys, "info", "--weights", "int8")
  assert code == 0
  assert "21.64 MB, of which experts 19.27 MB" in " ".join(out.split())


def test_chat_answers_each_line_of_standard_input(capsys, monkeypatch):
  lines = iter(["What do plants need?", "", "/reset", "And animals?", "/exit"])
  monkeypatch.setattr("builtins.input", lambda prompt: next(lines))
  code, out, _ = run(capsys, "chat", "--max-new-tokens", 6)
  assert code == 0
  assert len(out.splitlines()) >= 2
  params = lynx_jax.load()
  assert params.tokenizer is not None
  prompt = params.tokenizer.encode(
    params.tokenizer.apply_chat([{"role": "user", "content": "What do plants need?"}]), add_special_tokens=False
  )
  assert out.startswith(lynx_jax.generate(params, [prompt], max_new_tokens=6)[0].text)


def test_estimate_prints_a_step_of_each_number_of_experts_and_the_published_check(capsys, tmp_path):
  options = ("--gpu", "h100", "--batch", 16)
  code, out, err = run(capsys, "estimate", "--config", "Qwen3-30B-A3B", *options, "--active", "48.8,25.1")
  assert (code, err) == (0, "")
  assert "1.00x" in out
  assert "48.8" in out
  (tmp_path / "config.json").write_text(json.dumps(RELEASED["OLMoE-1B-7B"]))
  code, out, _ = run(capsys, "estimate", "--config", tmp_path / "config.json", *options)
  assert code == 0
  assert "Real text touches fewer" in out
  code, out, err = run(capsys, "estimate", "--config", "Qwen3-30B-A3B", "--active", "48.8,x")
  assert (code, out) == (2, "")
  assert "expected numbers with commas" in err
  assert "OEA, Qwen3-30B-A3B, H100" in run(capsys, "estimate", "--check")[1]


def test_info_describes_the_embedded_model_and_a_directory(capsys):
  code, out, _ = run(capsys, "info")
  assert code == 0
  for text in (
    "qwen3_moe",
    "32 per layer of width 128, 4 per token",
    "21.2M, of which a token uses 4.6M",
    "3072 bytes",
  ):
    assert text in " ".join(out.split())
  code, out, _ = run(capsys, "info", checkpoint(OLMOE[0]))
  assert code == 0
  assert "not renormalised" in " ".join(out.split())


def test_convert_writes_a_directory_that_generates_the_same(capsys, tmp_path):
  source = checkpoint(OLMOE[0], "bfloat16")
  code, out, _ = run(capsys, "convert", source, tmp_path / "converted")
  assert (code, out) == (0, f"wrote {tmp_path / 'converted'}\n")
  prompt = [[5, 6, 7]]
  expected = lynx_jax.generate(lynx_jax.load(source), prompt, max_new_tokens=4)
  assert lynx_jax.generate(lynx_jax.load(tmp_path / "converted"), prompt, max_new_tokens=4) == expected


def test_bench_decode_writes_a_row_for_each_policy_and_batch(capsys, tmp_path):
  code, out, _ = run(
    capsys, "bench", "decode", "--batch", "1,4", "--policy", "topk", "--policy", "oea:k0=1", "--steps", 3,
    "--prompt-length", 4, "--repeats", 1, "--json", tmp_path / "rows.json",
  )  # fmt: skip
  rows = json.loads((tmp_path / "rows.json").read_text())
  assert code == 0
  assert [(row["policy"], row["batch"]) for row in rows] == [
    ("topk", 1), ("oea:k0=1", 1), ("topk", 4), ("oea:k0=1", 4),
  ]  # fmt: skip
  required = {"tokens_per_second", "step_ms", "active_experts", "expert_bytes", "routing_ms"}
  assert all(required <= row.keys() and row["step_ms"] > 0 for row in rows)
  own, kept = rows[2], rows[3]
  assert kept["active_experts"] < own["active_experts"] == own["own_experts"]
  assert kept["expert_bytes"] == pytest.approx(kept["active_experts"] * 6 * 3 * 256 * 128 * 2)
  assert "oea:k0=1" in out


def test_sampled_tokens_can_be_measured_too(capsys):
  code, _, _ = run(
    capsys, "bench", "decode", "--batch", 2, "--tokens", "sampled", "--steps", 2, "--prompt-length", 3, "--repeats", 1
  )
  assert code == 0


def test_bench_decode_compares_forms_of_weights_in_one_run(capsys, tmp_path):
  code, out, _ = run(
    capsys, "bench", "decode", "--weights", "bf16,int4", "--batch", "2", "--steps", 2, "--prompt-length", 3,
    "--repeats", 1, "--json", tmp_path / "rows.json",
  )  # fmt: skip
  rows = json.loads((tmp_path / "rows.json").read_text())
  assert code == 0
  assert [(row["weights"], row["policy"]) for row in rows] == [("bf16", "topk"), ("int4", "topk")]
  one = [row["expert_bytes"] / row["active_experts"] for row in rows]
  assert one[1] == pytest.approx(one[0] * 4.5 / 16)
  assert "int4" in out


@pytest.mark.parametrize(
  ("arguments", "message"),
  [
    (["generate", ""], "prompt 0 is empty: give it at least one token"),
    (["generate", "word " * 600], "which leaves no room in the model's context of 512"),
    (["generate", "x", "--temperature", "-1"], "Sampling.temperature is -1.0: expected a number from 0"),
    (["generate", "x", "--top-p", "7"], "Sampling.top_p is 7.0: expected a number above 0 and at most 1; 1 is off"),
    (["generate", "x", "--top-k", "-4"], "Sampling.top_k is -4"),
    (["generate", "x", "--min-p", "nan"], "Sampling.min_p is nan"),
    (["generate", "x", "--seed", "-1"], "Sampling.seed is -1"),
    (["generate", "x", "--max-new-tokens", "0"], "max_new_tokens is 0"),
    (["generate", "x", "--max-new-tokens", "2147483648"], "max_new_tokens is 2147483648: expected a whole number"),
    (["generate", "x", "\udcff\udcfe"], "prompt 1 is not UTF-8: give it in UTF-8, or in a file with --prompts"),
    (["generate", "x", "--stop", "\ud800"], "--stop is not UTF-8"),
    (["generate", "x", "--policy", "lynz:alpha=3"], "lynx"),
    (["generate", "x", "--policy", "lynx:alpah=3,beta=2"], "alpah"),
    (["generate", "x", "--policy", "count_vote:keep=2"], "keep"),
    (["generate", "x", "--stop", ""], "stop is"),
    (["generate", "x", "--prompts", "y"], "both as arguments and as --prompts"),
    (["generate", "--prompts", "no_such_file"], "cannot read no_such_file (No such file or directory): give a"),
    (["generate", "--prompts", "."], "cannot read . (Is a directory)"),
    (["generate", "x", "--model", "no_such_model"], "no_such_model"),
    (["generate", "x", "--dtype", "int3"], "int3"),
    (["generate", "x", "--weights", "int3"], "weights is 'int3': choose 'int8', 'int4', 'float'"),
    (["info", "--weights", "int3"], "weights is 'int3'"),
    (["info", "org/name"], "download"),
    (["bench", "decode", "--batch", "1,x"], "--batch is '1,x': expected whole numbers"),
    (["bench", "decode", "--batch", "0"], "--batch is '0'"),
    (["bench", "decode", "--steps", "0"], "--steps is 0: expected a whole number of at least 1"),
    (["bench", "decode", "--seed", "-1"], "--seed is -1: expected a whole number of at least 0"),
    (["bench", "decode", "--json", "no_folder/x.json"], "cannot write no_folder/x.json: there is no directory"),
    (["bench", "decode", "--json", "."], "cannot write .: it is a directory; give the name of a file"),
    (["eval", "--text", "x", "--json", "no_folder/x.json"], "cannot write no_folder/x.json"),
    (["eval", "--text", "x", "--seed", "-1"], "--seed is -1: expected"),
    (["estimate", "--config", "Qwen3-30B-A3B", "--gpus", "1000000000"], "--gpus is 1000000000: expected"),
    (["estimate", "--config", "Qwen3-30B-A3B", "--context", "1000000000"], "--context is 1000000000: expected"),
    (["bench", "decode", "--steps", "600"], "do not fit the model's context of 512"),
    (["chat", "--model", "no_such_model"], "no_such_model"),
  ],
)  # fmt: skip
@pytest.mark.usefixtures("own_errors")
def test_bad_input_is_one_line_that_names_it(capsys, arguments, message):
  code, out, err = run(capsys, *arguments)
  assert (code, out) == (2, "")
  assert err.startswith("lynx-jax: error: ")
  assert len(err.splitlines()) == 1
  assert message in err


def test_a_prompt_file_that_is_not_utf8_is_named_with_the_byte(capsys, tmp_path):
  (tmp_path / "latin.txt").write_bytes("café".encode("latin-1"))
  code, _, err = run(capsys, "generate", "--prompts", tmp_path / "latin.txt")
  assert code == 2
  assert "latin.txt is not UTF-8 (byte 3 is 0xe9): save it as UTF-8" in err
  (tmp_path / "blank.txt").write_text("\n \n")
  code, _, err = run(capsys, "generate", "--prompts", tmp_path / "blank.txt")
  assert code == 2
  assert "blank.txt holds no prompt" in err


def test_evaluation_files_that_hold_nothing_or_no_text_are_named(capsys, tmp_path):
  (tmp_path / "empty.jsonl").write_text("\n")
  for kind in ("--choices", "--exercises", "--text"):
    code, out, err = run(capsys, "eval", kind, tmp_path / "empty.jsonl")
    assert (code, out) == (2, "")
    assert "empty.jsonl holds no record: write one JSON object a line" in err
  (tmp_path / "binary.txt").write_bytes(b"\x00\xff\xfe")
  code, out, err = run(capsys, "eval", "--text", tmp_path / "binary.txt")
  assert (code, out) == (2, "")
  assert "binary.txt is not UTF-8 text (byte 1 is 0xff): save it as UTF-8" in err


def test_a_refused_benchmark_or_conversion_writes_nothing(capsys, tmp_path):
  out = tmp_path / "rows.json"
  assert run(capsys, "bench", "decode", "--policy", "nonsense", "--json", out)[0] == 2
  assert run(capsys, "convert", tmp_path / "nothing", tmp_path / "made")[0] == 2
  assert list(tmp_path.iterdir()) == []


def test_standard_input_gives_prompts_and_a_closed_reader_ends_quietly():
  command = [sys.executable, "-m", "lynx_jax.cli"]
  environment = os.environ | {"JAX_PLATFORMS": "cpu"}
  done = subprocess.run(
    [*command, "generate", "--max-new-tokens", "4"], input=b"The man is\n", env=environment, capture_output=True
  )
  assert done.returncode == 0, done.stderr
  assert done.stdout.startswith(b"The man is")
  with subprocess.Popen([*command, "info"], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as child:
    assert child.stdout is not None
    child.stdout.close()
    assert b"Traceback" not in child.communicate()[1]
