// The line that tells that a checkpoint of a run is shown: a choice of the step, and the way back.

import type { Run, Thing } from "../answers";
import { isRecorded } from "../ask";
import { moment } from "../format";
import { plain } from "../names";
import { useKeys } from "./keys";

interface AtProps {
  run: Run | undefined;
  of: Thing;
  step: number;
  choose: (step: number) => void;
  back: () => void;
}

export function At({ run, of, step, choose, back }: AtProps) {
  const steps = (run?.steps ?? []).filter((each) => !each.problem && isRecorded(`things/${of.id}@${each.step}`));
  const place = steps.findIndex((each) => each.step === step);
  const before = steps[place - 1];
  const after = place < 0 ? undefined : steps[place + 1];
  useKeys((key) => {
    if (key === "[" && before) choose(before.step);
    if (key === "]" && after) choose(after.step);
  });
  return (
    <section class="at" aria-label="Checkpoint">
      <p>
        A checkpoint of <strong class="name">{plain(of.name)}</strong>, step
      </p>
      <span class="at-steps">
        <button aria-label="Step before" title="Step before ([)" disabled={!before} onClick={() => before && choose(before.step)}>
          ‹
        </button>
        <select aria-label="Step" value={step} onChange={(event) => choose(Number(event.currentTarget.value))}>
          {place < 0 && <option value={step}>{step}</option>}
          {steps.map((each) => (
            <option key={each.step} value={each.step}>
              {each.step} ({moment(each.time)})
            </option>
          ))}
        </select>
        <button aria-label="Step after" title="Step after (])" disabled={!after} onClick={() => after && choose(after.step)}>
          ›
        </button>
      </span>
      <button onClick={back}>Back to the run</button>
    </section>
  );
}
