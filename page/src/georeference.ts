// Where a GeoTIFF is and how large its pixels are on the ground.
// Counterpart of landcover/raster/georeference.py for the systems that have closed forms.

const RADIUS = 6_378_137;
const E2 = 0.00669437999014;
const UNITS: Record<number, number> = { 9001: 1, 9002: 0.3048, 9003: 1200 / 3937 };

export interface Georeference {
  /** (a, b, c, d, e, f) with x = a col + b row + c and y = d col + e row + f. */
  transform: [number, number, number, number, number, number];
  kind: "geographic" | "utm" | "mercator" | "other";
  epsg: number | null;
  /** For UTM: zone and hemisphere. */
  zone: number;
  isSouth: boolean;
  /** Metres per unit of the coordinates; null where unknown. */
  unit: number | null;
  /** TIFF tags that carry the georeference, to copy into results. */
  tags: { tag: number; type: number; values: number[] | string }[];
}

type Keys = Record<string, unknown>;

/** Return the georeference in a GeoTIFF's tags, or null. */
export function parseGeoreference(
  keys: Keys | null,
  tiepoint: number[] | undefined,
  scale: number[] | undefined,
  matrix: number[] | undefined,
  tags: Georeference["tags"],
): Georeference | null {
  let transform: Georeference["transform"];
  if (matrix && matrix.length >= 8) {
    transform = [matrix[0], matrix[1], matrix[3], matrix[4], matrix[5], matrix[7]];
  } else if (tiepoint && tiepoint.length === 6 && scale && scale.length >= 2) {
    const [sx, sy] = scale;
    transform = [sx, 0, tiepoint[3] - tiepoint[0] * sx, 0, -sy, tiepoint[4] + tiepoint[1] * sy];
  } else return null;
  if (!keys || !transform.every(Number.isFinite)) return null;
  let [a, b, c, d, e, f] = transform;
  if (Math.abs(a * e - b * d) < 1e-300) return null;
  if (keys.GTRasterTypeGeoKey === 2) {
    c -= (a + b) / 2;
    f -= (d + e) / 2;
    transform = [a, b, c, d, e, f];
  }
  const base = { transform, tags, zone: 0, isSouth: false };
  if (keys.GTModelTypeGeoKey === 2) {
    const angular = keys.GeogAngularUnitsGeoKey;
    if (angular !== undefined && angular !== 9102) return null;
    const epsg = Number(keys.GeographicTypeGeoKey);
    return { ...base, kind: "geographic", epsg: epsg > 0 && epsg < 32767 ? epsg : null, unit: null };
  }
  const code = Number(keys.ProjectedCSTypeGeoKey);
  const epsg = code > 0 && code < 32767 ? code : null;
  const linear = Number(keys.ProjLinearUnitsGeoKey);
  const unit = UNITS[linear] ?? null;
  if (epsg === 3857) return { ...base, kind: "mercator", epsg, unit: 1 };
  const utm = epsg === null ? null : utmZone(epsg);
  if (utm) return { ...base, kind: "utm", epsg, unit: 1, zone: utm[0], isSouth: utm[1] };
  return { ...base, kind: "other", epsg, unit };
}

function utmZone(epsg: number): [number, boolean] | null {
  for (const [first, last, zone, isSouth] of [
    [32601, 32660, 1, false],
    [32701, 32760, 1, true],
    [25828, 25838, 28, false],
    [26901, 26923, 1, false],
    [28348, 28358, 48, true],
    [7846, 7859, 46, true],
  ] as [number, number, number, boolean][]) {
    if (epsg >= first && epsg <= last) return [zone + epsg - first, isSouth];
  }
  return null;
}

export const toMap = (place: Georeference, col: number, row: number): [number, number] => {
  const [a, b, c, d, e, f] = place.transform;
  return [a * col + b * row + c, d * col + e * row + f];
};

/** Return metres east and north per unit of x and y at a latitude in radians (systems with axes along them). */
function metresPerUnit(kind: Georeference["kind"], latitude: number): [number, number] {
  const bend = 1 - E2 * Math.sin(latitude) ** 2;
  const east = (RADIUS / Math.sqrt(bend)) * Math.cos(latitude);
  const north = (RADIUS * (1 - E2)) / bend ** 1.5;
  if (kind === "geographic") return [(east * Math.PI) / 180, (north * Math.PI) / 180];
  return [east / RADIUS, (north * Math.cos(latitude)) / RADIUS];
}

const latitudeOf = (kind: Georeference["kind"], y: number): number =>
  kind === "geographic" ? (y * Math.PI) / 180 : 2 * Math.atan(Math.exp(y / RADIUS)) - Math.PI / 2;

/** Return the lengths on the ground of a step down and across at a pixel; null where they cannot be computed. */
function sidesAt(place: Georeference, col: number, row: number): [number, number] | null {
  const [a, b, , d, e] = place.transform;
  if (place.kind === "other") return null;
  if (place.kind === "utm") return [Math.hypot(b, e), Math.hypot(a, d)];
  const [mx, my] = metresPerUnit(place.kind, latitudeOf(place.kind, toMap(place, col, row)[1]));
  return [Math.hypot(b * mx, e * my), Math.hypot(a * mx, d * my)];
}

