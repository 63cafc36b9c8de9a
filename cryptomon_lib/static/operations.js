// Operations: what ran, how it ended, what was left aside, what is stored.

function operationsView(page, host) {
  const runs = element("tbody"), quarantine = element("ul", { class: "cm-list" }), sources = element("ul", { class: "cm-sources" });
  const stored = element("span", {}, "Storage"), storage = page.figure("Megabytes stored, by day and table");
  const table = element("table", { class: "cm-small-table cm-runs" }, element("thead", {}, element("tr", {}, ["Started", "Notebook", "Took", "Status", "Said", ""].map((head) => element("th", { scope: "col" }, head)))), runs);
  const root = element("div", { class: "cm-page" },
    element("section", { class: "cm-market" }, element("div", { class: "cm-market-name" }, element("h1", {}, "Operations"))),
    element("div", { class: "cm-grid" },
      element("div", { class: "cm-main cm-main-one" }, card("runs", "Runs", element("div", { class: "cm-scroll", tabindex: "0", role: "region", "aria-label": "Runs" }, table))),
      element("div", { class: "cm-side" }, card("health", "Sources", sources), card("quarantine", "Quarantine", quarantine), card("storage", stored, storage.place))));
  const said = (facts) => Object.entries(facts ?? {}).filter(([, value]) => value !== 0 && value !== "" && typeof value !== "object").slice(0, 4).map(([name, value]) => `${name} ${typeof value === "number" ? short(value) : value}`).join(", ");
  return {
    root, sources,
    question: () => ["operations", {}],
    fill(found) {
      runs.replaceChildren(...found.runs.map((one) => element("tr", {},
        element("td", {}, time(Date.parse(one.started_at))), element("th", { scope: "row" }, one.notebook, element("span", { class: "cm-where" }, one.job === one.notebook ? "" : ` ${one.job}`)),
        element("td", { class: "cm-number" }, one.duration_s == null ? DASH : `${formatted(one.duration_s, { maximumFractionDigits: 1 })} s`),
        element("td", { class: ["succeeded", "running"].includes(one.status) ? "" : "cm-hot" }, one.status),
        element("td", { class: "cm-said", title: one.reason ?? "" }, one.reason ?? said(one.facts)),
        element("td", {}, one.kept && host.runs ? element("a", { href: `${host.runs}${encodeURIComponent(one.run_id)}`, target: "_blank", rel: "noopener" }, "read") : ""))));
      if (!found.runs.length) runs.replaceChildren(element("tr", {}, element("td", { colspan: 6, class: "cm-none" }, "Nothing ran in the last two days.")));
      quarantine.replaceChildren(...(found.quarantine.length ? found.quarantine.map((one) => element("li", {}, element("span", {}, element("b", {}, `${one.source}: ${whole(one.payloads)}`), element("small", {}, one.reason)))) : [element("li", { class: "cm-note" }, "Nothing is in quarantine.")]));
      stored.textContent = `Storage, ${formatted(found.stored_mb, { maximumSignificantDigits: 3 })} MB`;
      storage.show(found.storage);
      page.titled("Operations");
    },
  };
}
