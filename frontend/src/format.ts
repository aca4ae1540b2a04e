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

/** A number to four digits, fewer where they tell it exactly; "–" where there is none. */
export function number(value: number | null | undefined): string {
  if (value === null || value === undefined) return "–";
  if (Number.isInteger(value) && Math.abs(value) < 1e6) return value.toString();
  const size = Math.abs(value);
  const large = size < 1e-3 || size >= 1e6;
  const near = large ? value.toExponential(3) : value.toPrecision(4);
  if (Number(near) !== value) return near;
  return large ? value.toExponential() : value.toString();
}

/** A share of 0 to 1 in hundredths; never all or nothing where it is not. */
export function percent(part: number | null): string {
  if (part === null || Number.isNaN(part)) return "–";
  if (part === 0 || part === 1) return `${100 * part} %`;
  if (part > 0.999) return "> 99.9 %";
  return part < 0.001 ? "< 0.1 %" : `${(100 * part).toFixed(1)} %`;
}

/** A count and what is counted: 1 node, 2,000 nodes. */
export function many(number: number, one: string, more = `${one}s`): string {
  return `${count(number)} ${number === 1 ? one : more}`;
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
