// One path for the bars that are kept, one for those that are lost; tiles beside them.
(state, data, $) => {
  const [width, floor, tall, decades] = data.box, name = state.matrix || data.first;
  const {s, top, shape: [m, n]} = data.matrices[name], count = s.length;
  const slider = $.fig.querySelector("[data-control=r]");
  slider.max = count;
  const r = Math.min(state.r, count);
  if (r !== state.r) { slider.value = r; $.all("[data-out=r]")[0].textContent = r; }
  const height = v => (state.log ? Math.max(0, 1 + Math.log10(Math.max(v, 1e-30)) / decades) : v) * tall;
  const bars = (from, to) => {
    const step = width / count, wide = (step - Math.min(2, .25 * step)).toFixed(2);
    return s.slice(from, to).map((v, k) => `M${((k + from) * step).toFixed(1)} ${floor}v-${height(v).toFixed(1)}h${wide}V${floor}z`).join("");
  };
  const outline = s => s.flatMap((v, k) => k % Math.ceil(s.length / 96) ? [] : [[(k + .5) * width / s.length, floor - height(v)]]);
  $.attr("kept", {d: bars(0, r)});
  $.attr("lost", {d: bars(r, count)});
  $.attr("cut", {d: `M${(r * width / count).toFixed(1)} 8V${floor + 5}`});
  $.html("others", Object.entries(data.matrices).filter(([other]) => other !== name).map(([, o]) =>
    `<path d="${$.path(outline(o.s))}"/>`).join(""));
  const scale = state.log ? [[0, "1"], [1, "10⁻¹"], [2, "10⁻²"], [3, "10⁻³"]].map(([d, t]) => [d / decades, t]) : [[0, "1"], [.5, "0.5"]];
  $.html("grid", scale.map(([depth, text]) => { const y = floor - (1 - depth) * tall;
    return `<path d="M0 ${y}H${width}" stroke="currentColor" stroke-opacity=".22"/><text x="${width + 5}" y="${y + 4}">${text}</text>`; }).join(""));
  const square = values => values.reduce((t, v) => t + v * v, 0), lost = square(s.slice(r)) / square(s), numbers = r * (m + n);
  $.text("energy", $.pct(1 - lost));
  $.text("error", $.pct(Math.sqrt(lost)));
  $.text("params", $.num(numbers));
  $.text("params-of", `numbers instead of ${m} × ${n} = ${$.num(m * n)}`);
  $.meter("bar", numbers / (m * n));
  $.text("top", $.sig(top));
  $.text("last", `${count} singular values`);
  return `${name}: rank ${r} keeps ${$.num(100 * (1 - lost), 1)} percent of the energy; error ${$.num(100 * Math.sqrt(lost), 1)} percent; ${$.num(numbers)} numbers instead of ${$.num(m * n)}.`;
}
