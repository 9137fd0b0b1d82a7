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

// On a phone what is far below has a height that is only guessed (book.css), and a link to a place on the page would miss
// it: lay out the whole page first, then go there.
(() => {
  function jump() {
    const place = location.hash && document.getElementById(decodeURIComponent(location.hash.slice(1)));
    if (!place || document.documentElement.classList.contains("lo-whole")) return;
    document.documentElement.classList.add("lo-whole");
    place.scrollIntoView();
  }
  addEventListener("DOMContentLoaded", jump);
  addEventListener("hashchange", jump);
})();
