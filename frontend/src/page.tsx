// The page: what is open, the four sights of it, and the sight that is chosen.

import { useEffect, useRef, useState } from "preact/hooks";
import type { Run, Thing, Things } from "./answers";
import { isRecorded, isReport } from "./ask";
import { useAnswer } from "./asking";
import { Waiting } from "./components/waiting";
import { go, stepOf, usePlace, wholeOf, type Sight } from "./place";
import { At } from "./shell/at";
import { Header } from "./shell/header";
import { Help } from "./shell/help";
import { useKeys } from "./shell/keys";
import { Failed, Unopened } from "./shell/unopened";
import { DiffSight } from "./sights/diff";
import { GraphSight } from "./sights/graph";
import { RunSight } from "./sights/run";
import { TensorsSight } from "./sights/tensors";

/** What every sight is given. */
export interface SightProps {
  thing: Thing;
  things: Thing[];
  chosen: Record<string, string>;
}

const SIGHTS: Record<Sight, { title: string; show: (props: SightProps) => preact.JSX.Element }> = {
  tensors: { title: "Tensors", show: TensorsSight },
  graph: { title: "Graph", show: GraphSight },
  diff: { title: "Diff", show: DiffSight },
  run: { title: "Run", show: RunSight },
};

/** The sights that a thing has. */
export function sightsOf(thing: Thing): Sight[] {
  if (thing.kind === "") return [];
  const sights: Sight[] = thing.kind === "run" ? ["run"] : thing.dialect ? ["tensors", "graph"] : ["tensors"];
  // A report knows how its first two things differ, and no others.
  const compared = !isReport || (["0", "1"].includes(thing.id) && isRecorded("diff?a=0&b=1"));
  return compared ? [...sights, "diff"] : sights;
}

/** Where focus goes when the sight changes: to what is new, unless something of it took it. */
function useFocusOn(sight: string | undefined) {
  const main = useRef<HTMLElement>(null);
  const before = useRef<string>();
  useEffect(() => {
    if (before.current !== undefined && sight !== before.current && !main.current?.contains(document.activeElement)) {
      main.current?.focus({ preventScroll: true });
    }
    if (sight !== undefined) before.current = sight;
  }, [sight]);
  return main;
}

export function Page() {
  const asked = useAnswer<Things>("things");
  const place = usePlace();
  const [helps, setHelps] = useState(false);
  const things = asked.answer?.things ?? [];
  // A checkpoint of a run ("0@200") is not listed: it is shown with the run's own entry.
  const whole = things.find((thing) => thing.id === wholeOf(place.thing)) ?? things[0];
  const step = whole?.kind === "run" ? stepOf(place.thing) : undefined;
  const checkpoint = useAnswer<Thing>(step === undefined ? null : `things/${place.thing}`);
  const run = useAnswer<Run>(step === undefined ? null : `runs/${whole?.id}`);
  const thing = step === undefined ? whole : checkpoint.answer?.id === place.thing ? checkpoint.answer : undefined;
  // While a checkpoint is asked for, its sights are taken to be those of the address.
  const sights = thing ? sightsOf(thing) : [place.sight];
  const sight = sights.find((each) => each === place.sight) ?? sights[0] ?? "tensors";
  const main = useFocusOn(thing && sight);

  const open = (id: string) => {
    const next = things.find((each) => each.id === id);
    const has = next ? sightsOf(next) : [];
    go({ sight: has.includes(sight) ? sight : (has[0] ?? sight), thing: id, chosen: {} });
  };
  const see = (next: Sight) => {
    // A checkpoint is compared among those of its run.
    if (next === "diff" && step !== undefined && whole) go({ sight: next, thing: whole.id, chosen: { b: place.thing } });
    else go({ sight: next, thing: thing?.id ?? place.thing, chosen: {} });
  };
  useEffect(() => {
    document.title = thing ? `${thing.name} · ${SIGHTS[sight].title} · tensorkeep` : "tensorkeep";
  }, [thing?.name, sight]);
  useKeys((key, event) => {
    const chosen = sights[Number(key) - 1];
    const search = key === "/" ? main.current?.querySelector<HTMLElement>("[data-search]") : null;
    if (key === "?") setHelps(true);
    else if (search) search.focus();
    else if (chosen && thing) see(chosen);
    else return;
    event.preventDefault();
  });

  if (!asked.answer) return <Waiting asked={asked} />;
  if (!whole) return <p class="problem">Nothing is open. Start it with what is to be seen: tensorkeep view PATH.</p>;
  const Show = SIGHTS[sight].show;
  const others = things.filter((each) => each.problem && each !== whole);
  return (
    <>
      <a
        class="skip"
        href="#main"
        onClick={(event) => {
          event.preventDefault(); // The fragment of the address is where the reader is.
          main.current?.focus();
        }}
      >
        Skip to the content
      </a>
      <Header
        things={things}
        shown={whole}
        thing={thing ?? whole}
        sights={sights.map((each) => ({ sight: each, title: SIGHTS[each].title }))}
        sight={sight}
        open={open}
        see={see}
        help={() => setHelps(true)}
      />
      {step !== undefined && sight !== "diff" && (
        <At
          run={run.answer}
          of={whole}
          step={step}
          choose={(next) => go({ ...place, sight, thing: `${whole.id}@${next}` })}
          back={() => go({ sight: "run", thing: whole.id, chosen: { step: String(step) } })}
        />
      )}
      <Unopened things={others} open={open} />
      <main ref={main} tabIndex={-1}>
        <h1 class="unseen">
          {SIGHTS[sight].title} of {thing?.name ?? whole.name}
        </h1>
        {!thing ? (
          <Waiting asked={checkpoint} />
        ) : thing.problem ? (
          <Failed thing={thing} />
        ) : (
          <Show key={sight === "diff" ? "diff" : thing.id} thing={thing} things={things} chosen={place.chosen} />
        )}
      </main>
      <Help open={helps} close={() => setHelps(false)} version={asked.answer.version} />
    </>
  );
}
