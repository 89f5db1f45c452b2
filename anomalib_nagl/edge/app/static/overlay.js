/** Pictures made of numbers: the anomaly map in colours, a mask as what is marked, what is left out. */

// Dark violet to light yellow (the stops of "magma"): it rises in lightness, so it can be read without its colours.
const STOPS = [
  [0, 0, 4],
  [59, 15, 112],
  [140, 41, 129],
  [222, 73, 104],
  [254, 159, 109],
  [252, 253, 191],
];
export const MARK = [34, 211, 238];

/** A canvas of a size, and its context. */
export function layer(width, height) {
  const canvas = document.createElement("canvas");
  canvas.width = width;
  canvas.height = height;
  return [canvas, canvas.getContext("2d", { willReadFrequently: true })];
}

/** The values of a grey picture, 0 to 255, row after row. */
export function greyOf(bitmap) {
  const [, context] = layer(bitmap.width, bitmap.height);
  context.drawImage(bitmap, 0, 0);
  const { data } = context.getImageData(0, 0, bitmap.width, bitmap.height);
  return Uint8Array.from({ length: data.length / 4 }, (_, place) => data[4 * place]);
}

/** A canvas whose pixels are made from values by `colour(value) -> [red, green, blue, alpha]`. */
export function painted(values, width, height, colour) {
  const [canvas, context] = layer(width, height);
  const table = Array.from({ length: 256 }, (_, value) => colour(value));
  const image = context.createImageData(width, height);
  values.forEach((value, place) => image.data.set(table[value], 4 * place));
  context.putImageData(image, 0, 0);
  return canvas;
}

/** The colour of a map value: the higher, the lighter; what is low leaves the picture as it is. */
export function heat(value) {
  const at = (value / 255) * (STOPS.length - 1);
  const low = Math.min(Math.floor(at), STOPS.length - 2);
  const mixed = [0, 1, 2].map(
    (channel) => STOPS[low][channel] + (at - low) * (STOPS[low + 1][channel] - STOPS[low][channel]),
  );
  return [...mixed, Math.min(Math.max((value - 40) * 1.7, 0), 255)];
}

/** The colour of what a mask marks. */
export const marked = (value) => [...MARK, value > 127 ? 255 : 0];

/** The colour over what is not looked at. */
export const leftOut = (value) => [20, 26, 30, value > 127 ? 0 : 205];

/** A picture from an address of the data scheme, which may not be fetched but may be shown. */
export async function decode(source) {
  const image = new Image();
  image.src = source;
  await image.decode();
  return image;
}
