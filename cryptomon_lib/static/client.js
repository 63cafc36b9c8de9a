// Where no JupyterLab is around the page: it asks the server that it came from.

const page = document.body.dataset;

// in the page's head since its first byte, so that it is read while the kernel still works
function loadedPlotly() {
  const script = document.getElementById("cryptomon-plotly");
  return new Promise((resolve, reject) => {
    const look = () => (window.Plotly ? resolve(window.Plotly) : document.readyState === "complete" && reject(new Error("the charts' script did not arrive: reload the page")));
    script.addEventListener("load", look);
    addEventListener("load", look);
    look();
  });
}

const described = document.querySelector("script.cryptomon-page");
const place = document.getElementById("cryptomon-page");
if (described) {
  const plotly = loadedPlotly();
  const { default: widget } = await import(page.page);
  const { about } = JSON.parse(described.textContent);
  const model = { get: (name) => ({ about })[name], on() {}, send() {} };
  place.replaceChildren();
  widget.render({ model, el: place, host: { plotly, links: true, data: `${page.baseUrl}cryptomon/data/`, runs: `${page.baseUrl}cryptomon/run/` } });
} else {
  place.remove();
}
