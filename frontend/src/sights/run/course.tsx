// The tensors of a run, followed over its steps: where did training go wrong?

import { useMemo } from "preact/hooks";
import type { Course } from "../../answers";
import { isRecorded, isReport } from "../../ask";
import { useJob } from "../../asking";
import { Chart } from "../../components/chart";
import { useDark } from "../../components/canvas";
import { css } from "../../components/colour";
import { Waiting } from "../../components/waiting";
import { order, plain } from "../../names";
import { findings, JUMP, type Went, wentOf } from "./findings";
import { CourseMap } from "./map";
import { brokenColour, coloursOf, ends, type Measure, MEASURES, type Shading, shading } from "./measures";

const ORDERS: Record<string, { title: string; key: (went: Went, course: Course) => number | string }> = {
  jump: { title: "largest jump", key: (went) => -went.largest },
  broken: { title: "first broken", key: (went) => (went.broken < 0 ? Infinity : went.broken) },
  name: { title: "name", key: (went, course) => order(course.names[went.place] ?? "") },
  listed: { title: "as in the file", key: (went) => went.place },
};

function ordered(course: Course, went: readonly Went[], by: string): Went[] {
  const key = (ORDERS[by] ?? ORDERS.jump)?.key ?? (() => 0);
  const keyed = went.map((each) => ({ each, key: key(each, course) }));
  keyed.sort((one, other) => (one.key < other.key ? -1 : one.key > other.key ? 1 : one.each.place - other.each.place));
  return keyed.map(({ each }) => each);
}

function Scale({ shading, dark }: { shading: Shading; dark: boolean }) {
  const told = ends(shading);
  const table = coloursOf(shading.measure, dark);
  const stops = [0, 64, 128, 192, 255].map((place) => css(table[place] ?? [0, 0, 0])).join(", ");
  return (
    <p class="run-scale soft">
      <span>{MEASURES[shading.measure].tells}</span>
      {told && (
        <span class="run-scale-bar">
          {told[0]} <i style={{ background: `linear-gradient(to right, ${stops})` }} /> {told[1]}
        </span>
      )}
      {shading.measure !== "broken" && (
        <span>
          <i class="run-swatch" style={{ background: css(brokenColour(dark)) }} /> NaN or infinite
        </span>
      )}
      <span>
        <i class="run-swatch run-swatch-none" /> {shading.measure === "broken" ? "none" : "no change"}
      </span>
      <span>▼ more than {JUMP} × its median</span>
    </p>
  );
}

function TensorOverSteps({ course, went, step, chooseStep }: { course: Course; went: Went; step: number; chooseStep: (place: number) => void }) {
  const name = plain(course.names[went.place] ?? "", 200);
  const [norm, update] = useMemo(
    () => [
      [{ label: "norm", values: course.norms[went.place] ?? [] }],
      [{ label: "update ratio", values: course.updates[went.place] ?? [] }],
    ],
    [course, went],
  );
  const broken = useMemo(() => (course.broken[went.place] ?? []).flatMap((many, place) => (many > 0 ? [place] : [])), [course, went]);
  const shared = { x: course.steps, xLabel: "step", together: "course", height: 160, choose: chooseStep, chosen: step < 0 ? undefined : step };
  return (
    <section class="run-tensor" aria-label="Chosen tensor over the steps">
      <h3 class="name">{name}</h3>
      <div class="run-charts">
        <Chart label="Norm" series={norm ?? []} marked={broken} markedAs="NaN or infinite" {...shared} />
        <Chart label="Update ratio" series={update ?? []} marked={went.jumps} markedAs={`more than ${JUMP} × the median`} {...shared} />
      </div>
    </section>
  );
}

interface FollowedProps {
  course: Course;
  chosen: Record<string, string>;
  choose: (changes: Record<string, string | undefined>) => void;
}

