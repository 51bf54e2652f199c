"""Makes the picture of the page in the docs, with a few requests beside the chat.

python -m tests.serve.page_screenshot docs/figures/page.png
"""

import dataclasses
import sys
import threading

import lynx_jax
from tests.serve.browser import ask, chromium, page_at, wait_for_answer
from tests.serve.running import SERVER, SIZES, running

NAME = "lynx-embedded"


def main(path: str) -> None:
  """Writes the picture."""
  named = dataclasses.replace(SERVER, model=NAME, quality="standard")
  with running(named, SIZES, model=lynx_jax.load()) as serving, chromium() as browser:

    def beside(quality: str) -> None:
      serving.openai.completions.create(
        model=NAME, prompt="The sun", max_tokens=200, extra_body={"ignore_eos": True, "quality": quality}
      )

    look = {"viewport": {"width": 1280, "height": 800}, "color_scheme": "dark"}
    with page_at(browser, serving.url, **look) as (page, wrong):
      page.locator("#model").get_by_text(NAME).wait_for()
      page.locator("#quality").select_option("standard")
      ask(page, "What do plants need to grow?", tokens=40)
      wait_for_answer(page)
      others = [threading.Thread(target=beside, args=(quality,)) for quality in ("economy", "standard", "exact")]
      for thread in others:
        thread.start()
      ask(page, "And what do animals eat?", tokens=60)
      wait_for_answer(page, 2)
      page.screenshot(path=path)
      for thread in others:
        thread.join()
    assert wrong == [], wrong


if __name__ == "__main__":
  main(sys.argv[1])
