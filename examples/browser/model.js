// The image tower in onnxruntime-web; the labels' embeddings were made before, so that no text tower is needed.

import * as ort from "./ort/ort.wasm.min.mjs";
import { decode, normalize, resizeAndCrop } from "./pixels.js";

// More threads take a server that isolates the page from other origins.
ort.env.wasm.numThreads = 1;

/** Fetch model.json and image.onnx; gives an object with `labels` and `classify(file)`. */
export async function loadModel() {
  const settings = await (await fetched("model.json")).json();
  const graph = await (await fetched("image.onnx")).arrayBuffer();
  const session = await ort.InferenceSession.create(graph, { executionProviders: ["wasm"] });
  const encode = async (file) => {
    const pixels = normalize(resizeAndCrop(await decode(file), settings.size), settings);
    const input = new ort.Tensor("float32", pixels, [1, 3, settings.size, settings.size]);
    return (await session.run({ pixels: input })).embedding.data;
  };
  return {
    labels: settings.labels,
    /** Probabilities of all labels for a picture file, in the order of `labels`. */
    classify: async (file) => probabilities(await encode(file), settings),
  };
}

async function fetched(name) {
  const answer = await fetch(name);
  if (!answer.ok) throw new Error(`${name} cannot be fetched (${answer.status}); make the site with prepare.py.`);
  return answer;
}

function probabilities(embedding, { texts, logit_scale }) {
  const length = Math.hypot(...embedding);
  const logits = texts.map((text) => (logit_scale * text.reduce((sum, t, i) => sum + t * embedding[i], 0)) / length);
  const largest = Math.max(...logits);
  const powers = logits.map((logit) => Math.exp(logit - largest));
  const total = powers.reduce((a, b) => a + b);
  return powers.map((power) => power / total);
}
