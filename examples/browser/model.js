// The image tower in onnxruntime-web; the labels' embeddings were made before, so that no text tower is needed.

import { decode, normalize, resizeAndCrop } from "./pixels.js";

/** For each device: its graph, the build of onnxruntime-web that has it, and what is said of it. */
const DEVICES = {
  webgpu: { graph: "image_q4.onnx", runtime: "ort.webgpu.min.mjs", words: "WebGPU, with packed weights" },
  wasm: { graph: "image.onnx", runtime: "ort.wasm.min.mjs", words: "WASM, with integers" },
};

/** The GPU if the browser has one and the site a graph for it, else WASM; `?device=wasm` in the address decides, too. */
async function choose(settings) {
  const wanted = new URLSearchParams(location.search).get("device");
  if (wanted) return wanted === "webgpu" ? "webgpu" : "wasm";
  if (!settings.webgpu) return "wasm";
  const adapter = await navigator.gpu?.requestAdapter().catch(() => null);
  return adapter ? "webgpu" : "wasm";
}

async function openSession(device) {
  const { graph, runtime } = DEVICES[device];
  const ort = await import(`./ort/${runtime}`);
  // More threads take a server that isolates the page from other origins.
  ort.env.wasm.numThreads = 1;
  const bytes = await (await fetched(graph)).arrayBuffer();
  return { ort, session: await ort.InferenceSession.create(bytes, { executionProviders: [device] }) };
}

/**
 * Fetch model.json and the graph for what this browser has; gives an object with `labels`, `device` and
 * `classify(file)`.
 */
export async function loadModel() {
  const settings = await (await fetched("model.json")).json();
  let device = await choose(settings);
  const opened = await openSession(device).catch((error) => {
    if (device === "wasm") throw error;
    console.warn(`WebGPU failed: ${error.message}`);
    device = "wasm";
    return openSession(device);
  });
  const { ort, session } = opened;
  const [input] = session.inputNames;
  const [output] = session.outputNames;
  const encode = async (file) => {
    const pixels = normalize(resizeAndCrop(await decode(file), settings.size), settings);
    const tensor = new ort.Tensor("float32", pixels, [1, 3, settings.size, settings.size]);
    return (await session.run({ [input]: tensor }))[output].data;
  };
  return {
    labels: settings.labels,
    device: DEVICES[device].words,
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
