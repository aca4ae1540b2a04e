// A comparison in words.

import type { Diff, DiffRow } from "../../answers";
import { count, number } from "../../format";
import { plain } from "../../names";

export function sizeOf(sizes: readonly number[]): number {
  return sizes.reduce((product, size) => product * size, 1);
}

/** The share of a tensor's elements that differ, 0 to 1; null where they have no counterparts. */
export function share(row: DiffRow): number | null {
  if (row.differing === null) return null;
  const size = sizeOf(row.shapes[0] ?? []);
  return size ? row.differing / size : 0;
}

/** What is said where NaN or an infinity stands against something else. */
export const NO_NUMBER = "not finite";

/** The largest difference, in words. */
export function largest(row: DiffRow): string {
  return row.max === null && row.mean !== null && !row.equal ? NO_NUMBER : number(row.max);
}

/** What of a tensor changed, beside its values. */
export function kindOf(row: DiffRow): string {
  if (row.identical) return "identical";
  const [shapeA, shapeB] = row.shapes.map((shape) => shape.join());
  const changed = [row.dtypes[0] !== row.dtypes[1] && "dtype", shapeA !== shapeB && "shape"].filter(Boolean);
  if (row.equal) return changed.length ? `${changed.join(", ")}; equal values` : "equal values, other bytes";
  return changed.length ? changed.join(", ") : "values";
}

function tensors(many: number, does: string, do_: string): string {
  return many === 1 ? `1 tensor ${does}` : `${count(many)} tensors ${do_}`;
}

/** How many of the rows that were left out are surely of identical tensors: all lists are cut at the
 * same length, and identical tensors come last. */
function leftOutIdentical({ tensors: rows, only_a, only_b, values, left_out }: Diff): number {
  const others = Math.max(only_a.length, only_b.length, values.length);
  return others < rows.length && rows.at(-1)?.identical ? left_out : 0;
}

/** The sentences above the lists. */
export function summaryOf(diff: Diff): string[] {
  const identical = diff.tensors.filter((row) => row.identical).length + leftOutIdentical(diff);
  const equal = diff.tensors.filter((row) => row.equal && !row.identical).length;
  const differing = diff.tensors.filter((row) => !row.equal);
  const sentences: string[] = [];
  if (diff.equal) {
    sentences.push(equal ? "All values are equal, though not all bytes." : "Both are equal: every tensor and every value.");
  }
  if (diff.equal && !equal) return [...sentences, `${tensors(identical, "is", "are")} identical.`];
  const parts = [
    identical ? `${tensors(identical, "is", "are")} identical` : "No tensor is identical",
    equal && `${tensors(equal, "has", "have")} equal values in other bytes`,
    differing.length && tensors(differing.length, "differs", "differ"),
    diff.only_a.length && tensors(diff.only_a.length, "is only in A", "are only in A"),
    diff.only_b.length && tensors(diff.only_b.length, "is only in B", "are only in B"),
    diff.values.length &&
      (diff.values.length === 1 ? "1 value beside the tensors differs" : `${count(diff.values.length)} values beside the tensors differ`),
  ].filter((part): part is string => typeof part === "string");
  sentences.push(`${parts.join(", ")}.`);
  const endless = differing.filter((row) => largest(row) === NO_NUMBER);
  if (endless.length) sentences.push(`${tensors(endless.length, "has", "have")} NaN or infinite values where the other has none, or others.`);
  const most = differing.find((row) => row.max !== null);
  if (most) sentences.push(`The largest ${endless.length ? "other " : ""}difference is ${number(most.max)}, in ${plain(most.name)}.`);
  if (diff.left_out) {
    sentences.push(`${count(diff.left_out)} ${leftOutIdentical(diff) ? "of the identical ones" : "more rows"} are not listed here.`);
  }
  return sentences;
}
