// Cards stay as Python wrote them: they are put in order, hidden or shown, and say their answer to the question sorted by.
(state, data, $) => {
  const by = state.sort, rows = data.rows, asked = ["shape", "start", "scale", "schedule", "storage"].includes(by);
  const order = rows.map((_, i) => i);
  const text = (a, b) => a < b ? -1 : a > b ? 1 : 0;
  if (by === "trained") order.sort((i, j) => (rows[i].trained ?? Infinity) - (rows[j].trained ?? Infinity) || i - j);
  else if (by !== "table") order.sort((i, j) => text(rows[i][by].toLowerCase(), rows[j][by].toLowerCase()) || i - j);
  const kept = order.filter(i => state.keep === "all" || rows[i][state.keep]);
  const box = $("cards"), cards = data.cards ||= rows.map((_, i) => box.querySelector(`[data-row="${i}"]`));
  const label = i => asked ? `${by}: ${rows[i][by]}` : "";
  order.forEach((i, at) => {  // the first in sight first; four a frame
    const card = cards[i], hidden = !kept.includes(i);
    $.later(card, 1.2, () => {
      const moved = box.children[at] !== card;
      if (moved) box.insertBefore(card, box.children[at]);
      if (card.hidden !== hidden) card.hidden = hidden;
      $.text(card.querySelector(".by"), label(i));
      return moved;
    });
  });
  $.all("[data-dot]").forEach(dot => $.attr(dot, {"fill-opacity": kept.includes(+dot.dataset.dot) ? ".7" : ".12"}));
  const counts = kept.map(i => rows[i].trained).filter(n => n !== null);
  $.text("shown", kept.length);
  $.text("answers", asked ? new Set(kept.map(i => rows[i][by])).size : `${$.num(Math.min(...counts))} – ${$.num(Math.max(...counts))}`);
  $.text("answers-of", asked ? `different answers to “${by}”` : "trained numbers, least to most");
  return `${kept.length} methods, ${data.filters[state.keep]}, sorted by ${data.sorts[by]}. First: ${kept.slice(0, 3).map(i => rows[i].name).join(", ")}.`;
}
