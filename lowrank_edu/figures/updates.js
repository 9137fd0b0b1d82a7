// The bars of the chosen layer are drawn by spectra.js; this adds the line and the share that survives.
(state, data, $) => {
  const spectrum = SPECTRUM;
  const [width, floor, tall] = data.box, kinds = data.layers[state.layer];
  const matrices = Object.fromEntries(Object.entries(kinds).map(([kind, m]) => [data.names[kind], m]));
  const said = spectrum({...state, matrix: data.names[state.matrix]}, {matrices, first: "ΔW", box: data.box}, $);
  const at = data.kept.findIndex(([rank]) => rank >= state.r), [r1, y1] = data.kept[at], [r0, y0] = data.kept[Math.max(0, at - 1)];
  const share = r1 === r0 ? y1 : y0 + (y1 - y0) * (state.r - r0) / (r1 - r0);
  $.attr("survival", {visibility: state.matrix === "delta" && !state.log ? "visible" : "hidden"});
  $.text("survives", state.matrix === "delta" ? $.pct(share, 0) : "–");
  return said + (state.matrix === "delta" ? ` In the whole model, ${$.num(100 * share)} percent of the improvement survives a cut to rank ${state.r}.` : "");
}
