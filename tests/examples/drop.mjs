// node drop.mjs URL CHROMIUM PICTURE WIDTH [SWITCH]...: drop a picture on the page in headless Chromium and print, as
// JSON, what the page shows and the probabilities that its model gives.
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";

const [url, executablePath, picture, width, ...switches] = process.argv.slice(2);
const { chromium } = createRequire(`${process.cwd()}/`)("playwright-core");
const browser = await chromium.launch({ executablePath, args: ["--no-sandbox", ...switches] });
try {
  const page = await browser.newPage({ viewport: { width: Number(width), height: 900 } });
  const problems = [];
  page.on("pageerror", (error) => problems.push(error.message));
  page.on("requestfailed", (request) => problems.push(request.url()));
  await page.goto(url);
  await page.getByText(/^Ready/).waitFor();
  const ready = await page.locator("#status").textContent();
  const content = readFileSync(picture).toString("base64");
  const dropped = await page.evaluateHandle(async (content) => {
    const bytes = await (await fetch(`data:application/octet-stream;base64,${content}`)).arrayBuffer();
    const transfer = new DataTransfer();
    transfer.items.add(new File([bytes], "picture.png", { type: "image/png" }));
    return transfer;
  }, content);
  await page.dispatchEvent("#zone", "drop", { dataTransfer: dropped });
  await page.getByText(/^picture\.png/).waitFor();
  const shown = await page.locator("#results li span:first-child").allTextContents();
  const status = await page.locator("#status").textContent();
  const probabilities = shown.length
    ? await page.evaluate(async (transfer) => {
        const { loadModel } = await import("./model.js");
        return (await loadModel()).classify(transfer.files[0]);
      }, dropped)
    : null;
  const overflow = await page.evaluate(() => document.documentElement.scrollWidth - innerWidth);
  console.log(JSON.stringify({ ready, shown, status, probabilities, overflow, problems }));
} finally {
  await browser.close();
}
