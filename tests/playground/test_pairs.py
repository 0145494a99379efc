"""Made pairs: one answer is right, the other is not, and the scores say by how much."""

import json

from lit_uniopd.playground.pairs import make_pairs
from lit_uniopd.playground.tasks import solve


def test_pairs_are_right_against_careless(tmp_path):
    prompts = ["M1-3%=", "M2-4+3%=", "M2-4-3-1%=", "M2+2-4+3+4%="] * 5
    rows = [{"id": str(i), "domain": "math", "prompt": prompt} for i, prompt in enumerate(prompts)]
    source = tmp_path / "prompts.jsonl"
    source.write_text("".join(json.dumps(row) + "\n" for row in rows))
    for name, seed in (("a", 0), ("again", 0), ("b", 1)):
        make_pairs(source, tmp_path / name, seed)
    texts = {name: (tmp_path / name).read_text() for name in ("a", "again", "b")}
    assert texts["a"] == texts["again"] != texts["b"]
    pairs = [json.loads(line) for line in texts["a"].splitlines()]
    assert len(pairs) > 10
    for pair in pairs:
        assert pair["chosen"] == solve(pair["prompt"]) != pair["rejected"]
        good, bad = pair["chosen"].split(","), pair["rejected"].split(",")
        right = sum(a == b for a, b in zip(good, bad, strict=True))
        assert pair["score_rejected"] == round(10 * right / len(good), 2) < pair["score_chosen"] == 10
