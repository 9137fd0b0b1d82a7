// The search page: words lead to the sections that hold them, the best first, each with its sentence. What is searched
// stands in sections.js (book/tools/sections.py), MiniSearch ranks it, and Sphinx's language_data.js has the stems.
(() => {
  const WORD = /[\p{L}\p{N}]+(?:[-_’'][\p{L}\p{N}]+)*/gu, MARK = /[-_’']/u, SHOWN = 40, FEW = 5;
  // British and American spellings are one: quantisation, behaviour, modelling, centre
  const SPELLINGS = [
    [/is(e[drs]?|ers|ing|able|ations?)$/, "iz$1"], [/ys(e[drs]?|ers|ing)$/, "yz$1"],
    [/(..)our(s|ed|ing|al|able|less)?$/, "$1or$2"], [/(mod|lab|canc|sign|chann)ell(ed|ing)$/, "$1el$2"],
    [/(cent|met|lit)re(s?)$/, "$1er$2"],
  ];
  // Words with which people ask, and which every page has
  const ASKING = new Set("what how why when where who which do does did can should my i you we me much many too".split(" "));
  const stemmer = new Stemmer();
  const fields = ["title", "page", "text", "code"];

  function stem(word) {
    const plain = word.toLowerCase().normalize("NFD").replace(/\p{M}/gu, "");
    if (stopwords.includes(plain) || ASKING.has(plain)) return null;
    return stemmer.stemWord(SPELLINGS.reduce((text, [from, to]) => text.replace(from, to), plain));
  }

  // lo.adapt is called adapt
  const spoken = text => text.replace(/\blo\.(?=\w)/g, "").match(WORD) ?? [];
  // fine-tuning is found as finetuning and as two words
  function tokens(text) {
    return spoken(text).flatMap(word => {
      const parts = word.split(MARK);
      return parts.length > 1 ? [...parts, parts.join("")] : parts;
    });
  }

  const stems = text => tokens(text).map(stem).filter(Boolean).join(" ");
  const all = words => ({combineWith: "AND", queries: words});
  function question(text) {
    const known = spoken(text).map(word => word.split(MARK).filter(stem)).filter(parts => parts.length);
    return known.map(parts => parts.length > 1 ? {combineWith: "OR", queries: [parts.join(""), all(parts)]} : parts[0]);
  }

  const index = new MiniSearch({fields, tokenize: tokens, processTerm: stem, searchOptions: {
    boost: {title: 5, page: 1.5, code: 0.3}, prefix: term => term.length > 3,
    boostDocument: id => ({text: 1, term: 1.5, name: 0.5})[SECTIONS[id][3]],
  }});
  index.addAll(SECTIONS.map(([, title, page, , text, code], id) => ({id, title, page, text, code})));

  // All words; else all of them with a letter amiss (a short word is then another word). If those are few, some of the words
  function found(text) {
    const words = question(text), near = term => term.length > 4 ? 0.2 : 0;
    if (!words.length) return {whole: [], part: []};
    const ask = (combineWith, fuzzy) => together(index.search({combineWith, queries: words}, {fuzzy}), text);
    let whole = ask("AND", 0);
    if (!whole.length) whole = ask("AND", near);
    const ids = new Set(whole.map(({id}) => id));
    const part = words.length > 1 && whole.length < FEW ? ask("OR", whole.length ? 0 : near).filter(({id}) => !ids.has(id)) : [];
    return {whole, part};
  }

  // What is called as it was asked for comes first; words that stand together as they were asked for count more
  function together(hits, text) {
    const asked = text.toLowerCase().trim(), name = stems(asked);
    const weight = ({id, score}) => {
      const [, title, ...rest] = SECTIONS[id];
      if (stems(title) === name) return score * 2;
      return [title, ...rest].some(part => part.toLowerCase().includes(asked)) ? score * 1.5 : score;
    };
    return hits.sort((a, b) => weight(b) - weight(a));
  }

  const matched = (word, terms) => tokens(word).some(token => terms.has(stem(token)));

  // The sentence with most of the words, and those after it while there is room
  function excerpt(text, terms) {
    if (text.length <= 320) return text.replaceAll("\n", " ");
    const sentences = text.split(/\n|(?<=[.?!])\s+/u);
    const held = sentences.map(one => new Set(tokens(one).map(stem).filter(term => terms.has(term))).size);
    const best = held.indexOf(Math.max(...held));
    let end = best + 1;
    while (end < sentences.length && sentences.slice(best, end + 1).join(" ").length < 260) end += 1;
    const whole = sentences.slice(best, end).join(" ");
    if (whole.length <= 320) return whole;
    const at = [...whole.matchAll(WORD)].find(([word]) => matched(word, terms))?.index ?? 0;
    const from = at < 200 ? 0 : whole.indexOf(" ", at - 100) + 1;
    return (from ? "… " : "") + whole.slice(from, whole.lastIndexOf(" ", from + 300)) + " …";
  }

  function element(name, className, ...content) {
    const made = document.createElement(name);
    if (className) made.className = className;
    made.append(...content);
    return made;
  }

  function marked(text, terms) {
    const parts = [];
    let last = 0;
    for (const {0: word, index: at} of text.matchAll(WORD)) {
      if (!matched(word, terms)) continue;
      parts.push(text.slice(last, at), element("mark", "", word));
      last = at + word.length;
    }
    return [...parts, text.slice(last)];
  }

  function item({id, terms}) {
    const [url, title, page, , text] = SECTIONS[id], held = new Set(terms);
    const link = element("a", "", ...marked(page === title ? page : `${page} › ${title}`, held));
    link.href = url;
    return element("li", "", link, element("p", "context", ...marked(excerpt(text, held), held)));
  }

  const places = count => count === 1 ? "one place" : `${count} places`;
  function told(whole, part) {
    if (!whole && !part) return "Nothing in the book has these words.";
    if (!whole) return `No section has all these words; ${places(part)} with some of them:`;
    const all = `Found in ${places(whole)}`;
    return all + (part ? `, and ${places(part)} with some of the words:` : whole > SHOWN ? `; the best ${SHOWN} are shown.` : ".");
  }

  // The page that a hit leads to marks the words, once (Sphinx's sphinx_highlight.js)
  function remember(text) {
    const words = spoken(text).flatMap(word => word.toLowerCase().split(MARK)).filter(stem);
    localStorage.setItem("sphinx_highlight_terms", words.join(" "));
  }

  function show(text) {
    const {whole, part} = found(text), hits = [...whole, ...part].slice(0, SHOWN);
    const box = document.getElementById("search-results");
    box.querySelector(".search-summary").textContent = text.trim() && told(whole.length, part.length);
    box.querySelector(".search")?.remove();
    if (!hits.length) return;
    const list = element("ul", "search", ...hits.map(item));
    list.addEventListener("click", () => remember(text));
    box.append(list);
  }

  addEventListener("DOMContentLoaded", () => {
    const box = document.getElementById("search-results"), asked = new URLSearchParams(location.search).get("q") ?? "";
    const status = element("p", "search-summary");
    status.setAttribute("role", "status");
    box.append(status);
    document.querySelectorAll("input[name=q]").forEach(input => { input.value = asked; });
    document.querySelector(".bd-search-container input").addEventListener("input", ({target}) => {
      history.replaceState(null, "", `?q=${encodeURIComponent(target.value)}`);
      show(target.value);
    });
    show(asked);
  });
})();
