// The table of a run's checkpoints, and what can be done with the one that is chosen.

import { useMemo } from "preact/hooks";
import type { Step } from "../../answers";
import { isRecorded, isReport } from "../../ask";
import { type Column, Table } from "../../components/table";
import { bytes, moment, number } from "../../format";
import { plain } from "../../names";
import { fragmentOf } from "../../place";
import { MARKS, problemsOf, type Readings, soundnessOf, TOLD, type Verifying } from "./states";

const MOST_METRICS = 6;

function metric(value: number | string | undefined): string {
  return typeof value === "string" ? plain(value, 40) : number(value);
}

function State({ step, readings }: { step: Step; readings: Readings }) {
  const part = readings.get(step.step)?.part;
  if (part !== undefined) return <progress aria-label={`reading step ${step.step}`} value={part} />;
  const sound = soundnessOf(step, readings);
  return (
    <span class={`run-${sound}`}>
      <span aria-hidden="true">{MARKS[sound]}</span> {TOLD[sound]}
    </span>
  );
}

interface StepsProps {
  steps: readonly Step[];
  readings: Readings;
  step: Step | null;
  choose: (step: Step) => void;
}

export function Steps({ steps, readings, step, choose }: StepsProps) {
  const metrics = useMemo(() => [...new Set(steps.flatMap((each) => Object.keys(each.metrics)))].slice(0, MOST_METRICS), [steps]);
  const columns: Column<Step>[] = [
    { key: "step", title: "Step", width: 84, align: "right", sort: (row) => row.step, cell: (row) => row.step },
    { key: "state", title: "State", width: 124, sort: (row) => soundnessOf(row, readings), cell: (row) => <State step={row} readings={readings} /> },
    ...metrics.map((name): Column<Step> => ({
      key: `metric ${name}`,
      title: plain(name, 40),
      width: 116,
      align: "right",
      sort: (row) => (typeof row.metrics[name] === "number" ? row.metrics[name] : null),
      cell: (row) => metric(Object.hasOwn(row.metrics, name) ? row.metrics[name] : undefined),
    })),
    { key: "size", title: "Size", width: 92, align: "right", sort: (row) => row.size, cell: (row) => bytes(row.size) },
    { key: "own", title: "Own", hint: "Bytes that no other checkpoint has", width: 92, align: "right", sort: (row) => row.size - row.shared, cell: (row) => bytes(row.size - row.shared) },
    { key: "shared", title: "Shared", hint: "Bytes that other checkpoints have too", width: 92, align: "right", sort: (row) => row.shared, cell: (row) => bytes(row.shared) },
    { key: "when", title: "When", width: 166, grow: true, sort: (row) => row.time, cell: (row) => moment(row.time) },
    ...(steps.some((each) => each.reason)
      ? [{ key: "reason", title: "Reason", width: 120, grow: true, sort: (row: Step) => row.reason, cell: (row: Step) => plain(row.reason, 80) }]
      : []),
  ];
  return <Table label="Checkpoints" columns={columns} rows={steps} selected={step} onSelect={choose} height="38vh" none="There is no checkpoint yet." />;
}

interface ChosenProps {
  /** The id of the run. */
  id: string;
  step: Step;
  /** The last step before it that can be read. */
  before: Step | undefined;
  verifying: Verifying;
}

export function ChosenStep({ id, step, before, verifying }: ChosenProps) {
  const { readings, busy, verify } = verifying;
  const reading = readings.get(step.step);
  const sound = soundnessOf(step, readings);
  const own = `${id}@${step.step}`;
  const opens = !step.problem && isRecorded(`things/${own}`);
  const metadata = Object.keys(step.metadata).length > 0;
  return (
    <section class="run-chosen" aria-label={`Step ${step.step}`}>
      <div class="run-line">
        <h2>Step {step.step}</h2>
        <State step={step} readings={readings} />
        {opens && <a href={fragmentOf({ sight: "tensors", thing: own, chosen: {} })}>Open its tensors</a>}
        {opens && before && !isReport && (
          <a href={fragmentOf({ sight: "diff", thing: id, chosen: { a: `${id}@${before.step}`, b: own } })}>
            Compare with step {before.step}
          </a>
        )}
        {!isReport && (
          <button disabled={busy} onClick={() => verify([step.step])}>
            Verify this step
          </button>
        )}
      </div>
      <p class="soft">
        {moment(step.time)}, {bytes(step.size)}: {bytes(step.size - step.shared)} of its own, {bytes(step.shared)} shared
        {step.reason && `; saved for: ${plain(step.reason, 200)}`}
        {step.format && `; ${plain(step.format, 80)}`}
        {step.verified > 0 && `; last verified ${moment(step.verified)}`}
      </p>
      {reading?.failed && <p class="problem">It could not be verified: {plain(reading.failed, 600)}</p>}
      {sound === "damaged" && (
        <ul class="problem" aria-label="What is damaged">
          {problemsOf(step, readings).map((problem, place) => (
            <li key={place}>{problem}</li>
          ))}
        </ul>
      )}
      {metadata && (
        <details>
          <summary>Metadata</summary>
          <pre tabIndex={0} aria-label="Metadata">
            {JSON.stringify(step.metadata, null, 2)
              .split("\n")
              .slice(0, 1000)
              .map((line) => `${plain(line, 1000)}\n`)}
          </pre>
        </details>
      )}
    </section>
  );
}
