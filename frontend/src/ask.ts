// Asking the server, or the report that this page is: a report holds recorded answers, and no server
// is asked then.

import type { Job, Problem } from "./answers";

/** An answer that is a head in JSON and float32s after it. */
export interface Binary<Head> {
  head: Head;
  data: Float32Array;
}

type Recorded = Record<string, unknown>;

const recorded: Recorded | null = (() => {
  const element = document.getElementById("recorded");
  return element ? (JSON.parse(element.textContent ?? "{}") as Recorded) : null;
})();

/** Whether this page is a report, which knows only what was recorded. */
export const isReport = recorded !== null;

/** Whether something can be asked for: in a report, whether it was recorded. */
export function isRecorded(path: string): boolean {
  return recorded === null || Object.hasOwn(recorded, path);
}

/** What went wrong, in the server's words. */
export class AskError extends Error {
  constructor(
    message: string,
    readonly cure = "",
  ) {
    super(message);
  }
}

function fromReport(path: string): unknown {
  const answer = recorded?.[path];
  if (answer === undefined) {
    throw new AskError("This is not in the report.", "Open the file itself: tensorkeep view PATH.");
  }
  return answer;
}

async function fetched(path: string, signal?: AbortSignal): Promise<Response> {
  let response: Response;
  try {
    response = await fetch(`api/${path}`, { signal, credentials: "omit" });
  } catch (error) {
    if (signal?.aborted) throw error;
    throw new AskError("The server has ended.", "Start it again: tensorkeep view PATH.");
  }
  if (!response.ok) {
    const told = (await response.json().catch(() => null)) as Problem | null;
    throw new AskError(told?.problem ?? `the server answers ${response.status}`, told?.cure ?? "");
  }
  return response;
}

/** Ask for JSON, such as ask<Tensors>("things/0/tensors"). */
export async function ask<T>(path: string, signal?: AbortSignal): Promise<T> {
  if (isReport) return fromReport(path) as T;
  return (await (await fetched(path, signal)).json()) as T;
}

/** Ask for a head and float32s: 4 bytes of its length, the head, zeros up to a multiple of 8, data. */
export async function askBinary<Head>(path: string, signal?: AbortSignal): Promise<Binary<Head>> {
  let buffer: ArrayBuffer;
  if (isReport) {
    const bytes = Uint8Array.from(atob(fromReport(path) as string), (letter) => letter.charCodeAt(0));
    buffer = bytes.buffer;
  } else {
    buffer = await (await fetched(path, signal)).arrayBuffer();
  }
  const length = new DataView(buffer).getUint32(0, true);
  const head = JSON.parse(new TextDecoder().decode(new Uint8Array(buffer, 4, length))) as Head;
  return { head, data: new Float32Array(buffer, Math.ceil((4 + length) / 8) * 8) };
}

/** Ask for long work until it is finished; `report` is called with how much of it is done, 0 to 1. */
export async function askJob<T>(
  path: string,
  report: (part: number) => void = () => {},
  signal?: AbortSignal,
): Promise<T> {
  for (let pause = 50; ; pause = Math.min(pause * 1.5, 500)) {
    const job = await ask<Job>(path, signal);
    if (job.problem) throw new AskError(job.problem);
    if (job.finished) return job.result as T;
    report(job.total ? job.done / job.total : 0);
    await new Promise((resolve) => setTimeout(resolve, pause));
    signal?.throwIfAborted();
  }
}
