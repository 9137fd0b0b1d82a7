// Every slide fits its stage: text as large as it can be, a figure so that its smallest label is as large as it can be.
function fitSlides(deck) {
  const wide = part => part.scrollWidth > part.clientWidth + 1;
  const over = slide => slide.scrollHeight > slide.clientHeight + 1 || wide(slide) || [...slide.querySelectorAll("pre")].some(wide);

  // Large letters where there is room. A line of code breaks only where even small letters do not help.
  function fitText(slide) {
    for (const wrapped of [false, true]) {
      slide.classList.toggle("wrapped", wrapped);
      for (let size = slide.querySelector("pre") ? 28 : 32; size >= 17; size--) {
        slide.style.setProperty("--size", size + "px");
        if (!over(slide)) return;
      }
    }
  }

  // Pixels of the smallest label, where the figure is `width` pixels wide on the slide.
  function smallest(figure, width, zoom) {
    const whole = figure.getBoundingClientRect().width;
    const drawn = [...figure.querySelectorAll("svg[viewBox]")].filter(svg => svg.querySelector("text"));
    return Math.min(14 * zoom, ...drawn.map(svg =>
      12 * width * svg.getBoundingClientRect().width / whole / svg.viewBox.baseVal.width));
  }

  function set(figure, {width, zoom, beside}) {
    figure.style.zoom = zoom;
    figure.style.width = width / zoom + "px";
    figure.classList.toggle("beside", beside);
  }

  function fitFigure(slide, figure) {
    let best;
    for (const beside of [false, true])
      for (let width = 1220; width >= 720; width -= 100)
        for (let zoom = 1.6; zoom > 0.6; zoom -= 0.15) {
          set(figure, {width, zoom, beside});
          const size = over(slide) ? 0 : smallest(figure, width, zoom);
          if (size > (best?.size ?? 0) + 0.5) best = {size, width, zoom, beside};
        }
    if (best) set(figure, best);
  }

  function fit(slide) {
    const figure = slide?.querySelector("figure");
    if (!slide || slide.dataset.fitted && !over(slide)) return;
    slide.dataset.fitted = true;
    if (figure) fitFigure(slide, figure);
    else fitText(slide);
  }

  const watch = new ResizeObserver(() => fit(deck.getCurrentSlide()));  // a figure or an answer that has grown
  function shown() {
    const slide = deck.getCurrentSlide();
    fit(slide);
    watch.disconnect();
    for (const part of slide?.children ?? []) watch.observe(part);
  }
  deck.on("ready", shown);
  deck.on("slidechanged", shown);
}
