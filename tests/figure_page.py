"""One figure on an otherwise empty page, in the book's light or dark colours."""

from dataclasses import replace

from browser import AT_ONCE, open_browser  # noqa: F401  the tests of figures take both from here

PAPER = {"light": "background:#fff;color:#323232", "dark": "background:#14181e;color:#ced6dd"}


def undrawn(figure):
    """The same figure as Python wrote it: its script puts it in place and draws nothing."""
    return replace(figure, draw="() => {}")


def show(browser, body, width=760, theme="light", script=True, reduced_motion="no-preference", at_once=True):
    """A page with the markup `body` and no network; `page.errors` collects what the console complains of."""
    context = browser.new_context(
        viewport={"width": width, "height": 800},
        color_scheme=theme,
        java_script_enabled=script,
        reduced_motion=reduced_motion,
        offline=True,
    )
    if at_once:
        context.add_init_script(AT_ONCE)
    page = context.new_page()
    page.errors = []
    page.on("pageerror", lambda error: page.errors.append(str(error)))
    page.on("console", lambda said: page.errors.append(said.text) if said.type == "error" else None)
    page.set_content(
        f'<!doctype html><html lang="en" data-theme="{theme}"><head><meta charset="utf-8"><title>t</title>'
        '<meta name="viewport" content="width=device-width">'
        f"<style>body{{margin:0;padding:10px;{PAPER[theme]}}}</style></head><body><main>{body}</main></body></html>"
    )
    return page
