// What the map of a course shows of each tensor at each step, and in which colour.

import type { Course } from "../../answers";
import { type Rgb, NAN, colours } from "../../components/colour";
import { number } from "../../format";

export type Measure = "update" | "norm" | "broken";

export const MEASURES: Record<Measure, { title: string; tells: string }> = {
  update: { title: "Update ratio", tells: "how far each step moved a tensor, relative to its norm; logarithmic" },
  norm: { title: "Norm", tells: "the norm relative to the tensor's first; logarithmic, blue where it shrank" },
  broken: { title: "NaN or infinite", tells: "how many values are not finite; logarithmic" },
};

/** What a cell's colour tells; null: nothing is known; 0 of updates and counts is told apart. */
function amounts(course: Course, measure: Measure): (number | null)[][] {
  if (measure === "update") return course.updates;
  if (measure === "broken") return course.broken;
  return course.norms.map((norms) => {
    const first = norms.find((norm) => norm !== null && norm > 0) ?? 1;
    return norms.map((norm) => (norm === null ? null : norm / (first as number)));
  });
}

export interface Shading {
  measure: Measure;
  /** The ends of the scale of colours, as the values that they stand for. */
  low: number;
  high: number;
  /** The place in the table of colours; -1: nothing is known, -2: it is 0, -3: it is not finite. */
  cells: Int16Array[];
}

export function shading(course: Course, measure: Measure): Shading {
  const all = amounts(course, measure);
  let low = Infinity;
  let high = -Infinity;
  for (const row of all) {
    for (const value of row) {
      if (value === null || value <= 0) continue;
      low = Math.min(low, Math.log(value));
      high = Math.max(high, Math.log(value));
    }
  }
  if (measure === "norm" && low <= high) {
    high = Math.max(Math.abs(low), Math.abs(high), Math.log(1.1));
    low = -high;
  }
  if (measure === "broken" && low <= high) low = 0;
  if (measure === "update") low = Math.max(low, high - Math.log(1e6));
  const span = high - low || 1;
  const cells = all.map((row, tensor) =>
    Int16Array.from(row, (value, step) => {
      if ((course.broken[tensor]?.[step] ?? 0) > 0 && measure !== "broken") return -3;
      if (value === null) return -1;
      if (value <= 0) return -2;
      return Math.round(255 * Math.max(0, Math.min(1, (Math.log(value) - low) / span)));
    }),
  );
  return { measure, low: Math.exp(low), high: Math.exp(high), cells };
}

/** The colours of a measure, from its lowest to its highest. */
export function coloursOf(measure: Measure, dark: boolean): Rgb[] {
  return colours(measure === "norm", dark);
}

export function brokenColour(dark: boolean): Rgb {
  return NAN[dark ? "dark" : "light"];
}

/** The ends of the scale in words; none where nothing has a colour. */
export function ends({ measure, low, high }: Shading): [string, string] | null {
  if (!Number.isFinite(low) || !Number.isFinite(high) || low > high) return null;
  return measure === "norm" ? [`÷ ${number(high)}`, `× ${number(high)}`] : [number(low), number(high)];
}
