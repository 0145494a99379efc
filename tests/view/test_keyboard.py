"""The page by keyboard and for screen readers, and its address, in a real browser."""

import json

import pytest
from view_data import choose

from lit_uniopd.view import GROUPS_FILE


def focused(page, expression):
    return page.evaluate(f"(e => {expression})(document.activeElement)")


def press(page, *keys):
    for key in keys:
        page.keyboard.press(key)


def test_every_control_is_reached_by_tab_and_shows_that_it_has_the_focus(opened_page):
    reached = []
    for _ in range(60):
        press(opened_page, "Tab")
        name = focused(opened_page, "e.name || e.id || e.className || e.tagName")
        outline = focused(opened_page, "getComputedStyle(e).outlineStyle + getComputedStyle(e).outlineWidth")
        if name == "BODY":
            break
        assert outline == "solid2px", f"{name} shows no focus"
        reached.append(name)
    assert reached[:2] == ["skip", "tab-rollouts"]
    for control in ("step", "domain", "why", "outcome", "calibration", "search", "card", "more"):
        assert control in reached, control
    assert reached.count("card") == 1, "the list is one stop; j and k go on from there"


def test_j_and_k_go_from_card_to_card_and_on_to_the_next_page(opened_page):
    press(opened_page, "j", "j", "j", "k")
    assert focused(opened_page, "e.getAttribute('aria-label')") == "2 of 625"
    press(opened_page, "ArrowDown")
    assert focused(opened_page, "e.getAttribute('aria-label')") == "3 of 625"
    press(opened_page, "End")
    assert focused(opened_page, "e.getAttribute('aria-label')") == "20 of 625"
    press(opened_page, "j")
    assert focused(opened_page, "e.getAttribute('aria-label')") == "21 of 625"
    press(opened_page, "Home", "ArrowUp")
    assert focused(opened_page, "e.getAttribute('aria-label')") == "1 of 625"


def test_inside_of_a_card_words_and_tokens_say_what_they_are(opened_page, run):
    press(opened_page, "j", "Enter")
    word = focused(opened_page, "e.dataset.word")
    assert word == "step"
    described = focused(opened_page, "document.getElementById(e.getAttribute('aria-describedby')).textContent")
    assert opened_page.inner_text("#tip") == described
    assert "axis of the run's curves" in described
    press(opened_page, "Escape")
    assert not opened_page.is_visible("#tip"), "Escape takes the tip away"
    assert focused(opened_page, "e.dataset.word") == "step", "and leaves the focus"
    for _ in range(20):
        press(opened_page, "Tab")
        if focused(opened_page, "e.className") == "tokens":
            break
    press(opened_page, "ArrowRight", "ArrowRight", "ArrowRight", "ArrowLeft")
    first = json.loads((run / GROUPS_FILE).read_text().splitlines()[0])
    best = max(first["answers"], key=lambda answer: answer["return"][0])
    assert f"{best['student'][1]:.3f}" in opened_page.inner_text("#tip")
    assert opened_page.inner_text("#tip") == opened_page.evaluate("document.getElementById('spoken').textContent")
    assert opened_page.locator(".tokens i.at").count() == 1
    press(opened_page, "Escape", "Escape")
    assert focused(opened_page, "e.getAttribute('aria-label')") == "1 of 625", "back to the card"


def test_every_word_that_is_explained_has_a_description_that_a_screen_reader_finds(opened_page):
    for name in ("Rollouts", "Preference pairs", "Captions", "Before and after"):
        opened_page.click(f"nav button:has-text('{name}')")
        missing = opened_page.evaluate(
            "[...document.querySelectorAll('.term')].filter(t => !document.getElementById("
            "t.getAttribute('aria-describedby'))?.textContent).map(t => t.textContent)"
        )
        assert missing == [], name
        assert opened_page.locator(".term").count() > 3
    opened_page.click("nav button:has-text('Rollouts')")
    words = opened_page.evaluate("[...document.querySelectorAll('#words dt')].map(t => t.textContent)")
    assert {"return", "margin", "kept because", "misordered", "colours", "clipped", "masked"} <= set(words)
    assert not {"mastery", "reward margin", "verdict"} & set(words), "only words of what is shown"


def test_tabs_are_a_tab_list_and_the_words_open_by_a_key(opened_page):
    opened_page.focus("#tab-rollouts")
    press(opened_page, "ArrowRight")
    assert focused(opened_page, "e.id") == "tab-pairs"
    assert opened_page.inner_text("#count") == "32 pairs"
    press(opened_page, "End", "ArrowRight")
    assert focused(opened_page, "e.id") == "tab-rollouts"
    press(opened_page, "?")
    assert opened_page.is_visible("#words dl")
    press(opened_page, "Escape")
    assert not opened_page.is_visible("#words dl")
    press(opened_page, "/")
    assert focused(opened_page, "e.id") == "search"
    opened_page.keyboard.type("question 613 ")
    opened_page.get_by_text("1 groups, 8 answers").wait_for()
    press(opened_page, "Escape")
    assert opened_page.inner_text("#count") == "625 groups, 5000 answers"


def test_boxes_stand_out_when_their_object_has_the_focus(opened_page):
    opened_page.click("nav button:has-text('Preference pairs')")
    choose(opened_page, "domain", "scenes")
    press(opened_page, "j")
    card = opened_page.locator(".card").first
    card.locator(".object", has_text="tree").focus()
    dimmed = ["dim" in (box.get_attribute("class") or "") for box in card.locator(".box").all()]
    assert dimmed == [True, True, True, False]


def test_a_reload_and_a_shared_link_show_the_same(opened_page, run, opened):
    choose(opened_page, "domain", "code")
    choose(opened_page, "why", "misordered")
    choose(opened_page, "calibration", "before")
    opened_page.fill("input[type=search]", "question 6")
    opened_page.get_by_text("6 groups, 48 answers").wait_for()
    press(opened_page, "Escape")  # clears the search
    opened_page.fill("input[type=search]", "Question 6")
    opened_page.get_by_text("6 groups, 48 answers").wait_for()
    opened_page.locator(".card").nth(4).focus()
    address = opened_page.url
    opened_page.reload()
    shared = opened(run / "view.html", "#" + address.partition("#")[2])
    for page in (opened_page, shared):
        assert page.inner_text("#count") == "6 groups, 48 answers"
        assert page.input_value("select[name=domain]") == "code"
        assert page.input_value("select[name=calibration]") == "before"
        assert page.input_value("input[type=search]") == "Question 6"
        assert focused(page, "e.getAttribute('aria-label')") == "5 of 6"
    shared.click("text=clear filters")
    assert shared.inner_text("#count") == "625 groups, 5000 answers"
    assert "domain" not in shared.url


@pytest.mark.parametrize(
    "fragment", ["#tab=nonsense", "#tab=__proto__&order=toString", "#domain=<img>&card=-3", "#%%%"]
)
@pytest.mark.thinned(2)
def test_an_address_of_another_page_or_of_nonsense_opens_the_page_as_it_is(run, opened, fragment):
    page = opened(run / "view.html", fragment)
    assert page.inner_text("#count") == "625 groups, 5000 answers"
    assert page.locator("#list img").count() == 0


def test_a_link_that_is_pasted_into_the_open_page_is_followed(opened_page):
    opened_page.evaluate("location.hash = '#tab=pairs&domain=scenes'")
    opened_page.get_by_text("2 pairs").wait_for()
