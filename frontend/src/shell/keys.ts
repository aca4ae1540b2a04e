// The keys that work everywhere.

import { useEffect } from "preact/hooks";

/** Whether what is typed there is text, so that a letter is not a command. */
function takesText(target: EventTarget | null): boolean {
  if (!(target instanceof HTMLElement)) return false;
  return target.isContentEditable || /^(input|select|textarea)$/i.test(target.tagName);
}

/** Call `act` for each key that is pressed outside of fields, with no modifier but Shift. */
export function useKeys(act: (key: string, event: KeyboardEvent) => void): void {
  useEffect(() => {
    const pressed = (event: KeyboardEvent) => {
      if (event.defaultPrevented || event.ctrlKey || event.metaKey || event.altKey) return;
      if (takesText(event.target) || document.querySelector("dialog[open]")) return;
      act(event.key, event);
    };
    window.addEventListener("keydown", pressed);
    return () => window.removeEventListener("keydown", pressed);
  });
}
