// Ticks of the format, the sum above the line, the stored number on it.
(state, data, $) => {
  const [left, right, line, first, last] = data.box, step = data.steps[state.format];
  const x = v => left + (right - left) * (v - first) / (last - first);
  let d = "";
  for (let n = Math.ceil(first / step); n * step <= last; n++) d += `M${x(n * step).toFixed(1)} ${line - 8}v16`;
  $.attr("ticks", {d});
  const sum = data.w0 + state.change, stored = Math.round(sum / step) * step, got = stored - data.w0;
  $.attr("sum", {cx: x(sum).toFixed(1)});
  $.attr("stored", {cx: x(stored).toFixed(1)});
  $.attr("move", {d: `M${x(sum).toFixed(1)} ${line - 27}L${x(stored).toFixed(1)} ${line - 7}`});
  $.text("wanted", state.change.toFixed(4));
  $.text("got", got.toFixed(4));
  const lost = state.change > 0 && got === 0;
  $.text("got-of", lost ? "change, stored: all of it is lost" : "change, stored");
  return `${state.format}: a change of ${state.change.toFixed(4)} is stored as ${got.toFixed(4)}${lost ? ", it is lost" : ""}.`;
}
