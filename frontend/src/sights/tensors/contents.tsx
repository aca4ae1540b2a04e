// The values of a tensor: as a heat map of a slice, as filters, as a line, or as the one value it is.

import { useState } from "preact/hooks";
import type { Thing, Values, Window } from "../../answers";
import { isRecorded, isReport } from "../../ask";
import { useAnswer, useBinary } from "../../asking";
import { Waiting } from "../../components/waiting";
import { plain } from "../../names";
import { Filters } from "./filters";
import { Slice } from "./slice";

interface ContentsProps {
  thing: Thing;
  tensor: number;
  shape: readonly number[];
  dtype: string;
}

/** What colours stand for, where values are no plain numbers. */
function drawn(dtype: string): string {
  if (dtype === "string") return "Colours tell how long the texts are.";
  return dtype.startsWith("complex") ? "Colours tell magnitudes." : "";
}

export function Contents({ thing, tensor, shape, dtype }: ContentsProps) {
  const base = `things/${thing.id}/tensors/${tensor}`;
  const [filters, setFilters] = useState(false);
  if (shape.includes(0)) return null;
  if (shape.length === 0) return <Scalar base={base} />;
  const tiled = shape.length === 4 && isRecorded(`${base}/tiles`);
  return (
    <section aria-label="Values">
      {tiled && (
        <div class="tensors-shapes" role="group" aria-label="Drawn as">
          <button aria-pressed={!filters} onClick={() => setFilters(false)}>
            Slice
          </button>
          <button aria-pressed={filters} onClick={() => setFilters(true)}>
            Filters
          </button>
        </div>
      )}
      {drawn(dtype) && <p class="soft">{drawn(dtype)}</p>}
      {filters ? <Filters base={base} /> : <Whole base={base} shape={shape} />}
    </section>
  );
}

function Whole({ base, shape }: { base: string; shape: readonly number[] }) {
  const kept = isRecorded(`${base}/window`);
  const first = useBinary<Window>(kept ? `${base}/window` : null);
  if (!kept) return <p class="soft">Its values are not in this report.</p>;
  if (!first.answer) return <Waiting asked={first} what="reading values" />;
  return <Slice base={base} shape={shape} first={first.answer} />;
}

function Scalar({ base }: { base: string }) {
  const kept = isRecorded(`${base}/window`);
  const exact = useAnswer<Values>(isReport ? null : `${base}/values`);
  const recorded = useBinary<Window>(isReport && kept ? `${base}/window` : null);
  if (!kept) return <p class="soft">Its value is not in this report.</p>;
  const text = isReport ? recorded.answer?.data[0]?.toString() : exact.answer?.values[0]?.[0];
  if (text === undefined) return <Waiting asked={isReport ? recorded : exact} />;
  return (
    <p>
      value <output class="tensors-value mono">{plain(text, 5000)}</output>
    </p>
  );
}
