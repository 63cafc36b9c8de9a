// A picture of a figure for the time until the charts' library is there: the same data in the same frame, nothing to touch.
// The library is 4.6 MB of script that keeps a browser busy for a second; a viewer who came to look has looked by then.

const SVG = "http://www.w3.org/2000/svg";
const MINUTE_MS = 60000, DAY_MS = 1440 * MINUTE_MS;
// the steps that plotly takes between the ticks of a clock
const CLOCK_STEPS = [1, 2, 5, 10, 15, 30, 60, 120, 180, 360, 720, 1440, 2880, 4320, 10080, 20160].map((minutes) => minutes * MINUTE_MS);
const PREFIXES = { "-12": "p", "-9": "n", "-6": "μ", "-3": "m", 0: "", 3: "k", 6: "M", 9: "B", 12: "T" };
const DASHES = { dot: "3,3", dash: "9,9" };

function svg(tag, attributes = {}, ...children) {
  const made = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) if (value != null) made.setAttribute(name, value);
  made.append(...children);
  return made;
}

// figures carry text as plotly reads it: bold marks, and names escaped; here all of it is text
function unmarked(text) {
  return String(text).replace(/<\/?b>/g, "").replace(/&lt;/g, "<").replace(/&gt;/g, ">").replace(/&quot;/g, '"').replace(/&#x27;/g, "'").replace(/&amp;/g, "&");
}

const label = (text, x, y, attributes = {}) => { const made = svg("text", { x, y, ...attributes }); made.textContent = unmarked(text); return made; };
const parsed = (text) => Date.parse(`${text.replace(" ", "T")}Z`);
const exponent = (value) => Math.floor(Math.log10(Math.abs(value) || 1));

function niceStep(rough) {
  const power = 10 ** Math.floor(Math.log10(rough));
  return power * [1, 2, 5, 10].find((step) => step * power >= rough * 0.999);
}

function numberTicks([low, high], count) {
  const step = niceStep((high - low) / count), ticks = [];
  for (let at = Math.ceil(low / step - 1e-9) * step; at <= high + step * 1e-9; at += step) ticks.push(at);
  const size = exponent(Math.max(Math.abs(low), Math.abs(high)));
  const power = Math.abs(size) > 3 ? Math.min(12, Math.max(-12, 3 * Math.round((size - 1) / 3))) : 0;
  const digits = Math.min(12, Math.max(0, power - Math.floor(Math.log10(step) + 1e-9)));
  return ticks.map((at) => [at, `${(at / 10 ** power).toFixed(digits).replace("-", "−")}${Math.abs(at) < step / 2 ? "" : PREFIXES[power]}`]);
}

function logTicks([low, high]) {
  const ticks = [];
  for (let power = Math.ceil(low); power <= high; power += 1) ticks.push([power, 10 ** power >= 0.01 ? String(10 ** power) : `10^${power}`]);
  return ticks;
}

function clockTicks([low, high], pixels) {
  const rough = (high - low) / (Math.min(9, Math.max(4, pixels / 80)) + 1);
  const step = CLOCK_STEPS.find((one) => one >= rough) ?? 30 * DAY_MS, ticks = [];
  let day = "";
  for (let at = Math.ceil(low / step) * step; at <= high; at += step) {
    const told = new Date(at).toLocaleDateString("en", { weekday: "short", day: "2-digit", timeZone: "UTC" }).replace(/^(\d+) (\w+)$/, "$2 $1");
    ticks.push([at, new Date(at).toISOString().slice(11, 16), told === day ? "" : told]);
    day = told;
  }
  return ticks;
}

const steady = (axis) => axis.type === "log" ? (value) => (value > 0 ? Math.log10(value) : null) : (value) => value;

// from the least to the most of what is drawn, with the room around it that plotly leaves
function reach(values, axis) {
  if (axis.range) return axis.range.map(Number);
  const own = values.map(steady(axis)).filter((value) => value != null && Number.isFinite(value));
  if (!own.length) return [0, 1];
  let low = own.reduce((least, value) => Math.min(least, value)), high = own.reduce((most, value) => Math.max(most, value));
  if (axis.rangemode === "tozero") { low = Math.min(0, low); high = Math.max(0, high); }
  if (low === high) return [low - 1, high + 1];
  const room = (high - low) / 18;
  return [low === 0 && axis.rangemode === "tozero" ? 0 : low - room, high + room];
}

const between = ([low, high], from, to) => (value) => from + ((value - low) / (high - low)) * (to - from);

function polyline(points, trace) {
  let path = "", on = false, before = null;
  for (const [x, y] of points) {
    if (y == null || Number.isNaN(y)) { on = false; continue; }
    path += on ? (trace.line?.shape === "hv" ? `V${before}H${x.toFixed(1)}V${y.toFixed(1)}` : `L${x.toFixed(1)},${y.toFixed(1)}`) : `M${x.toFixed(1)},${y.toFixed(1)}`;
    before = y.toFixed(1);
    on = true;
  }
  const { color, width = 1.8, dash } = trace.line ?? {};
  return svg("path", { d: path, fill: "none", stroke: color, "stroke-width": width, "stroke-dasharray": DASHES[dash], "stroke-linejoin": "round" });
}

function band(lower, upper, colour) {
  const there = (points) => points.filter(([, y]) => y != null);
  const ring = [...there(lower), ...there(upper).reverse()].map((point) => point.map((one) => one.toFixed(1)).join(",")).join(" ");
  return svg("polygon", { points: ring, fill: colour });
}

// the shortest step between two moments, which says how wide what belongs to a step is
const narrowest = (at) => Math.min(...at.slice(1).map((one, row) => one - at[row]), DAY_MS);

// heap: what is under the next bar of each place, and those places, where bars stand on each other
function bars(trace, xs, y, floor, wide, heap) {
  return xs.flatMap((px, row) => {
    const value = trace.y[row];
    if (value == null) return [];
    const [heaped, at] = heap ?? [], under = heaped?.get(at[row]) ?? 0;
    heaped?.set(at[row], under + value);
    const high = y(under + value), low = heaped ? y(under) : floor;
    return svg("rect", { x: px - wide / 2, y: high, width: Math.max(wide, 0.5), height: Math.max(0, low - high), fill: trace.marker.color, opacity: trace.opacity });
  });
}

function candles(trace, xs, y, room) {
  const wide = Math.max(1, room);
  return xs.flatMap((px, row) => {
    if (trace.open[row] == null) return [];
    const [open, close] = [y(trace.open[row]), y(trace.close[row])], look = trace[trace.close[row] >= trace.open[row] ? "increasing" : "decreasing"];
    return [
      svg("path", { d: `M${px},${y(trace.high[row])}V${y(trace.low[row])}`, stroke: look.line.color }),
      svg("rect", { x: px - wide / 2, y: Math.min(open, close), width: wide, height: Math.max(1, Math.abs(open - close)), fill: look.fillcolor, stroke: look.line.color }),
    ];
  });
}

function overTime(figure, width, height) {
  const { layout, data } = figure, common = layout.template.layout, margin = { ...common.margin, ...layout.margin };
  const left = Math.max(margin.l, layout.yaxis.side === "right" ? 0 : 46), right = width - margin.r;
  const top = margin.t + (layout.showlegend ? 26 : 0), bottom = height - Math.max(margin.b, 22);
  const dated = layout.xaxis.type === "date", categories = dated ? null : [...new Set(data.flatMap((trace) => trace.x))];
  const along = dated ? parsed : (value) => categories.indexOf(value);
  const xs = data.map((trace) => trace.x.map(along));
  const spanned = xs.flat();
  const range = !dated ? [-0.5, categories.length - 0.5] : layout.xaxis.range?.map(parsed)
    ?? [spanned.reduce((least, one) => Math.min(least, one), Infinity), spanned.reduce((most, one) => Math.max(most, one), -Infinity)];
  if (!(range[1] > range[0])) return null;
  const x = between(range, left, right);
  // what is drawn over time ends where the plot does
  const front = svg("svg", { x: left, width: right - left, height: bottom, viewBox: `${left} 0 ${right - left} ${bottom}` });
  const back = svg("g"), words = svg("g", { "font-size": 12 });
  const muted = common.xaxis.tickfont.color, grid = common.xaxis.gridcolor;
  const stacks = layout.barmode === "stack";

  const axes = ["yaxis", "yaxis2"].filter((name) => layout[name]).map((name) => {
    const axis = layout[name], own = data.map((trace, at) => [trace, xs[at]]).filter(([trace]) => (trace.yaxis === "y2") === (name === "yaxis2"));
    const [low, high] = axis.domain ?? [0, 1];
    const from = bottom - low * (bottom - top), to = bottom - high * (bottom - top);
    const totals = stacks ? categories.map((one) => data.reduce((sum, trace) => sum + (trace.y[trace.x.indexOf(one)] ?? 0), 0)) : [];
    const anyBars = own.some(([trace]) => trace.type === "bar");
    const span = reach([...totals, ...own.flatMap(([trace]) => trace.type === "candlestick" ? [...trace.low, ...trace.high] : trace.y)], anyBars ? { ...axis, rangemode: "tozero" } : axis);
    const scale = between(span, from, to), convert = steady(axis);
    const y = (value) => { const known = value == null ? null : convert(value); return known == null ? null : scale(known); };
    const ticks = axis.type === "log" ? logTicks(span) : numberTicks(span, axis.nticks ?? 6);
    const atRight = axis.side === "right";
    for (const [at, says] of ticks) {
      const place = scale(at);
      back.append(svg("path", { d: `M${left},${place}H${right}`, stroke: grid }));
      words.append(label(`${says}${axis.ticksuffix ?? ""}`, atRight ? right + 3 : left - 3, place + 4, { fill: muted, "text-anchor": atRight ? "start" : "end" }));
    }
    return { name, own, y, from, to };
  });

  for (const shape of layout.shapes ?? []) {
    const [x0, x1] = shape.xref === "paper" ? [left, right] : [x(parsed(shape.x0)), x(parsed(shape.x1))];
    const [y0, y1] = shape.yref === "paper" ? [bottom, top] : [axes[0].y(shape.y0), axes[0].y(shape.y1)];
    if (shape.type === "rect") back.append(svg("rect", { x: Math.min(x0, x1), y: top, width: Math.abs(x1 - x0), height: bottom - top, fill: shape.fillcolor }));
    else front.append(svg("path", { d: `M${x0},${y0}L${x1},${y1}`, stroke: shape.line.color, "stroke-width": shape.line.width, "stroke-dasharray": DASHES[shape.line.dash], opacity: shape.opacity }));
  }

  const heaped = stacks ? new Map() : null;
  for (const { own, y, from } of axes) {
    let before = null;
    for (const [trace, at] of own) {
      if (trace.type === "bar") {
        const wide = dated ? x(range[0] + (trace.width ?? narrowest(at) * 0.72)) - left : (right - left) / categories.length * 0.72;
        front.append(...bars(trace, at.map(x), y, from, wide, heaped && [heaped, at]));
      } else if (trace.type === "candlestick") front.append(...candles(trace, at.map(x), y, (x(range[0] + narrowest(at)) - left) * 0.6));
      else {
        const points = at.map((one, row) => [x(one), y(trace.y[row])]);
        if (trace.fill === "tonexty" && before) front.append(band(before, points, trace.fillcolor));
        if (trace.mode === "markers") front.append(...points.map(([px, py]) => svg("circle", { cx: px, cy: py, r: trace.marker.size / 2.4, fill: trace.marker.color })));
        else if (trace.line?.width !== 0) front.append(polyline(points, trace));
        before = points;
      }
    }
  }

  if (dated) {
    for (const [at, hour, day] of clockTicks(range, right - left)) {
      words.append(label(hour, x(at), bottom + 15, { fill: muted, "text-anchor": "middle" }), label(day, x(at), bottom + 30, { fill: muted, "text-anchor": "middle" }));
    }
    words.append(label(layout.xaxis.title?.text ?? "", (left + right) / 2, height - 4, { fill: muted, "text-anchor": "middle" }));
  } else categories.forEach((one, at) => { if (at % Math.ceil(categories.length / 8) === 0) words.append(label(one, x(at), bottom + 15, { fill: muted, "text-anchor": "middle" })); });
  for (const one of layout.annotations ?? []) {
    const px = one.xref === "paper" ? left + one.x * (right - left) : x(parsed(one.x));
    const py = one.yref === "paper" ? bottom - one.y * (bottom - top) : axes[0].y(layout.yaxis.type === "log" ? 10 ** one.y : one.y);
    words.append(label(one.text, px + (one.xshift ?? 0), py + (one.yanchor === "middle" ? 4 : -4), { fill: one.font.color, "font-size": one.font.size }));
  }
  return [back, front, words];
}

// bars from left to right, each named at its left
function sideways(figure, width, height) {
  const { layout, data: [bars] } = figure, labels = layout.yaxis.ticktext;
  const left = 8 + 7 * Math.max(...labels.map((name) => unmarked(name).length)), right = width - 8;
  const most = Math.max(...bars.x.map((value) => value ?? 0)) || 1, room = (height - 16) / labels.length;
  const parts = svg("g", { "font-size": 12, fill: layout.template.layout.font.color });
  labels.forEach((name, row) => {
    const middle = 8 + (row + 0.5) * room, long = Math.max(1, ((bars.x[row] ?? 0) / most) * (right - left) * 0.95);
    const inside = long > 60;
    parts.append(
      label(name, left - 6, middle + 4, { "text-anchor": "end", fill: layout.template.layout.yaxis.tickfont.color, "font-weight": name.startsWith("<b>") ? "bold" : null }),
      svg("rect", { x: left, y: middle - room * 0.36, width: long, height: room * 0.72, fill: bars.marker.color[row] }),
      label(bars.text[row], left + long + (inside ? -5 : 5), middle + 4, { "text-anchor": inside ? "end" : "start" }));
  });
  return [parts];
}

// the picture, or null where there is no room for one or nothing that is drawn here
function sketch(figure, width, height) {
  if (width < 80 || height < 60 || !figure.data.length || figure.data.some((trace) => !trace.x?.length && trace.mode !== "markers")) return null;
  const parts = figure.data[0].orientation === "h" ? sideways(figure, width, height) : overTime(figure, width, height);
  return parts && svg("svg", { class: "cm-sketch", width, height, viewBox: `0 0 ${width} ${height}`, "aria-hidden": "true" }, ...parts);
}
