// The theme, which is the system's unless the reader chooses.

export type Theme = "system" | "light" | "dark";

export const THEMES: Theme[] = ["system", "light", "dark"];

const KEPT = "tensorkeep-theme";

/** The theme that was chosen. Where nothing may be kept, as in a sandboxed frame, the system's. */
export function chosenTheme(): Theme {
  try {
    const kept = localStorage.getItem(KEPT);
    return THEMES.find((theme) => theme === kept) ?? "system";
  } catch {
    return "system";
  }
}

function show(theme: Theme): void {
  if (theme === "system") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = theme;
}

/** Show a theme, and keep the choice where it can be kept. */
export function chooseTheme(theme: Theme): void {
  show(theme);
  try {
    localStorage.setItem(KEPT, theme);
  } catch {
    // It then lasts as long as the page.
  }
}

/** Call when the theme changes, the system's too; gives what ends that. */
export function onTheme(act: () => void): () => void {
  const dark = matchMedia("(prefers-color-scheme: dark)");
  dark.addEventListener("change", act);
  const watch = new MutationObserver(act);
  watch.observe(document.documentElement, { attributes: true, attributeFilter: ["data-theme"] });
  return () => {
    dark.removeEventListener("change", act);
    watch.disconnect();
  };
}

show(chosenTheme());
