// What things are called where several are open.

import type { Thing } from "../answers";
import { plain } from "../names";

function longer(thing: Thing): string {
  return thing.path.split(/[/\\]/).filter(Boolean).slice(-2).join("/");
}

/** A thing's name; with its folder, else its number, where another one has the same name. */
export function titleOf(thing: Thing, things: readonly Thing[]): string {
  const same = things.filter((each) => each.name === thing.name);
  if (same.length < 2) return plain(thing.name, 80);
  const alone = new Set(same.map(longer)).size === same.length;
  return plain(alone ? longer(thing) : `${thing.name} (${Number(thing.id) + 1})`, 80);
}
