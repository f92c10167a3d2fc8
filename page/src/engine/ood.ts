// How much of a scene is out of distribution for a model. Counterpart of landcover/ood.

export interface Profile {
  window_px: number;
  weights: number[];
  means: number[][];
  covariances: number[][][];
  levels: number[];
  distances: number[];
}

export interface OodReport {
  share: number;
  reasons: string[];
}

/** Warn at or above this fraction. */
export const WARN_FRACTION = 0.3;
const LEVEL = 0.98;
const LEAST_PX = 64;
const LAGS = [1, 4, 8, 16];
const LINE_STEP = 8;
const NOISE = 0.5;
const AXES = [
  [0.25, 0.5, 0.25],
  [1, 0, -1],
  [-0.5, 1, -0.5],
];
const WORDS = [
  ["darker", "brighter"],
  ["bluer", "redder"],
  ["less green", "greener"],
  ["flatter", "richer in contrast"],
  ["less varied in colour", "more varied in colour"],
  ["less varied in colour", "more varied in colour"],
  ["smoother", "rougher"],
  ["blurrier", "sharper or noisier"],
  ["finer in pattern", "coarser in pattern"],
  ["with bands that differ more", "with bands that differ less"],
  ["with bands that differ more", "with bands that differ less"],
  ["with bluer lights", "with redder lights"],
];

/** Compares a scene, part by part, with the training imagery. */
export class OodScore {
  private pixels = 0;
  private unlike = 0;
  private windows = 0;
  private scores = new Float64Array(WORDS.length);
  private readonly mixture: { weight: number; mean: number[]; inverse: number[][]; volume: number }[];
  private readonly limit: number;
  private readonly mean: number[];
  private readonly deviation: number[];

  constructor(private readonly profile: Profile) {
    this.mixture = profile.weights.map((weight, k) => ({
      weight,
      mean: profile.means[k],
      ...inverted(profile.covariances[k]),
    }));
    this.limit = profile.distances[profile.levels.indexOf(LEVEL)];
    const mixed = (value: (k: number) => number): number =>
      profile.weights.reduce((sum, weight, k) => sum + weight * value(k), 0);
    this.mean = WORDS.map((_, i) => mixed((k) => profile.means[k][i]));
    this.deviation = WORDS.map((_, i) =>
      Math.sqrt(mixed((k) => profile.covariances[k][i][i] + profile.means[k][i] ** 2) - this.mean[i] ** 2),
    );
  }

  /** Add part of a scene: RGB bytes at the model's GSD, and which pixels are imagery (null: all). */
  add(image: Uint8Array, whole: Uint8Array | null, stride: number, top: number, height: number, width: number): void {
    for (const [y0, y1] of pieces(height, this.profile.window_px)) {
      for (const [x0, x1] of pieces(width, this.profile.window_px)) {
        let area = (y1 - y0) * (x1 - x0);
        if (whole) {
          let count = 0;
          for (let y = y0; y < y1; y++) for (let x = x0; x < x1; x++) count += whole[(top + y) * stride + x];
          if (2 * count < area) continue;
          area = count;
        }
        const features = windowFeatures(image, whole, stride, top + y0, top + y1, x0, x1);
        if (!features) continue;
        this.pixels += area;
        if (this.distance(features) <= this.limit) continue;
        this.unlike += area;
        this.windows++;
        features.forEach((value, i) => (this.scores[i] += (value - this.mean[i]) / this.deviation[i]));
      }
    }
  }

  private distance(features: number[]): number {
    const logs = this.mixture.map(({ weight, mean, inverse, volume }) => {
      const apart = features.map((value, i) => value - mean[i]);
      const square = apart.reduce((sum, a, i) => sum + a * apart.reduce((s, b, j) => s + inverse[i][j] * b, 0), 0);
      return Math.log(weight) - (square + volume) / 2;
    });
    const top = Math.max(...logs);
    return -2 * (top + Math.log(logs.reduce((sum, log) => sum + Math.exp(log - top), 0)));
  }

  /** Return the fraction that is out of distribution, and how it differs; null if nothing was compared. */
  report(): OodReport | null {
    if (!this.pixels) return null;
    const share = Number((this.unlike / this.pixels).toFixed(4));
    if (!this.windows) return { share, reasons: [] };
    const scores = Array.from(this.scores, (sum) => sum / this.windows);
    const order = scores.map((_, i) => i).sort((a, b) => Math.abs(scores[b]) - Math.abs(scores[a]));
    const least = Math.max(1, Math.abs(scores[order[0]]) / 2);
    const words = order.filter((i) => Math.abs(scores[i]) >= least).map((i) => WORDS[i][scores[i] > 0 ? 1 : 0]);
    return { share, reasons: [...new Set(words)].slice(0, 3) };
  }
}

