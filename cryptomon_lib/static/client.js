// The page's line to its kernel, where no JupyterLab is around it: a model as anywidget gives one.

const page = document.body.dataset;
const kernelId = JSON.parse(document.getElementById("cryptomon-kernel").textContent).kernel_id;

class Model {
  constructor({ model_id, state }) {
    this.id = model_id;
    this.state = state;
    this.listeners = new Map();
    this.waiting = [];
    this.session = crypto.randomUUID?.() ?? String(Math.random()).slice(2);
    this.connect();
  }

  get(name) {
    return this.state[name];
  }

  on(event, listener) {
    this.listeners.set(event, [...(this.listeners.get(event) ?? []), listener]);
  }

  tell(event, value) {
    for (const listener of this.listeners.get(event) ?? []) listener(value);
  }

  send(content) {
    const header = {
      msg_id: `${this.session}-${Math.random()}`, msg_type: "comm_msg", username: "", session: this.session,
      version: "5.3", date: new Date().toISOString(),
    };
    const data = { method: "custom", content };
    const message = { channel: "shell", header, parent_header: {}, metadata: {}, content: { comm_id: this.id, data } };
    if (this.socket.readyState === WebSocket.OPEN) this.socket.send(JSON.stringify(message));
    else if (this.socket.readyState === WebSocket.CONNECTING) this.waiting.push(message);
  }

  connect() {
    const address = new URL(`${page.baseUrl}api/kernels/${kernelId}/channels`, location.href);
    address.protocol = address.protocol === "https:" ? "wss:" : "ws:";
    address.searchParams.set("session_id", this.session);
    this.socket = new WebSocket(address);
    this.socket.onopen = () => {
      this.waiting.splice(0).forEach((message) => this.socket.send(JSON.stringify(message)));
      this.tell("connection", "open");
    };
    this.socket.onmessage = ({ data }) => typeof data === "string" && this.take(JSON.parse(data));
    this.socket.onclose = () => this.lost();
  }

  take({ header, content }) {
    if (header.msg_type === "status" && ["dead", "restarting"].includes(content.execution_state)) this.end();
    if (header.msg_type !== "comm_msg" || content.comm_id !== this.id) return;
    const { method, state, content: custom } = content.data;
    if (method === "custom") this.tell("msg:custom", custom);
    if (method !== "update") return;
    Object.assign(this.state, state);
    for (const name of Object.keys(state)) this.tell(`change:${name}`);
  }

  async lost() {
    if (this.ended) return;
    this.tell("connection", "lost");
    await new Promise((resolve) => setTimeout(resolve, 3000));
    // a kernel that is gone does not come back: only a new page has a new one
    const answer = await fetch(`${page.baseUrl}api/kernels/${kernelId}`).catch(() => null);
    if (answer?.status === 404) this.end();
    else this.connect();
  }

  end() {
    this.ended = true;
    this.tell("connection", "ended");
  }
}

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
  const model = new Model(JSON.parse(described.textContent));
  place.replaceChildren();
  widget.render({ model, el: place, host: { plotly, links: true } });
  // the viewer leaves: the kernel need not wait until it is found idle
  addEventListener("pagehide", (event) => {
    if (!event.persisted) navigator.sendBeacon(`${page.baseUrl}cryptomon/leave/${kernelId}`);
  });
} else {
  place.remove();
}
