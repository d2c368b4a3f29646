// Draws the charts of a report with Chart.js from the data beside each, and makes tables sortable and filterable.
"use strict";

const dark = matchMedia("(prefers-color-scheme: dark)");
const shapes = ["circle", "rect", "triangle", "rectRot", "crossRot", "star", "rectRounded", "cross"];
const charts = [];

function palette(printing) {
  const root = document.documentElement;
  root.classList.toggle("printing", printing);
  const style = getComputedStyle(root);
  return {
    ink: style.getPropertyValue("--ink").trim(),
    soft: style.getPropertyValue("--soft").trim(),
    line: style.getPropertyValue("--line").trim(),
    paper: style.getPropertyValue("--paper").trim(),
    series: Array.from({ length: 8 }, (_, i) => style.getPropertyValue(`--c${i}`).trim()),
  };
}

function number(value) {
  const size = Math.abs(value);
  return size !== 0 && (size < 0.001 || size >= 1e6) ? value.toExponential(2) : String(Number(value.toPrecision(4)));
}

function dataset(series, data, colors) {
  const color = colors.series[series.color % colors.series.length];
  const points = data.kind === "points";
  return {
    label: series.name,
    data: points || data.log.includes("x") ? series.values.map((pair) => ({ x: pair[0], y: pair[1] })) : series.values,
    notes: series.notes,
    series: series.color,
    borderColor: color,
    backgroundColor: data.kind === "line" ? color : color + (points ? "b0" : ""),
    borderDash: series.dashed ? [6, 4] : [],
    borderWidth: data.kind === "bar" ? 0 : points ? 1 : 2,
    pointStyle: shapes[series.color % shapes.length],
    pointRadius: points ? 4 : series.values.length > 60 ? 0 : 2.5,
    pointHoverRadius: 6,
    maxBarThickness: 36,
    spanGaps: true,
  };
}

function axis(title, logarithmic, categories, colors, kind) {
  return {
    type: logarithmic ? "logarithmic" : categories ? "category" : "linear",
    title: { display: Boolean(title), text: title, color: colors.soft },
    ticks: { color: colors.soft, maxRotation: 45, autoSkip: kind !== "bar" || !categories, autoSkipPadding: 12, callback: label },
    grid: { color: colors.line, display: !categories || kind === "line" },
    border: { color: colors.line },
  };
  function label(value) {
    if (!categories) return logarithmic && !/^[125]/.test(value.toExponential()) ? null : number(value);
    const name = String(this.getLabelForValue(value)).replace(/^blocks\./, "");
    return name.length > 22 ? `…${name.slice(-21)}` : name;
  }
}

function legend(chart) {
  const items = Chart.defaults.plugins.legend.labels.generateLabels(chart);
  return items.map((item) => ({ ...item, lineDash: chart.data.datasets[item.datasetIndex].borderDash, lineWidth: 2 }));
}

function configuration(data, colors) {
  const bars = data.kind === "bar";
  const categories = data.kind !== "points" && !data.log.includes("x");
  const across = axis(data.x, data.log.includes("x"), false, colors, data.kind);
  const names = axis(bars ? "" : data.x, false, true, colors, data.kind);
  const values = axis(bars ? data.x : data.y, data.log.includes("y"), false, colors, data.kind);
  return {
    type: data.kind === "points" ? "scatter" : data.kind,
    data: { labels: data.labels, datasets: data.series.map((series) => dataset(series, data, colors)) },
    options: {
      animation: false,
      maintainAspectRatio: false,
      indexAxis: bars ? "y" : "x",
      interaction: data.kind === "points" ? { mode: "nearest", intersect: false } : { mode: "index", axis: bars ? "y" : "x", intersect: false },
      scales: bars ? { x: values, y: names } : { x: categories ? names : across, y: values },
      plugins: {
        legend: { display: data.series.length > 1, labels: { color: colors.ink, usePointStyle: true, boxHeight: 7, generateLabels: legend, ...(data.series.some((series) => series.dashed) && { pointStyle: "line", pointStyleWidth: 34 }) } },
        tooltip: {
          usePointStyle: true,
          callbacks: {
            label: (item) => {
              const y = bars ? item.parsed.x : item.parsed.y;
              const note = item.dataset.notes[item.dataIndex];
              if (data.kind === "points" && note) return `${item.dataset.label}: ${note}`;
              return `${item.dataset.label}: ${number(y)}${note ? ` (${note})` : ""}`;
            },
          },
        },
      },
    },
  };
}

