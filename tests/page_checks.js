// What tests/test_browser.py asks of an open page. Each function returns what is wrong, or what is seen.
({
  // What a person sees of a figure: picture and read-outs, canvases as pixels, without the controls themselves.
  seen(figure) {
    const copy = figure.cloneNode(true);
    copy.querySelectorAll("style, script, input, select, output, .lo-live").forEach(el => el.remove());
    const pixels = [...figure.querySelectorAll("canvas")].map(canvas => canvas.toDataURL());
    return copy.innerHTML + pixels.join("");
  },

  // Formulas that are not typeset, or could not be: they, and TeX between the words.
  untypeset() {
    const found = [...document.querySelectorAll(".math, .katex-error")]
      .filter(el => !el.querySelector(".katex-html") || !el.querySelector(".katex-mathml math"));
    const walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
    while (walk.nextNode()) {
      const el = walk.currentNode.parentElement;
      if (/\$\$|\\[([]|\\[a-z]+\{/.test(walk.currentNode.data) && !el.closest("code, pre, script, style, .math, .katex"))
        found.push(el);
    }
    return found.map(el => el.textContent.slice(0, 60));
  },

  // Elements that make the page scroll sideways.
  wide() {
    if (document.scrollingElement.scrollWidth <= innerWidth) return [];
    return [...document.querySelectorAll("body *")]
      .filter(el => el.getBoundingClientRect().right > innerWidth + 1)
      .filter(el => !el.closest(".bd-sidebar-primary, .bd-sidebar-secondary, dialog"))
      .map(el => `${el.tagName}.${el.className}`)
      .slice(0, 5);
  },

  // Visible text inside the selected elements whose contrast is under WCAG's 4.5 to 1.
  faint(selector) {
    const parse = text => {  // any CSS colour, color-mix() too, as the browser paints it
      const canvas = document.createElement("canvas");
      canvas.width = canvas.height = 1;
      const pen = canvas.getContext("2d");
      pen.fillStyle = text;
      pen.fillRect(0, 0, 1, 1);
      const [r, g, b, a] = pen.getImageData(0, 0, 1, 1).data;
      return [r, g, b, a / 255];
    };
    const mix = (over, under) => [0, 1, 2].map(i => over[i] * over[3] + under[i] * (1 - over[3]));
    const ground = el => {
      const layers = [];
      for (let at = el; at; at = at.parentElement) layers.unshift(parse(getComputedStyle(at).backgroundColor));
      return layers.reduce((under, over) => mix(over, under), [255, 255, 255]);
    };
    const linear = v => (v /= 255) <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
    const light = rgb => rgb.map(linear).reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
    const ratio = (ink, under) => {
      const [a, b] = [light(mix(ink, under)), light(under)].sort((x, y) => y - x);
      return (a + 0.05) / (b + 0.05);
    };
    const found = [];
    for (const box of document.querySelectorAll(selector)) {
      const walk = document.createTreeWalker(box, NodeFilter.SHOW_TEXT);
      while (walk.nextNode()) {
        const el = walk.currentNode.parentElement, text = walk.currentNode.textContent.trim();
        const unseen = "style, script, noscript, option, .lo-live, :disabled, .katex-mathml";
        if (!text || el.closest(unseen) || !el.getClientRects().length) continue;
        const style = getComputedStyle(el);
        if (style.visibility === "hidden" || style.opacity < 0.3) continue;
        const contrast = ratio(parse(el.closest("svg") ? style.fill : style.color), ground(el));
        if (contrast < 4.5) found.push(`${text.slice(0, 30)}: ${contrast.toFixed(1)}`);
      }
    }
    return found;
  },
})
