"""Rows that name several teachers."""

from dataclasses import replace
from typing import Any

import pytest
from tiny import prompts

from lit_uniopd.errors import UserError
from lit_uniopd.policy import PolicyArgs
from lit_uniopd.teachers import TeacherArgs
from lit_uniopd.teachers.pool import TeacherPool

MODELS = {name: PolicyArgs() for name in ("math", "code", "law")}


def row(teacher: Any, i: int = 1) -> Any:
    return replace(prompts(i + 1)[i], teacher=teacher)


def test_a_mixture_of_a_row_has_a_name_whatever_the_order_and_the_unit_of_its_weights():
    pool = TeacherPool(MODELS)
    same = [{"math": 0.7, "code": 0.2, "law": 0.1}, {"law": 1, "code": 2, "math": 7}]
    assert {pool.route(row(teacher)) for teacher in same} == {"code-0.2-law-0.1-math-0.7"}
    assert pool.route(row({"math": 3, "code": 3})) == "code-math"
    assert pool.names == [*MODELS, "code-0.2-law-0.1-math-0.7", "code-math"]
    assert pool.shares("code-0.2-law-0.1-math-0.7") == pytest.approx({"math": 0.7, "code": 0.2, "law": 0.1})
    rows = [row(same[0]), row(same[1]), row("law"), row({"math": 1, "code": 1})]
    counts = {"code-0.2-law-0.1-math-0.7": 2, "code-math": 1, "math": 3, "code": 3, "law": 3}
    assert pool.routes(rows) == counts


@pytest.mark.parametrize(
    ("teacher", "message"),
    [
        ({"math": 1, "cod": 1}, r"'p1' has teacher 'cod' among several, .*only .*code.* \(did you mean code\?\); add"),
        ({"math": 1, "both": 1}, r"'both' among several, and --model\.teachers\.both\.mixture is a mixture already"),
        ({"math": 1, "law": 1}, r"are a mixture 'law-math', and .* another teacher of that name; change"),
    ],
)
def test_what_rows_may_not_mix(teacher, message):
    other = {"both": TeacherArgs(mixture={"math": 1, "code": 1}), "law-math": PolicyArgs()}
    with pytest.raises(UserError, match=message):
        TeacherPool({**MODELS, **other}).route(row(teacher))


def test_a_mixture_of_the_config_may_have_the_name_and_is_it():
    pool = TeacherPool({**MODELS, "code-math": TeacherArgs(mixture={"math": 2, "code": 2})})
    assert pool.route(row({"math": 1, "code": 1})) == "code-math"
    product = TeacherArgs(mixture={"math": 2, "code": 2}, mixture_kind="log_linear")
    with pytest.raises(UserError, match="another teacher of that name"):
        TeacherPool({**MODELS, "code-math": product}).route(row({"math": 1, "code": 1}))


def test_what_rows_have_made_is_no_route_for_others_and_no_other_mixture():
    pool = TeacherPool({**MODELS, "default": PolicyArgs()})
    domain = replace(prompts(1)[0], domain="code-math", teacher=None)
    assert [pool.route(domain), pool.route(row({"code": 1, "math": 1})), pool.route(domain)] == [
        "default",
        "code-math",
        "default",
    ]
    pool = TeacherPool({name: PolicyArgs() for name in ("code", "math-qwen", "code-math", "qwen")})
    pool.route(row({"code": 1, "math-qwen": 1}))
    with pytest.raises(UserError, match=r"are a mixture 'code-math-qwen', and other rows make another teacher"):
        pool.route(row({"code-math": 1, "qwen": 1}))


def test_as_many_mixtures_as_there_are_rows_are_refused():
    pool = TeacherPool(MODELS)
    for i in range(1, 33):
        pool.route(row({"math": i, "code": 100}))
    pool.route(row({"math": 64, "code": 200}))  # as one before
    with pytest.raises(
        UserError, match=r"more than 32 different mixtures, .*; make them fewer by rounding the weights"
    ):
        pool.route(row({"math": 33, "code": 100}))


def test_a_single_misspelt_name_is_told_the_near_one():
    with pytest.raises(UserError, match=r"has teacher 'mth', but .* \(did you mean math\?\)"):
        TeacherPool(MODELS).route(row("mth"))
