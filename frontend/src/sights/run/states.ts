// Whether checkpoints are sound: as the run tells, and as is found here by reading every byte.

import { useEffect, useRef, useState } from "preact/hooks";
import type { Step, Verified } from "../../answers";
import { askJob } from "../../ask";
import { plain } from "../../names";

export type Soundness = "sound" | "damaged" | "unread";

/** What is known here of a step that is or was read. */
export interface Reading {
  /** How much is read, 0 to 1; undefined once it is. */
  part?: number;
  verified?: Verified;
  /** Why it could not be found out. */
  failed?: string;
}

export type Readings = ReadonlyMap<number, Reading>;

export function soundnessOf(step: Step, readings: Readings): Soundness {
  const found = readings.get(step.step)?.verified;
  if (found) return found.sound ? "sound" : "damaged";
  if (step.problem) return "damaged";
  return step.verified ? "sound" : "unread";
}

export const TOLD: Record<Soundness, string> = { sound: "verified", damaged: "damaged", unread: "not verified" };
/** Shapes beside colours, for those who do not tell the colours apart. */
export const MARKS: Record<Soundness, string> = { sound: "●", damaged: "✕", unread: "○" };

/** The problems of a step, a sentence each. */
export function problemsOf(step: Step, readings: Readings): string[] {
  const found = readings.get(step.step)?.verified?.problems ?? [];
  return (found.length ? found : step.problem ? [step.problem] : []).map((each) => plain(each, 600));
}

export interface Verifying {
  readings: Readings;
  busy: boolean;
  verify: (steps: readonly number[]) => void;
  stop: () => void;
}

// What was read stays known while the page does, by the id of the run.
const known = new Map<string, Readings>();

/** Read steps of a run, one after the other; `after` is called when all are read. */
export function useVerifying(id: string, after: () => void): Verifying {
  const [readings, setReadings] = useState<Readings>(() => known.get(id) ?? new Map());
  const [busy, setBusy] = useState(false);
  const stopping = useRef<AbortController>();
  useEffect(() => () => stopping.current?.abort(), [id]);
  const note = (step: number, reading: Reading) =>
    setReadings((before) => {
      const after = new Map(before).set(step, reading);
      known.set(id, new Map([...after].filter(([, each]) => each.verified)));
      return after;
    });
  const verify = async (steps: readonly number[]) => {
    stopping.current?.abort();
    const stop = new AbortController();
    stopping.current = stop;
    setBusy(true);
    for (const step of steps) {
      note(step, { part: 0 });
      try {
        const path = `runs/${id}/verify?step=${step}`;
        const verified = await askJob<Verified>(path, (part) => stop.signal.aborted || note(step, { part }), stop.signal);
        note(step, { verified });
      } catch (error) {
        note(step, stop.signal.aborted ? {} : { failed: (error as Error).message });
      }
      if (stop.signal.aborted) return;
    }
    setBusy(false);
    after();
  };
  const stop = () => {
    stopping.current?.abort();
    setBusy(false);
  };
  return { readings, busy, verify: (steps) => void verify(steps), stop };
}
