// The cut through the curves at the reference rank, and the bars of one allocation.
(state, data, $) => {
  const [left, wide, top, low, floor, tall] = data.box, plan = data.plans[`${state.order} ${state.budget} ${state.reference}`];
  const energy = data.at[state.reference], slot = wide / plan.length, x = left + wide * Math.log2(state.reference) / 6;
  $.attr("cut", {d: `M${x.toFixed(1)} ${top - 4}V${low + 3}`});
  plan.forEach((r, i) => {
    const at = left + slot * (i + .08), high = tall * r / 16;
    $.attr(`bar${i}`, {d: `M${at.toFixed(1)} ${floor}v-${high.toFixed(1)}h${(slot * .84).toFixed(1)}V${floor}z`});
    $.attr(`rank${i}`, {y: (floor - high - 4).toFixed(1)});
    $.text(`rank${i}`, r);
  });
  const sum = f => plan.reduce((t, r, i) => t + f(r, i), 0);
  $.text("squares", $.num(sum(r => r * r)));
  $.text("sum", $.num(sum(r => r)));
  $.text("thin", $.num(sum((r, i) => r * data.out[i])));
  const sign = state.order === "flat-first" ? 1 : -1, line = data.names.map((_, i) => i).sort((i, j) => sign * (energy[i] - energy[j]));
  const told = line.slice(0, 3).map(i => `${data.names[i]} (E = ${energy[i].toFixed(2)}, rank ${plan[i]})`).join(", ");
  $.text("first", `First in line: ${told}.`);
  return `Compared at rank ${state.reference}, ${state.order}, budget ${state.budget}. First in line: ${told}. ${plan.filter(r => r > 2).length} of ${plan.length} layers get more than rank 2; the ranks sum to ${sum(r => r)}.`;
}
