// Alerts: what fires, what fired, each at its moment, and what another threshold would have done.

function alertsView(page) {
  const firing = element("ol", { class: "cm-list cm-list-firing" }), body = element("tbody");
  const value = page.figure("The measure around the moment that the alert fired"), ratio = page.figure("Its ratio to the mean of the hour before");
  const title = element("span", {}, "At its moment"), count = element("p", { class: "cm-count", role: "status" });
  const slider = element("input", { class: "cm-slider", type: "range", min: "1.2", max: "10", step: "0.1", value: "3", id: "cm-threshold", oninput: () => slid() });
  const told = element("p", { class: "cm-told", role: "status" }), tried = page.figure("The ratio over 24 hours with the threshold that is tried");
  const triedTitle = element("span", {}, "What another threshold would have done");
  const moment = card("moment", title, element("div", { class: "cm-two" }, value.place, ratio.place));
  const root = element("div", { class: "cm-page" },
    element("section", { class: "cm-market" }, element("div", { class: "cm-market-name" }, element("h1", {}, "Alerts"))),
    element("div", { class: "cm-grid" },
      element("div", { class: "cm-main cm-main-auto" },
        card("threshold", triedTitle, element("div", { class: "cm-slide" }, element("label", { for: "cm-threshold" }, "Above"), slider, element("output", { for: "cm-threshold" }, "3×")), told, tried.place), moment),
      element("div", { class: "cm-side" }, card("firing", "Firing now", firing))),
    card("history", "The last 7 days", count, element("div", { class: "cm-scroll", tabindex: "0", role: "region", "aria-label": "Alerts of the last 7 days" }, element("table", { class: "cm-small-table" },
      element("thead", {}, element("tr", {}, ["Fired", "Market", "Rule", "Reached", "Lasted", "State"].map((head) => element("th", { scope: "col" }, head)))), body))));
  let chosen = null, waiting = null;
  moment.hidden = true;

  function slid() {
    root.querySelector("output").textContent = `${slider.value}×`;
    clearTimeout(waiting);
    waiting = setTimeout(attempt, 150);
  }

  async function attempt() {
    const asked = { threshold: slider.value, ...(chosen ? { market: chosen.market_id, measure: chosen.measure } : { market: page.state.market ?? "" }) };
    await page.asked("threshold", asked, (found) => {
      triedTitle.textContent = `What another threshold would have done: ${spoken(found.measure)} of ${found.name}, 24 h`;
      const times = found.fired.length;
      told.textContent = times ? `Above ${formatted(found.threshold, { maximumFractionDigits: 1 })}× it would have fired ${times === 1 ? "once" : `${times} times`}, the last at ${clock(found.fired[times - 1])}.` : `Above ${formatted(found.threshold, { maximumFractionDigits: 1 })}× it would not have fired.`;
      tried.show(found.figure);
    });
  }

  async function choose(one) {
    chosen = one;
    moment.hidden = false;
    title.textContent = `${one.pair} ${one.exchange}: ${one.rule}, ${dated(one.fired_at)}`;
    await page.asked("moment", { market: one.market_id, measure: one.measure ?? "price", at: String(one.fired_at) }, (found) => {
      value.show(found.value);
      ratio.show(found.ratio);
      moment.scrollIntoView({ behavior: "smooth", block: "nearest" });
    });
    attempt();
  }

  const button = (one, ...inner) => element("button", { type: "button", class: "cm-line", onclick: () => choose(one) }, ...inner);
  return {
    root,
    question: () => ["alerts", {}],
    fill(found) {
      firing.replaceChildren(...(found.firing.length ? found.firing.map((one) => element("li", {}, button(one, element("span", {}, element("b", {}, one.pair), element("small", {}, `${one.exchange} · ${one.rule}`)), element("span", { class: "cm-hot" }, `since ${clock(one.fired_at)}`)))) : [element("li", { class: "cm-note" }, "No alert is firing.")]));
      count.textContent = `${whole(found.history.length)} alerts${found.history.length >= 500 ? ", the newest" : ""}`;
      body.replaceChildren(...found.history.map((one) => element("tr", {},
        element("td", {}, time(one.fired_at)), element("th", { scope: "row" }, element("button", { type: "button", class: "cm-pick", onclick: () => choose(one) }, element("span", { class: "cm-pair" }, one.pair), element("span", { class: "cm-where" }, one.exchange))),
        element("td", {}, one.rule), element("td", { class: "cm-number" }, one.reached == null ? DASH : multiple(one.reached)), element("td", { class: "cm-number" }, age((one.minutes ?? 0) * 60000)),
        element("td", { class: one.resolved_at == null ? "cm-hot" : "" }, one.resolved_at == null ? "firing" : "resolved"))));
      if (!tried.place.dataset.drawn) attempt();
      page.titled("Alerts");
    },
  };
}
