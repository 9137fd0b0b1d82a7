// The mark and the ring move to the chosen d; the numbers beside it follow.
(state, data, $) => {
  const [left, right, top, floor] = data.box, [base, full, needed] = data.levels, rows = data.rows;
  const [d, losses] = rows.find(([d]) => d === state.d), loss = losses.reduce((t, v) => t + v, 0) / losses.length;
  const first = Math.log10(rows[0][0]), last = Math.log10(rows[rows.length - 1][0]);
  const x = left + 12 + (right - left - 24) * (Math.log10(d) - first) / (last - first);
  const low = Math.log(.8 * full), high = Math.log(1.05 * base), y = floor - (floor - top) * (Math.log(loss) - low) / (high - low);
  $.attr("mark", {d: `M${x.toFixed(1)} ${top}V${floor}`});
  $.attr("here", {cx: x.toFixed(1), cy: y.toFixed(1)});
  const share = (base - loss) / (base - full), part = 100 * d / data.weights;
  $.text("share", $.pct(share, 0));
  $.text("share-of", loss <= needed ? "of full fine-tuning’s improvement: learned" : "of full fine-tuning’s improvement");
  $.text("loss", $.num(loss, 2));
  $.text("part", part.toPrecision(2).replace(/\.?0+$/, "") + " %");
  return `d = ${$.num(d)}: loss ${$.num(loss, 2)}, ${$.num(100 * share)} percent of the improvement of full fine-tuning${loss <= needed ? ", which counts as learned" : ""}.`;
}
