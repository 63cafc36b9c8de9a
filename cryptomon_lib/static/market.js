// One market, or several against each other: a measure over a window, its rank, the same pair elsewhere.

function marketView(page) {
  const value = page.figure("The measure over the window"), ratio = page.figure("Ratio to the mean of the hour before, with the line at three times");
  const rank = page.figure("Standard deviation of the market and its neighbours in rank");
  const name = element("h1"), where = element("p", { class: "cm-market-where" }), facts = element("dl", { class: "cm-facts" });
  const measures = choices("Measure", (measure) => page.go({ measure })), windows = choices("Window", (window) => page.go({ window })), kinds = choices("Drawn as", (kind) => page.go({ kind }));
  const compare = searchBox((market) => page.go({ compare: [...compared.map((one) => one.link), market].join(",") }), { id: "compare", label: "Compare with another market", placeholder: "+ compare with …" });
  const chips = element("div", { class: "cm-chips" });
  const valueTitle = element("span"), ratioTitle = element("span");
  const csv = element("button", { type: "button", class: "cm-action", onclick: () => save() }, "CSV");
  const rankParts = rankPart(page);
  const elsewhere = element("tbody");
  const ratioCard = card("ratio", ratioTitle, ratio.place), rankCard = card("rank", "Rank by variability", rankParts.top, rank.place, rankParts.foot);
  const elsewhereCard = card("elsewhere", "The same pair elsewhere", element("table", { class: "cm-small-table" },
    element("thead", {}, element("tr", {}, ["Exchange", "Price", "24 h", "Volume 24 h"].map((head, at) => element("th", { scope: "col", class: at ? "cm-number" : "" }, head)))), elsewhere));
  const root = element("div", { class: "cm-page" },
    element("section", { class: "cm-market" }, element("div", { class: "cm-market-name" }, name, where), facts, element("div", { class: "cm-pickers" }, measures.place, windows.place)),
    element("div", { class: "cm-grid" },
      element("div", { class: "cm-main" },
        card("value", valueTitle, element("div", { class: "cm-card-tools" }, kinds.place, chips, compare.box, csv), value.place), ratioCard),
      element("div", { class: "cm-side" }, rankCard, elsewhereCard)));
  let compared = [], newest = null, linked = false, clicked = false;

  function save() {
    const lines = [["series", "at_utc", "value"].join(",")];
    const quoted = (text) => `"${String(text).replaceAll('"', '""').replace(/^[=+\-@\t]/, "'$&")}"`;
    for (const trace of newest.value.data) {
      if (trace.hoverinfo === "skip") continue;
      const values = trace.y ?? trace.close;
      trace.x.forEach((at, row) => { if (values[row] != null) lines.push([quoted(trace.name), quoted(at), values[row]].join(",")); });
    }
    const link = element("a", { href: URL.createObjectURL(new Blob([`${lines.join("\n")}\n`], { type: "text/csv" })), download: `${newest.market.link.replace(/[^A-Za-z0-9-]+/g, "_")}_${newest.measure}_${newest.window}.csv` });
    link.click();
    URL.revokeObjectURL(link.href);
  }

  function describe(found) {
    const { market, unit, newest: last } = found;
    name.textContent = market.market ?? market.symbol;
    where.textContent = [market.exchange, market.kind, market.market && market.symbol !== market.market ? market.symbol : null, market.source !== market.exchange ? `via ${market.source}` : null].filter(Boolean).join(" · ");
    const fact = (title, written, style, hint) => element("div", { class: "cm-fact", title: hint }, element("dt", {}, title), element("dd", { class: style }, written));
    facts.replaceChildren(...[
      fact(`Price${market.quote ? ` ${market.quote}` : ""}`, price(market.price), "cm-fact-first"),
      fact("24 h", `${arrow(market.change_pct)}${percent(market.change_pct)}`, direction(market.change_pct)),
      ...(found.measure === "price" || last.value == null ? [] : [fact(`${found.words}${unit ? ` ${unit}` : ""}`, short(last.value))]),
      last.ratio_1h != null && fact("vs 1 h mean", multiple(last.ratio_1h), last.ratio_1h > 3 ? "cm-hot" : "", `${found.words}: the newest value as a multiple of the mean of the hour before it`),
      market.return_7d_pct != null && fact("7 d", percent(market.return_7d_pct), direction(market.return_7d_pct)),
      found.measure !== "spread_bps" && fact("Spread", market.spread_bps == null ? DASH : `${formatted(market.spread_bps, { maximumFractionDigits: 2 })} bps`),
      market.volatility_24h_pct != null && fact("Volatility a day", percent(market.volatility_24h_pct).replace("+", "")),
      found.measure !== "quote_volume_24h" && fact(`Volume 24 h${market.quote ? ` ${market.quote}` : ""}`, large(market.quote_volume_24h)),
    ].filter(Boolean));
    const how = found.compared.length ? "percent of change" : found.ratio ? "dotted: mean of the hour before" : "mean of each hour, from lowest to highest";
    valueTitle.replaceChildren(`${found.words}${unit && !found.compared.length ? ` in ${unit}` : ""}, ${written(found.window)}`, element("small", {}, found.kind === "candles" ? "hollow: rose, filled: fell" : how));
    ratioTitle.textContent = `${found.words} as a multiple of its 1 h mean`;
  }

  return {
    root, compare,
    question: ({ market = "", measure = "", window = "", kind = "", by = "", compare: others = "" }) => ["market", { market, measure, window, kind, by, compare: others }],
    fill(found) {
      newest = found;
      compared = found.compared;
      describe(found);
      measures.show(found.measures.map((measure) => [measure, spoken(measure)]), found.measure);
      windows.show(found.windows.map((window) => [window, written(window)]), found.window);
      kinds.place.hidden = found.kinds.length < 2;
      kinds.show(found.kinds.map((kind) => [kind, kind[0].toUpperCase() + kind.slice(1)]), found.kind);
      chips.replaceChildren(...compared.map((one) => element("button", { type: "button", class: "cm-chip", "aria-label": `Compare without ${one.name}`, onclick: () => page.go({ compare: compared.filter((other) => other !== one).map((other) => other.link).join(",") }) }, one.name, element("span", { "aria-hidden": "true" }, " ×"))));
      value.show(found.value);
      ratioCard.hidden = !found.ratio;
      if (found.ratio) ratio.show(found.ratio).then(() => {
        if (!linked && value.place.on && ratio.place.on) { linked = true; linkTimes(page.plotly, [value.place, ratio.place]); }
      });
      rankParts.place(found.rank);
      rank.place.hidden = !found.rank.figure;
      if (found.rank.figure) rank.show(found.rank.figure).then(() => {
        if (!clicked && rank.place.on) { clicked = true; rank.place.on("plotly_click", ({ points }) => page.go({ market: newest.rank.neighbours[points[0].y] })); }
      });
      elsewhereCard.hidden = found.elsewhere.length < 2;
      elsewhere.replaceChildren(...found.elsewhere.map((one) => element("tr", { class: one.market_id === found.market.market_id ? "cm-chosen" : "" },
        element("th", { scope: "row" }, element("button", { type: "button", class: "cm-pick", onclick: () => page.go({ market: one.market_id }) }, one.exchange, one.kind === "spot" ? "" : ` ${one.kind}`, found.elsewhere.filter((other) => other.exchange === one.exchange).length > 1 ? element("small", {}, one.symbol) : "")),
        element("td", { class: "cm-number" }, price(one.price)), element("td", { class: `cm-number ${direction(one.change_pct)}` }, percent(one.change_pct)), element("td", { class: "cm-number" }, large(one.quote_volume_24h)))));
      page.titled(`${found.market.market ?? found.market.symbol} ${price(found.market.price)}`);
      return { market: found.market.link, measure: found.measure, window: found.window, kind: found.kind === "line" ? "" : found.kind, compare: compared.map((one) => one.link).join(",") };
    },
  };
}

