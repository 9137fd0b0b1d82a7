// A formula that is wider than the page scrolls, and what scrolls must be reached by keyboard. Formulas far below are
// not laid out yet: they report their size when they come near.
(() => {
  const wide = el => el.scrollWidth > el.clientWidth;
  const seen = new ResizeObserver(all => all.forEach(({target}) => {
    wide(target) ? target.setAttribute("tabindex", 0) : target.removeAttribute("tabindex");
  }));
  addEventListener("DOMContentLoaded", () => {
    document.querySelectorAll(".bd-article .katex-display").forEach(el => seen.observe(el));
  });
})();
