// The head of the page: what is open, the sights of it, the theme and the help.

import { useState } from "preact/hooks";
import type { Thing } from "../answers";
import { bytes, many } from "../format";
import type { Sight } from "../place";
import { THEMES, type Theme, chooseTheme, chosenTheme } from "../theme";
import { titleOf } from "./titles";

const TITLES: Record<Theme, string> = { system: "System", light: "Light", dark: "Dark" };

function ThemeChoice() {
  const [theme, setTheme] = useState(chosenTheme);
  const choose = (value: string) => {
    const chosen = THEMES.find((each) => each === value) ?? "system";
    setTheme(chosen);
    chooseTheme(chosen);
  };
  return (
    <select aria-label="Theme" title="Theme" value={theme} onChange={(event) => choose(event.currentTarget.value)}>
      {THEMES.map((each) => (
        <option key={each} value={each}>
          {TITLES[each]}
        </option>
      ))}
    </select>
  );
}

function about(thing: Thing): string {
  if (thing.kind === "run") return `run, ${many(thing.steps, "checkpoint")}`;
  if (thing.kind === "") return "";
  return [thing.format, many(thing.tensors, "tensor"), bytes(thing.nbytes)].filter(Boolean).join(", ");
}

interface HeaderProps {
  /** What is open, and which of it is shown. */
  things: Thing[];
  shown: Thing;
  /** What is told of: a checkpoint of what is shown, or itself. */
  thing: Thing;
  sights: { sight: Sight; title: string }[];
  sight: Sight;
  open: (id: string) => void;
  see: (sight: Sight) => void;
  help: () => void;
}

export function Header({ things, shown, thing, sights, sight, open, see, help }: HeaderProps) {
  return (
    <header class="top">
      <strong class="brand">tensorkeep</strong>
      <select
        class="open"
        aria-label="What is open"
        title={shown.path}
        value={shown.id}
        onChange={(event) => open(event.currentTarget.value)}
      >
        {things.map((each) => (
          <option key={each.id} value={each.id}>
            {titleOf(each, things)}
            {each.kind === "run" && " (run)"}
            {each.problem && " (cannot be opened)"}
          </option>
        ))}
      </select>
      {sights.length > 0 && (
        <nav aria-label="Sights">
          {sights.map((each) => (
            <button
              key={each.sight}
              aria-current={each.sight === sight ? "page" : undefined}
              onClick={() => see(each.sight)}
            >
              {each.title}
            </button>
          ))}
        </nav>
      )}
      <span class="about">{about(thing)}</span>
      <div class="side">
        <ThemeChoice />
        <button aria-label="Help: the keys" title="The keys (?)" onClick={help}>
          ?
        </button>
      </div>
    </header>
  );
}
