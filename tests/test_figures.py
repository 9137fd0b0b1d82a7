"""The figure component: same bytes everywhere, safe, labelled, small; and it moves in a real browser."""

import io
import json
import os
import re
import subprocess
import sys
from urllib.parse import unquote

import figure_page
import numpy as np
import pytest

from lowrank_edu import figures
from lowrank_edu.figures import page, spectra, still
from lowrank_edu.figures.page import Button, Choice, Figure, Replay, Select, Slider, Toggle, pack, rounded

DRAW = "(state, data, $) => { $.text('n', JSON.stringify(state)); return 'said ' + state.n; }"
ENV = {**os.environ, "OMP_NUM_THREADS": "1", "MPLBACKEND": "agg"}
TEXT = '<text data-el="n" y="20"></text>'


def small(slug="small", **changes):
    controls = [
        Slider("n", "Number", range(1, 9), start=3, unit=" bit"),
        Slider("rate", "Rate", [1e-4, 1e-3], start=1e-3, labels=["slow", "fast"]),
        Choice("way", "Way", {"x": "cross", "y": "why"}),
        Select("far", "Far", ["p", "q"], start="q"),
        Toggle("log", "Logarithm"),
        Button("again", "Again"),
        Replay("step", "Step", range(0, 4), milliseconds=20),
    ]
    fields = {
        "title": "How small?",
        "alt": "A dot.",
        "caption": "Try it.",
        "stage": page.svg(300, 100, TEXT + '<rect data-set="way=y" width="9" height="9"/>'),
        "draw": DRAW,
        "controls": controls,
    }
    return Figure(slug=slug, **(fields | changes))


def still_of(html):
    """The <svg> that a figure's <img> carries."""
    return unquote(re.search(r'src="data:image/svg\+xml,([^"]*)"', html)[1]).replace("'", '"')


def a_spectrum(**options):
    rng = np.random.default_rng(0)
    low = rng.normal(size=(24, 3)) @ rng.normal(size=(3, 15))
    return figures.spectrum({"low": low, "noise": rng.normal(size=(18, 30))}, **options)


# ---- the same everywhere -----------------------------------------------------------------------------------


def test_two_processes_write_the_same_bytes():
    code = (
        "import sys; sys.path.insert(0, 'tests'); import test_figures as t; "
        "sys.stdout.buffer.write((t.small().html + t.a_spectrum().html + t.a_plot().html).encode())"
    )
    runs = [
        subprocess.run(
            [sys.executable, "-c", code], capture_output=True, check=True, env={**ENV, "PYTHONHASHSEED": seed}
        )
        for seed in "12"
    ]
    assert runs[0].stdout == runs[1].stdout and len(runs[0].stdout) > 20_000


def test_last_digits_of_a_processor_do_not_reach_the_page():
    W = np.random.default_rng(1).normal(size=(12, 7))
    assert figures.spectrum(W).html == figures.spectrum(W * (1 + 3e-16)).html
    assert figures.spectrum(W).html != figures.spectrum(W + np.outer(np.ones(12), np.ones(7))).html


def test_text_and_html_of_a_notebook_output():
    bundle = small()._repr_mimebundle_()
    assert bundle["text/plain"] == "Figure: How small? A dot."  # no address, no number that may change
    assert bundle["text/html"] == small().html
    assert "0x" not in repr(small())


def test_rounding():
    given = {"a": np.float64(1 / 3), "b": [1e-17, -0.0, 2.0, 123456.7], "c": np.arange(2), "d": (True, "t")}
    assert rounded(given) == {"a": 0.3333, "b": [0, 0, 2, 123500], "c": [0, 1], "d": [True, "t"]}
    assert json.dumps(rounded([-0.0])) == "[0]"
    assert rounded(2 / 3, digits=2) == 0.67


# ---- safe, labelled, small ---------------------------------------------------------------------------------


def test_data_and_draw_cannot_end_the_script():
    html = small(data={"text": "</script><b>\u2028 & <!--"}, draw="() => '</script>'").html
    assert html.count("</script>") == 2 and "<!--" not in html and "\u2028" not in html  # the controls, the figure
    assert html.endswith("</script></figure>")


def test_words_of_a_person_are_escaped():
    html = small(title="a < b", alt='say "x" & y', caption="<i>no</i>").html
    assert "a &lt; b" in html and "say &quot;x&quot; &amp; y" in html and "<i>no</i>" not in html


def test_two_figures_share_no_id():
    ids = re.findall(r'\sid="([^"]+)"', small("one").html + small("two").html + a_spectrum().html)
    assert len(ids) == len(set(ids)) > 10
    names = [set(re.findall(r'\sname="([^"]+)"', small(slug).html)) for slug in ("one", "two")]
    assert not names[0] & names[1]  # radio buttons of one figure do not switch those of the other


