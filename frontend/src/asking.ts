// Hooks that ask: what they give is undefined until the answer is there.

import { useEffect, useState } from "preact/hooks";
import { ask, askBinary, askJob, type Binary } from "./ask";

export interface Asked<T> {
  answer?: T;
  error?: Error;
  /** How much of a job is done, 0 to 1. */
  part: number;
}

function useAsked<T>(path: string | null, act: (path: string, report: (part: number) => void, signal: AbortSignal) => Promise<T>): Asked<T> {
  const [asked, setAsked] = useState<Asked<T> & { path: string | null }>({ path, part: 0 });
  useEffect(() => {
    if (path === null) return;
    const stop = new AbortController();
    const tell = (now: Asked<T>) => !stop.signal.aborted && setAsked({ ...now, path });
    tell({ part: 0 });
    act(path, (part) => tell({ part }), stop.signal)
      .then((answer) => tell({ answer, part: 1 }))
      .catch((error: Error) => tell({ error, part: 0 }));
    return () => stop.abort();
  }, [path]);
  // What is known of another path is not shown, not even until the effect runs.
  return asked.path === path ? asked : { part: 0 };
}

/** Ask for JSON; nothing is asked while the path is null. */
export function useAnswer<T>(path: string | null): Asked<T> {
  return useAsked<T>(path, (path, _, signal) => ask<T>(path, signal));
}

/** Ask for a head and float32s. */
export function useBinary<Head>(path: string | null): Asked<Binary<Head>> {
  return useAsked<Binary<Head>>(path, (path, _, signal) => askBinary<Head>(path, signal));
}

/** Ask for long work, with how much of it is done. */
export function useJob<T>(path: string | null): Asked<T> {
  return useAsked<T>(path, (path, report, signal) => askJob<T>(path, report, signal));
}
