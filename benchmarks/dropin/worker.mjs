// One model in transformers.js: node worker.mjs FOLDER NODE_MODULES. Its commands are those of worker.py.

import { readFileSync } from "node:fs";
import { basename, dirname, join } from "node:path";
import { createInterface } from "node:readline";
import { pathToFileURL } from "node:url";

const [folder, modules] = process.argv.slice(2);
const library = pathToFileURL(join(modules, "@huggingface/transformers/dist/transformers.node.mjs"));
const { AutoProcessor, AutoTokenizer, CLIPTextModelWithProjection, CLIPVisionModelWithProjection, RawImage, env } =
  await import(library);
env.localModelPath = dirname(folder);
env.allowRemoteModels = false;
const name = basename(folder);

/** Megabytes of this process: VmRSS, what it holds, or VmHWM, the most that it held. */
function memory(field) {
  const status = readFileSync("/proc/self/status", "utf8");
  return (Number(status.match(new RegExp(`^${field}:\\s+(\\d+)`, "m"))[1]) * 1024) / 1e6;
}

let pictures, prompts, processor, tokenizer, vision, text;

async function load(given) {
  const idle = memory("VmRSS");
  vision = await CLIPVisionModelWithProjection.from_pretrained(name);
  text = await CLIPTextModelWithProjection.from_pretrained(name);
  processor = await AutoProcessor.from_pretrained(name);
  tokenizer = await AutoTokenizer.from_pretrained(name);
  pictures = await Promise.all(given.pictures.map((path) => RawImage.read(path)));
  prompts = given.prompts;
  return { idle, load: memory("VmHWM") };
}

async function inputs(part, count) {
  if (part === "image") return processor(pictures.slice(0, count));
  return tokenizer(prompts.slice(0, count), { padding: true, truncation: true });
}

async function embed(part, given) {
  return part === "image" ? (await vision(given)).image_embeds : (await text(given)).text_embeds;
}

async function answer(command) {
  if (command.do === "load") return load(command);
  if (command.do === "answer") {
    const image = await embed("image", await inputs("image", pictures.length));
    return { image: image.tolist(), text: (await embed("text", await inputs("text", prompts.length))).tolist() };
  }
  const given = await inputs(command.do, command.batch);
  const start = performance.now();
  await embed(command.do, given);
  return { seconds: (performance.now() - start) / 1000, held: memory("VmRSS"), peak: memory("VmHWM") };
}

for await (const line of createInterface({ input: process.stdin })) {
  console.log(JSON.stringify(await answer(JSON.parse(line))));
}
