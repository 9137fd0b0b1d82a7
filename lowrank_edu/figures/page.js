// Runs one figure: binds its controls to a state, and draws. No library, no request, no global name.
// draw(state, data, $) gets the state by control name and may return a sentence for screen readers.
(script, id, data, draw) => {
  const fig = (script && script.closest("figure")) || document.getElementById(id);
  if (!fig || fig.dataset.ready) return;
  fig.dataset.ready = "1";
  const find = q => fig.querySelector(q), all = q => [...fig.querySelectorAll(q)];
  // ---- what stands still gives way to what moves: its picture is taken out of the image (still.py)
  const still = find(".lo-still"), moving = find("script[type='text/html']");
  const sent = decodeURIComponent(still.querySelector("img").getAttribute("src"));
  const picture = sent.slice(sent.indexOf("<g>") + 3, sent.lastIndexOf("</g>"));
  still.insertAdjacentHTML("afterend", moving.textContent.replace("{picture}", () => picture));
  still.remove(); moving.remove();
  const places = {};  // looked up once; a redraw has one frame, and the same holds for formats and colours below
  const $ = name => places[name] && places[name].isConnected ? places[name] : places[name] = find(`[data-el="${name}"]`);
  // ---- numbers, as the book prints them
  const sup = n => String(n).replace(/./g, c => "⁰¹²³⁴⁵⁶⁷⁸⁹"[c] || (c === "-" ? "⁻" : ""));
  const fixed = {}, figures = {};
  $.num = (x, digits = 0) => (fixed[digits] ||= new Intl.NumberFormat("en", {minimumFractionDigits: digits, maximumFractionDigits: digits})).format(x);
  $.pct = (x, digits = 1) => $.num(100 * x, digits) + " %";
  $.sig = (x, digits = 3) => x === 0 ? "0" : Math.abs(x) >= 1e-3 && Math.abs(x) < 1e6 ? (figures[digits] ||= new Intl.NumberFormat("en", {maximumSignificantDigits: digits})).format(+x.toPrecision(digits)) : $.sci(x, digits);
  $.sci = (x, digits = 2) => { if (x === 0) return "0"; const [m, e] = x.toExponential(digits - 1).split("e"); return `${m} × 10${sup(+e)}`; };
  $.bytes = n => { let i = 0; while (n >= 1000 && i < 5) { n /= 1000; i++; } return `${i ? n.toPrecision(3) : n} ${["B", "kB", "MB", "GB", "TB", "PB"][i]}`; };
  // ---- reading and writing the picture, by name or element; what stays as it is costs no layout
  $.fig = fig; $.all = all;
  const at = place => typeof place === "string" ? $(place) : place;
  // Writes wait in line, and each frame does a few: the browser lays out whatever was touched, and slow processors need
  // longer for many texts than a frame has. A later write to the same place takes the earlier one's turn.
  const line = new Map(), TEXTS = 4;
  let next = 0;
  const put = (el, kind, cost, write) => {
    const turns = line.get(el) || {};
    turns[kind] = [cost, write];
    line.delete(el);  // so that it goes to the end: what is asked for now is done in the order of asking
    line.set(el, turns);
  };
  const writeSome = () => {
    let left = TEXTS;
    for (const [el, turns] of line) {
      for (const kind in turns) left -= turns[kind][1]() ? turns[kind][0] : 0;
      line.delete(el);
      if (left <= 0) break;
    }
    next = line.size ? requestAnimationFrame(writeSome) : 0;
  };
  const written = new WeakMap();
  $.text = (place, value) => { const el = at(place), text = String(value); put(el, "text", 1, () => el.textContent !== text && (el.textContent = text, true)); };
  $.html = (place, markup) => { const el = at(place); put(el, "text", markup.length / 100, () => written.get(el) !== markup && (el.innerHTML = markup, written.set(el, markup), true)); };
  $.attr = (place, attributes) => {
    const el = at(place);
    for (const k in attributes) put(el, k, .2, () => el.getAttribute(k) !== String(attributes[k]) && (el.setAttribute(k, attributes[k]), true));
  };
  $.later = (el, cost, write) => put(el, "other", cost, write);
  $.meter = (name, share) => $.attr(name, {style: `width:${Math.min(100, 100 * share).toFixed(1)}%;background:var(--${share > 1 ? "b" : "a"})`});
  $.path = points => points.map(([x, y], i) => (i ? "L" : "M") + x.toFixed(1) + " " + y.toFixed(1)).join("");
  let inks = {};
  $.color = name => inks[name] ||= getComputedStyle(fig).getPropertyValue("--" + name).trim();
  $.rgb = name => { const n = parseInt($.color(name).slice(1), 16); return [n >> 16, n >> 8 & 255, n & 255]; };
  $.heat = (name, values, rows, cols, {lo = 0, hi = 1, map = "gray"} = {}) => {  // gray: picture · amount: 0 … a · signed: a … 0 … b
    const canvas = $(name), img = new ImageData(cols, rows), to = img.data, [a, b] = [$.rgb("a"), $.rgb("b")];
    if (canvas.width !== cols) canvas.width = cols;
    if (canvas.height !== rows) canvas.height = rows;
    const gray = map === "gray", signed = map === "signed", from = signed ? 0 : lo;
    for (let i = 0; i < rows * cols; i++) {
      const level = Math.max(signed ? -1 : 0, Math.min(1, (values[i] - from) / (hi - from)));
      const rgb = signed && level > 0 ? b : a, strength = 255 * Math.abs(level);
      to[4 * i] = gray ? strength : rgb[0]; to[4 * i + 1] = gray ? strength : rgb[1]; to[4 * i + 2] = gray ? strength : rgb[2];
      to[4 * i + 3] = gray ? 255 : strength;
    }
    canvas.getContext("2d").putImageData(img, 0, 0);
  };
  // ---- packed matrices become arrays with a shape
  const unpack = v => {
    if (!v || typeof v !== "object") return v;
    if (v.$packed) {
      const raw = Uint8Array.from(atob(v.$packed), c => c.charCodeAt(0));
      const out = v.signed ? Float32Array.from(new Int8Array(raw.buffer)) : Float32Array.from(raw, b => v.lo + (v.hi - v.lo) * b / 255);
      out.shape = v.shape;
      return out;
    }
    for (const k in v) v[k] = unpack(v[k]);
    return v;
  };
  unpack(data);
  // ---- controls -> state -> draw
  all("input, select, button, summary").forEach(el => { el.dataset.lmSuppressShortcuts = "true"; });  // else JupyterLab takes the arrow keys
  const state = {}, inputs = all("[data-control]"), live = find(".lo-live");
  const shown = new Map(), list = text => text && JSON.parse(text);  // parsed once: a redraw has one frame
  const lists = new Map(inputs.map(el => [el, {values: list(el.dataset.values), labels: list(el.dataset.labels)}]));
  const read = el => {
    const name = el.dataset.control;
    if (el.type === "radio") { if (el.checked) state[name] = el.value; return; }
    if (el.type === "checkbox") { state[name] = el.checked; return; }
    if (el.type !== "range") { state[name] = el.type === "button" ? +el.value : el.value; return; }
    const {values, labels} = lists.get(el), at = Math.round((el.value - el.min) / el.step);
    state[name] = values ? values[at] : +el.value;
    const text = (labels ? labels[at] : String(state[name])) + (el.dataset.unit || "");
    if (shown.get(el) === text) return;
    shown.set(el, text);
    find(`[data-out="${name}"]`).textContent = text;
    if (values || labels || el.dataset.unit) el.setAttribute("aria-valuetext", text);
  };
  let timer;
  const redraw = changed => {
    inputs.forEach(read);
    $.changed = changed;
    const said = draw(state, data, $);
    cancelAnimationFrame(next);
    writeSome();
    if (typeof said !== "string") return;
    clearTimeout(timer);
    if (changed) timer = setTimeout(() => { live.textContent = said; }, 250); else live.textContent = said;
  };
  $.set = (name, value) => {
    inputs.filter(el => el.dataset.control === name).forEach(el => {
      if (el.type === "radio") el.checked = el.value === String(value);
      else if (el.type === "checkbox") el.checked = value === true || value === "true";
      else if (el.type === "range" && el.dataset.values) el.value = lists.get(el).values.findIndex(v => String(v) === String(value));
      else el.value = value;
    });
    redraw(name);
  };
  inputs.forEach(el => el.addEventListener(el.type === "button" ? "click" : "input", () => {
    if (el.type === "button") el.value = +el.value + 1;
    redraw(el.dataset.control);
  }));
  fig.addEventListener("click", event => {
    const target = event.target.closest("[data-set]");
    if (target) $.set(...target.dataset.set.split("="));
  });
  // ---- replay: a slider with buttons; nobody who asked for less motion gets any
  all("[data-replay]").forEach(box => {
    const slider = box.querySelector("input"), play = box.querySelector("[data-play]");
    let clock = null;
    const go = to => { slider.value = to; redraw(slider.dataset.control); };
    const stop = () => { clearInterval(clock); clock = null; play.textContent = "▶"; play.setAttribute("aria-label", "Play"); };
    box.querySelectorAll("[data-by]").forEach(b => b.addEventListener("click", () => { stop(); go(+slider.value + b.dataset.by * slider.step); }));
    play.addEventListener("click", () => {
      if (clock) return stop();
      if (+slider.value >= +slider.max) go(slider.min);
      play.textContent = "❚❚"; play.setAttribute("aria-label", "Pause");
      clock = setInterval(() => { go(+slider.value + +slider.step); if (+slider.value >= +slider.max) stop(); }, +box.dataset.replay);
    });
    slider.addEventListener("input", () => { if (clock) stop(); });
  });
  // ---- light or dark is read off the ink, so that it is right in a book, JupyterLab, Colab and VS Code
  const theme = () => {
    const rgb = getComputedStyle(fig).color.match(/^rgba?\(([\d.]+)[, ]+([\d.]+)[, ]+([\d.]+)/);
    if (rgb) fig.dataset.ink = .3 * rgb[1] + .59 * rgb[2] + .11 * rgb[3] > 140 ? "light" : "dark";
    inks = {};
  };
  const retheme = () => setTimeout(() => { theme(); redraw(""); }, 30);
  const watch = new MutationObserver(retheme), attributeFilter = ["data-theme", "theme", "class", "data-jp-theme-light"];
  [document.documentElement, document.body].forEach(el => watch.observe(el, {attributes: true, attributeFilter}));
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", retheme);
  theme();
  redraw("");
}
