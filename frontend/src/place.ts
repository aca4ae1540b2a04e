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

/** The thing that an id is of: "0" of the checkpoint "0@200". */
export function wholeOf(id: string): string {
  return id.split("@")[0] ?? "";
}

/** The step of a checkpoint's id: 200 of "0@200". */
export function stepOf(id: string): number | undefined {
  const step = /@([0-9]+)$/.exec(id)?.[1];
  return step === undefined ? undefined : Number(step);
}

function decoded(text: string): string {
  try {
    return decodeURIComponent(text);
  } catch {
    return text; // An address that was typed, not made here.
  }
}

function pairOf(text: string): [string, string] {
  const equals = text.indexOf("=");
  return equals < 0 ? [text, ""] : [text.slice(0, equals), text.slice(equals + 1)];
}

export function placeOf(fragment: string): Place {
  const [sight, thing, ...rest] = fragment.replace(/^#\/?/, "").split("/").map(decoded);
  const known: Sight[] = ["tensors", "graph", "diff", "run"];
  return {
    sight: known.find((name) => name === sight) ?? "tensors",
    thing: thing ?? "",
    chosen: Object.fromEntries(rest.filter(Boolean).map(pairOf)),
  };
}

export function fragmentOf(place: Place): string {
  const chosen = Object.entries(place.chosen).map(([key, value]) => encodeURIComponent(`${key}=${value}`));
  return `#/${[place.sight, encodeURIComponent(place.thing), ...chosen].join("/")}`;
}

let here = placeOf(location.hash);
const followers = new Set<(place: Place) => void>();

function follow(place: Place): void {
  here = place;
  for (const follower of followers) follower(place);
}

// Browsers refuse to note more than some places a second, as while an arrow key is held down.
const BETWEEN = 250;
let noted = 0;
let pending: ReturnType<typeof setTimeout> | undefined;

function note(quietly: boolean): void {
  clearTimeout(pending);
  pending = undefined;
  noted = performance.now();
  // Whole: in a frame without an address of its own, a fragment alone means that of the page around.
  const address = location.href.split("#", 1)[0] + fragmentOf(here);
  if (quietly) history.replaceState(null, "", address);
  else history.pushState(null, "", address);
}

function moved(): void {
  clearTimeout(pending);
  pending = undefined;
  follow(placeOf(location.hash));
}

window.addEventListener("hashchange", moved);
window.addEventListener("popstate", moved);

/** Go to a place; `quietly` leaves no entry in the history. */
export function go(place: Place, quietly = false): void {
  if (!quietly) {
    if (pending !== undefined) note(true);
    follow(place);
    note(false);
    return;
  }
  follow(place);
  const wait = BETWEEN - (performance.now() - noted);
  if (wait <= 0) note(true);
  else pending ??= setTimeout(() => note(true), wait);
}

export function usePlace(): Place {
  const [place, setPlace] = useState(here);
  useEffect(() => {
    followers.add(setPlace);
    setPlace(here);
    return () => void followers.delete(setPlace);
  }, []);
  return place;
}
