// Colours of numbers: a diverging scale whose middle is the page's own ground (so that 0 recedes in
// both themes) and a sequential one, both mixed in OKLab, where equal steps look equal.

export type Rgb = readonly [number, number, number];

export interface Scale {
  low: number;
  high: number;
  /** Blue below 0, red above; else from faint to strong. */
  diverging: boolean;
}

interface Lab {
  l: number;
  a: number;
  b: number;
}

const lch = (l: number, c: number, h: number): Lab => ({ l, a: c * Math.cos((h * Math.PI) / 180), b: c * Math.sin((h * Math.PI) / 180) });

// Lightness falls (rises in the dark) evenly from the middle to both ends.
const STOPS = {
  light: { below: [lch(0.97, 0.005, 250), lch(0.72, 0.12, 250), lch(0.38, 0.14, 262)], above: [lch(0.97, 0.005, 250), lch(0.73, 0.14, 35), lch(0.4, 0.15, 28)] },
  dark: { below: [lch(0.25, 0.01, 250), lch(0.55, 0.13, 255), lch(0.87, 0.1, 230)], above: [lch(0.25, 0.01, 250), lch(0.55, 0.16, 30), lch(0.87, 0.11, 65)] },
};
const FAINT = {
  light: [lch(0.96, 0.02, 110), lch(0.7, 0.11, 190), lch(0.3, 0.1, 280)],
  dark: [lch(0.22, 0.05, 280), lch(0.58, 0.11, 200), lch(0.94, 0.1, 110)],
};

/** What is no number: colours that no scale has. */
export const NAN: Record<"light" | "dark", Rgb> = { light: [214, 160, 0], dark: [240, 200, 40] };
export const INFINITE: Record<"light" | "dark", Rgb> = { light: [0, 150, 90], dark: [40, 210, 130] };

function rgb({ l, a, b }: Lab): Rgb {
  const [x, y, z] = [l + 0.3963377774 * a + 0.2158037573 * b, l - 0.1055613458 * a - 0.0638541728 * b, l - 0.0894841775 * a - 1.291485548 * b].map((v) => v ** 3) as [number, number, number];
  const linear = [
    4.0767416621 * x - 3.3077115913 * y + 0.2309699292 * z,
    -1.2684380046 * x + 2.6097574011 * y - 0.3413193965 * z,
    -0.0041960863 * x - 0.7034186147 * y + 1.707614701 * z,
  ];
  return linear.map((v) => {
    const held = Math.max(0, Math.min(1, v));
    return Math.round(255 * (held <= 0.0031308 ? 12.92 * held : 1.055 * held ** (1 / 2.4) - 0.055));
  }) as unknown as Rgb;
}

function along(stops: Lab[], part: number): Rgb {
  const place = part * (stops.length - 1);
  const i = Math.min(stops.length - 2, Math.floor(place));
  const [from, to] = [stops[i] as Lab, stops[i + 1] as Lab];
  const mix = (one: number, other: number) => one + (other - one) * (place - i);
  return rgb({ l: mix(from.l, to.l), a: mix(from.a, to.a), b: mix(from.b, to.b) });
}

const tables = new Map<string, Rgb[]>();

/** 256 colours from the lowest to the highest. */
export function colours(diverging: boolean, dark: boolean): Rgb[] {
  const key = `${diverging} ${dark}`;
  const theme = dark ? "dark" : "light";
  let table = tables.get(key);
  if (!table) {
    table = Array.from({ length: 256 }, (_, i) => {
      const part = i / 255;
      if (!diverging) return along(FAINT[theme], part);
      return part < 0.5 ? along(STOPS[theme].below, 1 - 2 * part) : along(STOPS[theme].above, 2 * part - 1);
    });
    tables.set(key, table);
  }
  return table;
}

/** The colour of a number. */
export function colourOf(value: number, scale: Scale, dark: boolean): Rgb {
  const theme = dark ? "dark" : "light";
  if (Number.isNaN(value)) return NAN[theme];
  if (!Number.isFinite(value)) return INFINITE[theme];
  const part = (value - scale.low) / (scale.high - scale.low || 1);
  return colours(scale.diverging, dark)[Math.round(255 * Math.max(0, Math.min(1, part)))] as Rgb;
}

export function css([r, g, b]: Rgb): string {
  return `rgb(${r}, ${g}, ${b})`;
}

/** Black or white, whichever is read better upon a colour. */
export function inkOn([r, g, b]: Rgb): string {
  return 0.299 * r + 0.587 * g + 0.114 * b > 140 ? "#000" : "#fff";
}

/** The scale for values; a robust one leaves out the outermost hundredth at each end. */
export function scaleOf(data: Float32Array, { robust, centred }: { robust: boolean; centred: boolean }): Scale {
  const finite = data.filter(Number.isFinite);
  if (finite.length === 0) return { low: -1, high: 1, diverging: centred };
  finite.sort();
  const skip = robust ? Math.floor(finite.length / 100) : 0;
  let low = finite[skip] as number;
  let high = finite[finite.length - 1 - skip] as number;
  if (!centred) {
    if (low === high) high = low + 1;
    return { low, high, diverging: false };
  }
  const most = Math.max(Math.abs(low), Math.abs(high)) || Math.max(Math.abs(finite[0] as number), Math.abs(finite[finite.length - 1] as number)) || 1;
  low = -most;
  high = most;
  return { low, high, diverging: true };
}

/** Paint numbers as pixels, row by row. */
export function painted(data: Float32Array, rows: number, cols: number, scale: Scale, dark: boolean): HTMLCanvasElement {
  const canvas = document.createElement("canvas");
  [canvas.width, canvas.height] = [Math.max(1, cols), Math.max(1, rows)];
  const ink = canvas.getContext("2d");
  if (!ink || rows * cols === 0) return canvas;
  const image = ink.createImageData(cols, rows);
  for (let i = 0; i < rows * cols; i += 1) {
    const colour = colourOf(data[i] as number, scale, dark);
    image.data.set(colour, i * 4);
    image.data[i * 4 + 3] = 255;
  }
  ink.putImageData(image, 0, 0);
  return canvas;
}
