// Cards stay where Python put them and their words change places: for a card that moves, the browser goes through the
// styles of the whole page, which takes longer than a frame.
(state, data, $) => {
  const by = state.sort, rows = data.rows, asked = ["shape", "start", "scale", "schedule", "storage"].includes(by);
  const order = rows.map((_, i) => i);
  const text = (a, b) => a < b ? -1 : a > b ? 1 : 0;
  if (by === "trained") order.sort((i, j) => (rows[i].trained ?? Infinity) - (rows[j].trained ?? Infinity) || i - j);
  else if (by !== "table") order.sort((i, j) => text(rows[i][by].toLowerCase(), rows[j][by].toLowerCase()) || i - j);
  const stays = i => state.keep === "all" || rows[i][state.keep], kept = order.filter(stays);
  const cards = data.cards ||= $.all("[data-row]");
  const words = data.words ||= cards.map(card => [...card.querySelectorAll("b, .count, .use, dd, code"), card.querySelector(".by")].map(el => el.firstChild));
  const says = data.says ||= words.map(nodes => nodes.map(node => node.nodeValue));
  if (!data.waiting) data.open = new Set(cards.filter(card => card.open).map(card => +card.dataset.row));  // half of a move says nothing
  data.waiting = cards.length;
  const answer = i => asked ? `${by}: ${rows[i][by]}` : "", say = (node, word) => node.nodeValue !== word && (node.nodeValue = word, true);
  [...kept, ...order.filter(i => !stays(i))].forEach((i, at) => $.later(cards[at], .7, () => {  // six a frame
    const card = cards[at], away = at >= kept.length, open = data.open.has(i);
    data.waiting--;
    card.dataset.row = i;
    if (card.hidden !== away) card.hidden = away;
    if (card.open !== open) card.open = open;
    const said = [...says[i].slice(0, -1), answer(i)];
    return words[at].filter((node, k) => say(node, said[k])).length > 0;
  }));
  $.all("[data-dot]").forEach(dot => $.attr(dot, {"fill-opacity": kept.includes(+dot.dataset.dot) ? ".7" : ".12"}));
  const counts = kept.map(i => rows[i].trained).filter(n => n !== null);
  $.text("shown", kept.length);
  $.text("answers", asked ? new Set(kept.map(i => rows[i][by])).size : `${$.num(Math.min(...counts))} – ${$.num(Math.max(...counts))}`);
  $.text("answers-of", asked ? `different answers to “${by}”` : "trained numbers, least to most");
  return `${kept.length} methods, ${data.filters[state.keep]}, sorted by ${data.sorts[by]}. First: ${kept.slice(0, 3).map(i => rows[i].name).join(", ")}.`;
}
