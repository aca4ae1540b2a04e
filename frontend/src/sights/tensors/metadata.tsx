// What is kept beside the tensors, as a tree of text.

import { useState } from "preact/hooks";
import type { Json, Metadata } from "../../answers";
import { isRecorded } from "../../ask";
import { useAnswer } from "../../asking";
import { Waiting } from "../../components/waiting";
import { count } from "../../format";
import { plain } from "../../names";

const STEP = 200;
const SHORT = 300;

function Text({ text }: { text: string }) {
  const [whole, setWhole] = useState(false);
  return (
    <span class="tensors-text">
      {/* Line breaks may stay: they do no harm in a value. */}
      {text
        .slice(0, whole ? undefined : SHORT)
        .split("\n")
        .map((line) => plain(line, Infinity))
        .join("\n")}
      {text.length > SHORT && (
        <button class="tensors-more" onClick={() => setWhole(!whole)}>
          {whole ? "less" : `all ${count(text.length)} characters`}
        </button>
      )}
    </span>
  );
}

function Item({ name, value, level }: { name: string; value: Json; level: number }) {
  const [open, setOpen] = useState(level < 1);
  if (value === null || typeof value !== "object") {
    return (
      <div class="tensors-item">
        <dt>{plain(name, 200)}</dt> <dd class={typeof value === "string" ? "" : "mono"}>{typeof value === "string" ? <Text text={value} /> : String(value)}</dd>
      </div>
    );
  }
  const many = Array.isArray(value) ? value.length : Object.keys(value).length;
  const simple = Array.isArray(value) && many <= 12 && value.every((each) => typeof each === "number");
  if (simple) return <Item name={name} value={JSON.stringify(value).replaceAll(",", ", ")} level={level} />;
  return (
    <details open={open} onToggle={(event) => setOpen(event.currentTarget.open)}>
      <summary>
        {plain(name, 200)}{" "}
        <span class="soft">
          {count(many)} {Array.isArray(value) ? "in a list" : many === 1 ? "entry" : "entries"}
        </span>
      </summary>
      {open && <Items value={value} level={level + 1} />}
    </details>
  );
}

function Items({ value, level }: { value: Json[] | { [key: string]: Json }; level: number }) {
  const [most, setMost] = useState(STEP);
  const entries: [string, Json][] = Array.isArray(value) ? value.map((each, i) => [String(i), each]) : Object.entries(value);
  return (
    <div class="tensors-items">
      {entries.slice(0, most).map(([name, each]) => (
        <Item key={name} name={name} value={each} level={level} />
      ))}
      {entries.length > most && <button onClick={() => setMost(most + 5 * STEP)}>{count(entries.length - most)} more</button>}
    </div>
  );
}

export function MetadataPanel({ thing }: { thing: string }) {
  const path = `things/${thing}/metadata`;
  const asked = useAnswer<Metadata>(isRecorded(path) ? path : null);
  if (!isRecorded(path)) return <p class="soft">The metadata is not in this report: it would have been too large.</p>;
  if (!asked.answer) return <Waiting asked={asked} />;
  const { metadata, values, refused } = asked.answer;
  const parts = [
    ["Metadata", metadata, "no metadata"] as const,
    ["Values in the nesting", values, ""] as const,
  ].filter(([, value, none]) => none || Object.keys(value).length > 0);
  return (
    <div class="tensors-metadata">
      {parts.map(([title, value, none]) => (
        <section key={title} aria-label={title}>
          <h3>{title}</h3>
          {Object.keys(value).length ? <Items value={value} level={0} /> : <p class="soft">{none}</p>}
        </section>
      ))}
      {refused.length > 0 && (
        <section aria-label="Not read">
          <h3>Not read</h3>
          <ul>
            {refused.slice(0, STEP).map((sentence, i) => (
              <li key={i}>{plain(sentence)}</li>
            ))}
          </ul>
          {refused.length > STEP && <p class="soft">and {count(refused.length - STEP)} more</p>}
        </section>
      )}
    </div>
  );
}
