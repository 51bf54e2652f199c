"""Debian's Chromium, driven by Playwright; tests skip where either is missing."""

import contextlib
import os
import re
import shutil
from collections.abc import Iterator

import pytest


@contextlib.contextmanager
def chromium() -> Iterator:
  """A browser; skips the test where there is none."""
  sync_api = pytest.importorskip("playwright.sync_api", reason="needs Playwright: pip install playwright")
  path = next(
    (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None
  )
  if path is None:
    pytest.skip("needs Chromium: apt-get install chromium")
  flags = ["--no-sandbox"] if os.geteuid() == 0 else []
  with sync_api.sync_playwright() as playwright:
    browser = playwright.chromium.launch(executable_path=path, args=flags)
    try:
      yield browser
    finally:
      browser.close()


@contextlib.contextmanager
def page_at(browser, url: str, **options):
  """A page at `url`, and the list of what goes wrong in it: errors on its console, requests that fail."""
  context = browser.new_context(**options)
  try:
    page = context.new_page()
    page.set_default_timeout(120_000)
    wrong: list[str] = []
    page.on("console", lambda message: wrong.append(message.text) if message.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("requestfailed", lambda request: None if _is_stream(request.url) else wrong.append(request.url))
    page.goto(url)
    yield page, wrong
  finally:
    context.close()


def _is_stream(url: str) -> bool:
  """Streams are left by their reader: the browser calls that a failure."""
  return url.endswith(("/v1/lynx/steps", "/v1/chat/completions"))


def map_pixels(page) -> str:
  """What the map shows, as an image in text."""
  return page.locator("#map").evaluate("canvas => canvas.toDataURL()")


def ask(page, text: str, tokens: int = 12) -> None:
  """Asks in the chat."""
  page.locator("#most").fill(str(tokens))
  page.locator("#text").fill(text)
  page.locator("#text").press("Enter")


def wait_for_answer(page, number: int = 1) -> str:
  """Waits until that many turns of the assistant have ended; returns what the last one says."""
  page.locator(".turn.assistant .who").filter(has_text=re.compile(" · ")).nth(number - 1).wait_for()
  return page.locator(".turn.assistant .said").nth(number - 1).text_content()
