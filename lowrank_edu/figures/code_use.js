// The histogram of one block size, the levels in it, and a bar for each code.
(state, data, $) => {
  const [left, right, top, line, high, floor, full] = data.box, wide = right - left;
  const i = data.names.indexOf(`${state.source} ${state.outlier} ${state.block}`), bins = data.hist.shape[1];
  const levels = data.levels[state.kind], use = data.use[state.kind][i], dx = wide / bins, slot = wide / 16;
  const x = v => (left + wide * (v + 1) / 2).toFixed(1), centre = k => left + (k + .5) * slot;
  let d = "";
  for (let k = 0; k < bins; k++) d += `M${(left + dx * k).toFixed(1)} ${line}v${(-(line - top) * data.hist[i * bins + k]).toFixed(1)}h${(dx - .5).toFixed(1)}V${line}z`;
  $.attr("hist", {d});
  $.attr("ticks", {d: levels.map(v => `M${x(v)} ${top}V${line + 6}`).join("")});
  $.attr("lines", {d: levels.map((v, k) => `M${x(v)} ${line + 6}L${centre(k).toFixed(1)} ${high - 20}`).join("")});
  $.attr("bars", {d: use.map((u, k) => `M${(left + k * slot + 2).toFixed(1)} ${floor}v${(-(floor - high) * Math.min(1, u / full)).toFixed(1)}h${(slot - 4).toFixed(1)}V${floor}z`).join("")});
  $.html("over", use.map((u, k) => u > full ? `<text x="${centre(k)}" y="${high - 5}" text-anchor="middle">${Math.round(u / 100)}</text>` : "").join(""));
  const total = use.reduce((a, u) => a + u), told = use.reduce((a, u) => u ? a - u / total * Math.log2(u / total) : a, 0);
  const error = data.error[state.kind][i][+state.double], bits = data.bits[state.block][+state.double];
  $.text("error", error.toFixed(4) + " σ");
  $.text("bits", bits.toFixed(3));
  $.text("told", told.toFixed(2));
  return `${state.kind}, blocks of ${$.num(state.block)}: mean error ${error.toFixed(4)} standard deviations, ${bits.toFixed(3)} bits per parameter; a code tells ${told.toFixed(2)} of 4 bits. The code used most is used ${$.pct(Math.max(...use) / 1e4, 0)} of the time.`;
}
