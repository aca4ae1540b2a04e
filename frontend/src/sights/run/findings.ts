// What a course tells: where values first are not finite, and which steps moved tensors unusually far.

import type { Course } from "../../answers";
import { count, many, number } from "../../format";
import { plain } from "../../names";

/** So many times the median update of a tensor is a jump. */
export const JUMP = 10;

/** How a tensor went over the steps. */
export interface Went {
  /** Its place in the course. */
  place: number;
  /** Its median update; null where it never moved. */
  median: number | null;
  /** The places of the steps that moved it far beyond its median. */
  jumps: number[];
  /** The largest of its updates, in medians. */
  largest: number;
  /** The place of the first step with a value that is not finite; -1: none. */
  broken: number;
  /** Whether no step changed it. */
  still: boolean;
}

function median(values: readonly number[]): number | null {
  const sorted = [...values].sort((one, other) => one - other);
  const middle = sorted.length >> 1;
  if (sorted.length === 0) return null;
  return sorted.length % 2 ? (sorted[middle] ?? 0) : ((sorted[middle - 1] ?? 0) + (sorted[middle] ?? 0)) / 2;
}

export function wentOf(course: Course): Went[] {
  return course.names.map((_, place) => {
    const updates = course.updates[place] ?? [];
    const known = updates.filter((update): update is number => update !== null);
    const middle = median(known.filter((update) => update > 0));
    const jumps = middle === null ? [] : updates.flatMap((update, step) => (update !== null && update > JUMP * middle ? [step] : []));
    const largest = middle === null ? 0 : known.reduce((most, update) => Math.max(most, update), 0) / middle;
    const broken = (course.broken[place] ?? []).findIndex((many) => many > 0);
    const still = known.length > 0 && known.every((update) => update === 0) && broken < 0;
    return { place, median: middle, jumps, largest, broken, still };
  });
}

/** A sentence, and the tensor and the step that it is about. */
export interface Finding {
  told: string;
  grave: boolean;
  tensor?: number;
  step?: number;
}

function named(course: Course, places: readonly number[]): string {
  const [first = 0] = places;
  const name = plain(course.names[first] ?? "", 120);
  if (places.length === 1) return name;
  return `${name} and ${places.length === 2 ? "1 more tensor" : `${count(places.length - 1)} more tensors`}`;
}

function broken(course: Course, went: readonly Went[]): Finding[] {
  const hit = went.filter((each) => each.broken >= 0);
  const first = hit.reduce((step, each) => Math.min(step, each.broken), Infinity);
  if (!Number.isFinite(first)) return [];
  const there = hit.filter((each) => each.broken === first).map((each) => each.place);
  const values = there.reduce((sum, place) => sum + (course.broken[place]?.[first] ?? 0), 0);
  const told = `NaN or infinite first at step ${course.steps[first]} in ${named(course, there)}: ${many(values, "value")}${course.exact ? "" : ", by a sample"}.`;
  return [{ told, grave: true, tensor: there[0], step: first }];
}

function jumps(course: Course, went: readonly Went[]): Finding[] {
  const at = new Map<number, Went[]>();
  for (const each of went) for (const step of each.jumps) at.set(step, [...(at.get(step) ?? []), each]);
  const times = (each: Went, step: number) => (course.updates[each.place]?.[step] ?? 0) / (each.median ?? 1);
  const found = [...at].sort(([one], [other]) => one - other);
  const told = found.slice(0, 4).map(([step, moved]): Finding => {
    moved.sort((one, other) => times(other, step) - times(one, step));
    const most = moved[0] as Went;
    const ratio = times(most, step);
    return {
      told: `Step ${course.steps[step]} moved ${named(course, moved.map((each) => each.place))} ${moved.length > 1 ? "up to " : ""}${ratio < 1e9 ? count(Number(ratio.toPrecision(2))) : number(ratio)} times as far as a median step does.`,
      grave: false,
      tensor: most.place,
      step,
    };
  });
  if (found.length > 4) told.push({ told: `${found.length - 4} later steps moved tensors that far, too.`, grave: false });
  return told;
}

export function findings(course: Course, went: readonly Went[]): Finding[] {
  const still = went.filter((each) => each.still).map((each) => each.place);
  const unread = Object.entries(course.problems);
  const found = [
    ...broken(course, went),
    ...jumps(course, went),
    ...unread.slice(0, 5).map(([step, problem]): Finding => ({ told: `Step ${step} is left out: ${plain(problem, 300).replace(/\.$/, "")}.`, grave: true })),
  ];
  if (unread.length > 5) found.push({ told: `${unread.length - 5} more steps are left out.`, grave: true });
  if (found.length === 0) {
    found.push({ told: `All values are finite, and no step moved a tensor more than ${JUMP} times as far as its median.`, grave: false });
  }
  if (still.length) found.push({ told: `${named(course, still)} never ${still.length === 1 ? "changes" : "change"}.`, grave: false, tensor: still[0] });
  if (course.left_out) found.push({ told: `${count(course.left_out)} more tensors are not followed.`, grave: false });
  return found;
}
