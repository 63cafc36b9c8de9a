// The page: which part of it is shown, what the address says, and how old what is shown is.

const LOOK_MS = 5000;
// charts that can be touched come when the viewer moves, or has looked for so long; their pictures are there before
const TOUCHABLE_MS = 1500;
const LIKELY_MS = 120;
const MOVES = ["pointermove", "pointerdown", "keydown", "wheel"];
const STALE_CADENCES = 3;
const PAGES = [["overview", "Overview"], ["market", "Market"], ["alerts", "Alerts"], ["operations", "Operations"]];
const STATE = ["market", "measure", "window", "kind", "by", "compare"];

const card = (name, title, ...children) => element("section", { class: `cm-card cm-card-${name}`, "aria-labelledby": `cm-title-${name}` }, element("h2", { id: `cm-title-${name}` }, title), ...children);

function spoken(measure) {
  const text = measure.replace(/_(bps|pct)$/, "").replaceAll("_", " ").replace(/\b1m\b/, "1 min").replace(/\b(\d+)(h|d)\b/, "$1 $2");
  return text[0].toUpperCase() + text.slice(1);
}

const written = (window) => window.replace(/(\d+)/, "$1 ");

// a row of choices, of which one is taken; arrow keys go through them
function choices(label, pick) {
  const place = element("div", { class: "cm-measures", role: "radiogroup", "aria-label": label });
  return {
    place,
    show(all, chosen) {
      const held = place.contains(document.activeElement) ? document.activeElement.dataset.choice : null;
      const at = Math.max(0, all.findIndex(([name]) => name === chosen));
      const move = (event, index) => {
        const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
        if (!step) return;
        event.preventDefault();
        const [next] = all[(index + step + all.length) % all.length];
        place.querySelector(`[data-choice="${CSS.escape(next)}"]`).focus();
        pick(next);
      };
      place.replaceChildren(...all.map(([name, title], index) => element("button", {
        type: "button", role: "radio", "aria-checked": String(name === chosen), tabindex: index === at ? "0" : "-1", "data-choice": name,
        onclick: () => pick(name), onkeydown: (event) => move(event, index),
      }, title)));
      if (held) place.querySelector(`[data-choice="${CSS.escape(held)}"]`)?.focus();
    },
  };
}

