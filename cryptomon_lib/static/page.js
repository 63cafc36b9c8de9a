// The page: what the model holds, as a viewer sees it, and what a viewer does, as messages to the kernel.

const HERE_MS = 15000;
// the kernel answers each "here"; one that waits longer for its answer finds it gone, or busy beyond use
const SILENT_MS = 20000;
const STALE_CADENCES = 3;

const card = (name, title, ...children) => element("section", { class: `cm-card cm-card-${name}`, "aria-labelledby": `cm-title-${name}` }, element("h2", { id: `cm-title-${name}` }, title), ...children);

function render({ model, el, host = {} }) {
  const root = element("div", { class: "cm" });
  const parts = { ...headerPart(model, pick), ...marketPart(model, pick), ...rankPart(model, pick) };
  const spikes = element("ol", { class: "cm-spikes" });
  const sources = element("ul", { class: "cm-sources" });
  const table = marketTable((market) => { pick({ market }); root.scrollIntoView({ behavior: "smooth" }); });
  const failed = (error) => banner("error", `A chart could not be drawn: ${error.message}`);
  const plotly = host.plotly ?? plotlyFromKernel(model);
  plotly.catch(failed);
  const palettes = model.get("about").palettes;
  const value = figurePlace(palettes, plotly, failed, "The measure over the last 24 hours");
  const ratio = figurePlace(palettes, plotly, failed, "Ratio to the mean of the hour before, with the line at three times");
  const rank = figurePlace(palettes, plotly, failed, "Standard deviation of the market and its neighbours in rank");
  const banners = element("div", { class: "cm-banners" });
  const full = element("div", { class: "cm-full" },
    parts.market,
    element("div", { class: "cm-grid" },
      element("div", { class: "cm-main" }, card("value", parts.valueTitle, value.place), card("ratio", parts.ratioTitle, ratio.place)),
      element("div", { class: "cm-side" },
        card("rank", "Rank by variability", parts.rankTop, rank.place, parts.rankFoot),
        card("spikes", "Above 3× now", spikes),
        card("sources", "Sources", sources))),
    card("table", "Latest prices", element("div", { class: "cm-table-bar" }, table.filter, table.count), table.view));
  const empty = element("section", { class: "cm-empty", hidden: true });
  root.append(parts.header, banners, full, empty);
  el.append(root);

  let skew = 0, unanswered = null, connection = host.links ? "connecting" : "open", linked = false, clicked = false;
  const now = () => Date.now() + skew;

  function pick(wanted) {
    root.setAttribute("aria-busy", "true");
    model.send({ type: "show", ...wanted });
  }

  function banner(kind, says, action) {
    const shown = banners.querySelector(`[data-kind=${kind}]`);
    if (!says) return shown?.remove();
    if (shown?.dataset.says === says) return undefined;
    const made = element("p", { class: `cm-banner cm-${kind}`, "data-kind": kind, "data-says": says, role: kind === "hint" ? "status" : "alert" }, says, action);
    return shown ? shown.replaceWith(made) : banners.append(made);
  }

  const drawn = {
    about() {
      const { simulated, environment, as_of } = model.get("about");
      root.dataset.simulated = String(simulated);
      parts.chips(simulated, environment, as_of);
    },
    table() {
      const next = model.get("table");
      const any = (next.market_id ?? []).length > 0;
      full.hidden = !any;
      empty.hidden = any;
      if (any) { table.fill(next, model.get("chart").market?.market_id); parts.search.fill(next); }
      else emptyState(empty, model);
    },
    chart() {
      const chart = model.get("chart");
      if (!chart.market) return;
      parts.describe(chart, model.get("table"));
      table.choose(chart.market.market_id);
      value.show(chart.value);
      ratio.show(chart.ratio).then(() => {
        if (!linked && value.place.on && ratio.place.on) { linked = true; linkTimes(plotly, [value.place, ratio.place]); }
      });
      if (host.links) address(chart);
    },
    rank() {
      const shown = model.get("rank");
      parts.place(shown);
      rank.place.hidden = !shown.figure;
      if (shown.figure) rank.show(shown.figure).then(() => {
        if (!clicked && rank.place.on) { clicked = true; rank.place.on("plotly_click", ({ points }) => pick({ market: model.get("rank").neighbours[points[0].y] })); }
      });
    },
    measures() { parts.measures(model.get("measures"), model.get("chart").measure); },
    spikes() { spikeList(spikes, model.get("spikes"), pick, model.get("table")); },
    sources() { tick(); },
    problem() { banner("error", model.get("problem")); if (!empty.hidden) emptyState(empty, model); },
    hint() { banner("hint", model.get("hint")); },
  };
  for (const [name, draw] of Object.entries(drawn)) {
    draw();
    model.on(`change:${name}`, draw);
  }
  model.on("change:chart", () => { drawn.measures(); parts.title(); });
  parts.title();

  // how old what is shown is, and whether anybody is there to tell
  function tick() {
    const { cadence_s: cadence, as_of } = model.get("about");
    const moment = as_of ? model.get("read_at") : now();
    const limit = STALE_CADENCES * cadence * 1000;
    const list = model.get("sources").map((source) => ({ ...source, age: moment - source.last_at }));
    const old = list.filter((source) => source.age > limit);
    const newest = Math.max(...list.map((source) => source.last_at));
    sources.replaceChildren(...list.map((source) => sourceLine(source, source.age > limit)));
    parts.fresh(list.length ? newest : null, list.length ? Math.min(...list.map((source) => source.age)) : null, old.length === list.length);
    if (list.length && old.length === list.length) {
      const how = as_of ? "" : " Nothing newer has come; the collector may have stopped.";
      banner("stale", `Old data: the newest sample is ${age(Math.min(...list.map((source) => source.age)))} old, from ${dated(newest)}.${how}`);
    } else banner("stale", old.length ? `${old.map((source) => `${source.source} is ${age(source.age)} old`).join(", ")}; the other sources are current.` : "");
    const silent = ["lost", "ended"].includes(connection) || (unanswered && Date.now() - unanswered > SILENT_MS);
    root.dataset.connection = silent && connection === "open" ? "silent" : connection;
    const says = connection === "ended" ? "This page's session has ended: what you see no longer changes." : "The connection to the server is lost: what you see no longer changes. Trying again…";
    banner("gone", silent ? says : "", silent ? element("button", { type: "button", class: "cm-reload", onclick: () => location.reload() }, "Reload") : null);
  }

  const here = () => {
    unanswered ??= Date.now();
    model.send({ type: "here", revision: model.get("revision") });
  };
  model.on("msg:custom", (content) => {
    if (content.type === "shown") root.removeAttribute("aria-busy");
    if (content.type !== "beat") return;
    skew = content.now - Date.now();
    unanswered = null;
    tick();
  });
  model.on("connection", (state) => {
    connection = state;
    if (state !== "open") root.removeAttribute("aria-busy");
    if (state === "open") { unanswered = null; here(); }
    tick();
  });
  const timers = [setInterval(tick, 1000), setInterval(here, HERE_MS)];
  const recolour = () => [value, ratio, rank].forEach((figure) => figure.redraw());
  const slash = (event) => {
    if (event.key !== "/" || /^(INPUT|TEXTAREA|SELECT)$/.test(event.target.tagName) || event.target.isContentEditable) return;
    event.preventDefault();
    parts.search.focus();
  };
  const awake = () => {
    if (document.hidden) return;
    // who comes back after long finds the same market on a new page, not a dead one
    if (connection === "ended") location.reload();
    else here();
  };
  darkScheme.addEventListener("change", recolour);
  document.addEventListener("keydown", slash);
  document.addEventListener("visibilitychange", awake);
  root.dataset.theme = document.body.dataset.jpThemeLight ? theme() : "";
  here();
  return () => {
    timers.forEach(clearInterval);
    darkScheme.removeEventListener("change", recolour);
    document.removeEventListener("keydown", slash);
    document.removeEventListener("visibilitychange", awake);
  };
}

