// Chosen layer, chosen targets, rank and model -> shapes, counts and a drawing to scale.
(state, data, $) => {
  const size = data.sizes[state.model], {d, layers, vocab, context, inner} = size, r = state.r;
  const [left, tall] = data.box, side = {d, "3d": 3 * d, inner};
  const shape = name => data.linear[name].shape.map(s => side[s]);
  const all = Object.keys(data.linear), targets = {c_attn: ["c_attn"], attention: ["c_attn", "c_proj"], all, none: []}[state.target];
  // the block
  [...all, ...Object.keys(data.other)].forEach(name => {
    $(`box-${name}`).setAttribute("class", "box" + (targets.includes(name) ? " adapted" : "") + (name === state.layer ? " on" : ""));
  });
  $.text("times", `${layers} such blocks`);
  // the matrices of the chosen layer
  const linear = data.linear[state.layer], adapted = targets.includes(state.layer), norm = state.layer.startsWith("ln");
  const [dOut, dIn] = linear ? shape(state.layer) : norm ? [2, d] : [vocab + context, d];
  const unit = tall / Math.max(dOut, dIn), thick = Math.max(2, r * unit), y = 44, hidden = adapted ? "visible" : "hidden";
  const at = (name, x, y, width, height, visibility) => $.attr(name, {x: x.toFixed(1), y: y.toFixed(1), width: width.toFixed(1), height: height.toFixed(1), visibility});
  at("W0", left + thick + 4, y + thick + 4, dIn * unit, Math.max(3, dOut * unit), "visible");
  at("A", left + thick + 4, y, dIn * unit, thick, hidden);
  at("B", left, y + thick + 4, thick, dOut * unit, hidden);
  const label = (name, x, y, visibility) => $.attr("label-" + name, {x: x.toFixed(1), y: y.toFixed(1), visibility});
  label("W0", left + thick + 4 + dIn * unit / 2 - 9, y + thick + 4 + dOut * unit / 2 + 4, linear ? "visible" : "hidden");
  label("A", left + thick + 4 + dIn * unit / 2 - 4, y - 5, hidden);
  label("B", left - 13, y + thick + 4 + dOut * unit / 2 + 4, hidden);
  $("plus").setAttribute("visibility", hidden);
  $.text("name", `${state.layer}`);
  // the numbers
  const times = (a, b) => `${$.num(a)} × ${$.num(b)} = ${$.num(a * b)}`;
  const key = (c, text) => `<span class="lo-keyed"><i class="lo-key" style="background:var(--${c})"></i>${text}</span>`;
  const rows = linear ? [["W0, frozen", times(dOut, dIn)], ...(adapted ? [[key("a", "A"), times(r, dIn)], [key("b", "B"), times(dOut, r)]] : [["A and B", "none here"]]), ["stored as", `${$.num(dIn)} × ${$.num(dOut)} (Conv1D)`]]
    : norm ? [["gain and shift, frozen", times(2, d)], ["A and B", "none here"]]
    : [["wte, frozen", times(vocab, d)], ["wpe, frozen", times(context, d)], ["A and B", "none here"]];
  $.text("does", `${state.layer} ${(linear || {}).does || data.other[state.layer]}`.replace(/^(ln_.|wte \+ wpe) /, "$1: "));
  $.html("facts", rows.map(([a, b]) => `<div><span>${a}</span><span>${b}</span></div>`).join(""));
  const frozen = all.map(shape).reduce((t, [o, i]) => t + o * i + o, 4 * d);
  const trainable = layers * targets.map(shape).reduce((t, [o, i]) => t + r * (o + i), 0);
  const total = (vocab + context) * d + layers * frozen + 2 * d + trainable;
  $.text("trainable", $.num(trainable));
  $.text("trainable-of", `numbers learn, of ${$.num(total)}: ${$.num(100 * trainable / total, 2)} %`);
  $.meter("share", trainable / total);
  return `${state.layer}: ${adapted ? `A is ${r} by ${dIn}, B is ${dOut} by ${r}` : "frozen, no LoRA here"}. In ${state.model}, ${$.num(trainable)} of ${$.num(total)} numbers learn.`;
}
