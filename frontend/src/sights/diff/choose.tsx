// The choice of one of the two that are compared: a thing, and of a run its step.

import type { Run, Thing } from "../../answers";
import { moment } from "../../format";
import { stepOf, wholeOf } from "../../place";
import { titleOf } from "../../shell/titles";
import { readable } from "./pair";

interface ChooseProps {
  side: "A" | "B";
  id: string | undefined;
  things: readonly Thing[];
  run: Run | undefined;
  choose: (id: string) => void;
}

export function Choose({ side, id, things, run, choose }: ChooseProps) {
  const whole = id === undefined ? "" : wholeOf(id);
  const isRun = things.some((thing) => thing.id === whole && thing.kind === "run");
  const times = new Map(run?.steps.map((step) => [step.step, step.time]));
  return (
    <div class="diff-choose" role="group" aria-label={side}>
      <span class={`diff-badge diff-${side.toLowerCase()}`}>{side}</span>
      <select aria-label={`${side}: thing`} value={whole} onChange={(event) => choose(event.currentTarget.value)}>
        {things
          .filter((thing) => thing.kind !== "")
          .map((thing) => (
            <option key={thing.id} value={thing.id}>
              {titleOf(thing, things)}
              {thing.kind === "run" && " (run)"}
            </option>
          ))}
      </select>
      {isRun && (
        <select
          aria-label={`${side}: step`}
          value={id === undefined ? "" : String(stepOf(id) ?? "")}
          onChange={(event) => choose(`${whole}@${event.currentTarget.value}`)}
        >
          {readable(run).map((step) => (
            <option key={step} value={step}>
              step {step} ({moment(times.get(step) ?? 0)})
            </option>
          ))}
        </select>
      )}
    </div>
  );
}
