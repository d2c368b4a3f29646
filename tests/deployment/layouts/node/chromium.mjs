// Embed pictures with transformers.js in headless Chromium.
// node chromium.mjs CHROMIUM FOLDER NAME < {pictures: [path], choices: [{device?, dtype?}]}
// gives {gpu: what WebGPU runs on, null without it, embeddings: for each choice [[...]], or a message if it failed}.

import { readFileSync } from "node:fs";
import { readFile } from "node:fs/promises";
import { createServer } from "node:http";
import { extname, join, normalize } from "node:path";
import { fileURLToPath } from "node:url";

import { chromium } from "playwright-core";

const [executablePath, folder, name] = process.argv.slice(2);
const { pictures, choices } = JSON.parse(readFileSync(0, "utf8"));
const modules = fileURLToPath(new URL("node_modules", import.meta.url));
const imports = {
  "onnxruntime-web/webgpu": "/modules/onnxruntime-web/dist/ort.webgpu.min.mjs",
  "onnxruntime-common": "/modules/onnxruntime-common/dist/esm/index.js",
};
const types = { ".js": "text/javascript", ".mjs": "text/javascript", ".wasm": "application/wasm" };

const server = createServer(async (request, response) => {
  const [, place, ...rest] = normalize(new URL(request.url, "http://localhost").pathname).split("/");
  try {
    let content = `<script type="importmap">${JSON.stringify({ imports })}</script>`;
    if (place) {
      const root = { modules, models: folder }[place];
      content = await readFile(place === "pictures" ? pictures[Number(rest[0])] : join(root, ...rest));
    }
    response.writeHead(200, { "content-type": place ? (types[extname(request.url)] ?? "") : "text/html" });
    response.end(content);
  } catch {
    response.writeHead(404).end();
  }
}).listen(0);

// A software implementation of WebGPU, so that no GPU is needed.
const args = ["--no-sandbox", "--enable-unsafe-webgpu", "--use-webgpu-adapter=swiftshader", "--use-vulkan=swiftshader"];
const browser = await chromium.launch({ executablePath, args });
const page = await browser.newPage();
await page.goto(`http://localhost:${server.address().port}/`);
const found = await page.evaluate(
  async ({ name, count, choices }) => {
    const library = await import("/modules/@huggingface/transformers/dist/transformers.web.min.js");
    const { env } = library;
    Object.assign(env, { localModelPath: "/models/", allowLocalModels: true, allowRemoteModels: false });
    env.useBrowserCache = false;
    Object.assign(env.backends.onnx.wasm, { wasmPaths: "/modules/onnxruntime-web/dist/", numThreads: 1 });
    const processor = await library.AutoProcessor.from_pretrained(name);
    const addresses = Array.from({ length: count }, (_, i) => `/pictures/${i}`);
    const inputs = await processor(await Promise.all(addresses.map((address) => library.RawImage.read(address))));
    const embeddings = [];
    for (const choice of choices) {
      try {
        const model = await library.CLIPVisionModelWithProjection.from_pretrained(name, choice);
        embeddings.push((await model(inputs)).image_embeds.tolist());
      } catch (error) {
        embeddings.push(error.message);
      }
    }
    const adapter = await navigator.gpu?.requestAdapter();
    return { gpu: adapter ? adapter.info.architecture : null, embeddings };
  },
  { name, count: pictures.length, choices },
);
console.log(JSON.stringify(found));
await browser.close();
server.close();
