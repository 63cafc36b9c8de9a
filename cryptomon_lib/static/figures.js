// Figures as the kernel makes them, drawn in the viewer's theme and zone.

const DRAWING = { responsive: true, displaylogo: false, displayModeBar: "hover", modeBarButtons: [["zoom2d", "pan2d", "resetScale2d", "toImage"]], toImageButtonOptions: { format: "png", scale: 2 } };

// the charts' library: a promise of it, and what begins to load it
function lazily(load) {
  let want;
  const wanted = new Promise((resolve) => { want = resolve; });
  return [wanted.then(() => window.Plotly ?? load()), () => want()];
}

// where the page has no server of its own, the kernel sends the script
function plotlyFromKernel(model) {
  return new Promise((resolve, reject) => {
    model.on("msg:custom", (content) => {
      if (content.type !== "plotly" || window.Plotly) return;
      const script = element("script", { src: URL.createObjectURL(new Blob([content.script], { type: "text/javascript" })) });
      script.onload = () => resolve(window.Plotly);
      script.onerror = () => reject(new Error("the charts' script could not be loaded"));
      document.head.append(script);
    });
    model.send({ type: "plotly" });
  });
}

const darkScheme = matchMedia("(prefers-color-scheme: dark)");

// JupyterLab says its own theme; elsewhere the viewer's system does
function theme() {
  const lab = document.body.dataset.jpThemeLight;
  return (lab ? lab === "false" : darkScheme.matches) ? "dark" : "light";
}

function recoloured(value, colours) {
  if (Array.isArray(value)) return value.map((one) => recoloured(one, colours));
  if (value && typeof value === "object") {
    return Object.fromEntries(Object.entries(value).map(([name, one]) => [name, ["x", "y", "customdata"].includes(name) ? one : recoloured(one, colours)]));
  }
  return typeof value === "string" ? colours.get(value) ?? value : value;
}

// plotly draws times as they are written, and figures come written in UTC: write them as the viewer's clock shows them
function local(written) {
  const moment = Date.parse(`${written.replace(" ", "T")}Z`);
  return new Date(moment - new Date(moment).getTimezoneOffset() * 60000).toISOString().slice(0, 19).replace("T", " ");
}

function zone() {
  const minutes = -new Date().getTimezoneOffset();
  const hours = `${Math.floor(Math.abs(minutes) / 60)}${minutes % 60 ? `:${String(Math.abs(minutes) % 60).padStart(2, "0")}` : ""}`;
  const name = Intl.DateTimeFormat().resolvedOptions().timeZone ?? "local time";
  return minutes ? `${name}, UTC${minutes < 0 ? "−" : "+"}${hours}` : "UTC";
}

function localised(figure) {
  if (figure.layout.meta?.times !== "UTC") return figure;
  const axis = figure.layout.xaxis;
  return {
    data: figure.data.map((trace) => ({ ...trace, x: trace.x.map(local) })),
    layout: {
      ...figure.layout,
      xaxis: { ...axis, title: { ...axis.title, text: zone() }, ...(axis.range ? { range: axis.range.map(local) } : {}) },
      shapes: (figure.layout.shapes ?? []).map((shape) => (shape.xref === "paper" ? shape : { ...shape, x0: local(shape.x0), x1: local(shape.x1) })),
    },
  };
}

// all charts wait in one line, and each is on the screen before the next one is drawn
let queue = Promise.resolve();
const painted = () => new Promise((resolve) => { requestAnimationFrame(() => setTimeout(resolve)); setTimeout(resolve, 100); });

function inLine(draw) {
  const mine = queue.then(draw);
  queue = mine.then(painted, () => {});
  return mine;
}

function figurePlace(palettes, plotly, failed, label) {
  const place = element("div", { class: "cm-figure", role: "img", "aria-label": label });
  let newest = null, waiting = null;
  function seen() {
    const { light, dark } = palettes;
    const colours = theme() === "dark" ? new Map(Object.keys(light).map((name) => [light[name], dark[name]])) : new Map();
    return recoloured(localised(newest), colours);
  }
  // what a viewer looks at until the library is there
  function picture() {
    if (window.Plotly || !newest) return;
    const made = sketch(seen(), place.clientWidth, place.clientHeight);
    place.replaceChildren(...(made ? [made] : []));
    place.dataset.sketched = newest.layout.uirevision ?? "";
  }
  async function draw() {
    const Plotly = await plotly;
    waiting = null;
    if (!newest) return;
    const figure = seen();
    // a finger that moves over a chart scrolls the page
    const touch = matchMedia("(pointer: coarse)").matches;
    await Plotly.react(place, figure.data, touch ? { ...figure.layout, dragmode: false } : figure.layout, { ...DRAWING, displayModeBar: touch ? false : "hover" });
    place.querySelector(":scope > .cm-sketch")?.remove();
    place.dataset.drawn = String(Number(place.dataset.drawn ?? 0) + 1);
    place.toggleAttribute("data-pending", waiting !== null);
  }
  // one that waits already draws what is newest when its turn comes
  function show() {
    // when all that is shown with it has its place
    queueMicrotask(picture);
    place.toggleAttribute("data-pending", true);
    waiting ??= inLine(draw).catch(failed);
    return waiting;
  }
  return { place, show(figure) { newest = figure; return show(); }, redraw: show };
}

// zooming one chart's time zooms the other's
async function linkTimes(plotly, places) {
  const Plotly = await plotly;
  let busy = false;
  for (const place of places) {
    place.on("plotly_relayout", async (change) => {
      const wanted = Object.fromEntries(Object.entries(change).filter(([name]) => name.startsWith("xaxis.")));
      if (busy || !Object.keys(wanted).length) return;
      busy = true;
      for (const other of places) if (other !== place) await Plotly.relayout(other, wanted);
      busy = false;
    });
  }
}
