// node look.mjs CHROMIUM PAGE WIDTH light|dark [SCREENSHOT]: open a report in headless Chromium and print, as JSON, what
// went wrong, what is drawn, how tables sort and filter, what arrow keys say, and what axe-core finds.
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { pathToFileURL } from "node:url";

const [executablePath, file, width, colorScheme, screenshot] = process.argv.slice(2);
const require = createRequire(`${process.cwd()}/`);
const { chromium } = require("playwright-core");
const browser = await chromium.launch({ executablePath, args: ["--no-sandbox"] });
try {
  const page = await browser.newPage({ viewport: { width: Number(width), height: 900 }, colorScheme, offline: true });
  const problems = [];
  const requests = [];
  page.on("pageerror", (error) => problems.push(error.message));
  page.on("console", (message) => ["error", "warning"].includes(message.type()) && problems.push(message.text()));
  page.on("request", (request) => request.url().startsWith("data:") || requests.push(request.url()));
  // Seconds of the processor: those of the clock depend on what else the machine does.
  const session = await page.context().newCDPSession(page);
  await session.send("Performance.enable", { timeDomain: "threadTicks" });
  await page.goto(pathToFileURL(file).href);
  await page.waitForFunction(() => document.documentElement.dataset.drawn !== undefined);
  const { metrics } = await session.send("Performance.getMetrics");
  const seconds = metrics.find((metric) => metric.name === "TaskDuration").value;
  const charts = await page.evaluate(() =>
    [...document.querySelectorAll("figure.chart canvas")].map((canvas) => {
      const pixels = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data;
      return { name: canvas.closest("figure").id, colors: new Set(new Uint32Array(pixels.buffer)).size };
    }),
  );
  const overflow = await page.evaluate(() => document.documentElement.scrollWidth - innerWidth);
  if (screenshot) await page.screenshot({ path: screenshot, fullPage: true });
  await page.evaluate(() => document.querySelectorAll("details").forEach((each) => (each.open = true)));
  const tables = await page.evaluate(() =>
    [...document.querySelectorAll("table.sortable")].map((table) => {
      const [first, second] = table.tHead.querySelectorAll("button");
      const column = (index) => [...table.tBodies[0].rows].map((row) => row.cells[index].dataset.value ?? row.cells[index].textContent);
      second.click();
      const up = column(1);
      second.click();
      const down = column(1);
      const sort = table.tHead.rows[0].cells[1].getAttribute("aria-sort");
      first.click();
      return { id: table.id, up, down, sort, names: column(0) };
    }),
  );
  const filters = await page.evaluate(() =>
    [...document.querySelectorAll("input.filter")].map((input) => {
      const rows = [...document.getElementById(input.getAttribute("aria-controls")).tBodies[0].rows];
      input.value = rows.at(-1).cells[0].textContent;
      input.dispatchEvent(new Event("input"));
      const shown = rows.filter((row) => !row.hidden).length;
      input.value = "";
      input.dispatchEvent(new Event("input"));
      return { shown, rows: rows.length };
    }),
  );
  const spoken = [];
  for (const canvas of await page.$$("figure.chart canvas")) {
    await canvas.focus();
    await page.keyboard.press("ArrowRight");
    await page.keyboard.press("ArrowRight");
    spoken.push(await canvas.evaluate((each) => each.closest("figure").querySelector("[aria-live]").textContent));
  }
  await page.evaluate(() => scrollTo(0, 0));
  await page.addScriptTag({ content: readFileSync(require.resolve("axe-core/axe.min.js"), "utf-8") }).catch(() => {});
  const axe = await page.evaluate(() => axe.run(document, { resultTypes: ["violations"] }));
  const violations = axe.violations.map(({ id, impact, nodes }) => ({ id, impact, where: nodes.slice(0, 3).map((node) => node.html.slice(0, 160)) }));
  console.log(JSON.stringify({ problems, requests, seconds, charts, overflow, tables, filters, spoken, violations }));
} finally {
  await browser.close();
}
