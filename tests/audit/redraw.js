// How long each control of the page's figures takes: [{figure, control, value, ms}], the slowest first.
// A value is set as a person would set it, from another value each time, and every figure starts from the state it
// opens in. The time is that of the script and of the style and layout that follow, without painting. Where a figure
// leaves work to the frames that follow, the longest of them counts.
async (rounds) => {
  const nextFrame = window.requestAnimationFrame.bind(window);
  let waiting = 0, longest = 0;
  const timed = work => {
    document.body.getBoundingClientRect();  // nothing is left over from before
    const begin = performance.now();
    work();
    document.body.getBoundingClientRect();
    longest = Math.max(longest, performance.now() - begin);
  };
  window.requestAnimationFrame = work => {
    waiting++;
    return nextFrame(time => { waiting--; timed(() => work(time)); });
  };
  const cancel = window.cancelAnimationFrame.bind(window);
  window.cancelAnimationFrame = id => { if (id) waiting--; cancel(id); };
  const frames = async () => {
    do await new Promise(done => nextFrame(() => nextFrame(done))); while (waiting > 0);
  };
  const send = (el, kind) => el.dispatchEvent(new Event(kind, {bubbles: true}));
  const ways = (name, inputs) => {  // [[value, how it is set], …] for one control
    const el = inputs[0];
    if (el.type === "radio") return inputs.map(radio => [radio.value, () => { radio.checked = true; send(radio, "input"); }]);
    if (el.type === "checkbox") return [true, false].map(on => [on, () => { el.checked = on; send(el, "input"); }]);
    if (el.type === "button") return [["pressed", () => el.click()]];
    const set = value => { el.value = value; send(el, "input"); };
    if (el.type !== "range") return [...el.options].map(option => [option.value, () => set(option.value)]);
    return [["first", () => el.min], ["middle", () => (+el.min + +el.max) / 2], ["last", () => el.max]]
      .map(([where, value]) => [where, () => set(value())]);
  };
  const middle = times => [...times].sort((a, b) => a - b)[times.length >> 1];
  const found = [];
  for (const figure of document.querySelectorAll("figure.lo-fig")) {
    figure.scrollIntoView();  // what is out of sight is not laid out, and would cost nothing
    await frames();
    const inputs = [...figure.querySelectorAll("[data-control]")];
    const opening = inputs.map(el => [el, el.value, el.checked]);
    for (const control of new Set(inputs.map(el => el.dataset.control))) {
      const mine = inputs.filter(el => el.dataset.control === control), all = ways(control, mine);
      const times = all.map(() => []);
      for (let round = 0; round <= rounds; round++)
        for (const [k, [, set]] of all.entries()) {
          longest = 0;
          timed(set);
          await frames();
          if (round) times[k].push(longest);  // the first round compiles
        }
      all.forEach(([value], k) => found.push({figure: figure.id, control, value: String(value), ms: middle(times[k])}));
      for (const [el, value, checked] of opening) if (mine.includes(el)) { el.value = value; el.checked = checked; }
      if (mine[0].type !== "button") send(mine.find(el => el.checked) || mine[0], "input");
    }
  }
  return found.sort((a, b) => b.ms - a.ms);
}