function render({ model, el, host = {} }) {
  const about = model.get("about"), ask = asker(model, host);
  const [plotly, wantPlotly] = lazily(host.plotly ?? (() => plotlyFromKernel(model)));
  const failed = (error) => banner("error", `A chart could not be drawn: ${error.message}`);
  plotly.catch(failed);
  const figures = [];
  let state = { page: "overview" }, turn = 0, seen = null, sources = [], skew = 0, lost = false, table = null, readAt = null, touchable = null, ahead = null, pause = null;

  const page = {
    about, plotly, go, likely,
    get state() { return state; },
    figure(label) { const made = figurePlace(about.palettes, plotly, failed, label); figures.push(made); return made; },
    titled(words) { if (document.body.classList.contains("cm-body")) document.title = `${words} · cryptomon${about.simulated ? " (simulated)" : ""}`; },
    async asked(question, given, use) { try { use(await ask(question, given)); banner("problem", ""); } catch (error) { trouble(error); } },
  };
  const root = element("div", { class: "cm" });
  const banners = element("div", { class: "cm-banners" });
  const header = headerPart(page, (name) => go({ page: name }));
  const views = { overview: overviewView(page), market: marketView(page), alerts: alertsView(page), operations: operationsView(page, host) };
  const full = element("main", { class: "cm-full", hidden: true }, ...Object.values(views).map((view) => view.root));
  const empty = element("section", { class: "cm-empty", hidden: true });
  const waiting = element("div", { class: "cm-waiting-page", role: "status" }, element("p", { class: "cm-starting" }, "Reading the market…"), element("div", { class: "cm-skeleton" }));
  root.append(header.header, banners, waiting, full, empty);
  root.dataset.simulated = String(about.simulated);
  root.dataset.theme = document.body.dataset.jpThemeLight ? theme() : "";
  el.append(root);

  const now = () => (about.as_of ? readAt ?? Date.now() : Date.now() + skew);

  function banner(kind, says, action) {
    const shown = banners.querySelector(`[data-kind=${kind}]`);
    if (!says) return shown?.remove();
    if (shown?.dataset.says === says) return undefined;
    const made = element("p", { class: `cm-banner cm-${kind}`, "data-kind": kind, "data-says": says, role: kind === "hint" ? "status" : "alert" }, says, action);
    return shown ? shown.replaceWith(made) : banners.append(made);
  }

  function trouble(error) {
    if (error instanceof Problem) banner("problem", error.message);
    else if (error instanceof Unreachable) { lost = true; tick(); }
    else { banner("problem", `The page cannot show this: ${error.message}`); console.error(error); }
  }

  // ---- where the viewer is

  function fromAddress() {
    if (!host.links) return { page: about.start?.market ? "market" : "overview", ...about.start };
    const asked = new URLSearchParams(location.search);
    const found = Object.fromEntries(STATE.filter((name) => asked.get(name)).map((name) => [name, asked.get(name).slice(0, 400)]));
    // the login's redirect makes kraken://BTC-USD of kraken:BTC-USD
    if (found.market) found.market = found.market.replace("://", ":");
    const named = PAGES.some(([name]) => name === asked.get("page")) ? asked.get("page") : null;
    const start = !named && !found.market && about.start?.market ? about.start : {};
    return { page: named ?? (found.market || start.market ? "market" : "overview"), ...start, ...found };
  }

  function toAddress(push) {
    if (!host.links) return;
    const wanted = new URL(location.href);
    const told = state.page === "market" ? STATE.filter((name) => state[name]).map((name) => [name, state[name]]) : [["page", state.page]];
    wanted.search = new URLSearchParams(state.page === "overview" ? [] : told);
    if (wanted.href === location.href) return;
    history[push ? "pushState" : "replaceState"](null, "", wanted);
  }

  function changed(changes) {
    const other = "market" in changes && changes.market !== state.market;
    return { ...state, ...("market" in changes ? { page: "market" } : {}), ...(other ? { compare: "" } : {}), ...changes };
  }

  function go(changes) {
    const moved = "page" in changes && changes.page !== state.page;
    state = changed(changes);
    toAddress(moved || "market" in changes);
    if (moved) root.scrollIntoView?.();
    load();
  }

  // ---- what is shown

  // a market that the search has marked for a moment is asked for before it is picked
  function likely(market) {
    clearTimeout(pause);
    pause = setTimeout(() => {
      const wanted = views.market.question(changed({ page: "market", market }));
      ahead = { key: JSON.stringify(wanted), at: Date.now(), said: ask(...wanted) };
      ahead.said.catch(() => { ahead = null; });
    }, LIKELY_MS);
  }

  function answered(wanted) {
    clearTimeout(pause);
    const known = ahead?.key === JSON.stringify(wanted) && Date.now() - ahead.at < LOOK_MS ? ahead.said : null;
    ahead = null;
    return known ?? ask(...wanted);
  }

  async function load() {
    const mine = ++turn, view = views[state.page];
    root.setAttribute("aria-busy", "true");
    try {
      const found = await answered(view.question(state));
      if (mine !== turn) return;
      seen = found.version;
      readAt = found.read_at;
      banner("problem", "");
      banner("hint", found.hint ?? "");
      waiting.hidden = true;
      const nothing = found.empty || found.markets === 0;
      full.hidden = nothing;
      empty.hidden = !nothing;
      if (nothing) { emptyState(empty, about); return; }
      for (const [name, one] of Object.entries(views)) one.root.hidden = name !== state.page;
      header.pages(state.page);
      const settled = view.fill(found);
      touchable ??= setTimeout(wantPlotly, TOUCHABLE_MS);
      if (settled) { state = { ...state, ...settled }; toAddress(false); }
      if (state.page === "overview") page.titled("Market");
      drawSources();
      fillTable(found.version);
    } catch (error) {
      if (mine === turn) { trouble(error); if (waiting.hidden === false) { waiting.hidden = true; emptyState(empty, about, error.message); empty.hidden = false; } }
    } finally {
      if (mine === turn) root.removeAttribute("aria-busy");
    }
  }

  // all markets, for the table and the search: after what the viewer waits for
  async function fillTable(version) {
    if (table?.version === version || (table && state.page !== "overview" && !header.search.open())) return;
    try {
      const found = await ask("table");
      table = { version: found.version, ...found.columns };
      table.at = table.collected_at;
      header.search.fill(table);
      views.market.compare.fill(table);
      views.overview.table.fill(table, state.market);
    } catch (error) { trouble(error); }
  }

  async function look() {
    if (document.hidden) return;
    try {
      const said = await ask("status");
      skew = said.now - Date.now();
      lost = false;
      sources = said.sources;
      tick();
      if (!about.as_of && seen !== null && said.version !== seen) await load();
      else if (seen === null) await load();
    } catch (error) { trouble(error); }
  }

  // how old what is shown is, and whether anybody is there to tell
  function tick() {
    // in a replay the answer says what now is
    if (about.as_of && readAt === null) return;
    const limit = STALE_CADENCES * about.cadence_s * 1000;
    const aged = sources.map((source) => ({ ...source, age: now() - source.last_at }));
    const old = aged.filter((source) => source.age > limit);
    const newest = aged.length ? Math.min(...aged.map((source) => source.age)) : null;
    header.fresh(aged.length ? now() - newest : null, newest, aged.length > 0 && old.length === aged.length);
    drawSources();
    if (aged.length && old.length === aged.length) {
      banner("stale", `Old data: the newest sample is ${age(newest)} old, from ${dated(now() - newest)}.${about.as_of ? "" : " Nothing newer has come; the collector may have stopped."}`);
    } else banner("stale", old.length ? `${old.map((source) => `${source.source} is ${age(source.age)} old`).join(", ")}; the other sources are current.` : "");
    root.dataset.connection = lost ? "lost" : "open";
    banner("gone", lost ? "The connection to the server is lost: what you see no longer changes. Trying again…" : "", lost ? element("button", { type: "button", class: "cm-reload", onclick: () => location.reload() }, "Reload") : null);
  }

  function drawSources() {
    const limit = STALE_CADENCES * about.cadence_s * 1000;
    for (const view of [views.overview, views.operations]) {
      view.sources.replaceChildren(...sources.map((source) => { const old = now() - source.last_at; return sourceLine(source, old > limit, old); }));
    }
  }

  const timers = [setInterval(tick, 1000), setInterval(look, LOOK_MS)];
  const recolour = () => figures.forEach((figure) => figure.redraw());
  const slash = (event) => {
    if (event.key !== "/" || /^(INPUT|TEXTAREA|SELECT)$/.test(event.target.tagName) || event.target.isContentEditable) return;
    event.preventDefault();
    header.search.focus();
  };
  const back = () => { state = fromAddress(); load(); };
  darkScheme.addEventListener("change", recolour);
  MOVES.forEach((move) => root.addEventListener(move, wantPlotly, { once: true, passive: true }));
  document.addEventListener("keydown", slash);
  document.addEventListener("visibilitychange", look);
  if (host.links) addEventListener("popstate", back);
  state = fromAddress();
  header.pages(state.page);
  for (const [name, one] of Object.entries(views)) one.root.hidden = name !== state.page;
  load();
  look();
  return () => {
    timers.forEach(clearInterval);
    darkScheme.removeEventListener("change", recolour);
    document.removeEventListener("keydown", slash);
    document.removeEventListener("visibilitychange", look);
    removeEventListener("popstate", back);
  };
}

