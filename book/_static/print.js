// On paper nothing is behind a click, and the page is light. Afterwards all is as it was.
(() => {
  const root = document.documentElement;
  let closed = [], theme;
  addEventListener("beforeprint", () => {
    closed = [...document.querySelectorAll(".bd-article details:not([open], .hide)")];
    closed.forEach(el => { el.open = true; });
    theme = root.dataset.theme;
    root.dataset.theme = "light";
  });
  addEventListener("afterprint", () => {
    closed.forEach(el => { el.open = false; });
    root.dataset.theme = theme;
  });
})();
