// What was given and could not be opened.

import type { Thing } from "../answers";
import { many } from "../format";
import { plain } from "../names";

/** In place of a sight: why what is chosen could not be opened. */
export function Failed({ thing }: { thing: Thing }) {
  return (
    <section class="failed" aria-label="Cannot be opened">
      <h2>
        <span class="name">{plain(thing.name)}</span> cannot be opened
      </h2>
      <p class="problem" role="alert">
        {plain(thing.problem, 4000)}
      </p>
      <p class="soft">
        <code>{plain(thing.path)}</code>
      </p>
    </section>
  );
}

/** Above a sight: the others that could not be opened. */
export function Unopened({ things, open }: { things: Thing[]; open: (id: string) => void }) {
  if (things.length === 0) return null;
  return (
    <details class="unopened">
      <summary class="problem">
        {many(things.length, "file")} could not be opened
      </summary>
      <ul>
        {things.map((each) => (
          <li key={each.id}>
            <button class="name" onClick={() => open(each.id)}>
              {plain(each.name)}
            </button>{" "}
            <span class="problem">{plain(each.problem)}</span>
          </li>
        ))}
      </ul>
    </details>
  );
}