function Followed({ course, chosen, choose }: FollowedProps) {
  const dark = useDark();
  const measure = (Object.keys(MEASURES) as Measure[]).find((each) => each === chosen.measure) ?? "update";
  const by = chosen.order !== undefined && Object.hasOwn(ORDERS, chosen.order) ? chosen.order : "jump";
  const went = useMemo(() => wentOf(course), [course]);
  const found = useMemo(() => findings(course, went), [course, went]);
  const shades = useMemo(() => shading(course, measure), [course, measure]);
  const rows = useMemo(() => {
    const words = (chosen.filter ?? "").toLowerCase().split(/\s+/).filter(Boolean);
    return ordered(course, went, by).filter((each) => words.every((word) => course.names[each.place]?.toLowerCase().includes(word)));
  }, [course, went, by, chosen.filter]);
  const step = chosen.step === undefined ? -1 : course.steps.indexOf(Number(chosen.step));
  const tensor = went.find((each) => String(each.place) === chosen.tensor);
  const stepOf = (place: number) => (place < 0 ? chosen.step : String(course.steps[place]));
  if (course.names.length === 0 || course.steps.length === 0) return <p>There is no tensor of numbers to follow.</p>;
  return (
    <>
      <ul class="run-findings" aria-label="Findings">
        {found.map((each, place) => (
          <li key={place} class={each.grave ? "run-grave" : ""}>
            <span>
              {each.grave && <span aria-hidden="true">▲ </span>}
              {each.told}
            </span>
            {each.tensor !== undefined && (
              <button onClick={() => choose({ tensor: String(each.tensor), step: each.step === undefined ? chosen.step : stepOf(each.step) })}>
                Show
              </button>
            )}
          </li>
        ))}
      </ul>
      <div class="run-line">
        <div class="run-measures" role="group" aria-label="What is shown">
          {(Object.keys(MEASURES) as Measure[]).map((each) => (
            <button key={each} aria-pressed={each === measure} onClick={() => choose({ measure: each })}>
              {MEASURES[each].title}
            </button>
          ))}
        </div>
        <label class="soft">
          sorted by{" "}
          <select value={by} onChange={(event) => choose({ order: event.currentTarget.value })}>
            {Object.entries(ORDERS).map(([each, { title }]) => (
              <option key={each} value={each}>
                {title}
              </option>
            ))}
          </select>
        </label>
        <input
          type="search"
          aria-label="Filter tensors by name"
          placeholder="filter by name"
          data-search
          value={chosen.filter ?? ""}
          onInput={(event) => choose({ filter: event.currentTarget.value || undefined })}
        />
      </div>
      <Scale shading={shades} dark={dark} />
      {rows.length === 0 ? (
        <p class="soft">No tensor has such a name.</p>
      ) : (
        <CourseMap
          course={course}
          rows={rows}
          shading={shades}
          tensor={tensor?.place ?? -1}
          step={step}
          choose={(place, at) => choose({ tensor: String(place), step: stepOf(at) })}
        />
      )}
      {tensor && <TensorOverSteps course={course} went={tensor} step={step} chooseStep={(place) => choose({ step: stepOf(place) })} />}
    </>
  );
}

interface CourseProps {
  id: string;
  chosen: Record<string, string>;
  choose: (changes: Record<string, string | undefined>) => void;
}

export function CourseOf({ id, chosen, choose }: CourseProps) {
  const sampled = `runs/${id}/course?exact=0`;
  const exact = chosen.course === "exact" && !isReport;
  const follows = chosen.course !== undefined || isReport;
  const asked = useJob<Course>(follows ? (exact ? `runs/${id}/course?exact=1` : sampled) : null);
  if (!isRecorded(sampled)) return null;
  return (
    <section class="run-course" aria-label="Tensors over the steps">
      <div class="run-line">
        <h2>Tensors over the steps</h2>
        {!follows && <button onClick={() => choose({ course: "sampled" })}>Follow the tensors</button>}
        {asked.answer && <span class="soft">{asked.answer.exact ? "exact: every value was read" : "by a sample of each tensor"}</span>}
        {asked.answer && !asked.answer.exact && !isReport && <button onClick={() => choose({ course: "exact" })}>Read all values</button>}
      </div>
      {!follows && <p class="soft">How far each step moved each tensor, its norm, and where NaN or infinite values first appear.</p>}
      {follows && (asked.answer ? <Followed course={asked.answer} chosen={chosen} choose={choose} /> : <Waiting asked={asked} what={exact ? "reading every value" : "reading a sample"} />)}
    </section>
  );
}
