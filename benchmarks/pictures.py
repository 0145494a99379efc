"""The picture of each method, in docs/figures: what is computed, on a few numbers made up for it.

    python -m benchmarks.pictures

The numbers that follow from others are computed by the functions that train: `margin_shift`, `quality_weights`,
`omni_dpo_loss`, `cross_check` and `label_sentences`.
"""

import argparse
from collections.abc import Iterable

import torch

from benchmarks.svg import Axis, Drawing, write
from lit_uniopd.functional import margin_shift, omni_dpo_loss, quality_weights, trajectory_returns
from lit_uniopd.hallucination.sentences import label_sentences
from lit_uniopd.hallucination.verdicts import cross_check

ADVANTAGES = [
    [-0.9, -0.3, 0.1, -0.5, -0.4],
    [0.2, -0.4, 0.1, -0.3, -0.1],
    [0.3, 0.2, -0.5, 0.6, 0.4],
    [0.1, -0.2, -1.6, 0.2, 0.5],
]
"""Of four answers to one prompt, five tokens each; the first two are right."""
OUTCOMES, DELTA = [1, 1, 0, 0], 0.4

PAIRS = (
    ("sure judge, not learned", 3.5, -1.0),
    ("unsure judge, not learned", 0.4, -1.8),
    ("sure judge, mastered", 4.8, 3.0),
)
"""Each with the gap of its scores, and the policy's margin times beta."""


def uni_opd() -> Drawing:
    """Token advantages, returns, and the shift of a group in the wrong order."""
    drawing = Drawing(720, 424, "Uni-OPD: token advantages, returns of answers, and a margin shift")
    advantages_BT, mask_BT = torch.tensor(ADVANTAGES, dtype=torch.float64), torch.ones(4, 5)
    outcome_B = torch.tensor(OUTCOMES)
    returns_B = trajectory_returns(advantages_BT, mask_BT)
    shifted = margin_shift(advantages_BT, mask_BT, outcome_B, torch.zeros(4).long(), delta=DELTA)
    after_B = trajectory_returns(shifted.advantages, mask_BT)
    drawing.text(24, 32, "1  The student writes four answers to a prompt; its teacher scores every token", bold=True)
    drawing.text(24, 51, "advantage A = log-prob by the teacher minus log-prob by the student", "dim", size=12.5)
    drawing.text(478, 51, "mean: return G", "dim", size=12.5)
    drawing.text(600, 51, "moved by", "dim", size=12.5)
    for row, scores in enumerate(ADVANTAGES):
        y, side = 64 + 34 * row, "good" if OUTCOMES[row] else "bad"
        drawing.text(24, y + 18, "right" if OUTCOMES[row] else "wrong", side, bold=True)
        for column, score in enumerate(scores):
            x = 84 + 72 * column
            drawing.rect(x, y, 66, 26, "card")
            drawing.rect(x, y, 66, 26, "good" if score > 0 else "bad", opacity=min(abs(score), 1.0) * 0.45)
            drawing.text(x + 33, y + 18, f"{score:+.1f}", anchor="middle")
        drawing.arrow(450, y + 13, 472)
        drawing.text(490, y + 18, f"{returns_B[row]:+.2f}", side, bold=True)
        drawing.text(606, y + 18, f"{shifted.shift_B[row]:+.3f} a token", "mark")
    drawing.text(
        24, 232, "2  Right answers should return more than wrong ones. Here they do not, so both sets move", bold=True
    )
    axis = Axis(-0.7, 0.7, 150, 690)
    margins = (shifted.margin_before.item(), shifted.margin_after.item())
    for name, y, values_B, margin in (("before", 284, returns_B, margins[0]), ("after", 352, after_B, margins[1])):
        drawing.text(24, y + 5, f"{name} the shift")
        drawing.line(axis.left, y, axis.right, y)
        for value, outcome in zip(values_B.tolist(), OUTCOMES, strict=True):
            drawing.circle(axis(value), y, 7, "good" if outcome else "bad")
        means = [values_B[outcome_B == outcome].mean().item() for outcome in (1, 0)]
        for mean, side in zip(means, ("good", "bad"), strict=True):
            drawing.line(axis(mean), y - 15, axis(mean), y + 15, side, width=3)
        drawing.text(690, y - 22, f"mean of the right minus mean of the wrong: {margin:+.2f}", "mark", anchor="end")
    axis.ticks(drawing, 384, [-0.6, -0.4, -0.2, 0, 0.2, 0.4, 0.6])
    drawing.text(24, 402, "return G", "dim", size=12.5)
    return drawing


