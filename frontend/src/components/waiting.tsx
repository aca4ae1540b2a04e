// What is shown while something is asked for, or in place of what could not be had.

import { AskError } from "../ask";
import type { Asked } from "../asking";

export function Waiting({ asked, what }: { asked: Asked<unknown>; what?: string }) {
  if (asked.error) {
    const cure = asked.error instanceof AskError ? asked.error.cure : "";
    return (
      <p class="problem" role="alert">
        {asked.error.message}
        {cure && <small> {cure}</small>}
      </p>
    );
  }
  return (
    <p class="waiting" role="status">
      {what ?? "reading"} {asked.part > 0 && <progress value={asked.part} />}
    </p>
  );
}
