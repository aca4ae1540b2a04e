import { useEffect, useState } from "preact/hooks";

/** A value that follows once it has not changed for so many milliseconds. */
export function useDeferred<T>(value: T, pause: number): T {
  const [settled, setSettled] = useState(value);
  useEffect(() => {
    const timer = setTimeout(() => setSettled(value), pause);
    return () => clearTimeout(timer);
  }, [value, pause]);
  return settled;
}
