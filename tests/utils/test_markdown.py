"""Model text in tables."""

from lit_uniopd.utils.markdown import cell, table


def test_model_text_cannot_become_markup():
    text = cell("a|b <script>alert(1)</script> `x` **y** [l](http://e)\n_z_")
    assert not set("|<>`*[]_\n") & set(text.replace("<br>", ""))
    assert "a&#124;b" in text


def test_what_is_too_long_is_cut_in_the_middle():
    assert cell("x" * 600 + "y" * 400, max_chars=200) == "x" * 100 + " ... 800 characters ... " + "y" * 100


def test_a_table_has_a_rule_below_its_header():
    assert table(["a", "b"], [["1", "2"]]) == "| a | b |\n|---|---|\n| 1 | 2 |"
