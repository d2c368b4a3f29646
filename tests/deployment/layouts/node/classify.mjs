// Classify pictures with the pipeline of transformers.js and embed them with its models.
// node classify.mjs FOLDER NAME < {pictures: [path], labels: [text], template: text}
// gives {classes: [label of each picture], image: [[...]], text: [[...]], ids: [[...]]}.

import { readFileSync } from "node:fs";

import {
  AutoProcessor,
  AutoTokenizer,
  CLIPTextModelWithProjection,
  CLIPVisionModelWithProjection,
  RawImage,
  env,
  pipeline,
} from "@huggingface/transformers";

const [folder, name] = process.argv.slice(2);
env.localModelPath = folder;
env.allowRemoteModels = false;

const { pictures, labels, template } = JSON.parse(readFileSync(0, "utf8"));
const classifier = await pipeline("zero-shot-image-classification", name);
const results = await classifier(pictures, labels, { hypothesis_template: template });

const tokenizer = await AutoTokenizer.from_pretrained(name);
const processor = await AutoProcessor.from_pretrained(name);
const texts = tokenizer(labels.map((label) => template.replace("{}", label)), { padding: true, truncation: true });
const images = await processor(await Promise.all(pictures.map((path) => RawImage.read(path))));
const { text_embeds } = await (await CLIPTextModelWithProjection.from_pretrained(name))(texts);
const { image_embeds } = await (await CLIPVisionModelWithProjection.from_pretrained(name))(images);

console.log(
  JSON.stringify({
    classes: results.map((shares) => shares[0].label),
    image: image_embeds.tolist(),
    text: text_embeds.tolist(),
    ids: texts.input_ids.tolist().map((row) => row.map(Number)),
  }),
);
