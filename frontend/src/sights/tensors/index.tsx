import type { SightProps } from "../../page";

export function TensorsSight({ thing }: SightProps) {
  return <p>{thing.name}</p>;
}
