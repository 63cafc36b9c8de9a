// Where no JupyterLab is around the page: it asks the server that it came from.

const page = document.body.dataset;

function loadPlotly() {
  return new Promise((resolve, reject) => {
    const script = document.createElement("script");
    script.src = page.plotly;
    script.onload = () => resolve(window.Plotly);
    script.onerror = () => reject(new Error("the charts' script did not arrive: reload the page"));
    document.head.append(script);
  });
}

const described = document.querySelector("script.cryptomon-page");
const place = document.getElementById("cryptomon-page");
if (described) {
  const { default: widget } = await import(page.page);
  const { about } = JSON.parse(described.textContent);
  const model = { get: (name) => ({ about })[name], on() {}, send() {} };
  place.replaceChildren();
  widget.render({ model, el: place, host: { plotly: loadPlotly, links: true, data: `${page.baseUrl}cryptomon/data/`, runs: `${page.baseUrl}cryptomon/run/` } });
} else {
  place.remove();
}
