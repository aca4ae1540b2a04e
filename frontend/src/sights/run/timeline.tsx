// The checkpoints of a run as a strip: a mark for each, and a bar of its size. The part of a bar that
// other checkpoints share is faint.

import { useState } from "preact/hooks";
import type { Step } from "../../answers";
import { pageColour, useCanvas, useDark } from "../../components/canvas";
import { bytes, many, moment } from "../../format";
import { MARKS, type Readings, soundnessOf, TOLD } from "./states";

type Spacing = "one by one" | "by step" | "by time";
const SPACINGS: Spacing[] = ["one by one", "by step", "by time"];
const EDGE = 16;
const MARK = 14;

/** Where each checkpoint is, 0 to 1. */
function spread(steps: readonly Step[], spacing: Spacing): number[] {
  const at = steps.map((step, place) => (spacing === "by step" ? step.step : spacing === "by time" ? step.time : place));
  const low = Math.min(...at.slice(0, 1), at.at(-1) ?? 0);
  const span = Math.max(...at.slice(0, 1), at.at(-1) ?? 0) - low;
  return at.map((each) => (span > 0 ? (each - low) / span : 0.5));
}

function mark(ink: CanvasRenderingContext2D, shape: string, x: number, y: number, radius: number): void {
  ink.beginPath();
  if (shape === "damaged") {
    ink.moveTo(x - radius, y - radius);
    ink.lineTo(x + radius, y + radius);
    ink.moveTo(x + radius, y - radius);
    ink.lineTo(x - radius, y + radius);
    ink.stroke();
    return;
  }
  ink.arc(x, y, radius, 0, 2 * Math.PI);
  if (shape === "sound") ink.fill();
  else ink.stroke();
}

interface TimelineProps {
  steps: readonly Step[];
  readings: Readings;
  /** The place of what is chosen among the steps. */
  chosen: number;
  choose: (place: number) => void;
}

export function Timeline({ steps, readings, chosen, choose }: TimelineProps) {
  const [spacing, setSpacing] = useState<Spacing>("one by one");
  const dark = useDark();
  const at = spread(steps, spacing);
  const most = steps.reduce((size, step) => Math.max(size, step.size), 1);
  const canvas = useCanvas(
    (ink, width, height) => {
      const room = width - 2 * EDGE;
      const thick = Math.max(1, Math.min(14, (room / Math.max(1, steps.length)) * 0.55));
      const radius = Math.max(2, Math.min(6, thick * 0.55));
      const floor = height - 2;
      const high = floor - 2 * MARK - 4;
      const colours = { sound: pageColour("--good"), damaged: pageColour("--bad"), unread: pageColour("--soft") };
      const [own, line, ring] = [pageColour("--a"), pageColour("--line"), pageColour("--ink")];
      ink.fillStyle = line;
      ink.fillRect(0, floor, width, 1);
      steps.forEach((step, place) => {
        const x = EDGE + (at[place] ?? 0) * room;
        const tall = (step.size / most) * high;
        const shared = (Math.min(step.shared, step.size) / most) * high;
        ink.globalAlpha = 0.35;
        ink.fillStyle = own;
        ink.fillRect(x - thick / 2, floor - tall, thick, tall);
        ink.globalAlpha = 1;
        ink.fillRect(x - thick / 2, floor - tall + shared, thick, tall - shared);
        const sound = soundnessOf(step, readings);
        ink.fillStyle = ink.strokeStyle = colours[sound];
        ink.lineWidth = sound === "damaged" ? 2.5 : 1.6;
        mark(ink, sound, x, MARK, radius);
      });
      const here = at[chosen];
      if (here !== undefined) {
        const x = EDGE + here * room;
        ink.strokeStyle = ring;
        ink.lineWidth = 1.5;
        ink.strokeRect(x - Math.max(thick / 2 + 3, 9), 2, 2 * Math.max(thick / 2 + 3, 9), floor - 3);
      }
    },
    [steps, readings, chosen, spacing, dark],
  );
  const nearest = (x: number, width: number) => {
    const part = (x - EDGE) / Math.max(1, width - 2 * EDGE);
    let best = 0;
    at.forEach((each, place) => {
      if (Math.abs(each - part) < Math.abs((at[best] ?? 0) - part)) best = place;
    });
    return best;
  };
  const moves: Record<string, number> = {
    ArrowLeft: chosen - 1,
    ArrowDown: chosen - 1,
    ArrowRight: chosen + 1,
    ArrowUp: chosen + 1,
    PageDown: chosen - 10,
    PageUp: chosen + 10,
    Home: 0,
    End: steps.length - 1,
  };
  const step = steps[chosen];
  const told = step
    ? `step ${step.step}, ${bytes(step.size)}, ${bytes(step.shared)} of it shared, ${TOLD[soundnessOf(step, readings)]}`
    : "none";
  return (
    <section class="run-timeline" aria-label="Timeline">
      <div class="run-line">
        <h2>{many(steps.length, "checkpoint")}</h2>
        <label class="soft">
          spaced{" "}
          <select value={spacing} onChange={(event) => setSpacing(SPACINGS.find((each) => each === event.currentTarget.value) ?? "one by one")}>
            {SPACINGS.map((each) => (
              <option key={each}>{each}</option>
            ))}
          </select>
        </label>
      </div>
      <canvas
        ref={canvas}
        class="run-strip"
        role="slider"
        tabIndex={0}
        aria-label="Step of the run"
        aria-valuemin={0}
        aria-valuemax={steps.length - 1}
        aria-valuenow={Math.max(0, chosen)}
        aria-valuetext={told}
        title={told}
        onClick={(event) => choose(nearest(event.offsetX, event.currentTarget.clientWidth))}
        onKeyDown={(event) => {
          const to = Object.hasOwn(moves, event.key) ? moves[event.key] : undefined;
          if (to === undefined || event.ctrlKey || event.metaKey || event.altKey) return;
          event.preventDefault();
          choose(Math.max(0, Math.min(steps.length - 1, to)));
        }}
      />
      <div class="run-ends soft">
        <span>
          step {steps[0]?.step}, {moment(steps[0]?.time ?? 0)}
        </span>
        {steps.length > 1 && (
          <span>
            step {steps.at(-1)?.step}, {moment(steps.at(-1)?.time ?? 0)}
          </span>
        )}
      </div>
      <ul class="run-key soft" aria-label="What the marks mean">
        {(["sound", "unread", "damaged"] as const).map((each) => (
          <li key={each}>
            <span class={`run-${each}`} aria-hidden="true">
              {MARKS[each]}
            </span>{" "}
            {TOLD[each]}
          </li>
        ))}
        <li>
          <i class="run-own" /> its own bytes
        </li>
        <li>
          <i class="run-shared" /> shared with other checkpoints
        </li>
      </ul>
    </section>
  );
}
