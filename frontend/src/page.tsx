// The page: what is open, the four sights of it, and the sight that is chosen.

import { useEffect } from "preact/hooks";
import type { Thing, Things } from "./answers";
import { useAnswer } from "./asking";
import { Waiting } from "./components/waiting";
import { go, usePlace, type Sight } from "./place";
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
  if (thing.kind === "run") return ["run", "diff"];
  return thing.dialect ? ["tensors", "graph", "diff"] : ["tensors", "diff"];
}

export function Page() {
  const asked = useAnswer<Things>("things");
  const place = usePlace();
  const things = asked.answer?.things ?? [];
  // A checkpoint of a run ("0@200") is not listed: it is shown with the run's own entry.
  const known = things.find((thing) => thing.id === place.thing.split("@")[0]) ?? things[0];
  const step = useAnswer<Thing>(place.thing.includes("@") ? `things/${place.thing}` : null);
  const thing = place.thing.includes("@") ? step.answer : known;
  const sights = thing ? sightsOf(thing) : [];
  const sight = sights.includes(place.sight) ? place.sight : sights[0];
  useEffect(() => {
    document.title = thing ? `${thing.name} · tensorkeep` : "tensorkeep";
  }, [thing?.name]);
  if (!asked.answer || !thing) return <Waiting asked={asked.answer ? step : asked} />;
  const Show = SIGHTS[sight ?? "tensors"].show;
  return (
    <>
      <header class="top">
        <strong class="brand">tensorkeep</strong>
        <select
          aria-label="What is open"
          value={known?.id}
          onChange={(event) => go({ sight: sight ?? "tensors", thing: event.currentTarget.value, chosen: {} })}
        >
          {things.map((each) => (
            <option key={each.id} value={each.id}>
              {each.name}
            </option>
          ))}
        </select>
        <nav aria-label="Sights">
          {sights.map((each) => (
            <button
              key={each}
              aria-current={each === sight ? "page" : undefined}
              onClick={() => go({ sight: each, thing: thing.id, chosen: {} })}
            >
              {SIGHTS[each].title}
            </button>
          ))}
        </nav>
      </header>
      <main>
        {thing.problem ? (
          <p class="problem">{thing.problem}</p>
        ) : (
          <Show key={thing.id} thing={thing} things={things} chosen={place.chosen} />
        )}
      </main>
    </>
  );
}
