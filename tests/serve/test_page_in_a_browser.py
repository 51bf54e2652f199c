"""The page as its users have it: in Chromium, by mouse and by keyboard."""

import dataclasses
import re

import pytest

from tests.serve.browser import ask, chromium, map_pixels, page_at, wait_for_answer
from tests.serve.running import MODEL, SERVER, params, running, wait_until

KEY = "some-long-key"
HOSTILE = '<img src=x onerror="document.title=1"><b>bold</b>'


@pytest.fixture(scope="module")
def browser():
  with chromium() as found:
    yield found


@pytest.fixture
def page(browser, serving):
  with page_at(browser, serving.url, reduced_motion="reduce") as (opened, wrong):
    opened.locator("#model").get_by_text(MODEL).wait_for()
    yield opened
    assert wrong == []
  assert serving.idle()


def test_a_conversation_goes_on(page):
  with page.expect_request("**/v1/chat/completions") as sent:
    ask(page, "Hi")
  turns = [{"role": "user", "content": "Hi"}]
  assert sent.value.post_data_json["messages"] == turns
  said = wait_for_answer(page)
  assert said
  with page.expect_request("**/v1/chat/completions") as sent:
    ask(page, "And?")
  expected = [*turns, {"role": "assistant", "content": said}, {"role": "user", "content": "And?"}]
  assert sent.value.post_data_json["messages"] == expected
  wait_for_answer(page, 2)
  page.locator("#clear").click()
  assert page.locator(".turn").count() == 0
  with page.expect_request("**/v1/chat/completions") as sent:
    ask(page, "Hi")
  assert sent.value.post_data_json["messages"] == turns
  wait_for_answer(page)


def test_what_is_said_is_text_and_never_markup(page):
  ask(page, HOSTILE, tokens=2)
  wait_for_answer(page)
  assert page.locator(".turn.user .said").text_content() == HOSTILE
  assert page.locator(".turn img, .turn b").count() == 0
  assert page.title() == "lynx_jax"


@pytest.mark.parametrize("how", ["button", "escape"])
def test_an_answer_is_stopped(page, serving, how):
  # Nothing is drawn, so the answer cannot end by itself.
  serving.engine.pause()
  try:
    ask(page, "Hi")
    wait_until(lambda: serving.engine.stats().waiting == 1)
    if how == "escape":
      page.locator("#text").press("Escape")
    else:
      page.locator("#stop").click()
    page.locator(".turn.assistant .who").get_by_text("stopped").wait_for()
    wait_until(lambda: serving.engine.stats().waiting == 0)
  finally:
    serving.engine.resume()
  assert page.locator("#send").is_enabled()
  assert page.locator("#stop").is_disabled()


@pytest.mark.parametrize("quality", ["economy", "exact"])
def test_the_quality_is_what_was_chosen(page, serving, quality):
  drawn = serving.server._served.metrics.tokens
  before = dict(drawn)
  page.locator("#quality").select_option(quality)
  ask(page, "Hi", tokens=6)
  wait_for_answer(page)
  assert {name for name, count in drawn.items() if count > before[name]} == {quality}


def test_the_map_and_the_figures_move(page):
  page.locator("#quality").select_option("economy")
  before = map_pixels(page)
  page.get_by_text("Numbers by layer").click()
  ask(page, "Hello", tokens=60)
  wait_until(lambda: page.locator("#saved").text_content().endswith("%"))
  wait_until(lambda: map_pixels(page) != before)
  says = r"[\d.]+ of 32 experts read a layer, of [\d.]+ that the model itself would read"
  assert re.fullmatch(says, page.locator("#map-says").text_content())
  wait_for_answer(page)
  assert page.locator("#step-line polyline").get_attribute("points").count(",") > 1
  assert page.locator("#layers tr").count() == len(params().spec.moe_layers)
  # All that was read is in the table, by somebody.
  cells = page.locator("#layers tr").first.locator("td").all_text_contents()
  assert len(cells) == 4
  assert sum(map(float, cells[:3])) > 0


def test_all_of_it_is_reached_by_the_keyboard(page):
  page.locator("#turns").focus()
  reached = []
  for _ in range(6):
    page.keyboard.press("Tab")
    reached.append(page.evaluate("document.activeElement.id || document.activeElement.tagName"))
  # What stops an answer is no stop on the way while there is none.
  assert reached == ["text", "quality", "most", "clear", "send", "SUMMARY"]


def test_every_control_has_a_name(page):
  unnamed = page.evaluate(
    "[...document.querySelectorAll('input, select, textarea, button')]"
    ".filter(one => !(one.labels?.length || one.textContent.trim())).map(one => one.id)"
  )
  assert unnamed == []


def test_it_is_dark_where_the_system_is(page):
  def background():
    return page.evaluate("getComputedStyle(document.body).backgroundColor")

  light = background()
  page.emulate_media(color_scheme="dark")
  assert background() != light
  page.emulate_media(color_scheme="light")
  assert background() == light


def test_a_key_is_asked_for_and_kept_for_the_tab(browser):
  with running(dataclasses.replace(SERVER, keys=frozenset({KEY})), key=KEY) as guarded:
    with page_at(browser, guarded.url) as (page, wrong):
      page.get_by_text("the server asks for a key").wait_for()
      page.locator("#key").fill(KEY)
      page.locator("#key").press("Enter")
      page.locator("#model").get_by_text(MODEL).wait_for()
      ask(page, "Hi", tokens=3)
      wait_for_answer(page)
      page.reload()
      page.locator("#model").get_by_text(MODEL).wait_for()
    # The browser reports the refusal on its console.
    assert len(wrong) == 1
    assert "401" in wrong[0]


def test_what_the_server_refuses_is_shown(browser, serving):
  with page_at(browser, serving.url) as (page, wrong):
    page.locator("#model").get_by_text(MODEL).wait_for()
    ask(page, "Hi", tokens=10**6)
    page.get_by_role("alert").get_by_text("expected at most").wait_for()
    assert page.locator("#send").is_enabled()
  assert len(wrong) == 1
  assert "400" in wrong[0]
