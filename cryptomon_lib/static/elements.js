// Elements and words: everything that came from elsewhere goes in as text, never as markup.

function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else if (value === true) made.setAttribute(name, "");
    else if (value !== false && value != null) made.setAttribute(name, value);
  }
  made.append(...children.flat().filter((child) => child != null && child !== false));
  return made;
}

const DASH = "–";
const numbers = new Map();

function formatted(value, options) {
  if (value == null || !Number.isFinite(value)) return DASH;
  const key = JSON.stringify(options);
  if (!numbers.has(key)) numbers.set(key, new Intl.NumberFormat("en", options));
  return numbers.get(key).format(value);
}

// as many digits as say something: 96,412.5, 0.2109, 0.00001024
function price(value) {
  if (value == null || value === 0) return value === 0 ? "0" : DASH;
  const size = Math.abs(value);
  if (size < 1e-9 || size >= 1e15) return value.toExponential(3);
  return formatted(value, size >= 1000 ? { minimumFractionDigits: 2, maximumFractionDigits: 2 } : { maximumSignificantDigits: size >= 1 ? 6 : 4 });
}

const large = (value) => formatted(value, { notation: "compact", maximumSignificantDigits: 3 });
const percent = (value) => (value == null ? DASH : `${value > 0 ? "+" : ""}${formatted(value, { minimumFractionDigits: 2, maximumFractionDigits: 2 })} %`);
const multiple = (value) => (value == null ? DASH : `${formatted(value, { maximumFractionDigits: value < 10 ? 2 : 0, minimumFractionDigits: value < 10 ? 2 : 0 })}×`);
const whole = (value) => formatted(value, { maximumFractionDigits: 0 });
const short = (value) => formatted(value, { maximumSignificantDigits: 4 });
const direction = (value) => (value == null || value === 0 ? "" : value > 0 ? "cm-up" : "cm-down");
const arrow = (value) => (value == null || value === 0 ? "" : value > 0 ? "▲ " : "▼ ");

function age(milliseconds) {
  const seconds = Math.max(0, Math.round(milliseconds / 1000));
  if (seconds < 120) return `${seconds} s`;
  if (seconds < 7200) return `${Math.floor(seconds / 60)} min`;
  return seconds < 172800 ? `${Math.floor(seconds / 3600)} h ${Math.floor((seconds % 3600) / 60)} min` : `${Math.floor(seconds / 86400)} d`;
}

const clock = (moment) => new Date(moment).toLocaleTimeString([], { hour: "2-digit", minute: "2-digit" });
const dated = (moment) => new Date(moment).toLocaleString([], { day: "numeric", month: "short", hour: "2-digit", minute: "2-digit" });
const utc = (moment) => `${new Date(moment).toISOString().slice(0, 19).replace("T", " ")} UTC`;

// a moment in the viewer's zone, UTC on hover
const time = (moment, write = dated) => element("time", { title: utc(moment), datetime: new Date(moment).toISOString() }, write(moment));
