"""Chapter 13: planted wrong answers get their own sentences; the table on the page is the table of the code."""

import re

import figure_page
import numpy as np
import pytest
import torch
from helpers import CHAPTERS, assert_distinct_sentences, assert_each_option_has_its_sentence, assert_notebook_shows

import lowrank_edu as lo
from lowrank_edu import exercises, figures
from lowrank_edu.figures import methods_page


# ---- exercises ----------------------------------------
@pytest.mark.parametrize("name, right", [("ch13-place", ["lora-xs", "LoRA-XS."]), ("ch13-swap", ["(b)", "B"])])
def test_every_choice_has_its_sentence(name, right):
    assert_each_option_has_its_sentence(exercises.get(name), 3, right)


def one_by_one(k=lambda i, idx, A: (idx[i], idx[i]), size=lambda s: s, keep=1):
    """Rows in a loop, and one thing changed."""

    def answer(y, x, A, B, idx, scale):
        out = []
        for i in range(len(x)):
            a, b = k(i, idx, A)
            out.append(keep * y[i] + size(scale) * B[b] @ (A[a] @ x[i]))
        return out

    return answer


def over_all(weight):
    def answer(y, x, A, B, idx, scale):
        updates = [B[k] @ A[k] for k in range(len(A))]
        return y + weight(len(A)) * scale * x @ sum(updates).T

    return answer


def averaged_factors(y, x, A, B, idx, scale):
    return y + scale * x @ (B.mean(0) @ A.mean(0)).T


def with_torch(*case):
    y, x, A, B, idx = map(torch.tensor, case[:-1])
    return y + case[-1] * (B[idx] @ (A[idx] @ x[:, :, None]))[:, :, 0]


def test_gather_names_each_mistake():
    assert_distinct_sentences(
        exercises.get("ch13-gather"),
        wrong_answers={
            "first row's": one_by_one(k=lambda i, idx, A: (idx[0], idx[0])),
            "number 0": one_by_one(k=lambda i, idx, A: (0, 0)),
            "own number": one_by_one(k=lambda i, idx, A: (i % len(A), i % len(A))),
            "sorted": one_by_one(k=lambda i, idx, A: (sorted(idx)[i], sorted(idx)[i])),
            "mixed pair": one_by_one(k=lambda i, idx, A: (idx[i], sorted(idx)[i])),
            "one B": one_by_one(k=lambda i, idx, A: (idx[i], idx[0])),
            "no scale": one_by_one(size=lambda s: 1),
            "twice": one_by_one(size=lambda s: s**2),
            "no y": one_by_one(keep=0),
            "sum": over_all(lambda m: 1),
            "mean": over_all(lambda m: 1 / m),
            "mean factors": averaged_factors,
        },
        right_answers=[one_by_one(), with_torch],
    )


def test_gather_must_not_change_y():
    def in_place(y, x, A, B, idx, scale):
        y += scale * np.einsum("ni,nri,nor->no", x, A[idx], B[idx])
        return y

    result = lo.check("ch13-gather", in_place)
    assert not result.passed and "changed its argument y" in result.message


def test_swapped_factors_do_not_pass():
    right = exercises.get("ch13-gather").reference
    result = lo.check("ch13-gather", lambda y, x, A, B, idx, scale: right(y, x, B, A, idx, scale))
    assert not result.passed


def test_the_exercise_is_the_package_s_product():
    A, B = (torch.randn(3, *shape, generator=torch.Generator().manual_seed(1)) for shape in ((2, 5), (7, 2)))
    x, idx = torch.randn(4, 1, 5, generator=torch.Generator().manual_seed(2)), torch.tensor([2, 0, 2, 1])
    updates = [lo.updates.LowRank(A[k], B[k], 1.5) for k in range(3)]
    got = lo.updates.gathered(updates, idx, x, torch.nn.Linear(5, 7))[:, 0].detach().numpy()
    want = exercises.get("ch13-gather").reference(np.zeros((4, 7)), x[:, 0].numpy(), A.numpy(), B.numpy(), idx, 1.5)
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)


def test_count_names_each_mistake():
    assert_distinct_sentences(
        exercises.get("ch13-count"),
        wrong_answers={"lora": 6144, "inputs": 6336, "both": 6912, "one": 6145, "rank": 6152, "whole": 110592},
        right_answers=[6720.0, torch.tensor(6720)],
    )
    layer = torch.nn.Linear(192, 576)
    update = lo.updates.DoRA(torch.zeros(8, 192), torch.zeros(576, 8), 1.0, layer)
    assert sum(p.numel() for p in update.parameters()) == exercises.get("ch13-count").reference


def test_design_has_a_sentence_for_each_plan():
    assert_each_option_has_its_sentence(exercises.get("ch13-design"), 4, ["(c)", " C. "])
    assert 2 * (7 + 10) == 34 and 34 + 26 == 60 and 2 * 0.5**10 == 1 / 512  # what the solution and the praise say
    rows = {row.name: row for row in lo.methods.table()}
    xs, lora = rows["LoRA-XS"], rows["LoRA"]  # DiagTune: the start, scale and schedule of LoRA-XS, another shape
    assert all(getattr(xs, what) != getattr(lora, what) for what in ("shape", "start", "schedule"))


def test_the_page_shows_every_exercise():
    assert_notebook_shows(exercises.chapter("ch13"), "ch13_next.ipynb")


# ---- the table ----------------------------------------
@pytest.fixture(scope="module")
def entries():
    return {entry["name"]: entry for entry in methods_page.entries()}


