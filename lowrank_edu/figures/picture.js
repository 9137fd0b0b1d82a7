// B @ A, one pattern after another; the picture is made here, not loaded.
(state, data, $) => {
  const {B, A, scale, kept} = data, [m, count] = B.shape, n = A.shape[1], r = state.r;
  const [from, to] = {copy: [0, r], pattern: [r - 1, r], rest: [r, count]}[state.show];
  const W = new Float32Array(m * n);
  for (let k = from; k < to; k++)
    for (let i = 0; i < m; i++) {
      const b = scale[k] * B[i * count + k];
      for (let j = 0; j < n; j++) W[i * n + j] += b * A[k * n + j];
    }
  // The copy is grey; a pattern is measured by its own strongest pixel, what is missing by one fixed length.
  const hi = state.show === "rest" ? .6 : W.reduce((t, v) => Math.max(t, Math.abs(v)), 1e-9);
  $.heat("picture", W, m, n, state.show === "copy" ? {lo: -1, hi: 1} : {hi, map: "signed"});
  const numbers = r * (m + n), lost = Math.max(0, 1 - kept[r - 1]);
  $.text("energy", $.pct(kept[r - 1]));
  $.text("error", $.pct(Math.sqrt(lost)));
  $.text("numbers", $.num(numbers));
  $.meter("bar", numbers / (m * n));
  return `Rank ${r} keeps ${$.num(100 * kept[r - 1], 1)} percent of the energy with ${$.num(numbers)} numbers instead of ${$.num(m * n)}.`;
}
