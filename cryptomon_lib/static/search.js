// The search over all markets: a few letters of pair, currency or exchange, in any order.

const SUGGESTED = 12;

function searchIndex(table) {
  return table.market_id.map((id, row) => {
    const [base, quote, exchange] = [table.base[row], table.quote[row], table.exchange[row]].map((word) => (word ?? "").toLowerCase());
    const pair = (table.market[row] ?? table.symbol[row]).toLowerCase();
    const whole = [id.toLowerCase(), `${exchange}:${pair}`, `${exchange}:${table.symbol[row].toLowerCase()}`];
    return { whole, row, id, base, quote, exchange, text: `${base} ${quote} ${exchange} ${pair} ${table.symbol[row].toLowerCase()} ${table.kind[row]}`, weight: Math.log10(1 + (table.quote_volume_24h[row] ?? 0)) };
  });
}

// how well one typed word fits a market: a whole name, its beginning, a part, its letters in order; 0 is not at all
function fit(word, market) {
  if (word === market.base) return 100;
  if (word === market.quote || word === market.exchange) return 80;
  if (market.base.startsWith(word)) return 60 - market.base.length;
  if (market.exchange.startsWith(word) || market.quote.startsWith(word)) return 40 - market.quote.length;
  if (market.text.includes(word)) return 20;
  return word.length > 2 && inOrder(word, market.text) ? 5 : 0;
}

function inOrder(word, text) {
  let at = -1;
  return [...word].every((letter) => (at = text.indexOf(letter, at + 1)) >= 0);
}

function search(index, typed) {
  const words = typed.toLowerCase().split(/[\s:/_-]+/).filter(Boolean);
  const name = typed.trim().toLowerCase();
  const found = [];
  for (const market of index) {
    // a link's own words, pasted, find that market and no other first
    const exact = market.whole.includes(name);
    let score = market.weight / 2 + (exact ? 1000 : 0);
    for (const word of exact ? [] : words) {
      const fits = fit(word, market);
      if (!fits) { score = -1; break; }
      score += fits;
    }
    if (score >= 0) found.push({ market, score });
  }
  return found.sort((one, other) => other.score - one.score || (one.market.id < other.market.id ? -1 : 1)).map(({ market }) => market);
}

// a combobox as the ARIA practices describe it; picked is called with a market_id, likely with one that may be picked next
function searchBox(picked, { likely = () => {}, id = "market", label = "Find a market", placeholder = "Find a market: btc usd kr" } = {}) {
  let index = [], table = null, shown = [], active = -1;
  const input = element("input", {
    class: "cm-search-input", type: "search", role: "combobox", placeholder, autocomplete: "off", spellcheck: "false",
    "aria-label": label, "aria-expanded": "false", "aria-controls": `cm-suggestions-${id}`, "aria-autocomplete": "list",
  });
  const list = element("ul", { id: `cm-suggestions-${id}`, class: "cm-suggestions", role: "listbox", "aria-label": "Markets", hidden: true });
  const box = element("div", { class: "cm-search" }, input, id === "market" ? element("kbd", { class: "cm-key", "aria-hidden": "true" }, "/") : null, list);

  function close() {
    list.hidden = true;
    active = -1;
    input.setAttribute("aria-expanded", "false");
    input.removeAttribute("aria-activedescendant");
  }

  function mark(next) {
    active = next;
    [...list.querySelectorAll("[role=option]")].forEach((option, at) => option.setAttribute("aria-selected", String(at === active)));
    list.querySelector("[aria-selected=true]")?.scrollIntoView({ block: "nearest" });
    if (active >= 0) {
      input.setAttribute("aria-activedescendant", `cm-option-${id}-${active}`);
      if (input.value) likely(shown[active].id);
    }
  }

  function choose(at) {
    if (!shown[at]) return;
    picked(shown[at].id);
    input.value = "";
    close();
    input.blur();
  }

  function suggest() {
    if (!table) {
      // what was typed is looked for when the markets have come
      list.replaceChildren(element("li", { class: "cm-option-note", role: "presentation" }, "Reading the markets…"));
      list.hidden = false;
      return;
    }
    const found = search(index, input.value);
    shown = found.slice(0, SUGGESTED);
    const options = shown.map((market, at) => element(
      "li", { id: `cm-option-${id}-${at}`, role: "option", "aria-selected": "false", "data-market": market.id, onpointerdown: (event) => { event.preventDefault(); choose(at); }, onpointerenter: () => likely(market.id) },
      element("span", { class: "cm-option-pair" }, table.market[market.row] ?? table.symbol[market.row]),
      element("span", { class: "cm-option-where" }, `${table.exchange[market.row]}${table.kind[market.row] === "spot" ? "" : ` ${table.kind[market.row]}`} · ${table.symbol[market.row]}`),
      element("span", { class: "cm-option-price" }, price(table.price[market.row])),
    ));
    const rest = found.length - shown.length;
    const note = !found.length ? `No market fits. ${whole(index.length)} are known.` : rest ? `${whole(rest)} more: type on` : "";
    list.replaceChildren(...options, ...(note ? [element("li", { class: "cm-option-note", role: "presentation" }, note)] : []));
    list.hidden = false;
    input.setAttribute("aria-expanded", "true");
    mark(shown.length ? 0 : -1);
  }

  input.addEventListener("input", suggest);
  input.addEventListener("focus", suggest);
  input.addEventListener("blur", close);
  input.addEventListener("keydown", (event) => {
    if (event.key === "ArrowDown" || event.key === "ArrowUp") {
      event.preventDefault();
      if (list.hidden) suggest();
      else if (shown.length) mark((active + (event.key === "ArrowDown" ? 1 : shown.length - 1)) % shown.length);
    } else if (event.key === "Enter") choose(active);
    else if (event.key === "Escape") { close(); input.blur(); }
  });
  return {
    box,
    focus: () => input.focus(),
    open: () => !list.hidden,
    fill(next) { table = next; index = searchIndex(next); if (!list.hidden) suggest(); },
  };
}
