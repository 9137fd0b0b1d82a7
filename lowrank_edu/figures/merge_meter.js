// The corner of W − W0 as squares, the largest error as a line over round trips.
(state, data, $) => {
  const [cell, top, left, right, floor, high, low, decades] = data.box, i = data.cycles.indexOf(state.cycle);
  const keep = state.way === "keep", series = data.series[`${state.format} ${state.order}`];
  const error = keep ? 0 : series.max[i], moved = keep ? 0 : series.moved[i], frame = keep ? -1 : series.frame[i];
  const name = n => n.slice(0, 4).replace("nf4 ", "NF4");
  const cells = sign => {
    if (frame < 0) return "";
    const bytes = data.frames[frame], side = data.side;
    let d = "";
    for (let k = 0; k < side * side; k++) if (Math.floor((bytes[Math.floor(k / 5)] & 255) / 3 ** (k % 5)) % 3 - 1 === sign) d += `M${cell * (k % side)} ${top + cell * Math.floor(k / side)}h${cell - 1}v${cell - 1}h-${cell - 1}z`;
    return d;
  };
  $.attr("up", {d: cells(1)});
  $.attr("down", {d: cells(-1)});
  const x = c => left + (right - left) * Math.log10(Math.max(c, 1)) / 3;
  const y = e => Math.min(floor, floor - (floor - high) * (Math.log10(Math.max(e, 1e-30)) - low) / decades);
  const line = name => $.path(data.cycles.map((c, k) => [x(c), y(keep ? 0 : data.series[name].max[k])]).slice(1));
  $.attr("line", {d: line(`${state.format} ${state.order}`)});
  $.html("others", keep ? "" : Object.keys(data.series).filter(n => n.endsWith(state.order)).map(n => `<path d="${line(n)}"/>`).join(""));
  $.html("names", keep ? "" : Object.keys(data.series).filter(n => n.endsWith(state.order)).map(n => `<text x="${left + 4}" y="${(y(data.series[n].max[1]) + (n.startsWith("fp16") ? 13 : -6)).toFixed(1)}"${n.startsWith(state.format) ? ' font-weight="bold"' : ""}>${name(n)}</text>`).join(""));
  $.attr("dot", {cx: x(state.cycle), cy: y(error)});
  $.text("max", error ? $.sci(error) : "0");
  $.text("moved", moved ? $.pct(moved) : "none");
  $.text("moved-of", moved ? "of the weights have moved" : "of the weights has moved");
  $.text("lost", $.pct(data.lost[state.format]));
  const trips = state.cycle === 1 ? "1 round trip" : `${$.num(state.cycle)} round trips`;
  return `${name(`${state.format} `)}, ${trips}: ${error ? `largest error ${$.sci(error)}, ${$.num(100 * moved, 1)} percent of the weights moved.` : "every weight is what it was, bit for bit."}`;
}
