"""The page of a run, in a real browser."""

import json
import random
import shutil
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from lit_uniopd.cli import main
from lit_uniopd.errors import UserError
from lit_uniopd.utils.jsonl import append_lines
from lit_uniopd.view import GROUPS_FILE, PAIRS_FILE, page, write_page

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
NASTY = "</script><script>document.title='owned'</script><img src=x onerror=\"document.title='owned'\">&lt;"


def group(number: int, rng: random.Random, answers: int = 8, tokens: int = 60) -> dict[str, Any]:
    def answer(place: int) -> dict[str, Any]:
        student = [round(-3 * rng.random(), 3) for _ in range(tokens)]
        teacher = [round(-3 * rng.random(), 3) for _ in range(tokens)]
        before = [b - a for a, b in zip(student, teacher, strict=True)]
        return {
            "outcome": place % 3 - 1,
            "reason": "boxed",
            "finish": "stop",
            "length": tokens,
            "kept": place != 0,
            "scored": True,
            "masked": False,
            "return": [round(sum(before) / tokens, 4), round(sum(before) / tokens + 0.2, 4)],
            "tokens": [rng.choice([" the", " sum", " is", "\n", NASTY]) for _ in range(tokens)],
            "student": student,
            "teacher": teacher,
            "advantage": [round(x + 0.2, 3) for x in before],
            "flags": "".join(rng.choice("...gc") for _ in range(tokens)),
        }

    return {
        "step": number // 10 * 10,
        "domain": ["math", "code"][number % 2],
        "teacher": ["math", "code"][number % 2],
        "why": [["best"], ["worst", "misordered"]][number % 3 == 0],
        "prompt": f"question {number} {NASTY}",
        "gold": "42",
        "answers": [answer(i) for i in range(answers)],
    }


def pair(number: int) -> dict[str, Any]:
    weights = {"w_quality": 0.5 + number / 100, "w_performance": 0.5, "margin": number - 5.0, "mastery": 0.206}
    rewards = {"chosen_reward": number - 6.0, "rejected_reward": -1.0}
    scores = {"score_chosen": 8.0, "score_rejected": None}
    texts = {"prompt": f"pair {number}", "chosen": f"good {NASTY}", "rejected": "bad"}
    return {"step": 3, "domain": "default", **texts, **scores, **weights, **rewards}


def sentence_pair(picture: str) -> dict[str, Any]:
    """Whose detectors disagree on the tree; Owlv2 takes the dog for a cat besides."""
    dog, tree = {"object": "dog", "place": [0.25, 0.5, 0.75, 1.0]}, {"object": "tree", "place": [0.0, 0.0, 0.5, 0.5]}
    boxes = [{**dog, "detector": name, "score": score} for name, score in (("GroundingDino", 0.9), ("Owlv2", 0.4))]
    cat = {**dog, "object": "cat", "detector": "Owlv2", "score": 0.3}
    return {
        **pair(0),
        "domain": "scenes",
        "score_chosen": None,
        "context": "There is a dog.",
        "images": [picture],
        "chosen": "The dogs rest.",
        "rejected": f"A cat is there. {NASTY}",
        "verdicts": {"dog": "factual", "cat": "uncertain", "tree": "uncertain", "sheep": "hallucinated"},
        "votes": {"dog": [True, True], "cat": [False, True], "tree": [True, None], "sheep": [False, False]},
        "boxes": [*boxes, cat, {**tree, "detector": "GroundingDino", "score": 0.5}],
        "detectors": ["GroundingDino", "Owlv2"],
    }


def caption(picture: str) -> dict[str, Any]:
    sentences = {"context": "A dog.", "chosen": "It has a ball.", "rejected": "It has a cat."}
    lists = {"objects_chosen": ["sports ball"], "hallucinated_rejected": ["cat"]}
    return {
        "id": "c1",
        "images": [picture],
        "messages": [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "Describe."}]}],
        "caption": f"A dog. {NASTY}",
        "stopped": "end",
        "verdicts": {"dog": "factual", "cat": "hallucinated", "tree": "uncertain"},
        "votes": {"dog": [True, True], "cat": [False, False], "tree": [True, None]},
        "detectors": ["GroundingDino", "Owlv2"],
        "pairs": [{"sentence": 1, "context_factual": True, **sentences, **lists}],
    }


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("run")
    rng = random.Random(0)
    append_lines(root / GROUPS_FILE, [group(i, rng) for i in range(625)])  # 5,000 answers
    Image.new("RGB", (64, 48), (90, 120, 60)).save(root / "dog.png")
    sentences = [sentence_pair(str(root / "dog.png")), sentence_pair(str(root / "gone.png"))]
    append_lines(root / PAIRS_FILE, [pair(i) for i in range(30)] + sentences)
    skipped = {"id": "c3", "images": ["broken.png"], "unreadable": "cannot identify image file"}
    append_lines(root / "sentences.captions.jsonl", [caption(str(root / "dog.png")), caption("gone.png"), skipped])
    main_status(["view", str(root)])
    return root


def main_status(arguments: list[str]) -> int:
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    return int(stop.value.code or 0)


@pytest.fixture(scope="module")
def tab(run):
    """The page in a headless browser, with the URLs it requests and the errors of its scripts."""
    if BROWSER is None:
        pytest.skip("no Chromium on this machine")
    sync = pytest.importorskip("playwright.sync_api", reason="needs playwright, of the dev extra")
    with sync.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=BROWSER, args=["--no-sandbox", "--disable-gpu"])
        tab = browser.new_page(viewport={"width": 1400, "height": 900})
        tab.request_urls, tab.script_errors = [], []
        tab.on("request", lambda request: tab.request_urls.append(request.url))
        tab.on("pageerror", lambda error: tab.script_errors.append(str(error)))
        tab.on("console", lambda message: tab.script_errors.append(message.text) if message.type == "error" else None)
        tab.goto((run / "view.html").as_uri())
        yield tab
        browser.close()


@pytest.fixture
def opened_page(tab):
    """The page as it opens."""
    tab.reload()
    return tab


def choose(tab: Any, name: str, value: str) -> str:
    tab.select_option(f"select[name={name}]", value)
    return tab.inner_text("#count")


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
