"""The page of a run, in a real browser."""

import json
import random

import pytest
from view_data import NASTY, choose, group, main_status, pair

from lit_uniopd.errors import UserError
from lit_uniopd.utils.jsonl import append_lines
from lit_uniopd.view import GROUPS_FILE, PAIRS_FILE, page, write_page


def test_five_thousand_answers_are_shown_a_page_at_a_time(opened_page):
    assert opened_page.inner_text("#count") == "625 groups, 5000 answers"
    assert opened_page.locator(".card").count() == 20
    opened_page.click("#more")
    assert opened_page.locator(".card").count() == 40


def test_nothing_is_asked_of_the_network_and_nothing_a_model_wrote_is_markup(opened_page, run):
    assert [url for url in opened_page.request_urls if not url.startswith(("file:", "data:"))] == []
    assert opened_page.script_errors == []
    assert opened_page.title() == str(run)
    assert opened_page.locator(".prompt").first.inner_text() == f"question 0 {NASTY}"
    assert opened_page.locator("#list img").count() == 0


def test_filters_narrow_by_step_domain_teacher_reason_and_outcome(opened_page):
    assert choose(opened_page, "domain", "code") == "312 groups, 2496 answers"
    assert choose(opened_page, "step", "620") == "2 groups, 16 answers"
    assert choose(opened_page, "step", "") == "312 groups, 2496 answers"
    assert choose(opened_page, "why", "misordered") == "104 groups, 832 answers"
    choose(opened_page, "outcome", "correct")
    assert set(opened_page.locator(".answer .outcome").all_inner_texts()) == {"correct"}
    for name in ("outcome", "why", "domain"):
        count = choose(opened_page, name, "")
    assert count == "625 groups, 5000 answers"
    opened_page.fill("input[type=search]", "question 613 ")
    opened_page.get_by_text("1 groups, 8 answers").wait_for()
    opened_page.fill("input[type=search]", "")
    opened_page.get_by_text("625 groups, 5000 answers").wait_for()


def test_a_token_tells_its_log_probs_and_flags(opened_page, run):
    first = json.loads((run / GROUPS_FILE).read_text().splitlines()[0])
    best = max(first["answers"], key=lambda answer: answer["return"][0])
    place = best["flags"].index("g")
    token = opened_page.locator(".answer").first.locator(".tokens i").nth(place)
    token.scroll_into_view_if_needed()
    token.hover()
    tooltip = opened_page.inner_text("#tip")
    assert f"{best['student'][place]:.3f}" in tooltip
    assert f"{best['teacher'][place]:.3f}" in tooltip
    assert "masked: student and teacher too far apart" in tooltip
    assert "g" in token.get_attribute("class").split()


def test_colours_are_of_the_advantage_before_or_after_calibration(opened_page):
    token = opened_page.locator(".answer").first.locator(".tokens i").first
    after = token.evaluate("element => element.style.backgroundColor")
    choose(opened_page, "calibration", "before")
    opened_page.locator(".answer").first.locator(".tokens i").first.wait_for()
    before = opened_page.locator(".answer").first.locator(".tokens i").first.evaluate("e => e.style.backgroundColor")
    assert before != after
    choose(opened_page, "calibration", "after")


def test_pairs_come_with_their_weights(opened_page):
    opened_page.click("nav button:has-text('Preference pairs')")
    assert opened_page.inner_text("#count") == "32 pairs"
    assert choose(opened_page, "domain", "default") == "30 pairs"
    assert "0.395" in opened_page.locator(".card").first.inner_text()  # (0.5 + 0.29) / 2
    choose(opened_page, "order", "lowest margin")
    assert "pair 0" in opened_page.locator(".card").first.inner_text()
    words = opened_page.locator(".card").first.inner_text()
    assert all(word in words for word in ("score none", "mastery", "0.206", "reward \u22126.000"))


def test_sentence_pairs_come_with_context_picture_boxes_and_verdicts(opened_page):
    opened_page.click("nav button:has-text('Preference pairs')")
    assert choose(opened_page, "domain", "scenes") == "2 pairs"
    card = opened_page.locator(".card").first
    assert "so far There is a dog." in card.inner_text()
    assert "score" not in card.locator(".two").inner_text(), "nobody judged these"
    card.locator("img").evaluate("image => image.decode()")
    frame, boxes = card.locator("img").bounding_box(), card.locator(".box").all()
    assert len(boxes) == 4
    for box in boxes[:3]:  # on the dog, whatever the picture's size on the screen
        room = box.bounding_box()
        assert room["x"] - frame["x"] == pytest.approx(0.25 * frame["width"], abs=1)
        assert room["y"] - frame["y"] == pytest.approx(0.5 * frame["height"], abs=1)
        assert (room["width"], room["height"]) == pytest.approx((frame["width"] / 2, frame["height"] / 2), abs=1)
    assert card.locator(".box span").all_inner_texts() == ["dog, cat", "tree"], "one label a place"
    assert "Owlv2 sees cat, score 0.3; verdict: uncertain" in (boxes[2].get_attribute("title") or "")
    colours = [box.evaluate("element => getComputedStyle(element).outlineColor") for box in boxes]
    assert colours[0] == colours[3] != colours[1] == colours[2], "a colour for each detector"
    rows = [row.inner_text().split("\t") for row in card.locator("tr").all()]
    assert rows[1:] == [
        ["dog", "factual", "sees it (0.90)", "sees it (0.40)"],
        ["cat", "uncertain", "does not see it", "sees it (0.30)"],
        ["tree", "uncertain", "sees it (0.50)", "does not know it"],
        ["sheep", "hallucinated", "does not see it", "does not see it"],
    ]
    card.locator("tr").nth(3).hover()
    assert ["dim" in (box.get_attribute("class") or "") for box in boxes] == [True, True, True, False]
    assert card.locator(".named").all_inner_texts() == ["dogs", "cat"]
    assert card.locator(".answer.incorrect .text").inner_text() == f"A cat is there. {NASTY}"
    assert "cannot be read any more" in opened_page.locator(".card").nth(1).inner_text()
    assert opened_page.title() != "owned"


