// Columns that are frozen at this step, the staircase of the run, and the counts of one layer.
(state, data, $) => {
  const run = data.runs[state.run], now = run.filter(row => row[0] <= state.step).at(-1), [left, top, cell, tall] = data.b;
  $.html("columns", Array.from({length: data.r}, (_, k) =>
    `<rect x="${left + cell * k}" y="${top}" width="${cell - 4}" height="${tall}" rx="3" ${k < now[1] ? 'fill="currentColor" fill-opacity=".18" stroke="currentColor" stroke-dasharray="3 3"' : 'fill="var(--a)"'}/>`).join(""));
  const [x, y, wide, high] = data.box, most = run[0][2], level = v => y + high * (1 - v / most);
  $.attr("stairs", {d: $.path(run.flatMap(([step, , count], k) => {
    const end = k + 1 < run.length ? run[k + 1][0] : data.steps;
    return [[x + wide * step / data.steps, level(count)], [x + wide * end / data.steps, level(count)]];
  }))});
  $.attr("now", {cx: (x + wide * state.step / data.steps).toFixed(1), cy: level(now[2]).toFixed(1)});
  const r = data.r, d = state.d;
  $.text("left", $.num(now[2]));
  $.text("lora", $.num(2 * r * d));
  $.text("start", $.num(r * d + r * r));
  $.text("end", $.num(r * r));
  return `Step ${state.step}, ${data.names[state.run]}: ${now[1]} of ${r} columns ${state.run === "lamda as released" ? "without a gradient" : "frozen"}, ${$.num(now[2])} numbers still trained. A layer of width ${$.num(d)}: LoRA ${$.num(2 * r * d)}, LaMDA ${$.num(r * d + r * r)}, then ${r * r}.`;
}