// what is shown is what the address says, so that it can be sent to somebody
function address(chart) {
  const wanted = new URL(location.href);
  wanted.search = new URLSearchParams({ market: chart.market.link, measure: chart.measure });
  history.replaceState(null, "", wanted);
}

function headerPart(model, pick) {
  const search = searchBox((market) => pick({ market }));
  const badges = element("div", { class: "cm-badges" });
  const fresh = element("p", { class: "cm-fresh" });
  return {
    header: element("header", { class: "cm-top" }, element("span", { class: "cm-brand" }, "cryptomon"), search.box, badges, fresh),
    search,
    chips(simulated, environment, as_of) {
      badges.replaceChildren(
        simulated ? element("span", { class: "cm-badge cm-simulated", title: "Not real markets: made by the simulated exchange" }, "Simulated data") : element("span", { class: "cm-badge" }, environment),
        ...(as_of ? [element("span", { class: "cm-badge", title: "Not the present: a replay" }, `Replay of ${as_of}`)] : []));
    },
    fresh(newest, old, stale) {
      fresh.replaceChildren(...(newest == null ? [] : [element("span", { class: `cm-dot${stale ? " cm-dot-stale" : ""}`, "aria-hidden": "true" }), "as of ", time(newest, clock), ` · ${age(old)} old`]));
    },
  };
}