def test_every_control_has_a_label():
    html = small().html
    for tag in re.findall(r"<(?:input|select)\b[^>]*>", html):
        own = re.search(r'\sid="([^"]+)"', tag)
        assert (own and f'<label for="{own[1]}"' in html) or f"<label>{tag}" in html, tag
    for tag, text in re.findall(r"<button\b([^>]*)>([^<]*)</button>", html):
        assert "aria-label=" in tag or re.search(r"[a-zA-Z]{3}", text), tag


def test_alt_state_and_controls_are_there_for_other_front_ends():
    figure = small()
    assert 'role="img" aria-label="A dot."' in figure.html
    assert figure.state == {"n": 3, "rate": 1e-3, "way": "x", "far": "q", "log": False, "again": 0, "step": 0}
    assert [type(c).__name__ for c in figure.controls][:3] == ["Slider", "Slider", "Choice"]


@pytest.mark.parametrize(
    "change, words",
    [
        ({"slug": "Small one"}, ["'Small one'", "lower-case"]),
        ({"alt": " "}, ["alt=' '", "Say what the picture shows"]),
        ({"title": ""}, ["title=''", "question"]),
        ({"stage": ""}, ["stage=''", "first state"]),
        ({"data": {"x": [1.0, float("nan")]}}, ["data.x[1] is nan", "None"]),
        ({"data": {"x": object()}}, ["data.x is a object", "Convert"]),
        ({"stage": '<svg><g id="mine"/></svg>'}, ["id='mine'", "data-el"]),
        ({"stage": "<canvas></canvas>"}, ["not one <svg>", "still=svg("]),
        ({"stage": page.svg(9, 9, "<g class=a></g>")}, ["not well-formed", "<g class=a></g>", "Quote every attribute"]),
        ({"panel": "<script>alert(1)</script>"}, ["script or a comment", "draw"]),
        ({"panel": '<p id="mine"></p>'}, ["id='mine'", "data-el"]),
        ({"stage": '<img src="https://example.org/x.png">'}, ["web address", "Embed"]),
        ({"data": {"x": "y" * 60_000}}, ["bytes", "60,000", "pack()"]),
        ({"controls": [Toggle("a", "A"), Toggle("a", "B")]}, ["'a' twice", "one plain word"]),
        ({"controls": [Toggle("a-b", "A")]}, ["'a-b'", "one plain word"]),
    ],
)
def test_errors_name_value_rule_and_fix(change, words):
    with pytest.raises(ValueError) as error:
        small(**change)
    for word in words:
        assert word in str(error.value)


@pytest.mark.parametrize(
    "make, words",
    [
        (lambda: Slider("r", "Rank", range(1, 5), start=9), ["starts at 9", "Choose start="]),
        (lambda: Slider("r", "Rank", [1]), ["1 value(s)", "more values"]),
        (lambda: Slider("r", "Rank", [1, 2], labels=["one"]), ["2 values and 1 labels"]),
        (lambda: Choice("m", "M", ["a", "b"], start="c"), ["'c'", "['a', 'b']"]),
        (lambda: pack([[np.inf]]), ["not finite"]),
        (lambda: pack([[1.0, 1.0]]), ["hi must be larger"]),
        (lambda: figures.spectrum(np.zeros((3, 4))), ["'W'", "not all zero"]),
        (lambda: figures.spectrum(np.ones((1, 4))), ["1 singular values", "2 to 512"]),
    ],
)
def test_controls_and_data_are_checked(make, words):
    with pytest.raises(ValueError) as error:
        make()
    for word in words:
        assert word in str(error.value)


def test_figures_load_neither_torch_nor_matplotlib():
    code = (
        "import sys; from lowrank_edu import figures; import numpy as np; figures.spectrum(np.eye(3, 4)); "
        "sys.exit(bool({'torch', 'matplotlib', 'ipywidgets'} & set(sys.modules)))"
    )
    subprocess.run([sys.executable, "-c", code], check=True, env=ENV)


def test_a_figure_may_not_hide_behind_a_module():
    assert not set(figures._HOMES) & set(figures._HOMES.values())
    for name in figures.__all__:
        assert callable(getattr(figures, name))
    with pytest.raises(AttributeError, match="spectrum"):
        _ = figures.spectre


# ---- matplotlib --------------------------------------------------------------------------------------------


