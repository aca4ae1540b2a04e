// A run: its checkpoints over time, what was measured, and how its tensors went.

import { useEffect, useState } from "preact/hooks";
import type { Run } from "../../answers";
import { ask, isReport } from "../../ask";
import type { Asked } from "../../asking";
import { Waiting } from "../../components/waiting";
import type { SightProps } from "../../page";
import { go } from "../../place";
import { useKeys } from "../../shell/keys";
import { CourseOf } from "./course";
import { Metrics } from "./metrics";
import "./run.css";
import { soundnessOf, useVerifying } from "./states";
import { ChosenStep, Steps } from "./steps";
import { Timeline } from "./timeline";

const MOST_NAMED = 12;

/** The run as it is now; what was there before stays in sight while it is asked for again. */
function useRun(id: string): [Asked<Run>, boolean, () => void] {
  const [asked, setAsked] = useState<Asked<Run>>({ part: 0 });
  const [times, setTimes] = useState(0);
  const [busy, setBusy] = useState(false);
  useEffect(() => {
    const stop = new AbortController();
    setBusy(true);
    ask<Run>(`runs/${id}`, stop.signal)
      .then((answer) => setAsked({ answer, part: 1 }))
      .catch((error: Error) => !stop.signal.aborted && setAsked({ error, part: 0 }))
      .finally(() => !stop.signal.aborted && setBusy(false));
    return () => stop.abort();
  }, [id, times]);
  return [asked, busy, () => setTimes((before) => before + 1)];
}

export function RunSight({ thing, chosen }: SightProps) {
  const [asked, busy, refresh] = useRun(thing.id);
  const verifying = useVerifying(thing.id, refresh);
  const { readings } = verifying;
  const steps = asked.answer?.steps ?? [];
  const choose = (changes: Record<string, string | undefined>, quietly = true) => {
    const all = Object.entries({ ...chosen, ...changes }).filter((each): each is [string, string] => each[1] !== undefined);
    go({ sight: "run", thing: thing.id, chosen: Object.fromEntries(all) }, quietly);
  };
  const wanted = chosen.step === undefined ? -1 : steps.findIndex((step) => String(step.step) === chosen.step);
  const place = wanted < 0 ? steps.length - 1 : wanted;
  const chooseAt = (at: number) => steps[at] && choose({ step: String(steps[at].step) });
  useKeys((key) => {
    if (key === "[") chooseAt(place - 1);
    if (key === "]") chooseAt(place + 1);
  });
  if (!asked.answer) return <Waiting asked={asked} what="listing the checkpoints" />;
  const step = steps[place];
  const before = steps.slice(0, Math.max(0, place)).filter((each) => !each.problem && each.step !== step?.step).at(-1);
  const damaged = steps.filter((each) => soundnessOf(each, readings) === "damaged");
  const reading = [...readings].find(([, each]) => each.part !== undefined);
  const found = steps.filter((each) => readings.get(each.step)?.verified).length;
  return (
    <div class="run">
      {!isReport && (
        <div class="run-line">
          <button onClick={refresh} disabled={busy}>
            Refresh
          </button>
          {verifying.busy ? (
            <button onClick={verifying.stop}>Stop verifying</button>
          ) : (
            <button onClick={() => verifying.verify(steps.map((each) => each.step))} disabled={steps.length === 0}>
              Verify all
            </button>
          )}
          <span role="status" class="soft">
            {reading && verifying.busy ? `verifying step ${reading[0]}, ${found} of ${steps.length} read` : found > 0 && `${found} of ${steps.length} read here`}
          </span>
        </div>
      )}
      {damaged.length > 0 && (
        <p class="problem" role="alert">
          ✕ Damaged:{" "}
          {damaged.slice(0, MOST_NAMED).map((each) => (
            <button key={each.step} onClick={() => choose({ step: String(each.step) })}>
              step {each.step}
            </button>
          ))}
          {damaged.length > MOST_NAMED && ` and ${damaged.length - MOST_NAMED} more`}
        </p>
      )}
      {step ? (
        <>
          <Timeline steps={steps} readings={readings} chosen={place} choose={chooseAt} />
          <ChosenStep id={thing.id} step={step} before={before} verifying={verifying} />
          <Steps steps={steps} readings={readings} step={step} choose={(each) => choose({ step: String(each.step) })} />
          <Metrics steps={steps} chosen={place} choose={chooseAt} />
          <CourseOf key={`${steps.length} ${steps.at(-1)?.step}`} id={thing.id} chosen={chosen} choose={choose} />
        </>
      ) : (
        <p>There is no checkpoint yet. Refresh when the training has saved one.</p>
      )}
    </div>
  );
}