function marketPart(model, pick) {
  const name = element("h1");
  const where = element("p", { class: "cm-market-where" });
  const facts = element("dl", { class: "cm-facts" });
  const measures = element("div", { class: "cm-measures", role: "radiogroup", "aria-label": "Measure" });
  const valueTitle = element("span"), ratioTitle = element("span");
  const words = (measure) => { const text = measure.replace(/_(bps|pct)$/, "").replaceAll("_", " ").replace(/\b1m\b/, "1 min").replace(/\b(\d+)(h|d)\b/, "$1 $2"); return text[0].toUpperCase() + text.slice(1); };
  return {
    market: element("section", { class: "cm-market" }, element("div", { class: "cm-market-name" }, name, where), facts, measures),
    valueTitle, ratioTitle,
    measures(all, chosen) {
      const held = measures.contains(document.activeElement) ? document.activeElement.dataset.measure : null;
      const at = Math.max(0, all.indexOf(chosen));
      const move = (event, index) => {
        const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
        if (!step) return;
        event.preventDefault();
        const next = all[(index + step + all.length) % all.length];
        measures.querySelector(`[data-measure="${CSS.escape(next)}"]`).focus();
        pick({ measure: next });
      };
      measures.replaceChildren(...all.map((measure, index) => element("button", {
        type: "button", role: "radio", "aria-checked": String(measure === chosen), tabindex: index === at ? "0" : "-1", "data-measure": measure,
        onclick: () => pick({ measure }), onkeydown: (event) => move(event, index),
      }, words(measure))));
      if (held) measures.querySelector(`[data-measure="${CSS.escape(held)}"]`)?.focus();
    },
    describe(chart, table) {
      const { market, newest, unit } = chart;
      name.textContent = market.market ?? market.symbol;
      where.textContent = [market.exchange, market.kind, market.market && market.symbol !== market.market ? market.symbol : null, market.source !== market.exchange ? `via ${market.source}` : null].filter(Boolean).join(" · ");
      const row = (table.market_id ?? []).indexOf(market.market_id);
      const fact = (title, written, style, hint) => element("div", { class: "cm-fact", title: hint }, element("dt", {}, title), element("dd", { class: style }, written));
      facts.replaceChildren(...[
        fact(`Price${market.quote ? ` ${market.quote}` : ""}`, price(market.price), "cm-fact-first"),
        fact("24 h", `${arrow(market.change_24h_pct)}${percent(market.change_24h_pct)}`, direction(market.change_24h_pct)),
        ...(chart.measure === "price" ? [] : [fact(`${chart.words}${unit ? ` ${unit}` : ""}`, short(newest.value))]),
        fact("vs 1 h mean", multiple(newest.ratio_1h), newest.ratio_1h > 3 ? "cm-hot" : "", `${chart.words}: the newest value as a multiple of the mean of the hour before it`),
        chart.measure !== "spread_bps" && fact("Spread", row < 0 || table.spread_bps[row] == null ? DASH : `${formatted(table.spread_bps[row], { maximumFractionDigits: 2 })} bps`),
        chart.measure !== "quote_volume_24h" && fact(`Volume 24 h${market.quote ? ` ${market.quote}` : ""}`, large(market.quote_volume_24h)),
      ].filter(Boolean));
      valueTitle.replaceChildren(`${chart.words}${unit ? ` in ${unit}` : ""}, 24 h`, element("small", {}, "dotted: mean of the hour before"));
      ratioTitle.textContent = `${chart.words} as a multiple of its 1 h mean`;
    },
    title() {
      const { market } = model.get("chart");
      if (market && document.body.classList.contains("cm-body")) document.title = `${market.market ?? market.symbol} ${price(market.price)} · cryptomon${model.get("about").simulated ? " (simulated)" : ""}`;
    },
  };
}

