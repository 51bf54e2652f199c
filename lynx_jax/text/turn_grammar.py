"""The grammar of a whole turn: reasoning as the model has it, then one of several ways to answer."""

import json

from lynx_jax.text.lark import Mark, reasoning_rules
from lynx_jax.text.turn_formats import TurnFormat
from lynx_jax.text.turn_parser import begins_in_reasoning, ends_after_reasoning


def turn_grammar(form: TurnFormat, mark: Mark, *, answer: str | None, calls: str | None, prompt: str) -> str:
  """The grammar of a turn that goes on from `prompt`, as llguidance takes it: Lark's notation, or JSON around it.

  Args:
    form: how turns are written.
    mark: writes marks.
    answer: the grammar of an answer; None if it has to be a call.
    calls: the grammar of calls; None if there can be none.
    prompt: what has been written of the turn, and before it.
  """
  ways = [("answer", answer)] if answer is not None else []
  ways += [("calls", calls)] if calls is not None else []
  reasons = form.reasoning is not None and not ends_after_reasoning(form.reasoning, prompt)
  if len(ways) == 1 and not reasons and not form.in_channels:
    return ways[0][1]
  # In channels an answer has a header; calls write theirs.
  heads = {"answer": f'{mark("<|channel|>")} "final" {mark("<|message|>")} '} if form.in_channels else {}
  answers = " | ".join(f"{heads.get(name, '')}@{name}" for name, _ in ways)
  top = f"start: {'reasoning ' if reasons else ''}({answers})\n"
  if reasons:
    assert form.reasoning is not None
    top += reasoning_rules(form.reasoning, mark, opened=begins_in_reasoning(form.reasoning, prompt))
  whole = [{"lark_grammar": top}, *({"name": name, "lark_grammar": grammar} for name, grammar in ways)]
  return json.dumps({"grammars": whole})
