// The table of all markets: sorted and filtered here, and only the rows in sight are elements.

const ROW_PX = 38;
const SPARE_ROWS = 6;

const COLUMNS = [
  { name: "market", head: "Market", text: true },
  { name: "price", head: "Price", write: price, hint: "in quote currency" },
  { name: "return_1h_pct", head: "1 h", write: percent, style: direction, wide: true },
  { name: "change_pct", head: "24 h", write: (value) => `${arrow(value)}${percent(value)}`, style: direction },
  { name: "ratio_1h_volume_1m", head: "Volume vs 1 h", write: multiple, style: (value) => (value > 3 ? "cm-hot" : ""), hint: "the newest minute's volume as a multiple of the mean of the hour before it" },
  { name: "volatility_24h_pct", head: "Volatility", write: (value) => percent(value).replace("+", ""), wide: true, hint: "a day, from hourly returns" },
  { name: "spread_bps", head: "Spread", write: (value) => (value == null ? DASH : `${formatted(value, { maximumFractionDigits: 1, minimumFractionDigits: 1 })} bps`), wide: true },
  { name: "quote_volume_24h", head: "Volume 24 h", write: large, wide: true, hint: "in quote currency, rolling" },
  { name: "at", head: "Seen", write: null, wide: true },
];

function marketTable(picked) {
  let table = null, rows = [], chosen = "", sort = { name: "quote_volume_24h", down: true }, drawn = "";
  const filter = element("input", { class: "cm-filter", type: "search", placeholder: "Filter: usd kraken", "aria-label": "Filter the table", spellcheck: "false", oninput: () => arrange() });
  const count = element("p", { class: "cm-count", role: "status" });
  const heads = COLUMNS.map((column) => element(
    "th", { scope: "col", class: [column.text ? "" : "cm-number", column.wide ? "cm-wide" : ""].join(" "), title: column.hint },
    element("button", { type: "button", "data-sort": column.name, onclick: () => sortBy(column) }, column.head),
  ));
  const body = element("tbody");
  const view = element("div", { class: "cm-table-view", tabindex: "0", role: "region", "aria-label": "Latest prices" },
    element("table", { class: "cm-table" }, element("thead", {}, element("tr", {}, heads)), body));
  view.addEventListener("scroll", () => draw());
  new ResizeObserver(() => draw()).observe(view);

  function sortBy(column) {
    sort = { name: column.name, down: sort.name === column.name ? !sort.down : !column.text };
    view.scrollTop = 0;
    arrange();
  }

  function arrange() {
    if (!table) return;
    const words = filter.value.toLowerCase().split(/[\s:/_-]+/).filter(Boolean);
    const fits = (row) => words.every((word) => table.text[row].includes(word));
    const values = sort.name === "market" ? table.name : table[sort.name];
    const sign = sort.down ? -1 : 1;
    rows = table.market_id.map((_, row) => row).filter(fits);
    rows.sort((one, other) => {
      const [a, b] = [values[one], values[other]];
      // what is absent comes last, whichever way
      if (a == null || b == null) return (a == null) - (b == null) || one - other;
      return a === b ? one - other : (a < b ? -1 : 1) * sign;
    });
    heads.forEach((head, at) => head.setAttribute("aria-sort", COLUMNS[at].name !== sort.name ? "none" : sort.down ? "descending" : "ascending"));
    const all = table.market_id.length;
    count.textContent = rows.length === all ? `${whole(all)} markets` : `${whole(rows.length)} of ${whole(all)} markets`;
    draw(true);
  }

  function cells(row) {
    return COLUMNS.map((column) => {
      const value = table[column.name][row];
      const style = [column.text ? "" : "cm-number", column.wide ? "cm-wide" : "", column.style?.(value) ?? ""].join(" ");
      if (column.text) {
        return element("th", { scope: "row" }, element("button", { type: "button", class: "cm-pick", "data-market": table.market_id[row], onclick: () => picked(table.market_id[row]) },
          element("span", { class: "cm-pair" }, table.name[row]), element("span", { class: "cm-where" }, table.exchange[row])));
      }
      return element("td", { class: style }, column.write ? column.write(value) : time(value, clock));
    });
  }

  function draw(anew = false) {
    if (!table) return;
    const first = Math.max(0, Math.floor(view.scrollTop / ROW_PX) - SPARE_ROWS);
    const last = Math.min(rows.length, first + Math.ceil((view.clientHeight || 480) / ROW_PX) + 2 * SPARE_ROWS);
    if (!anew && drawn === `${first} ${last}`) return;
    drawn = `${first} ${last}`;
    const spacer = (count) => element("tr", { class: "cm-spacer", "aria-hidden": "true", style: `height:${count * ROW_PX}px` });
    const held = view.contains(document.activeElement) ? document.activeElement.dataset.market : null;
    body.replaceChildren(
      spacer(first),
      ...rows.slice(first, last).map((row) => element("tr", { class: table.market_id[row] === chosen ? "cm-chosen" : "" }, cells(row))),
      spacer(rows.length - last),
    );
    if (held) [...body.querySelectorAll(".cm-pick")].find((button) => button.dataset.market === held)?.focus({ preventScroll: true });
    if (!rows.length) body.replaceChildren(element("tr", {}, element("td", { colspan: COLUMNS.length, class: "cm-none" }, "No market fits this filter.")));
  }

  return {
    filter, count, view,
    fill(next, market) {
      table = { ...next, name: next.market.map((pair, row) => pair ?? next.symbol[row]) };
      table.text = table.name.map((name, row) => `${name} ${table.exchange[row]} ${table.symbol[row]} ${table.kind[row]}`.toLowerCase());
      chosen = market;
      arrange();
    },
    choose(market) { chosen = market; draw(true); },
  };
}