def a_plot(scale=1.0):
    import matplotlib.pyplot as plt

    from lowrank_edu.figures import style

    with style.book():
        fig, ax = plt.subplots()
        ax.plot([0, 1, 2], [scale, 2 * scale, 1 / 3], "o-", label="falls & rises")
        ax.legend()
    return style.picture(fig, "plot", "What?", "A line that rises and falls.", "See.")


def test_a_plot_becomes_inline_svg_in_the_colours_of_the_page():
    html = a_plot().html
    svg = a_plot().stage
    assert svg[svg.index(">") + 1 : -len("</svg>")] in still_of(html)
    assert "var(--a)" in svg and "currentColor" in svg and "falls &amp; rises" in svg
    assert not re.search(r"#[0-9a-f]{6}|<metadata|http|xlink|\d\.\d{3}", svg)
    ids = re.findall(r'\sid="([^"]+)"', svg)
    assert ids and set(re.findall(r"(?:#)(fig-[\w-]+)", svg)) == set(ids)  # every reference has its target
    assert a_plot(1 + 2e-16).html == html != a_plot(1.5).html


def test_a_photo_is_compared_by_its_text_only():
    import matplotlib.pyplot as plt

    from lowrank_edu.figures import style

    with style.book():
        fig, ax = plt.subplots()
        ax.plot([0, 1])
    bundle = style.photo(fig, "A loss that falls.")._repr_mimebundle_()
    assert bundle["text/plain"] == "Picture: A loss that falls." and bundle["image/png"][:4] == b"\x89PNG"
    assert set(bundle) == {"image/png", "text/plain"} and not plt.get_fignums()
    with pytest.raises(ValueError, match="alt="):
        style.Photo(b"", "")


# ---- in a browser ------------------------------------------------------------------------------------------


def state_of(shown):
    return json.loads(shown.locator("[data-el=n]").first.text_content())


def test_every_control_moves_the_figure_by_keyboard(browser):
    shown = figure_page.show(browser, small().html)
    start = state_of(shown)
    assert start == {"n": 3, "rate": 1e-3, "way": "x", "far": "q", "log": False, "again": 0, "step": 0}
    for name, key in [("n", "ArrowRight"), ("rate", "ArrowLeft"), ("way", "ArrowRight"), ("far", "ArrowUp"),
                      ("log", "Space"), ("again", "Enter"), ("step", "End")]:  # fmt: skip
        shown.locator(f"[data-control={name}]").first.focus()
        shown.keyboard.press(key)
    moved = {"n": 4, "rate": 1e-4, "way": "y", "far": "p", "log": True, "again": 1, "step": 3}
    assert state_of(shown) == moved
    assert shown.locator("[data-out=n]").text_content() == "4 bit"
    assert shown.locator("[data-control=rate]").get_attribute("aria-valuetext") == "slow"
    shown.wait_for_function("document.querySelector('.lo-live').textContent === 'said 4'")
    assert not shown.errors


def test_mouse_shortcut_in_the_picture_sets_the_control(browser):
    shown = figure_page.show(browser, small().html)
    shown.locator("[data-set]").click()
    assert state_of(shown)["way"] == "y"
    assert shown.locator("input[value=y]").is_checked()


def test_replay_plays_to_the_end_and_steps(browser):
    shown = figure_page.show(browser, small().html)
    shown.get_by_label("One step forward").press("Enter")
    assert state_of(shown)["step"] == 1
    shown.get_by_label("Play").press("Enter")
    shown.wait_for_function("document.querySelector('[data-control=step]').value === '3'")
    shown.get_by_label("Play").wait_for()  # the button offers to play again
    still = figure_page.show(browser, small().html, reduced_motion="reduce")
    assert not still.locator("[data-play]").is_visible() and still.get_by_label("One step back").is_visible()


def test_many_writes_are_spread_over_frames_and_the_newer_choice_wins(browser):
    stage = page.svg(300, 100, TEXT + "".join(f'<text data-el="t{i}" y="{4 * i}">1</text>' for i in range(20)))
    draw = "(state, data, $) => { for (let i = 0; i < 20; i++) $.text(`t${i}`, state.n); $.text('n', state.n); }"
    shown = figure_page.show(browser, small(stage=stage, draw=draw).html, at_once=False)
    texts = "[...document.querySelectorAll('[data-el^=t]')].map(t => t.textContent)"
    shown.wait_for_function(f"{texts}.every(t => t === '3')")  # the opening state
    turn = """values => values.map(value => {
        const slider = document.querySelector('[data-control=n]');
        slider.value = value; slider.dispatchEvent(new Event('input', {bubbles: true}));
        return TEXTS;
    })""".replace("TEXTS", texts)
    first, second = shown.evaluate(turn, [5, 7])
    assert 1 <= first.count("5") <= 6 and set(first) == {"3", "5"}
    assert 1 <= second.count("7") <= 6 and second.count("5") <= first.count("5")
    shown.wait_for_function(f"{texts}.every(t => t === '7')")
    assert shown.locator("[data-el=n]").text_content() == "7" and not shown.errors


