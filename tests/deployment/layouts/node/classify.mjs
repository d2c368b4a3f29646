// Classify pictures with the pipeline of transformers.js and embed them with its models.
// node classify.mjs FOLDER NAME < {pictures: [path], labels: [text], template: text}
// gives {classes: [label of each picture], scores: [its score], image: [[...]], text: [[...]], ids: [[...]]}.

import { readFileSync } from "node:fs";

import {
  AutoProcessor,
  AutoTokenizer,
  CLIPTextModelWithProjection,
  CLIPVisionModelWithProjection,
  RawImage,
  SiglipTextModel,
  SiglipVisionModel,
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
const siglip = classifier.model.config.model_type === "siglip";
const [TextModel, VisionModel] = siglip
  ? [SiglipTextModel, SiglipVisionModel]
  : [CLIPTextModelWithProjection, CLIPVisionModelWithProjection];
const prompts = labels.map((label) => template.replace("{}", label));
const texts = tokenizer(prompts, { padding: siglip ? "max_length" : true, truncation: true });
const images = await processor(await Promise.all(pictures.map((path) => RawImage.read(path))));
const text = await (await TextModel.from_pretrained(name))(texts);
const image = await (await VisionModel.from_pretrained(name))(images);

console.log(
  JSON.stringify({
    classes: results.map((shares) => shares[0].label),
    scores: results.map((shares) => shares[0].score),
    image: (image.image_embeds ?? image.pooler_output).tolist(),
    text: (text.text_embeds ?? text.pooler_output).tolist(),
    ids: texts.input_ids.tolist().map((row) => row.map(Number)),
  }),
);
