import type { SightProps } from "../../page";

export function GraphSight({ thing }: SightProps) {
  return <p>{thing.name}</p>;
}