function draw(figure) {
  const data = JSON.parse(figure.querySelector("script[type='application/json']").textContent);
  const canvas = figure.querySelector("canvas");
  const chart = new Chart(canvas, configuration(data, palette(false)));
  charts.push({ chart, data });
  canvas.addEventListener("keydown", (event) => step(event, chart, figure.querySelector("[aria-live]")));
  canvas.addEventListener("blur", () => activate(chart, []));
}

// With arrow keys, Home and End the tooltip walks over the points, and a screen reader hears what it says.
function step(event, chart, live) {
  const last = Math.max(...chart.data.datasets.map((each) => each.data.length)) - 1;
  const now = chart.walked ?? -1;
  const targets = { ArrowRight: now + 1, ArrowDown: now + 1, ArrowLeft: now - 1, ArrowUp: now - 1, Home: 0, End: last };
  if (event.key === "Escape") return activate(chart, []);
  if (!(event.key in targets)) return;
  event.preventDefault();
  chart.walked = Math.min(last, Math.max(0, targets[event.key]));
  const seen = chart.data.datasets
    .map((each, datasetIndex) => ({ datasetIndex, index: chart.walked, value: each.data[chart.walked] }))
    .filter(({ value, datasetIndex }) => value !== null && value !== undefined && chart.isDatasetVisible(datasetIndex));
  activate(chart, seen);
  live.textContent = [...(chart.tooltip.title || []), ...(chart.tooltip.body || []).flatMap((part) => part.lines)].join("; ");
}

function activate(chart, seen) {
  const element = seen.length ? chart.getDatasetMeta(seen[0].datasetIndex).data[seen[0].index] : { x: 0, y: 0 };
  chart.setActiveElements(seen);
  chart.tooltip.setActiveElements(seen, { x: element.x, y: element.y });
  chart.update("none");
}

function recolor(printing) {
  const colors = palette(printing);
  for (const { chart, data } of charts) {
    const fresh = configuration(data, colors);
    fresh.data.datasets.forEach((each, i) => Object.assign(chart.data.datasets[i], each));
    chart.options = fresh.options;
    chart.update("none");
  }
}

function sortable(table) {
  const body = table.tBodies[0];
  for (const heading of table.tHead.rows[0].cells) {
    const button = heading.querySelector("button");
    button.addEventListener("click", () => {
      const order = heading.getAttribute("aria-sort") === "ascending" ? "descending" : "ascending";
      for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
      heading.setAttribute("aria-sort", order);
      const rows = [...body.rows].sort((a, b) => compare(a.cells[heading.cellIndex], b.cells[heading.cellIndex]));
      body.append(...(order === "ascending" ? rows : rows.reverse()));
    });
  }
}

function compare(a, b) {
  const [first, second] = [a.dataset.value, b.dataset.value];
  if (first !== undefined && second !== undefined) return Number(first) - Number(second);
  if (first !== second && (first === undefined) !== (second === undefined) && (!a.textContent || !b.textContent)) return a.textContent ? 1 : -1;
  return a.textContent.localeCompare(b.textContent, "en", { numeric: true });
}

function filterable(input) {
  const table = document.getElementById(input.getAttribute("aria-controls"));
  const count = document.getElementById(`${table.id}-count`);
  input.addEventListener("input", () => {
    const words = input.value.toLowerCase().split(/\s+/);
    let shown = 0;
    for (const row of table.tBodies[0].rows) {
      const text = row.textContent.toLowerCase();
      row.hidden = !words.every((word) => text.includes(word));
      shown += !row.hidden;
    }
    count.textContent = `${shown} of ${table.tBodies[0].rows.length} rows`;
  });
}

document.documentElement.classList.add("script");
Chart.defaults.font.family = getComputedStyle(document.body).fontFamily;
Chart.defaults.font.size = 13;
document.querySelectorAll("figure.chart").forEach(draw);
document.querySelectorAll("table.sortable").forEach(sortable);
document.querySelectorAll("input.filter").forEach(filterable);
dark.addEventListener("change", () => recolor(false));
addEventListener("beforeprint", () => recolor(true));
addEventListener("afterprint", () => recolor(false));
document.documentElement.dataset.drawn = String(charts.length);
