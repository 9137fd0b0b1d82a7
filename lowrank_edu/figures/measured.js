// A pair of stacked bars for each method: planned above, measured below.
(state, data, $) => {
  const [left, row, thin, width] = data.box, kind = state.checkpointing ? "checkpointed" : "plain", wide = width - left - 44;
  const sum = values => values.reduce((a, b) => a + b, 0), names = Object.keys(data.rows);
  $.html("pairs", names.map((name, i) => {
    const y = 2 + i * row, label = data.names[name].split(",")[0].replace("full fine-tuning", "full");
    return `<text x="0" y="${y + 18}">${label}</text>` + ["planned", "measured"].map((which, k) => {
      const values = data.rows[name][kind][which], top = y + k * (thin + 2);
      let x = left;
      return values.map((n, c) => {
        const at = x;
        x += wide * n / data.end;
        return `<rect x="${at.toFixed(1)}" y="${top}" width="${(wide * n / data.end).toFixed(1)}" height="${thin}" fill="var(--${data.colours[c]})" fill-opacity="${k ? 1 : .55}"/>`;
      }).join("") + `<text x="${(x + 4).toFixed(1)}" y="${top + 11}">${(sum(values) / 1e6).toFixed(1)} MB</text>`;
    }).join("");
  }).join(""));
  const worst = Math.max(...names.map(name => { const {planned, measured} = data.rows[name][kind]; return Math.abs(sum(planned) - sum(measured)) / sum(measured); }));
  $.text("worst", $.pct(worst));
  const said = names.map(name => `${data.names[name].split(",")[0]} ${(sum(data.rows[name][kind].planned) / 1e6).toFixed(1)} planned, ${(sum(data.rows[name][kind].measured) / 1e6).toFixed(1)} measured`).join("; ");
  return `In megabytes: ${said}. Largest difference ${$.num(100 * worst, 1)} percent.`;
}
