import type { SightProps } from "../../page";

export function DiffSight({ thing }: SightProps) {
  return <p>{thing.name}</p>;
}
