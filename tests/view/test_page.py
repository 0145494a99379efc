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
from lit_uniopd.ledger import append_lines
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
    weights = {"w_quality": 0.5 + number / 100, "w_performance": 0.5, "margin": number - 5.0}
    scores = {"score_chosen": 8.0, "score_rejected": None}
    texts = {"prompt": f"pair {number}", "chosen": f"good {NASTY}", "rejected": "bad"}
    return {"step": 3, "domain": "default", **texts, **scores, **weights}


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
    append_lines(root / PAIRS_FILE, [pair(i) for i in range(30)])
    Image.new("RGB", (64, 48), (90, 120, 60)).save(root / "dog.png")
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
    """The page in a headless browser; what it asked the network for, and what went wrong in it."""
    if BROWSER is None:
        pytest.skip("no Chromium on this machine")
    sync = pytest.importorskip("playwright.sync_api", reason="needs playwright, of the dev extra")
    with sync.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=BROWSER, args=["--no-sandbox", "--disable-gpu"])
        tab = browser.new_page(viewport={"width": 1400, "height": 900})
        tab.asked, tab.wrong = [], []
        tab.on("request", lambda request: tab.asked.append(request.url))
        tab.on("pageerror", lambda error: tab.wrong.append(str(error)))
        tab.on("console", lambda message: tab.wrong.append(message.text) if message.type == "error" else None)
        tab.goto((run / "view.html").as_uri())
        yield tab
        browser.close()


@pytest.fixture
def shown(tab):
    """The page as it opens."""
    tab.reload()
    return tab


def choose(tab: Any, name: str, value: str) -> str:
    tab.select_option(f"select[name={name}]", value)
    return tab.inner_text("#count")


def test_five_thousand_answers_are_shown_a_page_at_a_time(shown):
    assert shown.inner_text("#count") == "625 groups, 5000 answers"
    assert shown.locator(".card").count() == 20
    shown.click("#more")
    assert shown.locator(".card").count() == 40


def test_nothing_is_asked_of_the_network_and_nothing_a_model_wrote_is_markup(shown, run):
    assert [url for url in shown.asked if not url.startswith(("file:", "data:"))] == []
    assert shown.wrong == []
    assert shown.title() == str(run)
    assert shown.locator(".prompt").first.inner_text() == f"question 0 {NASTY}"
    assert shown.locator("#list img").count() == 0


def test_filters_narrow_by_step_domain_teacher_reason_and_outcome(shown):
    assert choose(shown, "domain", "code") == "312 groups, 2496 answers"
    assert choose(shown, "step", "620") == "2 groups, 16 answers"
    assert choose(shown, "step", "") == "312 groups, 2496 answers"
    assert choose(shown, "why", "misordered") == "104 groups, 832 answers"
    choose(shown, "outcome", "correct")
    assert set(shown.locator(".answer .outcome").all_inner_texts()) == {"correct"}
    for name in ("outcome", "why", "domain"):
        count = choose(shown, name, "")
    assert count == "625 groups, 5000 answers"
    shown.fill("input[type=search]", "question 613 ")
    shown.get_by_text("1 groups, 8 answers").wait_for()
    shown.fill("input[type=search]", "")
    shown.get_by_text("625 groups, 5000 answers").wait_for()


def test_a_token_tells_its_log_probs_and_flags(shown, run):
    first = json.loads((run / GROUPS_FILE).read_text().splitlines()[0])
    best = max(first["answers"], key=lambda answer: answer["return"][0])
    place = best["flags"].index("g")
    token = shown.locator(".answer").first.locator(".tokens i").nth(place)
    token.scroll_into_view_if_needed()
    token.hover()
    told = shown.inner_text("#tip")
    assert f"{best['student'][place]:.3f}" in told
    assert f"{best['teacher'][place]:.3f}" in told
    assert "masked: student and teacher too far apart" in told
    assert "g" in token.get_attribute("class").split()


def test_colours_are_of_the_advantage_before_or_after_calibration(shown):
    token = shown.locator(".answer").first.locator(".tokens i").first
    after = token.evaluate("element => element.style.backgroundColor")
    choose(shown, "calibration", "before")
    shown.locator(".answer").first.locator(".tokens i").first.wait_for()
    before = shown.locator(".answer").first.locator(".tokens i").first.evaluate("e => e.style.backgroundColor")
    assert before != after
    choose(shown, "calibration", "after")


def test_pairs_come_with_their_weights(shown):
    shown.click("nav button:has-text('Preference pairs')")
    assert shown.inner_text("#count") == "30 pairs"
    assert "0.395" in shown.locator(".card").first.inner_text()  # (0.5 + 0.29) / 2
    choose(shown, "order", "lowest margin")
    assert "pair 0" in shown.locator(".card").first.inner_text()
    assert "none" in shown.locator(".card").first.inner_text()


def test_captions_come_with_picture_verdicts_and_votes(shown):
    shown.click("nav button:has-text('Captions')")
    card = shown.locator(".card").first
    assert card.locator("img").evaluate("image => image.naturalWidth") == 64
    rows = [row.inner_text().split("\t") for row in card.locator("tr").all()]
    assert rows[0] == ["object", "verdict", "GroundingDino", "Owlv2"]
    assert rows[2] == ["cat", "hallucinated", "does not see it", "does not see it"]
    assert rows[3] == ["tree", "uncertain", "sees it", "does not know it"]
    assert "cannot be read any more" in shown.locator(".card").nth(1).inner_text()


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
