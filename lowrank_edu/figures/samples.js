// The text of the chosen stop, with the words that only the style has marked.
(state, data, $) => {
  const at = state.stop, text = data.texts[at][+(state.story || 0)].trim(), marks = new Set(data.marks);
  const safe = t => t.replace(/&/g, "&amp;").replace(/</g, "&lt;"), bare = w => w.replace(/[.,!?"]/g, "") || w;
  $.html("text", text.split(" ").map(w => marks.has(bare(w)) ? `<mark>${safe(w)}</mark>` : safe(w)).join(" "));
  $.text("score", $.pct(data.score[at], 0));
  $.text("loss", $.num(data.loss[at], 2));
  $.meter("bar", data.score[at]);
  return `Step ${data.step[at]}: ${$.num(100 * data.score[at])} percent ${data.style} marks, loss ${$.num(data.loss[at], 2)}. ${text}`;
}
