// The four parts of a step, by the formulas of ch08_plans; ledgers.py does the same sums for the first state.
(state, data, $) => {
  const [wide, top] = data.box, model = data.models[state.model], parts = Object.keys(data.parts);
  const plan = name => {
    const row = model.rows[name === "full" || name === "bitfit" ? name : `${name} ${state.where}`];
    if (!row) return null;
    const {r, batch} = state, length = Math.min(state.length, model.room);
    const [trained, frozen] = [row.trained, row.frozen].map(c => c.reduce((sum, v, k) => sum + v * r ** k, 0));
    const packed = state.packed && name !== "full" && name !== "lamda", half = state.precision !== "fp32";
    const own = name === "full" && half ? 2 : 4, remembered = {sgd: 0, adamw: 2 * own, master: own === 2 ? 12 : 8}[state.optimizer];
    const grown = c => c[0] + c[1] * length + c[2] * length ** 2 + c[3] * r * length;
    const [outside, each] = row.saved[state.precision];
    let saved = grown(outside) + model.blocks * grown(each);
    if (state.checkpointing) {
      const [ends, kept] = (model.checkpointed[name] || model.checkpointed.adapters)[state.precision];
      saved = grown(ends) + model.blocks * grown(kept) + grown(each);
    }
    const base = model.base[state.precision][packed ? 1 : 0];
    const out = {parameters: base + (name === "full" ? 0 : own * trained + frozen), gradients: own * trained, optimizer: remembered * trained, activations: batch * saved};
    return {...out, trained, packed, length, total: parts.reduce((sum, part) => sum + out[part], 0)};
  };
  const full = plan("full"), mine = plan(state.method);
  // The picture stands from the start: only what differs is written, since every write costs the page a layout.
  const at = data.at ||= {cells: [...$("rows").querySelectorAll("td")]};
  const say = (fits, why) => { $.text("fits", fits); $.text("fits-of", why); };
  $.fig.dataset.total = mine ? mine.total : "";
  const most = mine ? mine.total : 0;
  const least = most > 1.5e9 && most < 17e9 ? 20e9 : most >= 17e9 && most < 87e9 ? 100e9 : 1.15 * most;
  const power = 10 ** Math.floor(Math.log10(least)), end = [1, 2, 5, 10].map(k => k * power).find(n => n >= least * (1 - 1e-9));
  const bar = (name, plan) => {
    let x = 0;
    (at[`rects of ${name}`] ||= [...$(name).children]).forEach((rect, k) => {
      const w = mine ? Math.max(0, Math.min(wide, x + wide * plan[parts[k]] / end) - x) : 0;
      $.attr(rect, {x: x.toFixed(1), width: w.toFixed(1)});
      x += w;
    });
  };
  bar("bar", mine); bar("other", full);
  const marks = mine ? data.gpus.filter(([, n]) => .04 * end < n && n < end).map(([name, n]) => `<path d="M${(wide * n / end).toFixed(1)} ${top - 6}V112" stroke="currentColor" stroke-dasharray="3 3"/><text x="${(wide * n / end).toFixed(1)}" y="126" text-anchor="middle">${name}</text>`).join("") : "";
  $.html("marks", marks);
  const count = n => String(n).replace(/\B(?=(\d{3})+$)/g, ","), shown = plan => [...parts, "total"].map(part => $.bytes(plan[part])).concat(count(plan.trained));
  const columns = mine ? [shown(mine), shown(full)] : null;
  at.cells.forEach((cell, k) => $.text(cell, columns ? columns[k % 2][k >> 1] : ""));
  $.text("mine", mine ? $.bytes(mine.total) : "");
  $.text("full", mine ? `full fine-tuning: ${$.bytes(full.total)}${full.total > end ? " →" : ""}` : "");
  $.text("end", mine ? $.bytes(end) : "");
  if (!mine) {
    say("", "This model has no biases, so there is nothing that BitFit could train.");
    return "This model has no biases, so there is nothing that BitFit could train.";
  }
  const home = data.gpus.find(([, n]) => mine.total <= n), fits = home ? `fits ${home[0]}` : `${Math.ceil(mine.total / 80e9)} A100`;
  const notes = [home ? `${$.bytes(home[1])} of memory${home[0] === "8 A100" ? ", if the model is split between them" : ""}` : "of 80 GB each, if the model is split between them"];
  if (mine.length < state.length) notes.push(`this model reads ${mine.length} tokens at most`);
  if (state.packed && state.method === "full") notes.push("weights that are trained cannot be packed to 4 bits");
  if (state.packed && state.method === "lamda") notes.push("LaMDA is planned on weights that are not packed");
  say(fits, notes.join("; "));
  return `${$.bytes(mine.total)}: ${parts.map(part => `${data.words[part]} ${$.bytes(mine[part])}`).join(", ")}. Full fine-tuning ${$.bytes(full.total)}. ${fits}, ${notes.join("; ")}.`;
}
