// The squares of one choice, and where it stands on the budget's curve.
(state, data, $) => {
  const run = data.runs[state.run], at = Math.min(state.at, run.steps.length - 1), ranks = run.ranks[at];
  const [left, top, cell, gap] = data.grid, most = Math.max(...run.ranks[0]);
  $.html("squares", ranks.map((r, i) => Array.from({length: most}, (_, k) =>
    `<rect x="${left + cell * (i % 4) + 19 * k}" y="${top + gap * Math.floor(i / 4)}" width="15" height="15" rx="3" fill="${k < r ? `var(--${i % 4 < 2 ? "a" : "b"})` : "none"}" stroke="currentColor" stroke-opacity=".45"/>`).join("")).join(""));
  const [x, y, wide, high] = data.box, last = run.steps.at(-1);
  const place = k => [x + wide * run.steps[k] / last, y + high * (1 - run.budget[k] / run.budget[0])];
  $.attr("budget", {d: $.path(run.steps.map((_, k) => place(k)))});
  $.attr("now", {cx: place(at)[0].toFixed(1), cy: place(at)[1].toFixed(1)});
  $.text("last", `step ${last}`);
  const ffn = ranks.reduce((sum, r, i) => sum + (i % 4 > 1 ? r : 0), 0), share = `${$.num(100 * ffn / run.total[at])} %`;
  $.text("total", run.total[at]);
  $.text("total-of", `directions, budget ${run.budget[at]}`);
  $.text("ffn", share);
  $.meter("bar", run.total[at] / run.total[0]);
  return `${data.names[state.run]}, step ${run.steps[at]}: ${run.total[at]} directions of ${run.total[0]}, ${share} in the feed-forward part.`;
}
