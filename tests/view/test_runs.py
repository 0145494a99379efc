"""Before and after: one run at two steps, several at one, side by side, in a real browser."""

import json
import random

from view_data import choose, group, main_status, pair

from lit_uniopd.utils.jsonl import append_lines
from lit_uniopd.view import GROUPS_FILE, PAIRS_FILE


def small_group(step, why, prompt="p", domain="math"):
    record = group(0, random.Random(0), answers=2, tokens=3)
    return {**record, "step": step, "why": why, "prompt": prompt, "domain": domain, "teacher": domain}


def scores(directory, before, after):
    (directory / "summary.json").write_text(json.dumps({"before": before, "after": after, "teachers": {"math": 1.0}}))


def columns(card):
    return card.locator(".columns > section").all()


def test_one_run_stands_beside_itself_at_its_first_and_its_last_step(tmp_path, opened):
    lines = [small_group(0, ["best"], "same"), small_group(0, ["worst"], "first"), small_group(0, ["misordered"], "m")]
    lines += [small_group(5, ["best"], "middle")]
    lines += [small_group(9, ["worst", "best"], "same"), small_group(9, ["worst"], "last")]
    append_lines(tmp_path / GROUPS_FILE, lines)
    scores(tmp_path, {"math": 0.25}, {"math": 0.875})
    assert main_status(["view", str(tmp_path)]) == 0
    page = opened(tmp_path / "view.html")
    page.click("nav button:has-text('Before and after')")
    table = [row.inner_text().split("\t") for row in page.locator(".scores tr").all()]
    assert table == [["", "before", "after", "teacher"], ["math", "25.0 %", "87.5 %", "100.0 %"]]
    assert page.inner_text("#count") == "3 rows, side by side"
    same, misordered, worst = page.locator(".card").all()
    assert "the same prompt" in same.inner_text()
    assert [column.locator("h2").inner_text() for column in columns(same)] == ["step 0", "step 9"]
    assert same.locator(".prompt").all_inner_texts() == ["same"], "once for both"
    assert "no such group was kept at this step" in columns(misordered)[1].inner_text()
    assert worst.locator(".prompt").all_inner_texts() == ["first", "last"]
    choose(page, "to", "5")
    assert [h.inner_text() for h in page.locator("h2").all()[:2]] == ["step 0", "step 5"]
    assert "to=5" in page.url


def test_several_runs_stand_side_by_side_at_one_step(tmp_path, opened):
    for name, prompt, last in (("a", "pa", 9), ("b", "pb", 12)):
        steps = [small_group(0, ["best"], "shared"), small_group(4, ["best"], prompt), small_group(last, ["best"])]
        append_lines(tmp_path / f"{name}/version_0" / GROUPS_FILE, steps)
        append_lines(tmp_path / f"{name}/version_0" / PAIRS_FILE, [pair(1), pair(7 if name == "a" else 8)])
    scores(tmp_path / "a/version_0", {"math": 0.25}, {"math": 0.5})
    scores(tmp_path / "b/version_0", {"math": 0.25}, {"math": 0.75})
    out = tmp_path / "both.html"
    assert main_status(["view", str(tmp_path / "a"), str(tmp_path / "b"), "--out", str(out)]) == 0
    page = opened(out)
    assert page.title() == "a/version_0 and b/version_0"
    assert choose(page, "run", "b/version_0") == "3 groups, 6 answers"
    page.click("nav button:has-text('Before and after')")
    cells = page.inner_text(".scores tr:last-child").split("\t")
    assert cells == ["math", "25.0 %", "50.0 %", "100.0 %", "25.0 %", "75.0 %", "100.0 %"]
    assert page.input_value("select[name=at]") == "4", "the last step that all of them have recorded"
    assert page.locator(".card").first.locator(".prompt").all_inner_texts() == ["pa", "pb"]
    choose(page, "at", "12")
    assert "this run recorded nothing at step 12; it has 0, 4, 9" in page.locator(".card").first.inner_text()
    choose(page, "at", "0")
    assert page.locator(".card").first.locator("h2").all_inner_texts() == ["a/version_0, step 0", "b/version_0, step 0"]
    pairs = page.locator(".card").nth(1)
    assert "pair 1" in pairs.inner_text()
    assert pairs.locator("h2").all_inner_texts() == ["a/version_0", "b/version_0"]
    assert page.locator(".card").count() == 2, "pairs that only one of them has are not compared"