function pieces(length: number, window: number): [number, number][] {
  if (length < LEAST_PX) return [];
  const count = Math.max(1, Math.round(length / window));
  return Array.from({ length: count }, (_, i) => [
    Math.round((i * length) / count),
    Math.round(((i + 1) * length) / count),
  ]);
}

function windowFeatures(
  image: Uint8Array,
  whole: Uint8Array | null,
  stride: number,
  y0: number,
  y1: number,
  x0: number,
  x1: number,
): number[] | null {
  const sums = new Float64Array(LAGS.length);
  const counts = new Float64Array(LAGS.length);
  const mean = [0, 0, 0];
  const product = [
    [0, 0, 0],
    [0, 0, 0],
    [0, 0, 0],
  ];
  let pixels = 0;
  const visit = (from: number, length: number, step: number): void => {
    for (let i = 0, at = from; i < length; i++, at += step) {
      if (whole && !whole[at]) continue;
      pixels++;
      for (let a = 0; a < 3; a++) {
        mean[a] += image[at * 3 + a];
        for (let b = 0; b < 3; b++) product[a][b] += image[at * 3 + a] * image[at * 3 + b];
      }
      const light = (image[at * 3] + 2 * image[at * 3 + 1] + image[at * 3 + 2]) / 4;
      LAGS.forEach((lag, n) => {
        if (i + lag >= length) return;
        const to = at + lag * step;
        if (whole && !whole[to]) return;
        sums[n] += Math.abs((image[to * 3] + 2 * image[to * 3 + 1] + image[to * 3 + 2]) / 4 - light);
        counts[n]++;
      });
    }
  };
  for (let y = y0; y < y1; y += LINE_STEP) visit(y * stride + x0, x1 - x0, 1);
  for (let x = x0; x < x1; x += LINE_STEP) visit(y0 * stride + x, y1 - y0, stride);
  if (counts.includes(0)) return null;
  const [one, four, eight, sixteen] = Array.from(sums, (sum, n) => Math.log(sum / counts[n] + NOISE));
  for (let a = 0; a < 3; a++) mean[a] /= pixels;
  const spread = product.map((row, a) => row.map((sum, b) => sum / pixels - mean[a] * mean[b]));
  const along = (axis: number[]): number =>
    axis.reduce((sum, a, i) => sum + axis.reduce((s, b, j) => s + a * b * spread[i][j], 0), 0);
  const sides = spread.map((row, i) => Math.sqrt(Math.max(0, row[i])) + NOISE);
  const correlation = (a: number, b: number): number =>
    Math.atanh(Math.min(0.9999, Math.max(-0.9999, spread[a][b] / (sides[a] * sides[b]))));
  return [
    ...AXES.map((axis) => axis.reduce((sum, a, i) => sum + a * mean[i], 0)),
    ...AXES.map((axis) => Math.log(Math.sqrt(Math.max(0, along(axis))) + NOISE)),
    four,
    one - eight,
    sixteen - four,
    correlation(0, 1),
    correlation(2, 1),
    Math.min(3, Math.max(-3, (spread[0][1] - spread[2][1]) / sides[1] ** 2)),
  ];
}

/** Return the inverse of a covariance matrix and log det(2 pi C), by Gauss-Jordan elimination. */
function inverted(matrix: number[][]): { inverse: number[][]; volume: number } {
  const n = matrix.length;
  const work = matrix.map((row, i) => [...row, ...row.map((_, j) => (i === j ? 1 : 0))]);
  let volume = n * Math.log(2 * Math.PI);
  for (let i = 0; i < n; i++) {
    let pivot = i;
    for (let r = i + 1; r < n; r++) if (Math.abs(work[r][i]) > Math.abs(work[pivot][i])) pivot = r;
    [work[i], work[pivot]] = [work[pivot], work[i]];
    const scale = work[i][i];
    volume += Math.log(Math.abs(scale));
    work[i] = work[i].map((value) => value / scale);
    for (let r = 0; r < n; r++) {
      if (r === i) continue;
      const factor = work[r][i];
      if (factor) work[r] = work[r].map((value, c) => value - factor * work[i][c]);
    }
  }
  return { inverse: work.map((row) => row.slice(n)), volume };
}
