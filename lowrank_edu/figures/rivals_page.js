// Dots and ranges of the chosen view.
(state, data, $) => {
  const view = data.views[state.view], [left, wide, top, step, means] = data.box;
  let low = Math.min(...view.rows.map(r => r[2])), high = Math.max(...view.rows.map(r => r[3]));
  [low, high] = view.log ? [low * .8, high * 1.25] : [low - .1 * (high - low), high + .1 * (high - low)];
  const f = view.log ? Math.log : v => v, place = v => left + wide * (f(v) - f(low)) / (f(high) - f(low));
  const label = v => String(+v.toPrecision(2));
  $.html("rows", `<path d="M${left} ${top - 14}H${left + wide}" stroke="currentColor" stroke-opacity=".4"/>` +
    `<text x="${left}" y="12">${label(low)}</text><text x="${left + wide}" y="12" text-anchor="end">${label(high)}</text>` +
    view.rows.map(([name, mean, small, large], i) => {
      const y = top + step * i + 8;
      return `<text x="0" y="${y + 4}">${name}</text><path d="M${place(small).toFixed(1)} ${y}H${place(large).toFixed(1)}" stroke="var(--a)" stroke-width="3"/>` +
        `<circle cx="${place(mean).toFixed(1)}" cy="${y}" r="5" fill="var(--a)"/>` +
        `<text x="${left + wide + means}" y="${y + 4}" text-anchor="end">${+mean.toPrecision(3)}</text>`;
    }).join(""));
  const order = [...view.rows].sort((p, q) => p[1] - q[1]).map(([name, mean]) => `${name} ${label(mean)}`).join(", ");
  return `${view.what}. From low to high: ${order}.`;
}
