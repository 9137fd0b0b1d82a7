// The loss of every start at one learning rate, and beside it where each ended on held-out stories.
(state, data, $) => {
  const [left, top, wide, high] = data.box, runs = data.runs[data.rates.indexOf(state.lr)];
  const all = Math.max(...Object.values(runs).map(run => run.curve.length)), steps = state.zoom ? Math.min(10, all) : all;
  const [lo, hi] = data.span, height = v => top + high * (1 - Math.log(v / lo) / Math.log(hi / lo));
  const line = name => { const [colour, dash] = data.lines[name]; return `fill="none" stroke="var(--${colour})" stroke-width="2" stroke-dasharray="${dash}"`; };
  $.html("lines", Object.entries(runs).map(([name, run]) =>
    `<path ${line(name)} d="${$.path(run.curve.slice(0, steps).map((v, k) => [left + wide * k / (steps - 1), height(v)]))}"/>`).join(""));
  $.text("last", `step ${steps}`);
  const mean = a => a.reduce((t, v) => t + v, 0) / a.length;
  const told = Object.entries(runs).map(([name, run]) => {
    const text = run.curve.length ? `${mean(run.ends).toFixed(2)} (${Math.min(...run.ends).toFixed(2)}–${Math.max(...run.ends).toFixed(2)})` : "diverged";
    return [name, run.curve.length ? mean(run.ends) : Infinity, text];
  });
  $.html("ends", told.map(([name, , text]) =>
    `<div class="end"><svg viewBox="0 0 36 8"><path ${line(name)} d="M0 4H36"/></svg><span>${data.names[name]}</span><b>${text}</b></div>`).join(""));
  const order = [...told].sort((p, q) => p[1] - q[1]).map(([name, , text]) => `${data.names[name]} ${text}`).join("; ");
  return `Learning rate ${+state.lr.toPrecision(2)}. Above the floor at the end, from best to worst: ${order}.`;
}
