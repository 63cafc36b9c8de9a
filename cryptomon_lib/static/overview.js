// The first page: the market at once, what is unusual in it, and whether to believe it.

function overviewView(page) {
  const chart = page.figure("The watchlist's prices over 24 hours, in percent of change");
  const breadth = element("div", { class: "cm-breadth" });
  const facts = element("dl", { class: "cm-facts" });
  const lists = Object.fromEntries(["spikes", "risen", "fallen", "variable", "gaps", "alerts"].map((name) => [name, element("ol", { class: `cm-list cm-list-${name}` })]));
  const sources = element("ul", { class: "cm-sources" });
  const table = marketTable((market) => page.go({ page: "market", market }));
  const open = (market, measure) => page.go({ page: "market", market, ...(measure ? { measure } : {}) });
  const root = element("div", { class: "cm-page" },
    element("section", { class: "cm-market", "aria-label": "The market" }, element("div", { class: "cm-market-name" }, element("h1", {}, "Market"), breadth), facts),
    element("div", { class: "cm-grid" },
      element("div", { class: "cm-main cm-main-one" }, card("watchlist", ["Watchlist, 24 h", element("small", {}, "percent of change")], chart.place)),
      element("div", { class: "cm-side" }, card("alerts", "Alerts firing", lists.alerts), card("spikes", "Above 3× its last hour", lists.spikes))),
    element("div", { class: "cm-thirds" },
      card("risen", "Risen most, 24 h", lists.risen), card("fallen", "Fallen most, 24 h", lists.fallen),
      card("variable", ["Most variable, 24 h", element("small", {}, "standard deviation of the mean")], lists.variable),
      card("gaps", ["Same pair, other price", element("small", {}, "between exchanges, now")], lists.gaps), card("sources", "Data", sources)),
    card("table", "All markets", element("div", { class: "cm-table-bar" }, table.filter, table.count), table.view));

  const line = (one, written, style, more) => element("li", {}, element("button", { type: "button", class: "cm-line", onclick: () => open(one.market_id, one.measure) },
    element("span", {}, element("b", {}, one.pair), element("small", {}, more ?? one.exchange)), element("span", { class: style }, written)));
  const fill = (list, rows, make, none) => list.replaceChildren(...(rows.length ? rows.map(make) : [element("li", { class: "cm-note" }, none)]));
  const fact = (title, written, style = "") => element("div", { class: "cm-fact" }, element("dt", {}, title), element("dd", { class: style }, written));

  return {
    root, table, sources,
    question: () => ["overview", {}],
    fill(found) {
      const { up, down, unchanged, unknown } = found.breadth;
      drawBreadth(breadth, found.breadth);
      const alerts = found.alerts.length;
      facts.replaceChildren(
        fact("Markets", whole(found.markets)), fact("Exchanges", whole(found.exchanges)),
        fact("Up", `▲ ${whole(up)}`, "cm-up"), fact("Down", `▼ ${whole(down)}`, "cm-down"), fact("Unchanged", whole(unchanged)),
        ...(unknown ? [fact("No 24 h price", whole(unknown))] : []), fact("Alerts firing", whole(alerts), alerts ? "cm-hot" : ""));
      fill(lists.alerts, found.alerts, (one) => line(one, multiple(one.ratio ?? one.value), "cm-hot", `${one.exchange} · ${one.rule} · since ${clock(one.fired_at)}`), "No alert is firing.");
      fill(lists.spikes, found.spikes, (one) => line(one, multiple(one.ratio_1h), "cm-hot", `${one.exchange} · ${one.words}`), "Nothing is above three times the mean of its last hour.");
      fill(lists.risen, found.risen, (one) => line(one, `${arrow(one.value)}${percent(one.value)}`, direction(one.value)), "No market has a price of 24 h ago yet.");
      fill(lists.fallen, found.fallen, (one) => line(one, `${arrow(one.value)}${percent(one.value)}`, direction(one.value)), "No market has a price of 24 h ago yet.");
      fill(lists.variable, found.variable, (one) => line(one, percent(one.value * 100).replace("+", ""), ""), "An hour of samples is needed first.");
      fill(lists.gaps, found.gaps, (one) => element("li", {}, element("button", { type: "button", class: "cm-line", onclick: () => open(one.high.market_id) },
        element("span", {}, element("b", {}, one.market), element("small", {}, `${one.low.exchange} ${price(one.low_price)} → ${one.high.exchange} ${price(one.high_price)}`)),
        element("span", {}, `${formatted(one.gap_bps, { maximumFractionDigits: 1 })} bps`))), "No pair is fresh on two exchanges.");
      chart.show(found.watchlist.figure);
    },
  };
}

function drawBreadth(place, { up, down, unchanged }) {
  const all = up + down + unchanged;
  place.hidden = !all;
  place.setAttribute("role", "img");
  place.setAttribute("aria-label", `${up} markets up, ${unchanged} unchanged, ${down} down in 24 hours`);
  const part = (count, style) => element("span", { class: style, style: `flex-grow:${count}` });
  place.replaceChildren(part(up, "cm-part-up"), part(unchanged, "cm-part-same"), part(down, "cm-part-down"));
}

function sourceLine(source, stale, old) {
  return element("li", { class: stale ? "cm-source-stale" : "" },
    element("span", {}, element("b", {}, source.source), element("small", {}, `${whole(source.samples)} of ${whole(source.expected)} min of 24 h`)),
    element("span", { class: "cm-source-age", title: utc(source.last_at) }, stale ? `stale: ${age(old)}` : age(old)));
}