function headerPart(page, open) {
  const { simulated, environment, as_of } = page.about;
  const search = searchBox((market) => page.go({ page: "market", market }), { likely: page.likely });
  const fresh = element("p", { class: "cm-fresh" });
  const tabs = PAGES.map(([name, title]) => element("button", { type: "button", "data-page": name, onclick: () => open(name) }, title));
  return {
    header: element("header", { class: "cm-top" }, element("span", { class: "cm-brand" }, "cryptomon"),
      element("nav", { class: "cm-tabs", "aria-label": "Pages" }, tabs), search.box,
      element("div", { class: "cm-badges" },
        simulated ? element("span", { class: "cm-badge cm-simulated", title: "Not real markets: made by the simulated exchange" }, "Simulated data") : element("span", { class: "cm-badge" }, environment),
        as_of ? element("span", { class: "cm-badge", title: "Not the present: a replay" }, `Replay of ${as_of}`) : null), fresh),
    search,
    pages(chosen) { for (const tab of tabs) tab.dataset.page === chosen ? tab.setAttribute("aria-current", "page") : tab.removeAttribute("aria-current"); },
    fresh(newest, old, stale) {
      fresh.replaceChildren(...(newest == null ? [] : [element("span", { class: `cm-dot${stale ? " cm-dot-stale" : ""}`, "aria-hidden": "true" }), "as of ", time(newest, clock), ` · ${age(old)} old`]));
    },
  };
}

function emptyState(place, { environment, simulated }, problem = "") {
  const command = simulated ? "make run" : `make run PARAMS=${environment}`;
  place.replaceChildren(
    element("h1", {}, problem ? "The data cannot be read" : "No data yet"),
    element("p", {}, problem || "Nothing was collected in the last 24 hours. This page fills by itself when something is."),
    ...(problem ? [] : [element("p", {}, "To collect now: ", element("code", {}, command))]));
}

export default { render };
