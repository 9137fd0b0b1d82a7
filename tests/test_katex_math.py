"""Formulas are typeset without a browser, and a bad one says where it breaks."""

import katex_math
import pytest


def test_a_formula_is_drawn_and_can_be_read_aloud():
    made = katex_math.typeset(r"W_0 \in \mathbb{R}^{d \times k}")
    assert made.count("<math ") == 1 and made.count('class="katex-html" aria-hidden="true"') == 1
    assert "katex-display" not in made and "katex-display" in katex_math.typeset("x", True)


@pytest.mark.parametrize(
    ("tex", "why"),
    [
        (r"\frac{1}{", "end of input"),
        (r"\rank(A)", "Undefined control sequence: \\rank"),
        ("x_1_2", "Double subscript"),
    ],
)
def test_a_bad_formula_is_named_with_what_is_wrong(tex, why):
    with pytest.raises(katex_math.BadFormula) as caught:
        katex_math.typeset(tex, True)
    assert repr(tex) in str(caught.value) and why in str(caught.value)


def test_rows_are_those_of_sphinx():
    assert katex_math.rows("a = b") == "a = b"
    assert katex_math.rows(r"a &= b \\ &= c") == r"\begin{split}a &= b \\ &= c\end{split}"
    assert katex_math.rows("a &= b\n\n&= c") == r"\begin{aligned}a &= b \\ &= c\end{aligned}"
    for tex in ("a = b", r"a &= b \\ &= c", "a &= b\n\n&= c"):
        katex_math.typeset(katex_math.rows(tex), True)


def test_sphinx_alone_numbers_equations():
    """An environment that numbers itself is typeset without its number; a starred one stays as it is."""
    unnumbered = [katex_math.starred(rf"\begin{{{name}}}x&=1\end{{{name}}}") for name in ("align", "align*")]
    assert unnumbered == [r"\begin{align*}x&=1\end{align*}"] * 2
    assert "eqn-num" not in katex_math.typeset(unnumbered[0], True)


def test_markdown_of_slides_and_cards_is_typeset():
    matrix = r"\begin{pmatrix} 1 & 0 \\ 0 & 1 \end{pmatrix}"
    made = katex_math.markdown(f"So $r < k$:\n\n$$\nA = {matrix}\n$$\n\n`$5` each")
    assert made.count("<math ") == 2 and made.count("katex-display") == 1
    assert "<code>$5</code>" in made and "$$" not in made
    with pytest.raises(katex_math.BadFormula, match="nosuch"):
        katex_math.markdown(r"$\nosuch$")


def test_pages_beside_get_style_and_fonts_and_no_script(tmp_path):
    katex_math.beside(tmp_path)
    assert (tmp_path / katex_math.STYLE).exists() and len(list(tmp_path.rglob("*.woff2"))) == 20
    assert (tmp_path / "katex" / "LICENSE").exists() and not list(tmp_path.rglob("*.js"))
