// Which two are compared: those of the address, else those that one most likely wants.

import type { Run, Thing } from "../../answers";
import { stepOf, wholeOf } from "../../place";

/** Ids of what is compared; of a run without a step, the last one is meant. */
export interface Pair {
  a?: string;
  b?: string;
}

/** The steps of a run that can be read. */
export function readable(run: Run | undefined): number[] {
  return (run?.steps ?? []).filter((step) => !step.problem).map((step) => step.step);
}

function known(id: string | undefined, things: readonly Thing[]): string | undefined {
  return id !== undefined && things.some((thing) => thing.id === wholeOf(id) && thing.kind !== "") ? id : undefined;
}

/** What is compared where the address does not say: a step with the one before, else two files. */
export function pairOf(thing: Thing, things: readonly Thing[], chosen: Record<string, string>): Pair {
  const a = known(chosen.a, things);
  const b = known(chosen.b, things);
  if (a && b) return { a, b };
  const whole = things.find((each) => each.id === wholeOf(thing.id)) ?? thing;
  const others = things.filter((each) => each.kind !== "" && each.id !== whole.id);
  if (whole.kind === "run" && (whole.steps > 1 || others.length === 0)) {
    const after = b ?? (stepOf(thing.id) === undefined ? whole.id : thing.id);
    return { a: a ?? `${whole.id}@before`, b: after };
  }
  const other = others[0]?.id;
  if (a) return { a, b: a === whole.id ? other : whole.id };
  if (b) return { a: b === whole.id ? other : whole.id, b };
  // In the order in which they were given.
  return other !== undefined && things.findIndex((each) => each.id === other) < things.indexOf(whole)
    ? { a: other, b: whole.id }
    : { a: whole.id, b: other };
}

/** An id with its step, once the steps of its run are known; of a state, the id itself. */
export function settled(id: string | undefined, things: readonly Thing[], run: Run | undefined, after?: string): string | undefined {
  const whole = things.find((each) => id !== undefined && each.id === wholeOf(id));
  if (whole?.kind !== "run" || id === undefined || stepOf(id) !== undefined) return id;
  const steps = readable(run);
  if (id.endsWith("@before")) {
    const next = after === undefined ? undefined : stepOf(after);
    const earlier = steps.filter((step) => next !== undefined && step < next);
    const step = earlier.at(-1) ?? steps.find((each) => each !== next);
    return step === undefined ? undefined : `${whole.id}@${step}`;
  }
  return steps.length ? `${whole.id}@${steps.at(-1)}` : undefined;
}