function rankPart(model, pick) {
  const big = element("p", { class: "cm-place" });
  const by = element("div", { class: "cm-by", role: "group", "aria-label": "Rank by" });
  const rankFoot = element("dl", { class: "cm-rank-facts" });
  return {
    rankTop: element("div", { class: "cm-rank-top" }, big, by),
    rankFoot,
    place(rank) {
      const choice = (name, title, hint) => element("button", { type: "button", "aria-pressed": String(rank.by === name), title: hint, onclick: () => pick({ by: name }) }, title);
      by.replaceChildren(choice("stddev", "Std dev", "standard deviation over 24 h, in the measure's unit"), choice("cv", "Relative", "standard deviation as a share of the mean: comparable between currencies"));
      rankFoot.replaceChildren();
      if (!rank.place) { big.replaceChildren(element("span", { class: "cm-says" }, rank.says ?? "")); return; }
      big.replaceChildren(element("strong", {}, `${whole(rank.place)}`), ` of ${whole(rank.places)}`, element("span", { class: "cm-place-hint" }, "1 is the most variable"));
      const fact = (title, written) => element("div", {}, element("dt", {}, title), element("dd", {}, written));
      rankFoot.append(
        fact("Std dev 24 h", `${short(rank.stddev_24h)}${rank.unit ? ` ${rank.unit}` : ""}`),
        fact("Relative (cv)", rank.cv_24h == null ? DASH : percent(rank.cv_24h * 100).replace("+", "")),
        fact("Rank", formatted(rank.by === "cv" ? rank.rank_cv_24h : rank.rank_24h, { maximumFractionDigits: 3 })),
        fact("Samples", `${whole(rank.samples)} of ${whole(rank.expected)}`));
    },
  };
}

function spikeList(list, spikes, pick, table) {
  const names = new Map((table.market_id ?? []).map((id, row) => [id, [table.market[row] ?? table.symbol[row], table.exchange[row]]]));
  const rows = spikes.map((spike) => {
    const [pair, exchange] = names.get(spike.market_id) ?? [spike.market_id, ""];
    return element("li", {}, element("button", { type: "button", class: "cm-spike", onclick: () => pick({ market: spike.market_id, measure: spike.measure }) },
      element("span", {}, element("b", {}, pair), element("small", {}, `${exchange} · ${spike.words}`)), element("span", { class: "cm-hot" }, multiple(spike.ratio_1h))));
  });
  const more = spikes.length && spikes[0].of > spikes.length ? [element("li", { class: "cm-note" }, `The ${spikes.length} largest of ${whole(spikes[0].of)}.`)] : [];
  list.replaceChildren(...(rows.length ? rows : [element("li", { class: "cm-note" }, "Nothing is above three times the mean of its last hour.")]), ...more);
}

function sourceLine(source, stale) {
  return element("li", { class: stale ? "cm-source-stale" : "" },
    element("span", {}, element("b", {}, source.source), element("small", {}, `${whole(source.samples)} of ${whole(source.expected)} minutes in 24 h`)),
    element("span", { class: "cm-source-age", title: utc(source.last_at) }, stale ? `stale: ${age(source.age)}` : age(source.age)));
}

function emptyState(place, model) {
  const { environment, simulated } = model.get("about");
  const command = simulated ? "make run" : `make run PARAMS=${environment}`;
  const problem = model.get("problem");
  place.replaceChildren(
    element("h1", {}, problem ? "The data cannot be read" : "No data yet"),
    element("p", {}, problem ? problem : "Nothing was collected in the last 24 hours. This page fills by itself when something is."),
    ...(problem ? [] : [element("p", {}, "To collect now: ", element("code", {}, command))]));
}

export default { render };