def omni_dpo() -> Drawing:
    """Both weights of a pair, and what three pairs count."""
    drawing = Drawing(720, 372, "Omni-DPO: the weight of a pair by its judge and by the policy")
    drawing.text(24, 32, "How sure was the judge?", bold=True)
    drawing.text(24, 51, "quality weight, by the gap of the scores", "dim", size=12.5)
    drawing.text(384, 32, "Has the policy mastered the pair?", bold=True)
    drawing.text(384, 51, "performance weight, by the policy's margin", "dim", size=12.5)
    gaps, margins = (doubles(low + i / 10 for i in range(81)) for low in (-2, -3))
    panels = (
        (
            Axis(-2, 6, 60, 330),
            gaps,
            quality_weights(gaps, doubles([0] * 81), eta=0.7),
            "score of the better minus worse",
        ),
        (Axis(-3, 5, 420, 690), margins, performance_weights(margins), "margin m of the policy, times beta"),
    )
    for axis, values, weights, label in panels:
        height = Axis(0, 1, 220, 76)
        for level in (0, 0.5, 1):
            drawing.line(axis.left, height(level), axis.right, height(level))
            drawing.text(axis.left - 8, height(level) + 4, f"{level:g}", "dim", size=11.5, anchor="end")
        places = zip(values.tolist(), weights.tolist(), strict=True)
        drawing.curve([(axis(value), height(weight)) for value, weight in places], "mark", width=2.5)
        axis.ticks(drawing, 220, list(range(int(axis.low), int(axis.high) + 1, 2)))
        drawing.text((axis.left + axis.right) / 2, 256, label, "dim", size=12.5, anchor="middle")
    drawing.text(24, 286, "three pairs", bold=True)
    for x, head in ((330, "quality"), (440, "performance"), (575, "product: it counts")):
        drawing.text(x, 286, head, "dim", size=12.5)
    for row, (name, gap, margin) in enumerate(PAIRS):
        y = 308 + 22 * row
        quality = quality_weights(doubles([gap]), doubles([0]), eta=0.7).item()
        performance = performance_weights(doubles([margin])).item()
        for (axis, *_), value, weight in zip(panels, (gap, margin), (quality, performance), strict=True):
            x, height = axis(value), Axis(0, 1, 220, 76)(weight)
            drawing.circle(x, height, 8, "good" if quality * performance > 0.5 else "bad")
            drawing.text(x, height + 4, str(row + 1), "page", size=11, anchor="middle", bold=True)
        drawing.text(24, y, f"{row + 1}  {name}")
        drawing.text(330, y, f"{quality:.2f}")
        drawing.text(440, y, f"{performance:.2f}")
        drawing.text(575, y, f"{quality * performance:.2f}", "mark", bold=True)
    return drawing


def doubles(values: Iterable[float]) -> torch.Tensor:
    """In float64, whose rounding differs between processors by less than what a picture shows."""
    return torch.tensor(list(values), dtype=torch.float64)


def performance_weights(scaled_margins: torch.Tensor) -> torch.Tensor:
    """Of pairs by the policy's margin times beta, at gamma 3 and tau_ref 1."""
    zeros = torch.zeros_like(scaled_margins)
    result = omni_dpo_loss(
        scaled_margins, zeros, zeros, zeros, zeros, zeros, beta=1.0, gamma=3.0, tau_ref=1.0, use_nll=False
    )
    return result.terms["w_performance"]


def sentinel() -> Drawing:
    """A picture, candidates for the next sentence, votes, verdicts, and the pair."""
    drawing = Drawing(720, 372, "SENTINEL: candidates for the next sentence, two detectors, and a pair")
    votes = (
        {"ball": True, "bench": True, "dog": False, "cup": True},
        {"ball": True, "bench": True, "dog": False, "cup": False},
    )
    verdicts = cross_check(votes)
    sentences = ["The ball is beside a bench.", "A dog runs after the ball.", "A cup stands by the ball."]
    named = ["bench", "dog", "cup"]
    labelled = label_sentences(sentences, [[name, "ball"] for name in named], verdicts.__getitem__, {"ball"})
    uses = {
        "factual_context_coherent": ("chosen", "good"),
        "hallucinated": ("rejected", "bad"),
        "uncertain": ("left out", "dim"),
    }
    _scene(drawing, 24, 64)
    drawing.text(24, 32, "1  Picture and caption so far", bold=True)
    drawing.text(24, 52, "“A ball lies on the grass.”", "dim", size=12.5)
    drawing.text(254, 32, "2  The model samples next sentences, two detectors look", bold=True)
    for x, head in ((254, "candidate"), (448, "object"), (506, "detectors"), (588, "verdict")):
        drawing.text(x, 66, head, "dim", size=12.5)
    for row, (name, sentence) in enumerate(zip(named, labelled, strict=True)):
        y = 82 + 46 * row
        use, colour = uses[sentence.label]
        drawing.rect(246, y, 456, 40, "card")
        drawing.rect(246, y, 5, 40, colour, radius=2)
        drawing.text(260, y + 25, sentence.text)
        drawing.text(448, y + 25, name, bold=True)
        for column, vote in enumerate(votes):
            is_there = vote[name]
            drawing.text(512 + 30 * column, y + 26, "✓" if is_there else "✗", "good" if is_there else "bad", size=16)
        drawing.text(588, y + 25, verdicts[name], colour, bold=True)
    drawing.text(24, 258, "3  One pair for DPO, with picture and caption so far in the prompt", bold=True)
    for row, sentence in enumerate(labelled[:2]):
        use, colour = uses[sentence.label]
        y = 272 + 38 * row
        drawing.rect(24, y, 678, 32, "card")
        drawing.text(38, y + 21, use, colour, bold=True)
        drawing.text(120, y + 21, "A ball lies on the grass.", "dim")
        drawing.text(280, y + 21, sentence.text, colour, bold=True)
    drawing.text(24, 362, "The factual sentence joins the caption, and the next step begins.", "dim", size=12.5)
    return drawing


def _scene(drawing: Drawing, x: float, y: float) -> None:
    """A ball on the grass, and a bench."""
    drawing.rect(x, y, 196, 160, "mark", opacity=0.22)
    drawing.rect(x, y + 104, 196, 56, "good", opacity=0.45)
    for top in (70, 84):
        drawing.rect(x + 84, y + top, 96, 9, "dim", radius=2)
    for left in (92, 164):
        drawing.rect(x + left, y + 90, 7, 34, "dim", radius=1)
    drawing.circle(x + 48, y + 122, 15, "bad")


def pictures() -> dict[str, Drawing]:
    """All of them by the names of their files."""
    return {"uni_opd": uni_opd(), "omni_dpo": omni_dpo(), "sentinel": sentinel()}


if __name__ == "__main__":
    argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    ).parse_args()  # so that --help writes nothing
    write(pictures())
