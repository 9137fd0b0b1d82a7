// A pair of stacked bars for each method: planned above, measured below.
(state, data, $) => {
  const [left, width] = data.box, kind = state.checkpointing ? "checkpointed" : "plain", wide = width - left - 44;
  const sum = values => values.reduce((a, b) => a + b, 0), names = Object.keys(data.rows);
  const bars = data.bars ||= [...$("pairs").children].filter(el => el.tagName === "rect" || el.matches("rect + text"));
  let part = 0;  // the picture stands from the start: a change moves the bars
  for (const name of names)
    for (const values of [data.rows[name][kind].planned, data.rows[name][kind].measured]) {
      let x = left;
      for (const n of values) {
        $.attr(bars[part++], {x: x.toFixed(1), width: (wide * n / data.end).toFixed(1)});
        x += wide * n / data.end;
      }
      $.attr(bars[part], {x: (x + 4).toFixed(1)});
      $.text(bars[part++], `${(sum(values) / 1e6).toFixed(1)} MB`);
    }
  const worst = Math.max(...names.map(name => { const {planned, measured} = data.rows[name][kind]; return Math.abs(sum(planned) - sum(measured)) / sum(measured); }));
  $.text("worst", $.pct(worst));
  const said = names.map(name => `${data.names[name].split(",")[0]} ${(sum(data.rows[name][kind].planned) / 1e6).toFixed(1)} planned, ${(sum(data.rows[name][kind].measured) / 1e6).toFixed(1)} measured`).join("; ");
  return `In megabytes: ${said}. Largest difference ${$.num(100 * worst, 1)} percent.`;
}
