// How numbers are said.

/** Bytes with a unit: 1.5 MB. */
export function bytes(count: number): string {
  const units = ["B", "kB", "MB", "GB", "TB"];
  let unit = 0;
  let value = count;
  while (value >= 999.5 && unit < units.length - 1) {
    value /= 1000;
    unit += 1;
  }
  return unit === 0 ? `${value} B` : `${value.toPrecision(3)} ${units[unit]}`;
}

/** A number to four digits; "–" where there is none. */
export function number(value: number | null | undefined): string {
  if (value === null || value === undefined) return "–";
  if (Number.isInteger(value) && Math.abs(value) < 1e6) return value.toString();
  const size = Math.abs(value);
  return size !== 0 && (size < 1e-3 || size >= 1e6) ? value.toExponential(3) : value.toPrecision(4);
}

/** A count with separators: 1,234,567. */
export function count(value: number): string {
  return value.toLocaleString("en-US");
}

/** A shape as people write it: [64, 3, 7, 7]; a scalar: []. */
export function shape(sizes: readonly number[]): string {
  return `[${sizes.join(", ")}]`;
}

/** A moment, in the reader's time: 2025-03-01 12:30:05. */
export function moment(seconds: number): string {
  const date = new Date(seconds * 1000);
  const local = new Date(date.getTime() - date.getTimezoneOffset() * 60_000);
  return local.toISOString().slice(0, 19).replace("T", " ");
}