def test_a_narrow_window_scrolls_in_one_direction_only(opened_page):
    opened_page.set_viewport_size({"width": 500, "height": 900})
    for name in ("Rollouts", "Preference pairs", "Captions"):
        opened_page.click(f"nav button:has-text('{name}')")
        assert opened_page.evaluate("document.documentElement.scrollWidth") <= 500, name
    opened_page.set_viewport_size({"width": 1400, "height": 900})


def test_captions_come_with_picture_verdicts_and_votes(opened_page):
    opened_page.click("nav button:has-text('Captions')")
    card = opened_page.locator(".card").first
    assert card.locator("img").evaluate("image => image.naturalWidth") == 64
    rows = [row.inner_text().split("\t") for row in card.locator("tr").all()]
    assert rows[0] == ["object", "verdict", "GroundingDino", "Owlv2"]
    assert rows[2] == ["cat", "hallucinated", "does not see it", "does not see it"]
    assert rows[3] == ["tree", "uncertain", "sees it", "does not know it"]
    assert "cannot be read any more" in opened_page.locator(".card").nth(1).inner_text()


def test_what_a_teacher_read_in_place_of_the_prompt_is_shown_as_text(tmp_path, opened):
    records = [group(number, random.Random(0), answers=2, tokens=3) for number in range(3)]
    records[1]["read"] = f"system: You know it.\n\nuser: {NASTY}"
    append_lines(tmp_path / GROUPS_FILE, records)
    assert main_status(["view", str(tmp_path)]) == 0
    shown = opened(tmp_path / "view.html")
    assert shown.inner_text("#count") == "3 groups, 6 answers; of 1 groups the teacher read its own prompt"
    choose(shown, "prompt", "the teacher's own")
    shown.click(".read summary")
    assert shown.locator(".read .prompt").inner_text() == records[1]["read"]
    shown.hover(".read .term")
    assert "The answers are scored behind it" in shown.inner_text("#tip")
    assert shown.title() == str(tmp_path)


def test_what_does_not_apply_is_not_there(tmp_path, opened):
    record = group(0, random.Random(0), answers=2, tokens=3)
    for answer in record["answers"]:  # nothing calibrated, clipped, masked or graded; one domain, one step
        answer["advantage"] = [t - s for s, t in zip(answer["student"], answer["teacher"], strict=True)]
        answer |= {"return": [0.5, 0.5], "flags": "...", "outcome": -1, "kept": True}
    append_lines(tmp_path / GROUPS_FILE, [{**record, "gold": None, "why": ["best"]}])
    assert main_status(["view", str(tmp_path)]) == 0
    shown = opened(tmp_path / "view.html")
    assert shown.locator("select, input, nav button").count() == 1, "one group: there is nothing to choose"
    words = set(shown.evaluate("[...document.querySelectorAll('#words dt')].map(t => t.textContent)"))
    assert words == {"kept because", "best", "return", "tokens", "colours"}
    assert "\u2192" not in shown.inner_text(".card")


def test_words_that_differ_are_marked_in_both_answers_and_objects_still_coloured(tmp_path, opened):
    record = {
        **pair(0),
        "chosen": "The dogs rest, \U0001f642 and so on.",
        "rejected": "The cat rests, \U0001f642 and so on.",
    }
    record["verdicts"] = {"dog": "factual", "cat": "hallucinated"}
    append_lines(tmp_path / PAIRS_FILE, [record])
    assert main_status(["view", str(tmp_path)]) == 0
    shown = opened(tmp_path / "view.html")
    assert shown.locator(".text mark").all_inner_texts() == ["dogs", " rest", "cat", " rests"]
    assert shown.locator(".text mark .named").all_inner_texts() == ["dogs", "cat"]
    assert shown.locator(".text").all_inner_texts() == [record["chosen"], record["rejected"]]


def test_the_file_is_one_piece(run):
    text = (run / "view.html").read_text()
    assert "default-src 'none'" in text
    assert text.count("</script>") == 2, "model text must not end a script"
    assert not list(run.glob(".*writing"))


def test_values_are_not_searched_for_marks():
    text = page("{{script}}", [{"answers": [], "prompt": "{{style}} {{data}}"}], [], [])
    assert "<title>{{script}}</title>" in text
    assert "{{style}} {{data}}" in text


def test_mistakes_are_answered_in_one_sentence(tmp_path, capsys):
    with pytest.raises(UserError, match=r"does not exist; give the directory of a run"):
        write_page(tmp_path / "nowhere", tmp_path / "out.html")
    with pytest.raises(UserError, match=r"has no rollouts\.jsonl, .*; add callbacks\.RolloutRecorder"):
        write_page(tmp_path, tmp_path / "out.html")
    assert main_status(["view", str(tmp_path)]) == 2
    assert "error: uniopd view:" in capsys.readouterr().err
