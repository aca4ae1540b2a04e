// The Tensors sight: what is in a file by name, and what is in the one that is chosen.

import { useEffect, useRef, useState } from "preact/hooks";
import type { Tensors } from "../../answers";
import { isRecorded } from "../../ask";
import { useAnswer } from "../../asking";
import { Waiting } from "../../components/waiting";
import type { SightProps } from "../../page";
import { go } from "../../place";
import { Details } from "./details";
import { Listing } from "./listing";
import { MetadataPanel } from "./metadata";
import { useKnown } from "./statistics";
import { MeasureAll, Summary } from "./summary";
import "./tensors.css";

export type Shape = "tree" | "list" | "map" | "metadata";
const SHAPES: [Shape, string][] = [
  ["tree", "Tree"],
  ["list", "List"],
  ["map", "Map"],
  ["metadata", "Metadata"],
];

export function TensorsSight({ thing, chosen }: SightProps) {
  const path = `things/${thing.id}/tensors`;
  const listing = useAnswer<Tensors>(isRecorded(path) ? path : null);
  if (!isRecorded(path)) return <p class="soft">The names of its tensors are not in this report: it would have been too large.</p>;
  if (!listing.answer) return <Waiting asked={listing} what="reading the names of the tensors" />;
  return <Listed thing={thing} tensors={listing.answer} chosen={chosen} />;
}

type ListedProps = Pick<SightProps, "thing" | "chosen"> & { tensors: Tensors };

function Listed({ thing, tensors, chosen }: ListedProps) {
  const { known, version } = useKnown(thing.id, tensors.names.length);
  const choose = (change: Record<string, string | undefined>, quietly = false) => {
    const next = Object.entries({ ...chosen, ...change }).filter((pair): pair is [string, string] => Boolean(pair[1]));
    go({ sight: "tensors", thing: thing.id, chosen: Object.fromEntries(next) }, quietly);
  };
  const shape = SHAPES.find(([key]) => key === chosen.view)?.[0] ?? "tree";
  const place = /^[0-9]+$/.test(chosen.tensor ?? "") ? Number(chosen.tensor) : -1;
  const tensor = place < tensors.names.length ? place : -1;
  const all = useRef<HTMLElement>(null);
  const close = () => {
    choose({ tensor: undefined });
    // Focus goes back to where the tensor was chosen.
    requestAnimationFrame(() => all.current?.querySelector<HTMLElement>("[role=treegrid], [role=grid]")?.focus({ preventScroll: true }));
  };

  useEffect(() => {
    const leave = (event: KeyboardEvent) => {
      const typing = event.target instanceof HTMLInputElement && event.target.type === "search";
      if (event.key === "Escape" && !event.defaultPrevented && !typing && !document.querySelector("dialog[open]") && tensor >= 0) close();
    };
    window.addEventListener("keydown", leave);
    return () => window.removeEventListener("keydown", leave);
  });
  // Kept here, so that branches stay open while another view is shown.
  const [open, setOpen] = useState<Set<number> | null>(null);

  return (
    <div class={tensor >= 0 ? "tensors tensors-both" : "tensors"}>
      <section ref={all} class="tensors-all" aria-label="All tensors">
        <Summary thing={thing} tensors={tensors} known={known} />
        <div class="tensors-shapes" role="group" aria-label="View">
          {SHAPES.map(([key, title]) => (
            <button key={key} aria-pressed={shape === key} onClick={() => choose({ view: key === "tree" ? undefined : key })}>
              {title}
            </button>
          ))}
          <MeasureAll thing={thing} tensors={tensors} known={known} />
        </div>
        {shape === "metadata" ? (
          <MetadataPanel thing={thing.id} />
        ) : (
          <Listing
            tensors={tensors}
            known={known}
            version={version}
            shape={shape}
            query={chosen.find ?? ""}
            onQuery={(find) => choose({ find }, true)}
            under={Number(chosen.under ?? 0)}
            onUnder={(node) => choose({ under: node ? String(node) : undefined })}
            tensor={tensor}
            onTensor={(next) => choose({ tensor: String(next) }, tensor >= 0)}
            open={open}
            setOpen={setOpen}
          />
        )}
      </section>
      {tensor >= 0 && <Details key={tensor} thing={thing} tensors={tensors} tensor={tensor} known={known} onClose={close} />}
    </div>
  );
}
