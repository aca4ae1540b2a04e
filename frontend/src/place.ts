// Where the reader is: a sight of a thing, kept in the fragment of the address so that back works.

import { useEffect, useState } from "preact/hooks";

export type Sight = "tensors" | "graph" | "diff" | "run";

export interface Place {
  sight: Sight;
  /** The id of the thing. */
  thing: string;
  /** What else is chosen in this sight, such as { tensor: "3" } or { other: "1" }. */
  chosen: Record<string, string>;
}

export function placeOf(fragment: string): Place {
  const [sight, thing, ...rest] = fragment.replace(/^#\/?/, "").split("/").map(decodeURIComponent);
  const known: Sight[] = ["tensors", "graph", "diff", "run"];
  return {
    sight: known.find((name) => name === sight) ?? "tensors",
    thing: thing ?? "",
    chosen: Object.fromEntries(rest.map((pair) => pair.split("=", 2) as [string, string])),
  };
}

export function fragmentOf(place: Place): string {
  const chosen = Object.entries(place.chosen).map(([key, value]) => encodeURIComponent(`${key}=${value}`));
  return `#/${[place.sight, encodeURIComponent(place.thing), ...chosen].join("/")}`;
}

/** Go to a place; `quietly` leaves no entry in the history. */
export function go(place: Place, quietly = false): void {
  if (quietly) history.replaceState(null, "", fragmentOf(place));
  else history.pushState(null, "", fragmentOf(place));
  window.dispatchEvent(new HashChangeEvent("hashchange"));
}

export function usePlace(): Place {
  const [place, setPlace] = useState(() => placeOf(location.hash));
  useEffect(() => {
    const follow = () => setPlace(placeOf(location.hash));
    window.addEventListener("hashchange", follow);
    window.addEventListener("popstate", follow);
    return () => {
      window.removeEventListener("hashchange", follow);
      window.removeEventListener("popstate", follow);
    };
  }, []);
  return place;
}
