import type { SightProps } from "../../page";

export function RunSight({ thing }: SightProps) {
  return <p>{thing.name}</p>;
}
