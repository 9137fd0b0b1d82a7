// The four parts of a step, by the formulas of ch08_plans; ledgers.py does the same sums for the first state.
(state, data, $) => {
  const [wide, top, high] = data.box, model = data.models[state.model], parts = Object.keys(data.parts);
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
  $.fig.dataset.total = mine ? mine.total : "";
  if (!mine) {
    ["bar", "other", "marks", "rows"].forEach(name => $.html(name, ""));
    ["mine", "full", "end", "fits"].forEach(name => $.text(name, ""));
    $.text("fits-of", "This model has no biases, so there is nothing that BitFit could train.");
    return "This model has no biases, so there is nothing that BitFit could train.";
  }
  const least = mine.total > 1.5e9 && mine.total < 17e9 ? 20e9 : mine.total >= 17e9 && mine.total < 87e9 ? 100e9 : 1.15 * mine.total;
  const power = 10 ** Math.floor(Math.log10(least)), end = [1, 2, 5, 10].map(k => k * power).find(n => n >= least * (1 - 1e-9));
  const bar = (plan, y, high) => {
    let x = 0;
    return parts.map(part => {
      const w = Math.max(0, Math.min(wide, x + wide * plan[part] / end) - x), at = x;
      x += w;
      return `<rect x="${at.toFixed(1)}" y="${y}" width="${w.toFixed(1)}" height="${high}" fill="var(--${data.parts[part]})"/>`;
    }).join("");
  };
  $.html("bar", bar(mine, top, high));
  $.html("other", bar(full, 78, 14));
  $.text("mine", $.bytes(mine.total));
  $.text("full", `full fine-tuning: ${$.bytes(full.total)}${full.total > end ? " →" : ""}`);
  $.text("end", $.bytes(end));
  $.html("marks", data.gpus.filter(([, n]) => .04 * end < n && n < end).map(([name, n]) => `<path d="M${(wide * n / end).toFixed(1)} ${top - 6}V112" stroke="currentColor" stroke-dasharray="3 3"/><text x="${(wide * n / end).toFixed(1)}" y="126" text-anchor="middle">${name}</text>`).join(""));
  const line = (word, a, b) => `<tr><th scope="row">${word}</th><td>${a}</td><td>${b}</td></tr>`;
  $.html("rows", parts.map(part => line(data.words[part], $.bytes(mine[part]), $.bytes(full[part]))).join("") + line("all", $.bytes(mine.total), $.bytes(full.total)) + line("trained", $.num(mine.trained), $.num(full.trained)));
  const home = data.gpus.find(([, n]) => mine.total <= n), fits = home ? `fits ${home[0]}` : `${Math.ceil(mine.total / 80e9)} A100`;
  const notes = [home ? `${$.bytes(home[1])} of memory${home[0] === "8 A100" ? ", if the model is split between them" : ""}` : "of 80 GB each, if the model is split between them"];
  if (mine.length < state.length) notes.push(`this model reads ${mine.length} tokens at most`);
  if (state.packed && state.method === "full") notes.push("weights that are trained cannot be packed to 4 bits");
  if (state.packed && state.method === "lamda") notes.push("LaMDA is planned on weights that are not packed");
  $.text("fits", fits);
  $.text("fits-of", notes.join("; "));
  return `${$.bytes(mine.total)}: ${parts.map(part => `${data.words[part]} ${$.bytes(mine[part])}`).join(", ")}. Full fine-tuning ${$.bytes(full.total)}. ${fits}, ${notes.join("; ")}.`;
}
