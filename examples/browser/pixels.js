// A picture to the normalized pixels that the model reads: the same steps as d4c.models.inputs.preprocess, that is
// Pillow's bicubic filter, wide enough to smooth when it shrinks. A canvas scales with other filters in every browser.

/**
 * Red, green, blue, alpha of a picture over white, as it is stored: not rotated by EXIF, no color profile. Throws if
 * it does not decode.
 */
export async function decode(file) {
  const options = { imageOrientation: "none", colorSpaceConversion: "none" };
  const bitmap = await createImageBitmap(file, options).catch(() => {
    throw new Error(`${file.name} does not decode as a picture; choose another one.`);
  });
  const canvas = new OffscreenCanvas(bitmap.width, bitmap.height);
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.fillStyle = "white";
  context.fillRect(0, 0, bitmap.width, bitmap.height);
  context.drawImage(bitmap, 0, 0);
  return context.getImageData(0, 0, bitmap.width, bitmap.height);
}

/** The center square of {width, height, data: RGBA} with `size` pixels a side, as RGB bytes. */
export function resizeAndCrop({ width, height, data }, size) {
  const short = Math.min(width, height);
  const columns = taps(width, Math.floor((size * width) / short), size);
  const rows = taps(height, Math.floor((size * height) / short), size);
  const top = rows[0].start;
  const bottom = rows[size - 1].start + rows[size - 1].weights.length;
  // Both passes round to bytes, as Pillow does; the array rounds and clamps by itself.
  const wide = new Uint8ClampedArray((bottom - top) * size * 3);
  for (let y = top; y < bottom; y++) {
    columns.forEach(({ start, weights }, x) => {
      for (let c = 0; c < 3; c++) {
        let sum = 0;
        weights.forEach((weight, i) => (sum += weight * data[(y * width + start + i) * 4 + c]));
        wide[((y - top) * size + x) * 3 + c] = sum;
      }
    });
  }
  const out = new Uint8ClampedArray(size * size * 3);
  rows.forEach(({ start, weights }, y) => {
    for (let i = 0; i < size * 3; i++) {
      let sum = 0;
      weights.forEach((weight, j) => (sum += weight * wide[(start - top + j) * size * 3 + i]));
      out[y * size * 3 + i] = sum;
    }
  });
  return out;
}

/** RGB bytes [size, size, 3] to float32 [3, size, size]. */
export function normalize(bytes, { mean, std }) {
  const count = bytes.length / 3;
  const out = new Float32Array(bytes.length);
  for (let i = 0; i < count; i++) {
    for (let c = 0; c < 3; c++) out[c * count + i] = (bytes[i * 3 + c] / 255 - mean[c]) / std[c];
  }
  return out;
}

/** For the middle `size` of `full` output pixels: where each one's input begins, and the weights. */
function taps(input, full, size) {
  const scale = input / full;
  const stretch = Math.max(scale, 1);
  const first = roundHalfToEven((full - size) / 2);
  return Array.from({ length: size }, (_, i) => {
    const center = (first + i + 0.5) * scale;
    const start = Math.max(0, Math.floor(center - 2 * stretch + 0.5));
    const end = Math.min(input, Math.floor(center + 2 * stretch + 0.5));
    const weights = Array.from({ length: end - start }, (_, j) => bicubic((start + j + 0.5 - center) / stretch));
    const total = weights.reduce((a, b) => a + b);
    return { start, weights: weights.map((weight) => weight / total) };
  });
}

/** Keys' cubic convolution with a = -1/2. */
function bicubic(x) {
  x = Math.abs(x);
  if (x < 1) return (1.5 * x - 2.5) * x * x + 1;
  return x < 2 ? ((-0.5 * x + 2.5) * x - 4) * x + 2 : 0;
}

function roundHalfToEven(x) {
  const below = Math.floor(x);
  if (x - below !== 0.5) return Math.round(x);
  return below % 2 ? below + 1 : below;
}
