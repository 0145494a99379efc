"""The built-in example: tiny models and procedural tasks, so that everything runs on a laptop without a download.

The student is fluent but careless: it was pre-trained on step-by-step answers in which most occurrences of the
operators `-`, `S` and `L` are carried out as another one. Greedy, it therefore almost always confuses them. Each expert
is that same student trained on with mostly careful answers of one domain. Distillation teaches the student which of the
two rules that it already carries out is the right one, in both domains; it does not teach arithmetic from nothing.
"""

from lit_uniopd.playground.locate import locate
from lit_uniopd.playground.recipe import Playground, Recipe, build
from lit_uniopd.playground.threads import thread_probe

__all__ = ["Playground", "Recipe", "build", "locate", "thread_probe"]
