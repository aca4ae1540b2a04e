// What is chosen of a comparison, side by side.

import { useState } from "preact/hooks";
import type { Change, DiffRow, Overlay } from "../../answers";
import { isRecorded } from "../../ask";
import { useAnswer } from "../../asking";
import { Histogram } from "../../components/histogram";
import { Waiting } from "../../components/waiting";
import { count, number, percent, shape } from "../../format";
import { plain } from "../../names";
import { fragmentOf } from "../../place";
import { largest, NO_NUMBER, share, sizeOf } from "./words";

function Counted({ a, b, row }: { a: string; b: string; row: DiffRow }) {
  const path = `diff/histograms?a=${a}&b=${b}&ia=${row.a}&ib=${row.b}`;
  const asked = useAnswer<Overlay>(isRecorded(path) ? path : null);
  const [log, setLog] = useState(true);
  if (!isRecorded(path)) return <p class="soft">The histograms of this one are not in the report.</p>;
  if (!asked.answer) return <Waiting asked={asked} what="counting" />;
  const { edges, a: ofA, b: ofB, exact } = asked.answer;
  if (!edges.length) return <p class="soft">There are no finite values to count.</p>;
  return (
    <>
      <label class="soft">
        <input type="checkbox" checked={log} onChange={(event) => setLog(event.currentTarget.checked)} /> logarithmic counts
      </label>
      <Histogram label={`${plain(row.name)} of A and B`} edges={edges} a={ofA} b={ofB} names={["A", "B"]} log={log} />
      {!exact && <p class="soft">Counted in a sample of the values.</p>}
    </>
  );
}

function Head({ name, close }: { name: string; close: () => void }) {
  return (
    <div class="diff-head">
      <h2 class="name">{plain(name)}</h2>
      <button aria-label="Close" title="Close (Esc)" onClick={close}>
        ×
      </button>
    </div>
  );
}

/** A tensor of both: its types, how far apart they are, and both histograms in the same bins. */
export function Detail({ a, b, row, close }: { a: string; b: string; row: DiffRow; close: () => void }) {
  const sides = [
    { side: "A", id: a, index: row.a, dtype: row.dtypes[0] ?? "", shape: row.shapes[0] ?? [] },
    { side: "B", id: b, index: row.b, dtype: row.dtypes[1] ?? "", shape: row.shapes[1] ?? [] },
  ];
  return (
    <section class="diff-detail" aria-label="Compared tensor">
      <Head name={row.name} close={close} />
      <div class="diff-sides">
        {sides.map((each) => (
          <p key={each.side}>
            <span class={`diff-badge diff-${each.side.toLowerCase()}`}>{each.side}</span>{" "}
            <code>
              {each.dtype} {shape(each.shape)}
            </code>{" "}
            <a href={fragmentOf({ sight: "tensors", thing: each.id, chosen: { tensor: String(each.index) } })}>
              open in {each.side}
            </a>
          </p>
        ))}
      </div>
      <dl class="diff-facts">
        <div>
          <dt>largest difference</dt>
          <dd>{largest(row)}</dd>
        </div>
        <div>
          <dt>mean difference</dt>
          <dd>{largest(row) === NO_NUMBER ? "–" : number(row.mean)}</dd>
        </div>
        <div>
          <dt>cosine</dt>
          <dd>{number(row.cosine)}</dd>
        </div>
        <div>
          <dt>differing</dt>
          <dd>
            {row.differing === null
              ? "no counterparts: the shapes differ"
              : `${count(row.differing)} of ${count(sizeOf(row.shapes[0] ?? []))} (${percent(share(row))})`}
          </dd>
        </div>
      </dl>
      <Counted key={`${row.a},${row.b}`} a={a} b={b} row={row} />
    </section>
  );
}

/** A value beside the tensors, whole. */
export function ValueDetail({ row, close }: { row: Change; close: () => void }) {
  return (
    <section class="diff-detail" aria-label="Compared value">
      <Head name={row.place} close={close} />
      <div class="diff-texts">
        {(["a", "b"] as const).map((side) => (
          <div key={side}>
            <span class={`diff-badge diff-${side}`}>{side.toUpperCase()}</span>
            <pre tabIndex={0} aria-label={`In ${side.toUpperCase()}`}>
              {row[side].split("\n").map((line) => `${plain(line, 4000)}\n`)}
            </pre>
          </div>
        ))}
      </div>
    </section>
  );
}