def test_packed_matrices_arrive(browser):
    signed = np.array([[-128, 0, 127], [5, -6, 7]], np.int8)
    levels = np.linspace(-1, 1, 6).reshape(2, 3)
    sent = "[d.a.shape, [...d.a], d.deep[0].shape, [...d.deep[0]]]"
    draw = "(s, d, $) => { $.text('n', JSON.stringify(" + sent + ")); }"
    shown = figure_page.show(browser, small(data={"a": pack(signed), "deep": [pack(levels)]}, draw=draw).html)
    shape, values, shape2, values2 = state_of(shown)
    assert shape == shape2 == [2, 3] and values == signed.ravel().tolist()
    assert np.abs(np.array(values2) - levels.ravel()).max() <= 1 / 255


def test_numbers_are_printed_as_in_the_book(browser):
    draw = (
        "(s, d, $) => "
        "{ $.text('n', JSON.stringify([$.num(3072), $.num(1.25, 1), $.pct(.8312), $.sig(0.012345), "
        "$.sig(7.2e-9, 2), $.sci(0), $.bytes(1572864), $.path([[0, 1], [2, 3]])])); }"
    )
    shown = figure_page.show(browser, small(draw=draw).html)
    assert json.loads(shown.locator("[data-el=n]").text_content()) == [
        "3,072", "1.3", "83.1 %", "0.0123", "7.2 × 10⁻⁹", "0", "1.57 MB", page.path([(0, 1), (2, 3)]),
    ]  # fmt: skip


def test_the_spectrum_counts_like_numpy(browser):
    rng = np.random.default_rng(3)
    W = rng.normal(size=(20, 12))
    s = np.linalg.svd(W, compute_uv=False)
    shown = figure_page.show(browser, figures.spectrum(W, r=1).html)
    for r in (1, 5, 12):
        shown.locator("[data-control=r]").fill(str(r))
        left = (s[r:] ** 2).sum() / (s**2).sum()
        assert shown.locator("[data-el=energy]").text_content() == f"{100 * (1 - left):.1f} %"
        assert shown.locator("[data-el=error]").text_content() == f"{100 * np.sqrt(left):.1f} %"
        assert shown.locator("[data-el=params]").text_content() == f"{r * 32:,}"


def test_the_still_picture_is_the_first_moving_one(browser):
    """What Python draws for the first state is what the script draws: without scripts nothing else is
    shown."""
    kinds = ["kept", "lost", "cut"]
    html = a_spectrum(r=4).html
    still = [re.search(rf'data-el="{kind}"[^>]*\sd="([^"]*)"', still_of(html))[1] for kind in kinds]
    shown = figure_page.show(browser, html)
    for kind, path in zip(kinds, still, strict=True):
        numbers = [np.array(re.findall(r"-?[\d.]+", p), float) for p in
                   (path, shown.locator(f"[data-el={kind}]").get_attribute("d"))]  # fmt: skip
        np.testing.assert_allclose(*numbers, atol=0.11)
    for name in ("energy", "error", "params"):
        assert f">{shown.locator(f'[data-el={name}]').text_content()}</b>" in html


@pytest.mark.parametrize("theme, blue", [("light", "rgb(0, 114, 178)"), ("dark", "rgb(86, 180, 233)")])
@pytest.mark.parametrize("width", [360, 760])
def test_light_and_dark_wide_and_narrow(browser, theme, blue, width):
    shown = figure_page.show(browser, a_spectrum().html + small().html + a_plot().html, width, theme)
    assert shown.evaluate("document.documentElement.scrollWidth") <= width
    fill = "getComputedStyle(document.querySelector('[data-el=kept]')).fill"
    assert shown.evaluate(fill) == blue
    other = {"light": "dark", "dark": "light"}[theme]  # the reader changes the theme of the book
    shown.evaluate(f"document.documentElement.dataset.theme = '{other}'; document.body.style.color = "
                   f"'{'#ced6dd' if other == 'dark' else '#323232'}'")  # fmt: skip
    shown.wait_for_timeout(100)
    assert shown.evaluate(fill) != blue
    assert not shown.errors


# ---- where scripts may not run -----------------------------------------------------------------------------


