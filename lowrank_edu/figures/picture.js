// B @ A, one pattern after another; the picture is made here, not loaded.
(state, data, $) => {
  const {B, A, scale, kept} = data, [m, count] = B.shape, n = A.shape[1], r = state.r;
  const add = (W, from, to) => {
    for (let k = from; k < to; k++)
      for (let i = 0; i < m; i++) {
        const b = scale[k] * B[i * count + k];
        for (let j = 0; j < n; j++) W[i * n + j] += b * A[k * n + j];
      }
    return W;
  };
  // Sums of the first 0, 10, 20 … patterns are made once, so that a step of the slider adds nine at most.
  data.sums ||= Array.from({length: Math.floor(count / 10) + 1}).reduce((sums, _, k) => [...sums, k ? add(sums[k - 1].slice(), 10 * k - 10, 10 * k) : new Float32Array(m * n)], []);
  const copy = r => { const k = Math.floor(r / 10); return add(data.sums[k].slice(), 10 * k, r); };
  let W;
  if (state.show === "pattern") W = add(new Float32Array(m * n), r - 1, r);
  else if (state.show === "copy") W = copy(r);
  else { const near = copy(r); W = copy(count).map((v, i) => v - near[i]); }
  // The copy is grey; a pattern is measured by its own strongest pixel, what is missing by one fixed length.
  let hi = .6;
  if (state.show === "pattern") { hi = 1e-9; for (const v of W) if (Math.abs(v) > hi) hi = Math.abs(v); }
  $.heat("picture", W, m, n, state.show === "copy" ? {lo: -1, hi: 1} : {hi, map: "signed"});
  const numbers = r * (m + n), lost = Math.max(0, 1 - kept[r - 1]);
  $.text("energy", $.pct(kept[r - 1]));
  $.text("error", $.pct(Math.sqrt(lost)));
  $.text("numbers", $.num(numbers));
  $.meter("bar", numbers / (m * n));
  return `Rank ${r} keeps ${$.num(100 * kept[r - 1], 1)} percent of the energy with ${$.num(numbers)} numbers instead of ${$.num(m * n)}.`;
}
