// The two buttons above a page, for the menu and for what is on the page, do what they say. The theme has each of them
// twice, hears only the first, and that one is hidden (pydata-sphinx-theme#2451): a press is handed on to it.
// On a narrow window either list opens as a dialog; on a wide one the menu is beside the text and the button hides it.
(() => {
  const wide = matchMedia("(min-width: 992px)");  // the width from which the theme keeps the menu beside the text

  function closer(dialog) {
    const button = document.createElement("button");
    button.className = "lo-close btn btn-sm";
    button.setAttribute("aria-label", "Close");
    button.textContent = "×";
    button.addEventListener("click", () => dialog.close());
    return button;
  }

  // A link to a place on this page leads there when the dialog has gone, and so does the focus: the dialog gives it back
  // to the button first, which ends the way that the browser has begun.
  function follow(dialog, hash) {
    dialog.addEventListener("close", () => setTimeout(() => {
      const place = document.getElementById(decodeURIComponent(hash.slice(1))) ?? document.getElementById("main-content");
      const heading = place.querySelector("h1, h2, h3, h4") ?? place;
      document.documentElement.classList.add("lo-whole");  // its distance is no longer a guess: reach.js
      if (hash) location.hash = hash;
      place.scrollIntoView();
      heading.setAttribute("tabindex", -1);
      heading.focus({preventScroll: true});
    }), {once: true});
    dialog.close();
  }

  function connect(kind, name) {
    const [first, ...shown] = document.querySelectorAll(`.${kind}-toggle`);
    const list = document.getElementById(`pst-${kind}-sidebar`);
    const dialog = document.getElementById(`pst-${kind}-sidebar-modal`);
    if (!list || !dialog || !shown.length) return;
    const beside = () => kind === "primary" && wide.matches;
    const tell = () => shown.forEach(button => button.setAttribute(
      "aria-expanded", dialog.open || (beside() && !list.classList.contains("pst-sidebar-hidden"))));
    list.prepend(closer(dialog));  // the theme moves what is in the list into the dialog and back
    dialog.setAttribute("aria-label", name);
    shown.forEach(button => button.addEventListener("click", () => {
      button.focus();  // some browsers leave it where it was, and the dialog gives the focus back to where it was
      first.click();
      tell();
    }));
    dialog.addEventListener("close", tell);
    dialog.addEventListener("click", event => {
      const link = event.target.closest("a[href^='#']");
      if (!link) return;
      event.preventDefault();
      follow(dialog, link.hash);
    });
    wide.addEventListener("change", () => { dialog.close(); tell(); });
    tell();
  }

  addEventListener("DOMContentLoaded", () => {
    connect("primary", "Menu");
    connect("secondary", "On this page");
  });
})();
