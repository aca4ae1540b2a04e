// The tensor that is chosen: what it is, what is known of its values, and the values themselves.

import { useEffect, useRef, useState } from "preact/hooks";
import type { Statistics, Tensors, Thing } from "../../answers";
import { isReport } from "../../ask";
import { Histogram } from "../../components/histogram";
import { bytes, count, many, shape as shapeText } from "../../format";
import { plain } from "../../names";
import { counted, figure, zeros } from "./columns";
import { Contents } from "./contents";
import { broken, type Known } from "./statistics";
import { sizeOf, useExact } from "./summary";

interface DetailsProps {
  thing: Thing;
  tensors: Tensors;
  tensor: number;
  known: Known;
  onClose: () => void;
}

function Copy({ text }: { text: string }) {
  const [told, setTold] = useState("");
  const copy = () => {
    // The clipboard is there in secure contexts only, such as this machine's own addresses.
    const done = navigator.clipboard?.writeText(text) ?? Promise.reject(new Error("no clipboard"));
    done.then(() => setTold("copied")).catch(() => setTold("not allowed here"));
    setTimeout(() => setTold(""), 1500);
  };
  return (
    <button onClick={copy} aria-live="polite">
      {told || "Copy name"}
    </button>
  );
}

export function Details({ thing, tensors, tensor, known, onClose }: DetailsProps) {
  const name = tensors.names[tensor] as string;
  const shape = tensors.shapes[tensor] ?? [];
  const dtype = tensors.dtypes[tensor] ?? "";
  const size = sizeOf(shape);
  const remark = Object.hasOwn(tensors.remarks, tensor) ? tensors.remarks[tensor] : undefined;
  const panel = useRef<HTMLElement>(null);
  useEffect(() => {
    known.want([tensor]);
    // Beside the list focus stays there, to go on with the arrows; where it covers the list, it is the page.
    if (matchMedia("(max-width: 900px)").matches) {
      panel.current?.focus({ preventScroll: true });
      panel.current?.scrollIntoView({ block: "start" });
    }
  }, [tensor]);
  return (
    <aside class="tensors-details" ref={panel} tabIndex={-1} aria-label="Chosen tensor">
      <header>
        <h2 class="name">{plain(name, 2000)}</h2>
        <Copy text={name} />
        <button onClick={onClose} aria-label="Close" title="Close (Esc)">
          ×
        </button>
      </header>
      <p>
        <b>{dtype}</b> {shapeText(shape)} <span class="soft">· {many(size, "element")} · {bytes(tensors.nbytes[tensor] ?? 0)}</span>
        {remark && <span class="tensors-remark"> · {plain(remark)}</span>}
      </p>
      <Measures thing={thing} tensor={tensor} size={size} dtype={dtype} known={known} />
      <Contents key={tensor} thing={thing} tensor={tensor} shape={shape} dtype={dtype} />
    </aside>
  );
}

/** What of the values the figures are of. */
function ofWhat(dtype: string): string {
  if (dtype === "string") return ", of the lengths of the texts";
  return dtype.startsWith("complex") ? ", of the magnitudes" : "";
}

interface MeasuresProps {
  thing: Thing;
  tensor: number;
  size: number;
  dtype: string;
  known: Known;
}

function Measures({ thing, tensor, size, dtype, known }: MeasuresProps) {
  const [log, setLog] = useState(false);
  const exact = useExact<Statistics>(`things/${thing.id}/exact?of=${tensor}`, (found) => known.put(found));
  const found = known.of(tensor);
  if (size === 0) return <p class="soft">It is empty: there are no values.</p>;
  if (!found) {
    if (isReport && !known.waiting) return <p class="soft">Its statistics are not in this report.</p>;
    return <p class={known.problem ? "problem" : "waiting"} role="status">{known.problem || "measuring a sample"}</p>;
  }
  if (found.problem) return <p class="problem" role="alert">{plain(found.problem, 1000)}</p>;
  const bad = broken(found);
  return (
    <section aria-label="Statistics">
      <dl class="tensors-figures">
        {(["min", "max", "mean", "std"] as const).map((key) => (
          <div key={key}>
            <dt>{key}</dt>
            <dd>{figure(found, found[key])}</dd>
          </div>
        ))}
        <div>
          <dt>zeros</dt>
          <dd>{zeros(found)}</dd>
        </div>
        <div class={bad ? "tensors-bad" : ""}>
          <dt>NaN / Inf</dt>
          <dd>
            {counted(found, found.nan)} / {counted(found, found.inf)}
          </dd>
        </div>
      </dl>
      <p class="tensors-row soft">
        <span>
          {found.exact ? "exact" : `≈ of a sample of ${count(found.measured)} of ${count(found.size)}`}
          {ofWhat(dtype)}
        </span>
        {!found.exact && !isReport && exact.part === null && <button onClick={exact.run}>Measure exactly</button>}
        {exact.part !== null && <progress value={exact.part} aria-label="Measured" />}
        {found.counts.length > 0 && (
          <label>
            <input type="checkbox" checked={log} onChange={(event) => setLog(event.currentTarget.checked)} /> log counts
          </label>
        )}
      </p>
      {exact.problem && <p class="problem">{exact.problem}</p>}
      {found.counts.length > 0 && <Histogram label="Values" edges={found.edges} a={found.counts} log={log} height={90} />}
    </section>
  );
}