def test_every_method_has_a_use_a_source_and_five_answers(entries):
    rows = {row.name: row for row in lo.methods.table()}
    named = {entry["name"] for entry in methods_page.NAMED}
    assert not named & set(rows) and set(methods_page.USE) == set(entries) == named | set(rows)
    assert all(1 < len(use.split()) <= 15 for use in methods_page.USE.values())
    assert len(set(methods_page.USE.values())) == len(entries)
    for name, entry in entries.items():
        assert all(entry[question] for question in [*methods_page.QUESTIONS, "source"])
        if name in rows:
            assert all(entry[question] == getattr(rows[name], question) for question in methods_page.QUESTIONS)


def test_counts_are_those_of_the_loop_on_the_page(entries):
    page = (CHAPTERS / "ch13_next.ipynb").read_text(encoding="utf-8")
    for name, entry in entries.items():
        if entry["trained"] is not None:
            assert re.search(rf"{re.escape(name)} +{entry['trained']:,} ", page), name


def test_the_two_lines_of_a_card_run_and_print_its_count(entries, capsys):
    for name, entry in entries.items():
        if "code" in entry:
            assert entry["code"].count("\n") == 1
            exec(entry["code"], {"lo": lo})
            assert f"trains {entry['trained']:,} of" in capsys.readouterr().out, name
    assert set(entries) - {name for name, entry in entries.items() if "code" in entry} == {"P-tuning", "diff pruning"}
    assert entries["LaMDA++"]["trained"] < entries["LaMDA"]["trained"]  # uneven ranks: chapter 12


def test_filters_are_what_the_code_can_do(entries):
    names = lambda key: {name for name, entry in entries.items() if entry[key]}  # noqa: E731
    assert set(entries) - names("merge") == {
        "Houlsby adapter", "Pfeiffer adapter", "prefix tuning", "prompt tuning", "P-tuning", "diff pruning",
    }  # fmt: skip
    assert set(entries) - names("codes") == {"full fine-tuning", "LISA", "P-tuning", "diff pruning"}
    for row in lo.methods.table():  # a row that says it works on codes does
        model, _ = lo.load_model("tiny-gpt2")
        if row.name == "LoftQ":
            continue
        lo.quantize(model, "nf4")
        if entries[row.name]["codes"] and "adapt(quantize=)" not in row.storage:
            assert lo.adapt(model, row.method).trainable > 0


def test_what_the_page_says_about_starts(entries):
    starts = [entry["start"] for entry in entries.values()]
    assert starts.count("A random, B = 0") == 4
    pieces = [s for s in starts if ("W0" in s and "random" not in s) or "quantising" in s]
    assert len(pieces) == 6
    assert [entry["storage"] for entry in entries.values()].count("any: fp32, bf16, NF4") > len(entries) / 2


def test_the_planner_counts_every_row_as_the_table_does(entries):
    model, _ = lo.load_model("tiny-gpt2")
    for row in lo.methods.table():
        if row.name != "LoftQ":  # whose codes need the weights
            # of LISA's four blocks two train at a time, as the page says
            want = 1_178_688 if row.name == "LISA" else entries[row.name]["trained"]
            spectral = row.name == methods_page.SPECTRAL
            method = row.method.allocated(model, methods_page.RANKS) if spectral else row.method
            assert lo.memory.plan(model.config, method).trainable == want, row.name


# ---- the figure ----------------------------------------
def test_the_figure_moves_and_begins_as_drawn():
    figure = figures.method_table()
    names = [entry["name"] for entry in methods_page.entries()]
    shown = "[...document.querySelectorAll('[data-row]:not([hidden]) b')].map(b => b.textContent)"
    with figure_page.open_browser() as browser:
        page = figure_page.show(browser, figure.html, at_once=False)
        assert page.evaluate(shown) == names  # the first state is what Python wrote
        stage = page.evaluate("document.querySelector('.lo-stage').innerHTML.replaceAll(' ', '')")
        plain = figure_page.show(browser, figure_page.undrawn(figure).html)
        assert plain.locator("[data-row]").count() == len(names)
        assert plain.locator(".lo-stage").inner_html().replace(" ", "") == stage
        frames = "new Promise(done => setTimeout(done, 300))"  # what is asked for in one moment is drawn once
        parts = "[...card.querySelectorAll('b, .count, .use, dd, code')].map(part => part.textContent).join('|')"
        whole = f"[...document.querySelectorAll('[data-row]')].map(card => {parts})"
        before = page.evaluate(whole)
        page.locator("[data-row]").nth(names.index("VeRA")).locator("summary").click()
        page.evaluate("""async () => {  // a new choice in each frame: the newest wins
            const box = document.querySelector("select");
            for (const choice of ["name", "trained", "start", "name"]) {
                box.value = choice;
                box.dispatchEvent(new Event("input", {bubbles: true}));
                await new Promise(requestAnimationFrame);
            }
        }""")
        page.evaluate(frames)
        assert page.evaluate(shown) == sorted(names, key=str.lower)
        assert sorted(page.evaluate(whole)) == sorted(before)  # a method keeps its words
        assert page.locator("[data-row][open] b").all_inner_texts() == ["VeRA"]  # and stays open
        page.select_option("select", "trained")
        page.evaluate(frames)
        assert page.evaluate(shown)[0] == "intrinsic dimension"
        assert page.evaluate(shown)[-2:] == ["P-tuning", "diff pruning"]  # no count: last
        page.check("input[value=merge]", force=True)
        page.evaluate(frames)
        assert len(page.evaluate(shown)) == 18 and "prefix tuning" not in page.evaluate(shown)
        page.select_option("select", "start")
        page.evaluate(frames)
        assert page.inner_text("[data-row]:not([hidden]) .by").startswith("start: ")
        page.select_option("select", "table")
        page.check("input[value=all]", force=True)
        page.evaluate(frames)
        assert page.evaluate(whole) == before and page.evaluate(shown) == names
        assert not page.errors
