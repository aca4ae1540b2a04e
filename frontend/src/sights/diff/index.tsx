// Two of what is open, side by side: files, or steps of a run.

import type { Diff, Run, Thing } from "../../answers";
import { isRecorded, isReport } from "../../ask";
import { useAnswer, useJob } from "../../asking";
import { Waiting } from "../../components/waiting";
import { plain } from "../../names";
import type { SightProps } from "../../page";
import { go, stepOf, wholeOf } from "../../place";
import { titleOf } from "../../shell/titles";
import { Choose } from "./choose";
import "./diff.css";
import { Found } from "./found";
import { pairOf, settled } from "./pair";

function useRun(id: string | undefined, things: readonly Thing[]) {
  const whole = things.find((thing) => id !== undefined && thing.id === wholeOf(id));
  return useAnswer<Run>(whole?.kind === "run" && !isReport ? `runs/${whole.id}` : null);
}

function Alone({ thing }: { thing: Thing }) {
  const steps = thing.kind === "run" ? "This run has no second checkpoint to compare with. " : "";
  return (
    <section class="diff-alone">
      <p>{steps}Only one thing is open. To compare two, give both:</p>
      <pre>tensorkeep view {plain(thing.name)} OTHER</pre>
      <p class="soft">They may be of different formats, such as model.pt and model.onnx, or two runs.</p>
    </section>
  );
}

function called(id: string, things: readonly Thing[]): string {
  const whole = things.find((thing) => thing.id === wholeOf(id));
  const name = whole ? titleOf(whole, things) : id;
  const step = stepOf(id);
  return step === undefined ? name : `${name}, step ${step}`;
}

export function DiffSight({ thing, things, chosen }: SightProps) {
  // A report has the first two, whatever is shown.
  const wanted = isReport ? { a: "0", b: "1" } : pairOf(thing, things, chosen);
  const runA = useRun(wanted.a, things);
  const runB = useRun(wanted.b, things);
  const b = settled(wanted.b, things, runB.answer);
  const a = settled(wanted.a, things, runA.answer, b);
  const path = a !== undefined && b !== undefined && a !== b ? `diff?a=${a}&b=${b}` : null;
  const asked = useJob<Diff>(path !== null && isRecorded(path) ? path : null);
  const compare = (next: string | undefined, other: string | undefined) => {
    const pair: Record<string, string> = {};
    if (next !== undefined) pair.a = next;
    if (other !== undefined) pair.b = other;
    go({ sight: "diff", thing: wholeOf(next ?? thing.id), chosen: pair });
  };
  const choose = (changes: Record<string, string | undefined>, quietly = false) => {
    const all = Object.entries({ ...chosen, a, b, ...changes }).filter((each): each is [string, string] => each[1] !== undefined);
    go({ sight: "diff", thing: wholeOf(thing.id), chosen: Object.fromEntries(all) }, quietly);
  };
  if (wanted.a === undefined || wanted.b === undefined) return <Alone thing={thing} />;
  const waits = [runA, runB].find((run) => run.error);
  if (waits) return <Waiting asked={waits} />;
  const both = runA.answer !== undefined || runB.answer !== undefined;
  if (both && (a === undefined || b === undefined) && things.length === 1) return <Alone thing={thing} />;
  return (
    <div class="diff">
      <div class="diff-pair">
        {isReport ? (
          <p>
            <span class="diff-badge diff-a">A</span> <strong class="name">{called(wanted.a, things)}</strong>{" "}
            <span class="diff-badge diff-b">B</span> <strong class="name">{called(wanted.b, things)}</strong>
          </p>
        ) : (
          <>
            <Choose side="A" id={a ?? wanted.a} things={things} run={runA.answer} choose={(next) => compare(next, b)} />
            <button aria-label="Swap A and B" title="Swap A and B" onClick={() => compare(b, a)}>
              ⇄
            </button>
            <Choose side="B" id={b ?? wanted.b} things={things} run={runB.answer} choose={(next) => compare(a, next)} />
          </>
        )}
      </div>
      {a !== undefined && a === b && <p>A and B are the same. Choose another one to compare with.</p>}
      {path !== null &&
        (!isRecorded(path) ? (
          <p class="soft">This comparison is not in the report. Open the files themselves: tensorkeep view A B.</p>
        ) : asked.answer && a !== undefined && b !== undefined ? (
          <Found diff={asked.answer} a={a} b={b} chosen={chosen} choose={choose} />
        ) : (
          <Waiting asked={asked} what="comparing" />
        ))}
    </div>
  );
}