function rankPart(page) {
  const big = element("p", { class: "cm-place" });
  const by = element("div", { class: "cm-by", role: "group", "aria-label": "Rank by" });
  const foot = element("dl", { class: "cm-rank-facts" });
  return {
    top: element("div", { class: "cm-rank-top" }, big, by), foot,
    place(rank) {
      const choice = (name, title, hint) => element("button", { type: "button", "aria-pressed": String(rank.by === name), title: hint, onclick: () => page.go({ by: name }) }, title);
      by.replaceChildren(choice("stddev", "Std dev", "standard deviation over 24 h, in the measure's unit"), choice("cv", "Relative", "standard deviation as a share of the mean: comparable between currencies"));
      foot.replaceChildren();
      if (!rank.place) { big.replaceChildren(element("span", { class: "cm-says" }, rank.says ?? "")); return; }
      big.replaceChildren(element("strong", {}, `${whole(rank.place)}`), ` of ${whole(rank.places)}`, element("span", { class: "cm-place-hint" }, "1 is the most variable"));
      const fact = (title, said) => element("div", {}, element("dt", {}, title), element("dd", {}, said));
      foot.append(
        fact("Std dev 24 h", `${short(rank.stddev_24h)}${rank.unit ? ` ${rank.unit}` : ""}`),
        fact("Relative (cv)", rank.cv_24h == null ? DASH : percent(rank.cv_24h * 100).replace("+", "")),
        fact("Rank", formatted(rank.by === "cv" ? rank.rank_cv_24h : rank.rank_24h, { maximumFractionDigits: 3 })),
        fact("Samples", `${whole(rank.samples)} of ${whole(rank.expected)}`));
    },
  };
}
