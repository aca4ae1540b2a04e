// What is in the file altogether, and measuring all of it.

import { useEffect, useMemo, useRef, useState } from "preact/hooks";
import type { Tensors, Thing } from "../../answers";
import { askJob, isReport } from "../../ask";
import { bytes, count, many } from "../../format";
import type { Known } from "./statistics";

/** How many elements a shape has. */
export function sizeOf(shape: readonly number[]): number {
  return shape.reduce((product, length) => product * length, 1);
}

interface Work {
  part: number | null;
  problem: string;
  run: () => void;
}

/** Run an exact measurement when asked to; `part` is how much of it is done, null while none runs. */
export function useExact<T>(path: string, done: (answer: T) => void): Work {
  const [part, setPart] = useState<number | null>(null);
  const [problem, setProblem] = useState("");
  const stop = useRef<AbortController | null>(null);
  useEffect(() => () => stop.current?.abort(), []);
  const run = () => {
    const control = new AbortController();
    stop.current = control;
    setPart(0);
    setProblem("");
    askJob<T>(path, (now) => !control.signal.aborted && setPart(now), control.signal)
      .then(done)
      .catch((error: Error) => !control.signal.aborted && setProblem(error.message))
      .finally(() => !control.signal.aborted && setPart(null));
  };
  return { part, problem, run };
}

interface SummaryProps {
  thing: Thing;
  tensors: Tensors;
  known: Known;
}

export function Summary({ thing, tensors, known }: SummaryProps) {
  const { parameters, dtypes } = useMemo(() => {
    const byDtype = new Map<string, number>();
    let parameters = 0;
    tensors.dtypes.forEach((dtype, i) => {
      parameters += sizeOf(tensors.shapes[i] ?? []);
      byDtype.set(dtype, (byDtype.get(dtype) ?? 0) + 1);
    });
    return { parameters, dtypes: [...byDtype].sort((one, other) => other[1] - one[1]) };
  }, [tensors]);
  return (
    <div class="tensors-summary">
      <p>
        <b>{count(thing.tensors)}</b> {thing.tensors === 1 ? "tensor" : "tensors"}, <b>{count(parameters)}</b> {parameters === 1 ? "parameter" : "parameters"}, <b>{bytes(thing.nbytes)}</b>
        <span class="soft"> · {thing.format}</span>
        {dtypes.slice(0, 8).map(([dtype, times]) => (
          <span key={dtype} class="tensors-chip">
            {dtype} <span class="soft">{count(times)}</span>
          </span>
        ))}
        {dtypes.length > 8 && <span class="soft"> and {many(dtypes.length - 8, "more dtype")}</span>}
      </p>
      {known.problem && !isReport && <p class="problem">{known.problem}</p>}
      {tensors.left_out > 0 && <p class="soft">{many(tensors.left_out, "more tensor is", "more tensors are")} not listed: there are too many for a page.</p>}
    </div>
  );
}

/** Reads every value once, and asks for what is in view again. */
export function MeasureAll({ thing, tensors, known }: SummaryProps) {
  const exact = useExact<null>(`things/${thing.id}/exact`, () => known.refresh());
  if (isReport || tensors.names.length === 0) return null;
  return (
    <span class="tensors-measure">
      {exact.problem && <span class="problem">{exact.problem} </span>}
      {exact.part === null ? (
        <button onClick={exact.run} title="reads every byte once">
          Measure all exactly
        </button>
      ) : (
        <label role="status">
          measuring <progress value={exact.part} aria-label="Measured" /> {Math.floor(exact.part * 100)} %
        </label>
      )}
    </span>
  );
}