export interface Scale {
  gsd: number;
  /** Metres down and across a pixel, as `predict` uses them. */
  sides: [number, number];
}

/** Return the scale of a scene; null where the person must enter it. */
export function scaleOf(place: Georeference, height: number, width: number): Scale | null {
  const exact = sidesAt(place, width / 2, height / 2);
  if (!exact || !exact.every((side) => Number.isFinite(side) && side > 0)) return null;
  const [a, b, , d, e] = place.transform;
  let gsd = Math.sqrt(exact[0] * exact[1]);
  if (place.kind === "mercator") {
    const nominal = Math.sqrt(Math.hypot(a, d) * Math.hypot(b, e));
    if (Math.abs(nominal / gsd - 1) <= 0.01) gsd = nominal;
  }
  const ratio = exact[0] / exact[1];
  if (Math.abs(ratio - 1) < 0.01) return { gsd, sides: [gsd, gsd] };
  return { gsd, sides: [gsd * Math.sqrt(ratio), gsd / Math.sqrt(ratio)] };
}

/** Return square metres of a pixel of each row. */
export function rowAreas(place: Georeference | null, height: number, width: number, gsd: number): Float64Array {
  const areas = new Float64Array(height).fill(gsd * gsd);
  if (!place || place.kind === "other") return areas;
  const [a, b, , d, e, f] = place.transform;
  if (place.kind === "utm") return areas.fill(Math.abs(a * e - b * d));
  if (place.kind === "geographic" && d === 0) {
    const edge = (row: number): number => zone(((f + e * row) * Math.PI) / 180);
    return areas.map((_, row) => (Math.abs(edge(row + 1) - edge(row)) * Math.abs(a) * Math.PI) / 180);
  }
  return areas.map((_, row) => {
    const latitude = latitudeOf(place.kind, toMap(place, width / 2, row + 0.5)[1]);
    const [mx, my] = metresPerUnit(place.kind, latitude);
    return Math.abs((a * e - b * d) * mx * my);
  });
}

/** Return the area from the equator to a latitude for one radian of longitude (Snyder 1987, equation 3-12). */
function zone(latitude: number): number {
  const e = Math.sqrt(E2);
  const sine = Math.sin(latitude);
  return ((RADIUS ** 2 * (1 - E2)) / 2) * (sine / (1 - E2 * sine * sine) + Math.atanh(e * sine) / e);
}

/** Return longitude and latitude in degrees; null where the system has no closed form here. */
export function toLonLat(place: Georeference, col: number, row: number): [number, number] | null {
  const [x, y] = toMap(place, col, row);
  const degrees = 180 / Math.PI;
  if (place.kind === "geographic") return [x, y];
  if (place.kind === "mercator") return [(x / RADIUS) * degrees, latitudeOf("mercator", y) * degrees];
  if (place.kind !== "utm") return null;
  // Snyder, Map Projections: A Working Manual (1987), equations 8-17 to 8-25.
  const k0 = 0.9996;
  const ep2 = E2 / (1 - E2);
  const m = (place.isSouth ? y - 10_000_000 : y) / k0;
  const mu = m / (RADIUS * (1 - E2 / 4 - (3 * E2 ** 2) / 64 - (5 * E2 ** 3) / 256));
  const e1 = (1 - Math.sqrt(1 - E2)) / (1 + Math.sqrt(1 - E2));
  const phi =
    mu +
    ((3 * e1) / 2 - (27 * e1 ** 3) / 32) * Math.sin(2 * mu) +
    ((21 * e1 ** 2) / 16 - (55 * e1 ** 4) / 32) * Math.sin(4 * mu) +
    ((151 * e1 ** 3) / 96) * Math.sin(6 * mu) +
    ((1097 * e1 ** 4) / 512) * Math.sin(8 * mu);
  const [sin, cos, tan] = [Math.sin(phi), Math.cos(phi), Math.tan(phi)];
  const c = ep2 * cos * cos;
  const t = tan * tan;
  const n = RADIUS / Math.sqrt(1 - E2 * sin * sin);
  const r = (RADIUS * (1 - E2)) / (1 - E2 * sin * sin) ** 1.5;
  const D = (x - 500_000) / (n * k0);
  const latitude =
    phi -
    ((n * tan) / r) *
      (D ** 2 / 2 -
        ((5 + 3 * t + 10 * c - 4 * c * c - 9 * ep2) * D ** 4) / 24 +
        ((61 + 90 * t + 298 * c + 45 * t * t - 252 * ep2 - 3 * c * c) * D ** 6) / 720);
  const longitude =
    (D -
      ((1 + 2 * t + c) * D ** 3) / 6 +
      ((5 - 2 * c + 28 * t - 3 * c * c + 8 * ep2 + 24 * t * t) * D ** 5) / 120) /
    cos;
  return [(place.zone * 6 - 183) + longitude * degrees, latitude * degrees];
}
