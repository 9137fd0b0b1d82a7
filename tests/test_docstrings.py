"""Docstrings become Sphinx markup that shows every character as it was written."""

import docutils.core
import pytest
from docstrings import as_rst
from docutils.utils import Reporter


def shown(text: str) -> str:
    """What docutils makes of the converted docstring, as an XML-like text; a warning is an error."""
    source = "\n".join(as_rst(text.splitlines()))
    strict = {"halt_level": Reporter.WARNING_LEVEL, "report_level": Reporter.WARNING_LEVEL}
    return docutils.core.publish_string(source, writer_name="pseudoxml", settings_overrides=strict).decode()


def test_plain_paragraphs_keep_signs_that_are_markup_elsewhere():
    made = shown("A * B and **kwargs, |x|, W_ and a\\b stay.\nThe line goes on.")
    assert "A * B and **kwargs, |x|, W_ and a\\b stay. The line goes on." in made


def test_names_become_code_also_when_a_letter_touches_them():
    assert "<literal>\n            steps" in shown("Runs `steps`times, or `until` done.")
    assert "`" not in shown("Every `eval_every`\nsteps, `seed`s too.")
    assert "<literal>\n            a\n             b" not in shown(
        "The call `lo.adapt(model,\nmethod)` over two lines."
    )


def test_columns_become_definitions_with_their_continuations():
    made = shown(
        "r, alpha     rank and loudness\n             of a layer\nbias         which biases\nText after it."
    )
    assert made.count("<definition_list_item>") == 2
    assert "of a layer" in made.split("bias")[0] and "Text after it." in made.split("which biases")[1]


def test_one_line_with_a_gap_is_no_table():
    made = shown("ΔW = α/r · B A.   Hu et al. 2021 · chapter 3.")
    assert "definition" not in made and "chapter 3." in made


def test_indented_paragraphs_keep_their_lines():
    assert "import x   # y\n        x.f(*a)" in shown("Use it so:\n\n    import x   # y\n    x.f(*a)\n")


def test_lists_stay_lists():
    made = shown("* one `a`\n  goes on\n* two")
    assert made.count("<list_item>") == 2 and "goes on" in made


MODULES = """
    factor allocation quant quantized quantizing paging updates inits layers schedules rates accounting memory claims
    methods.common methods.lora methods.adalora methods.lorafa methods.vera methods.lamda methods.loraxs methods.aflora
    methods.whole methods.rivals methods.prompts methods.table
    adapting switching merging training batches history sampling resuming recomputing data records inspecting
    layouts chats reporting saving models checkpoint peft_format corpus checking passing running figures.live
""".split()


@pytest.mark.parametrize("module", MODULES)
def test_every_public_docstring_of_the_package_is_clean(module):
    import importlib
    import inspect

    found = importlib.import_module(f"lowrank_edu.{module}")
    ours = [thing for thing in vars(found).values() if getattr(thing, "__module__", "") == found.__name__]
    texts = [found.__doc__, *map(inspect.getdoc, ours)]
    assert len(texts) > 1
    for text in filter(None, texts):
        shown(inspect.cleandoc(text))
