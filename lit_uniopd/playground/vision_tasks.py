"""Three domains whose prompts need their picture, and text-only programs beside them.

chart     B<image>a-c+b%=   ->  3-4=4,4+1=0      the bars a, b, c, d; then as in the math domain
document  D<image>a-c+b%=   ->  3-4=4,4+1=0      the digits at the ends of the lines a, b, c, d
shapes    P<image>RS=       ->  R=dcba,S=acbd    the letters that the shapes stand for; then as in the code domain
code      CRS:abcd=         ->  R=dcba,S=acbd    no picture
"""

import random
from dataclasses import dataclass
from typing import Literal

from PIL import Image

from lit_uniopd.playground.images import draw_chart, draw_document, draw_shapes
from lit_uniopd.playground.tasks import LETTERS, MODULUS, Split, draw_prompt, split_of

VisionDomain = Literal["chart", "shapes", "document", "code"]
VISION_DOMAINS: tuple[VisionDomain, ...] = ("chart", "shapes", "document", "code")
PICTURED: tuple[VisionDomain, ...] = ("chart", "shapes", "document")
MARK = "<image>"
NUMBERS = 4
"""In a chart or document."""


@dataclass(frozen=True, slots=True)
class Question:
    """A prompt and the content of its picture."""

    domain: VisionDomain
    prompt: str
    """With a mark where the picture is."""
    text_form: str
    """The same question without a picture, which the solver of the text domains answers."""
    content: str = ""
    """Of the picture: four digits or four letters."""

    def picture(self) -> Image.Image | None:
        """The picture that the mark stands for; None in the code domain."""
        if self.domain == "code":
            return None
        if self.domain == "shapes":
            return draw_shapes(self.content)
        values = [int(value) for value in self.content]
        return draw_chart(values) if self.domain == "chart" else draw_document(values)

    @property
    def key(self) -> str:
        """Identifies prompt and picture together."""
        return f"{self.prompt}|{self.content}"


def draw_question(rng: random.Random, domain: VisionDomain, steps: int, split: Split) -> Question:
    """A question of one split; splits are disjoint in prompt and picture together."""
    while True:
        if domain == "code":
            prompt = draw_prompt(rng, "code", steps, split)
            return Question(domain, prompt, prompt)
        if domain == "shapes":
            program, content = "".join(rng.choice("RLS") for _ in range(steps)), "".join(rng.sample(LETTERS, 4))
            question = Question(domain, f"P{MARK}{program}=", f"C{program}:{content}=", content)
        else:
            content = "".join(str(rng.randrange(1, MODULUS)) for _ in range(NUMBERS))
            signs = [rng.choice("+--") for _ in range(min(steps, NUMBERS - 1))]
            sums = content[0] + "".join(sign + digit for sign, digit in zip(signs, content[1:], strict=False))
            letter = "B" if domain == "chart" else "D"
            question = Question(domain, f"{letter}{MARK}{''.join(signs)}%=", f"M{sums}%=", content)
        if split_of(question.key) == split:
            return question


def distinct_questions(seed: int, domain: VisionDomain, split: Split, count: int) -> list[Question]:
    """``count`` different questions of one to four steps."""
    rng, questions = random.Random(f"{seed} {domain} {split}"), dict[str, Question]()
    for attempt in range(1000 * count):
        if len(questions) == count:
            break
        steps = 1 + attempt % 4 if attempt < 4 * count else rng.randint(3, 4)
        question = draw_question(rng, domain, steps, split)
        questions[question.key] = question
    return list(questions.values())
