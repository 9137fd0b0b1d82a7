// One table of gaps for the chosen rule and α; the best cell of each row is framed, and the frames are joined.
(state, data, $) => {
  const [left, top, wide, high, space] = data.box, {ranks, rates, base} = data, rows = data.rows[state.rule][state.alpha];
  const bad = gap => gap === null || gap > base;
  const number = gap => gap === null ? "✕" : gap.toFixed(gap >= 9.95 ? 1 : 2);
  const amount = gap => bad(gap) ? .4 : .06 + .49 * (1 - gap / base) ** 3;
  const best = row => row.reduce((b, gap, j) => gap !== null && (row[b] === null || gap < row[b]) ? j : b, 0);
  const middle = j => left + (j + .5) * wide, short = lr => String(+lr.toPrecision(2));
  const cells = data.cells ||= [...$("cells").children];  // the grid stands from the start: a change sets what differs
  rows.forEach((row, i) => {
    const [, ...parts] = cells[i].children, mine = best(row);
    cells[i].classList.toggle("mine", ranks[i] === state.r);
    row.forEach((gap, j) => {
      $.attr(parts[2 * j], {class: `sq${bad(gap) ? " bad" : ""}${j === mine ? " top" : ""}`, "fill-opacity": amount(gap).toFixed(2)});
      $.text(parts[2 * j + 1], number(gap));
    });
  });
  $.attr("ridge", {d: rows.slice(1).map((row, i) => $.path([[middle(best(rows[i])), top + (i + 1) * high - space], [middle(best(row)), top + (i + 1) * high + space]])).join("")});
  const at = ranks.indexOf(state.r), row = rows[at], mine = best(row), tuned = rows[ranks.indexOf(4)], kept = best(tuned);
  const scale = {r: state.alpha / state.r, root: state.alpha / Math.sqrt(state.r), one: state.alpha}[state.rule];
  const lost = row[kept] === null ? "diverges" : "+" + (row[kept] - row[mine]).toFixed(2);
  $.text("scale", $.sig(scale, 3));
  $.text("scale-of", `scale at r = ${state.r}`);
  $.text("best", short(rates[mine]));
  $.text("kept", lost);
  $.text("kept-of", `nats, if you keep ${short(rates[kept])}, the best rate of r = 4`);
  const told = row.map((gap, j) => `rate ${short(rates[j])}: ${gap === null ? "diverged" : number(gap)}`).join("; ");
  const rule = {r: "alpha over r", root: "alpha over root r", one: "alpha alone"}[state.rule];
  return `${rule}, alpha ${state.alpha}, rank ${state.r}: scale ${$.sig(scale, 3)}. ${told}. Best rate ${short(rates[mine])}. Keeping the best rate of rank 4: ${lost}.`;
}