def test_without_scripts_the_first_state_stands(browser):
    shown = figure_page.show(browser, a_spectrum(r=4).html, script=False)
    image = shown.get_by_role("img", name="Bars of singular values")
    assert image.is_visible() and image.bounding_box()["width"] > 100
    assert image.evaluate("el => el.complete && el.naturalWidth > 100")
    words = shown.locator("figure").inner_text().split("\n")
    assert [line for line in words if line] == ["How much does each rank keep?", still.NOTE, spectra.CAPTION]
    assert not shown.locator("[data-control]").count()


def test_where_scripts_run_nothing_is_left_of_the_still_picture(browser):
    shown = figure_page.show(browser, small().html)
    assert shown.locator("img, .lo-still, script[type='text/html']").count() == 0
    assert "trust" not in shown.locator("figure").inner_text()
    assert shown.locator("[role=img]").get_attribute("aria-label") == "A dot." and not shown.errors


ODD = "<text x=\"1\">50 % of 'W' &amp; #1: $&amp; $1 &lt;g&gt;\n   ΔW</text><path d='M0 0'/>"


@pytest.mark.parametrize("figure", [a_spectrum(), small(stage=page.svg(300, 100, ODD) + "<p>a $& below</p>")])
def test_the_picture_comes_out_of_the_image_as_it_went_in(browser, figure):
    shown = figure_page.show(browser, figure_page.undrawn(figure).html)
    same = """([stage]) => {
        const made = document.createElement("div"), flat = el => el.innerHTML.replace(/\\s+/g, " ");
        made.innerHTML = stage;
        return [flat(made), flat(document.querySelector(".lo-stage"))];
    }"""
    sent, found = shown.evaluate(same, [figure.stage])
    assert found == sent and "<svg" in found


def test_the_legend_stands_under_the_still_picture():
    words = re.findall(r"<text[^>]*>([^<]*)</text>", still_of(a_spectrum().html).rsplit("</g>", 1)[1])
    assert words == ["kept", "dropped"]  # not the lines that only the script draws
    for panel in ("", page.key("c", "in a colour that the picture lacks")):
        assert still_of(small(panel=panel).html).endswith("</g></svg>")


def test_rules_of_a_figure_reach_its_still_picture_if_they_apply():
    css = "#fig-small .box rect{fill:red}#fig-small .facts b{color:blue}"
    stage = page.svg(300, 100, TEXT + '<g class="box"><rect width="9" height="9"/></g>')
    sent = still_of(small(css=css, stage=stage).html)
    assert ".box rect{fill:red}" in sent and "facts" not in sent


@pytest.mark.parametrize("bits", [4, 8])
def test_a_png_holds_its_numbers_whatever_packs_it(bits):
    from PIL import Image

    most = 2**bits - 1
    levels = np.random.default_rng(0).integers(0, most + 1, (300, 256))
    found = np.asarray(Image.open(io.BytesIO(still.png(levels, bits))).convert("L"))
    assert np.array_equal(found, levels * (255 // most))


def test_the_portrait_stands_still_as_the_page_draws_it_first(browser):
    """16 greys of the copy of rank 1, against what the script paints on the canvas."""
    from lowrank_edu.figures.picture import photograph

    figure = figures.rank_picture(photograph(), r=3)
    shown = figure_page.show(browser, figure.html)
    read = """async src => {
        const image = new Image(); image.src = src; await image.decode();
        const paint = document.createElement("canvas"); [paint.width, paint.height] = [100, 120];
        paint.getContext("2d").drawImage(image, 0, 0);
        return [paint, document.querySelector("[data-el=picture]")].map(
            el => [...el.getContext("2d").getImageData(0, 0, 100, 120).data].filter((_, i) => i % 4 === 0));
    }"""
    sent = re.search(r'href="(data:image/png[^"]*)"', still_of(figure.html))[1]
    drawn, moving = np.array(shown.evaluate(read, sent))
    assert np.abs(drawn - moving).max() <= 255 / 15 / 2 + 1 and np.ptp(moving) > 100


@pytest.mark.parametrize("theme, ground", [("light", 1.0), ("dark", 0.1)])
def test_the_still_picture_has_a_ground_of_its_own(browser, theme, ground):
    """So it can be read on any page, whatever colours that page has."""
    from matplotlib.image import imread

    shown = figure_page.show(browser, a_spectrum().html, theme=theme, script=False)
    pixels = imread(io.BytesIO(shown.locator("img").screenshot()))[..., :3]
    edge, ink = pixels[12:20, 12:20].mean(), pixels.min() if theme == "light" else pixels.max()
    assert abs(edge - ground) < 0.06 and abs(edge - ink) > 0.6
