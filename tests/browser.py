"""A browser for tests: Chromium or Chrome where there is one, else Playwright's own."""

import shutil
from contextlib import contextmanager

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")


@contextmanager
def chromium():
    """A headless browser of Playwright's API. Without any browser this raises: a check must not pass by not
    running."""
    from playwright.sync_api import sync_playwright

    path = next(filter(None, map(shutil.which, NAMES)), None)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=path,  # None: Playwright's own
            args=["--no-sandbox", "--disable-gpu", "--disable-background-networking"],
        )
        try:
            yield browser
        finally:
            browser.close()


def show(browser, body, width=760, theme="light", script=True, reduced_motion="no-preference"):
    """A page that holds `body` in the book's light or dark theme; `page.errors` collects what the console
    complains of."""
    context = browser.new_context(
        viewport={"width": width, "height": 800},
        color_scheme=theme,
        java_script_enabled=script,
        reduced_motion=reduced_motion,
        offline=True,
    )
    page = context.new_page()
    page.errors = []
    page.on("pageerror", lambda error: page.errors.append(str(error)))
    page.on("console", lambda message: message.type == "error" and page.errors.append(message.text))
    colours = "background:#14181e;color:#ced6dd" if theme == "dark" else "background:#fff;color:#323232"
    page.set_content(
        f'<!doctype html><html lang="en" data-theme="{theme}"><head><meta charset="utf-8"><title>t</title>'
        '<meta name="viewport" '
        f'content="width=device-width"><style>body{{margin:0;padding:10px;{colours}}}</style>'
        f"</head><body><main>{body}</main></body></html>"
    )
    return page
