import { loadModel } from "./model.js";

const zone = document.querySelector("#zone");
const input = document.querySelector("#file");
const status = document.querySelector("#status");
const results = document.querySelector("#results");
const picture = document.querySelector("#picture");

const loading = loadModel();
loading.then(
  (model) => (status.textContent = `Ready: ${model.labels.length} labels, in ${model.device}.`),
  (error) => (status.textContent = error.message),
);

async function show(file) {
  const model = await loading;
  status.textContent = "Looking ...";
  results.replaceChildren();
  try {
    const start = performance.now();
    const found = await model.classify(file);
    const spent = Math.round(performance.now() - start);
    URL.revokeObjectURL(picture.src);
    picture.src = URL.createObjectURL(file);
    picture.alt = file.name;
    picture.hidden = false;
    const best = found.map((share, i) => [share, model.labels[i]]).sort((a, b) => b[0] - a[0]);
    results.replaceChildren(...best.slice(0, 5).map(row));
    status.textContent = `${file.name}, ${spent} ms`;
  } catch (error) {
    picture.hidden = true;
    status.textContent = error.message;
  }
}

function row([share, label]) {
  const item = document.createElement("li");
  const name = document.createElement("span");
  const value = document.createElement("span");
  name.textContent = label;
  value.textContent = `${(100 * share).toFixed(1)} %`;
  item.style.setProperty("--share", share);
  item.append(name, value);
  return item;
}

zone.addEventListener("dragover", (event) => {
  event.preventDefault();
  zone.classList.add("over");
});
zone.addEventListener("dragleave", () => zone.classList.remove("over"));
zone.addEventListener("drop", (event) => {
  event.preventDefault();
  zone.classList.remove("over");
  if (event.dataTransfer.files.length) show(event.dataTransfer.files[0]);
});
input.addEventListener("change", () => input.files.length && show(input.files[0]));
